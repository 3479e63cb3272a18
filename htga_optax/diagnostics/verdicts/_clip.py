"""Applies `clip_by_tail_quantile` to the last norms of a run."""

import math
from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import spike_rules

RULE = "clip_by_tail_quantile(1e-3)"
CLIPPED = 1e-3  # the exceedance rate, the share of norms that it clips
CLIP_WINDOW = 1024  # its window, the default
CLIP_FEWEST = 64  # it has no quantile before so many norms
_COUNTED = 1024  # over how many of the last norms its clips are counted
_PROBE = 1e30  # a norm that it clips whenever it has a quantile


class Clip(NamedTuple):
  """The clip at the end of a run, computed by the transformation itself.

  Attributes:
    norm: the next step is clipped if its norm is above this; nan if the
      transformation would clip nothing.
    clipped: how many of the last `counted` norms it clips.
    counted: how many of the last norms `clipped` refers to.
  """

  norm: float
  clipped: int
  counted: int


def clip_at_the_end(norms: np.ndarray, unit: float) -> Clip:
  """Applies `clip_by_tail_quantile(CLIPPED)` to the last norms of a run.

  Args:
    norms: the norms, positive and finite, in order of time, [n].
    unit: the norm that is scaled to 1, so that float32 holds the norms.

  Returns:
    The :class:`Clip`.
  """
  fed = np.append(norms[-(CLIP_WINDOW + _COUNTED) :] / unit, _PROBE)
  after = spike_rules.apply(fed)[RULE]  # all rules are compiled as one program
  counted = min(_COUNTED, norms.size)
  last = slice(-1 - counted, -1)
  changed = after[last] < (1 - 1e-5) * fed[last]
  norm = math.nan if after[-1] > _PROBE / 2 else float(after[-1]) * unit
  return Clip(norm, int(np.sum(changed)), counted)
