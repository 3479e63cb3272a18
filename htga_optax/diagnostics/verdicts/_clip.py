"""What `clip_by_tail_quantile` does on the last norms of a run."""

import math
from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import spike_rules

RULE = "clip_by_tail_quantile(1e-3)"
CLIPPED = 1e-3  # the share of norms that it clips
CLIP_WINDOW = 1024  # norms that it rests on, its default
CLIP_FEWEST = 64  # norms before which it has no quantile
_COUNTED = 1024  # of the last norms
_PROBE = 1e30  # a norm that is clipped wherever there is a quantile


class Clip(NamedTuple):
  """The clip at the end of a run, from the transformation itself.

  Attributes:
    norm: beyond this the next step is clipped; nan if there is no such norm.
    clipped: how many of the last norms it clips.
    counted: how many of the last norms that is said of.
  """

  norm: float
  clipped: int
  counted: int


def clip_at_the_end(norms: np.ndarray, unit: float) -> Clip:
  """Runs `clip_by_tail_quantile(CLIPPED)` over the last norms of a run.

  Args:
    norms: positive and finite, in order of time, [n].
    unit: what float32 takes for 1.

  Returns:
    The :class:`Clip`.
  """
  fed = np.append(norms[-(CLIP_WINDOW + _COUNTED) :] / unit, _PROBE)
  after = spike_rules.apply(fed)[RULE]  # all rules are one program
  counted = min(_COUNTED, norms.size)
  last = slice(-1 - counted, -1)
  changed = after[last] < (1 - 1e-5) * fed[last]
  norm = math.nan if after[-1] > _PROBE / 2 else float(after[-1]) * unit
  return Clip(norm, int(np.sum(changed)), counted)
