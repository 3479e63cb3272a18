"""Whether a run diverged, so that its norms have no law."""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics.verdicts import _rows

GROWTH = 1e3  # of the level, beyond which a run has diverged
STRETCH = 20  # norms whose median is the level
_PARTS = 20  # of a run; the lowest level of an earlier part is that before
_NEAR_ZERO = 1e-2  # of the lower quartile of the levels: no level to grow from


class Divergence(NamedTuple):
  """A level that grew beyond `GROWTH`, or norms that are no longer finite.

  Attributes:
    step: where it begins.
    before: the lowest level of an earlier twentieth of the run.
    largest: the largest finite norm from there on; 0 if there is none.
    nonfinite: how many norms are not finite, or too large, from there on.
  """

  step: float
  before: float
  largest: float
  nonfinite: int


def divergence(rows: _rows.Rows, window: int) -> Divergence | None:
  """Finds out whether the last norms of a run are those of one that diverged.

  The level is the median of `STRETCH` norms, of which those that are infinite
  or too large are the largest. So is nan at the end of a run, if more follow
  the last number than stand between any two: elsewhere it may be a row in which
  nothing was logged. A level above `GROWTH` times the lowest one of an earlier
  twentieth of the run is no spike. Levels near 0 do not count: zero
  initialization makes a run begin with them. Where a run has come back from
  such a level before its last `window` norms, it counts as sound.

  Args:
    rows: the norms over the whole run.
    window: how many of the last norms a verdict rests on.

  Returns:
    The :class:`Divergence`, or None.
  """
  if rows.values.size < 2 * STRETCH:
    return None
  lost = _lost(rows)
  places = np.searchsorted(rows.steps, lost, side="right")
  norms = np.insert(np.abs(rows.values), places, np.inf)
  steps = np.insert(rows.steps, places, lost)
  parts = np.array_split(norms, min(_PARTS, norms.size // STRETCH))
  medians = np.array([np.median(part) for part in parts])
  finite = medians[np.isfinite(medians)]
  usual = np.quantile(finite, 0.25) if finite.size else 0.0
  counted = np.where(medians < _NEAR_ZERO * usual, np.inf, medians)
  lowest = np.minimum.accumulate(counted)
  ends = np.cumsum([part.size for part in parts])
  # The last stretch ends with the run, the first begins in the second part.
  count = (norms.size - ends[0]) // STRETCH
  begin = norms.size - STRETCH * np.arange(count, 0, -1)
  levels = np.median(norms[begin[0] :].reshape(count, STRETCH), axis=1)
  before = lowest[np.searchsorted(ends, begin, side="right") - 1]
  grown = levels > GROWTH * before
  if not np.any(grown & (begin + STRETCH > norms.size - window)):
    return None
  first = int(np.argmax(grown))
  later = norms[begin[first] :]
  return Divergence(
    step=float(steps[begin[first]]),
    before=float(before[first]),
    largest=float(np.max(later[np.isfinite(later)], initial=0.0)),
    nonfinite=int(np.sum(np.isinf(later))),
  )


def _lost(rows: _rows.Rows) -> np.ndarray:
  """The steps of the norms that count as infinite, never falling."""
  lost = [rows.left_out.get(name, []) for name in ("infinite", "too large")]
  missing = rows.left_out.get("nan", np.zeros(0))
  after = np.searchsorted(rows.steps, missing, side="right")
  counts = np.bincount(after, minlength=rows.steps.size + 1)
  if counts[-1] > np.max(counts[:-1]):
    lost.append(missing[-counts[-1] :])
  return np.sort(np.concatenate(lost))
