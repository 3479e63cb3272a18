"""Finds the largest spikes of a run, relative to the level around them."""

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import _optional
from htga_optax.diagnostics.verdicts import _rows

SPIKE = 5.0  # a norm above so many times its local level is a spike
LEVEL_ROWS = 101  # the local level is the median of so many rows
_APART = 10  # of two spikes fewer rows apart, only the larger counts
_LISTED = 10  # how many spikes are listed, at most
_LOSS_ROWS = 5  # the losses before and after are medians of so many rows


class Spike(NamedTuple):
  """A norm far above those around it.

  Attributes:
    row: the row in the log, counted from 0.
    step: the step.
    norm: the norm.
    level: the local level, the median of the `LEVEL_ROWS` norms around it (of
      fewer at the ends of the run).
    loss_before: the median loss of the five rows before; nan if there is none.
    loss_after: the median loss of the five rows after; nan if there is none.
    layer: the layer whose norm is farthest above its own local level in this
      row; "" if the log has no norms per layer.
    layer_ratio: the norm of that layer over its level; nan without a layer.
  """

  row: int
  step: float
  norm: float
  level: float
  loss_before: float
  loss_after: float
  layer: str
  layer_ratio: float

  @property
  def ratio(self) -> float:
    """The norm divided by the local level."""
    return self.norm / self.level


class Spikes(NamedTuple):
  """The spikes of a run.

  Attributes:
    total: how many norms are above `SPIKE` times their local level. Those less
      than ten rows apart count as one.
    largest: the ten norms with the largest ratios to their level, in descending
      order. Some may be too small for a spike.
  """

  total: int
  largest: list[Spike]

  @property
  def listed(self) -> list[Spike]:
    """The members of `largest` that are spikes."""
    return self.largest[: self.total]


def find(rows: _rows.Rows, layers: Mapping[str, np.ndarray]) -> Spikes:
  """Finds the spikes of a run.

  Args:
    rows: the norms of the whole run.
    layers: the norms of each layer in the same rows, [n].

  Returns:
    The :class:`Spikes`. A level that jumps and stays there is no spike.
  """
  norms, loss = np.abs(rows.values), rows.loss
  levels = local_level(norms)
  ratios = norms / levels
  above = np.flatnonzero(ratios > SPIKE)
  total, listed = 0, []
  candidates = max(above.size, min(norms.size, 20 * _LISTED))
  order = np.argpartition(-ratios, candidates - 1)[:candidates]
  order = order[np.lexsort((order, -ratios[order]))]
  taken = np.zeros(norms.size + 2 * _APART, bool)
  for i in order:
    if ratios[i] <= SPIKE and len(listed) == _LISTED:
      break
    if taken[i + _APART]:
      continue
    taken[i + 1 : i + 2 * _APART] = True
    total += bool(ratios[i] > SPIKE)
    if len(listed) < _LISTED:
      listed.append(int(i))
  largest = []
  for i in listed:
    before = after = math.nan
    if loss is not None:
      before = _median(loss[max(0, i - _LOSS_ROWS) : i])
      after = _median(loss[i + 1 : i + 1 + _LOSS_ROWS])
    layer, ratio = _layer(layers, i)
    numbers = float(rows.steps[i]), float(norms[i]), float(levels[i])
    row = int(rows.places[i])
    largest.append(Spike(row, *numbers, before, after, layer, ratio))
  return Spikes(total, largest)


def local_level(norms: np.ndarray) -> np.ndarray:
  """Computes the median of the `LEVEL_ROWS` norms around each norm.

  At the beginning of a run fewer rows are used, as many before the norm as
  after it. Therefore a level that falls from the first row on is no spike. At
  the end of the run only the rows after the norm become fewer, so that the last
  norm can be a spike.

  Args:
    norms: the norms, [n].

  Returns:
    The levels, [n].
  """
  half = LEVEL_ROWS // 2
  filtered = _optional.load("scipy.ndimage").median_filter
  levels = filtered(norms, LEVEL_ROWS, mode="nearest")
  n = norms.size
  for i in {*range(min(half, n)), *range(max(0, n - half), n)}:
    back = min(i, half)
    ahead = back if i < half else half
    levels[i] = np.median(norms[i - back : i + ahead + 1])
  return levels


def _median(values: np.ndarray) -> float:
  """The median of the finite values; nan if there is none."""
  finite = values[np.isfinite(values)]
  return float(np.median(finite)) if finite.size else math.nan


def _layer(layers: Mapping[str, np.ndarray], i: int) -> tuple[str, float]:
  """The layer farthest above its level in the i-th row, and the ratio."""
  half = LEVEL_ROWS // 2
  around = slice(max(0, i - half), i + half + 1)
  ratios = {
    layer: float(x[i]) / (_median(x[around]) or math.inf)
    for layer, x in layers.items()
  }
  known = {layer: r for layer, r in ratios.items() if math.isfinite(r)}
  if not known:
    return "", math.nan
  layer = max(known, key=lambda name: known[name])
  return layer, known[layer]
