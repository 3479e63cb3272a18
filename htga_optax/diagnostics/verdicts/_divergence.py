"""Finds out whether a run diverged; the norms of such a run have no law."""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics.verdicts import _rows

GROWTH = 1e3  # a run whose level grows by more than this factor has diverged
STRETCH = 20  # the level is the median of so many norms
_PARTS = 20  # of a run; the level before is the lowest of the earlier parts
_NEAR_ZERO = 1e-2  # levels below this share of their lower quartile are ignored


class Divergence(NamedTuple):
  """A level that grew by more than `GROWTH`, or norms that ceased to be finite.

  Attributes:
    step: the step at which the divergence begins.
    before: the lowest level of an earlier twentieth of the run.
    largest: the largest finite norm from this step on; 0 if there is none.
    nonfinite: how many norms from this step on are not finite or too large.
  """

  step: float
  before: float
  largest: float
  nonfinite: int


def divergence(rows: _rows.Rows, window: int) -> Divergence | None:
  """Finds out whether a run had diverged in its last norms.

  The level is the median of `STRETCH` norms. Norms that are infinite or too
  large count as the largest of these. A nan at the end of a run counts as
  infinite if more of them follow the last number than there are between any two
  numbers. Other nan may be rows in which nothing was logged, and are ignored. A
  run has diverged if its level is above `GROWTH` times the lowest level of an
  earlier twentieth of the run. It has not diverged if its level is below that
  bound again before its last `window` norms. Earlier levels near 0 are ignored,
  because a run with zero initialization begins with them.

  Args:
    rows: the norms of the whole run.
    window: how many of the last norms a verdict uses.

  Returns:
    The :class:`Divergence`; None if the run has not diverged.
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
  # The last stretch ends with the run; the first begins in the second part.
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
  """The steps of the norms that count as infinite, in ascending order."""
  lost = [rows.left_out.get(name, []) for name in ("infinite", "too large")]
  missing = rows.left_out.get("nan", np.zeros(0))
  after = np.searchsorted(rows.steps, missing, side="right")
  counts = np.bincount(after, minlength=rows.steps.size + 1)
  if counts[-1] > np.max(counts[:-1]):
    lost.append(missing[-counts[-1] :])
  return np.sort(np.concatenate(lost))
