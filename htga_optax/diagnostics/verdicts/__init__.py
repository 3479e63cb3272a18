"""Examines the norms in a log, and explains the result in sentences.

:func:`take` reads a column of norms from a log, in order of steps.
:func:`examine` computes these parts of the verdict from the last values:

tail index
  Hill's estimate from the largest tenth, its interval for dependent values and
  its drift (:mod:`htga_optax.intervals`).
laws
  Laws are fitted to values that are so far apart that they are nearly
  independent. A parametric bootstrap tests them
  (:mod:`htga_optax.diagnostics.fits`).
clip
  What `clip_by_tail_quantile` does on the last norms.

It computes these parts from the whole run:

spikes
  The largest norms over the level around them, with the loss before and after.
divergence
  A level that grew a thousandfold. No law is tested for such a run.

A law that is not rejected need not be right: two thousand norms cannot tell a
power law from a lognormal law with a wide tail.
"""

from htga_optax.diagnostics.verdicts._clip import CLIPPED as CLIPPED
from htga_optax.diagnostics.verdicts._clip import Clip as Clip
from htga_optax.diagnostics.verdicts._divergence import Divergence as Divergence
from htga_optax.diagnostics.verdicts._examine import FEWEST as FEWEST
from htga_optax.diagnostics.verdicts._examine import (
  REPLICATIONS as REPLICATIONS,
)
from htga_optax.diagnostics.verdicts._examine import WINDOW as WINDOW
from htga_optax.diagnostics.verdicts._examine import Verdict as Verdict
from htga_optax.diagnostics.verdicts._examine import examine as examine
from htga_optax.diagnostics.verdicts._examine import rejected as rejected
from htga_optax.diagnostics.verdicts._rows import NORMS as NORMS
from htga_optax.diagnostics.verdicts._rows import Rows as Rows
from htga_optax.diagnostics.verdicts._rows import beside as beside
from htga_optax.diagnostics.verdicts._rows import curve as curve
from htga_optax.diagnostics.verdicts._rows import take as take
from htga_optax.diagnostics.verdicts._rules import MEMORY as MEMORY
from htga_optax.diagnostics.verdicts._rules import Outcome as Outcome
from htga_optax.diagnostics.verdicts._rules import is_same as is_same
from htga_optax.diagnostics.verdicts._rules import under_rules as under_rules
from htga_optax.diagnostics.verdicts._run import unit as unit
from htga_optax.diagnostics.verdicts._sentences import meaning as meaning
from htga_optax.diagnostics.verdicts._sentences import sentences as sentences
from htga_optax.diagnostics.verdicts._sentences import trend as trend
from htga_optax.diagnostics.verdicts._spikes import LEVEL_ROWS as LEVEL_ROWS
from htga_optax.diagnostics.verdicts._spikes import Spike as Spike
from htga_optax.diagnostics.verdicts._spikes import Spikes as Spikes
