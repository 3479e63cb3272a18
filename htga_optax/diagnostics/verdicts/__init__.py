"""A verdict on the norms of a run: numbers from a log, and sentences.

A column of norms is taken out of a log in order of steps (:func:`take`). The
verdict rests on its last values, and says what holds over the whole run:

    tail index     Hill's estimate from the largest tenth, its interval for
                   dependent values and its drift
                   (:mod:`htga_optax.intervals`)
    laws           fitted to values so far apart that they hardly depend on one
                   another, and tested by a parametric bootstrap
                   (:mod:`htga_optax.diagnostics.fits`)
    clip           what `clip_by_tail_quantile` does on the last norms

and, over the whole run, on the level around each value:

    spikes         the largest, with the loss before and after
    divergence     a level that grew a thousandfold; such a run has no law

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
