r"""Implements the rules that people use against spikes of the gradient norm.

A rule maps the norm r_t of a step to the norm that the step has after it. This
is r_t itself, a smaller norm (the step is clipped), or 0 (the step is skipped).
Each rule is a :class:`htga_optax.Controller`, so the same code works on a log
and in a run::

    apply(norms)                       applies each of RULES to a log
    by_norm(zclip())                   the rule in a chain
    by_norm(adagc(), per_layer=True)   a norm and a state for every layer

The rules of others are reimplemented from their code, with the same defaults;
none of that code runs here. Some of their code skips steps because of the loss
too. The rules here use the norm alone. `optax.adaptive_grad_clip` is not
included, because it compares gradients with parameters.
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
