r"""The rules that people run against spikes of the norm, each as one law.

A rule takes the norm r_t of a step and gives the norm that the step has after
it: r_t itself, a smaller one (the step is clipped), or 0 (it is skipped). Each
rule is a :class:`htga_optax.Controller`, so the same lines serve a log and a
run:

    apply(norms)                       what each of RULES makes of a log
    by_norm(zclip())                   the rule in a chain
    by_norm(adagc(), per_layer=True)   a norm and a state for every layer

The rules of others are restated from their code, with its defaults; none of
that code runs here. Where their code skips on the loss too, this looks at the
norm alone. `optax.adaptive_grad_clip` is not here: it compares gradients with
parameters, which no norm tells.
"""

from htga_optax.diagnostics.spike_rules._apply import RULES as RULES
from htga_optax.diagnostics.spike_rules._apply import apply as apply
from htga_optax.diagnostics.spike_rules._laws import adagc as adagc
from htga_optax.diagnostics.spike_rules._laws import autoclip as autoclip
from htga_optax.diagnostics.spike_rules._laws import law_of as law_of
from htga_optax.diagnostics.spike_rules._laws import (
  mean_and_deviations as mean_and_deviations,
)
from htga_optax.diagnostics.spike_rules._laws import moving_mean as moving_mean
from htga_optax.diagnostics.spike_rules._laws import zclip as zclip
