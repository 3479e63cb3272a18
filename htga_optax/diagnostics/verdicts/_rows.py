"""Puts the values of a column in order of steps, and leaves some of them out.

Values and steps may be missing in some rows of a log. A value takes the step of
its own row; if that has none, it takes the step of the nearest row before it
that has one. A step that jumps back means that a run was resumed and repeats
the steps from there on; of these only the last repetition counts. Values that
share a step without a jump all count.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import logs

NORMS = (
  "update_norm",
  "gradient_norm",
  "grad_norm",
  "global_grad_norm",
  "total_grad_norm",
  "raw_grad_norm",
  "grad_norm_total",
  "grad/norm/total",
  "grad_2.0_norm_total",
  "gnorm",
  "norm",
  "noise_norm",
)
STEPS = ("global_step", "step", "iteration", "iter")
LOSSES = ("loss", "train_loss", "training_loss")
_TOO_LARGE = 1e30  # times the median; float32 ends at 3e38


_REASONS = {
  "no value": "rows without a number",
  "nan": "nan",
  "infinite": "infinite",
  "0": "equal to 0",
  "too large": f"beyond {_TOO_LARGE:.0e} times the median",
  "again": "of steps that are repeated later",
}


class Rows(NamedTuple):
  """A column of a log, in order of steps.

  Attributes:
    column: the name of the column in the log.
    values: its values that are finite and not 0, float64 [n].
    steps: the steps of these values, in ascending order, [n]; numbers of rows
      if there is no column of steps.
    places: the row of each value in the log, counted from 0, [n].
    loss: the loss of each row, [n]; in a row without a loss the last one at
      this step or before it, and nan before the first. None if the log has no
      loss.
    clock: the name of the column of steps; None if rows are counted.
    stride: the median number of steps between values; below 1 if several values
      share a step, and 1 if rows are counted.
    jumps: the steps from which and to which the step jumps back, [jumps, 2].
    left_out: the steps of the values that are left out, by reason: "no value"
      (a row without a number), "nan", "infinite", "0", "too large" (above 1e30
      times the median) and "again" (the step is repeated later).
  """

  column: str
  values: np.ndarray
  steps: np.ndarray
  places: np.ndarray
  loss: np.ndarray | None
  clock: str | None
  stride: float
  jumps: np.ndarray
  left_out: dict[str, np.ndarray]


def take(columns: Mapping[str, np.ndarray], column: str | None = None) -> Rows:
  """Reads a column of norms from a log, in order of steps.

  Args:
    columns: the log, as :func:`htga_optax.diagnostics.logs.columns` returns it.
    column: the name of the column; if None, the first that has a name of
      `NORMS`.

  Returns:
    The :class:`Rows`.

  Raises:
    ValueError: there is no such column.
  """
  name = _name(columns, column)
  clock, steps = _clock(columns, name)
  rows, jumps = _timeline(columns[name], steps)
  if rows is None:  # these steps are not those of a resumed run
    clock, steps = None, np.arange(1.0, steps.size + 1)
    rows, _ = _timeline(columns[name], steps)
  assert rows is not None
  x = np.asarray(columns[name], float)
  absent = np.ma.getmaskarray(columns[name])
  again = ~absent
  again[rows] = False
  with np.errstate(invalid="ignore"):
    size = np.abs(x[rows])
  usable = np.isfinite(size) & (size > 0)
  most = _TOO_LARGE * float(np.median(size[usable])) if np.any(usable) else 0.0
  reasons = {
    "no value": np.flatnonzero(absent),
    "nan": rows[np.isnan(size)],
    "infinite": rows[np.isinf(size)],
    "0": rows[size == 0],
    "too large": rows[usable & (size > most)],
    "again": np.flatnonzero(again),
  }
  rows = rows[usable & (size <= most)]
  at, loss = steps[rows], logs.find(columns, LOSSES, name)
  return Rows(
    column=name,
    values=x[rows],
    steps=at,
    places=rows,
    loss=None if loss is None else _beside(columns, loss, steps, rows),
    clock=clock,
    stride=_stride(at) if clock else 1.0,
    jumps=jumps,
    left_out={k: steps[v] for k, v in reasons.items() if v.size},
  )


def on_what_is_left_out(rows: Rows) -> str:
  """The sentence on the values that are left out, with the reasons."""
  parts = [f"{x.size} {_REASONS[name]}" for name, x in rows.left_out.items()]
  return f"Left out of {rows.column}: {', '.join(parts)}."


def curve(
  columns: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the steps and the values of any column, in order of steps.

  Values that are not finite are included.
  """
  _, steps = _clock(columns, name)
  rows, _ = _timeline(columns[name], steps)
  if rows is None:
    rows = np.flatnonzero(~np.ma.getmaskarray(columns[name]))
    steps = np.arange(1.0, steps.size + 1)
  return steps[rows], np.asarray(columns[name], float)[rows]


def beside(
  columns: Mapping[str, np.ndarray], rows: Rows, name: str
) -> np.ndarray:
  """Returns the values of another column at the given rows.

  Args:
    columns: the log.
    rows: the result of :func:`take` for this log.
    name: the name of the other column.

  Returns:
    The values of that column, [n]. In a row without a value it is the last one
    at this step or before it, and nan before the first.
  """
  steps = np.arange(1.0, len(columns[name]) + 1)
  if rows.clock is not None:
    _, steps = _clock(columns, rows.column)
  return _beside(columns, name, steps, rows.places)


def _name(columns: Mapping[str, np.ndarray], column: str | None) -> str:
  there = ", ".join(columns)
  if column is None:
    column = logs.find(columns, NORMS)
  elif column not in columns:
    raise ValueError(
      f"the log has no column of numbers {column}; it has: {there}."
    )
  if column is None:
    raise ValueError(
      f"the log has no column of norms (known names: {', '.join(NORMS)});"
      f" choose one with --column, of: {there}."
    )
  return column


def _clock(
  columns: Mapping[str, np.ndarray], name: str
) -> tuple[str | None, np.ndarray]:
  """The name of the column of steps (or None), and a step for each row."""
  count = len(columns[name])
  # wandb counts its own calls in `_step`.
  clock = logs.find(columns, STEPS, name) or logs.find(columns, ["_step"])
  if clock is not None:
    steps = np.asarray(columns[clock], float)
    there = np.isfinite(steps)
    if np.any(there):
      last = np.maximum.accumulate(np.where(there, np.arange(count), -1))
      return clock, steps[np.where(last < 0, np.argmax(there), last)]
  return None, np.arange(1.0, count + 1)


def _timeline(
  values: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
  """The rows with a value whose step is not repeated, and the jumps back.

  The rows are None if more than half are repeated. Then the step counts within
  an epoch, or the rows are out of order.
  """
  rows = np.flatnonzero(~np.ma.getmaskarray(values))
  at = steps[rows]
  back = np.flatnonzero(np.diff(at) < 0) + 1
  jumps = np.stack([at[back - 1], at[back]], axis=1)
  least = np.minimum.accumulate(at[back][::-1])[::-1]
  stretch = np.searchsorted(back, np.arange(at.size), side="right")
  kept = at < np.append(least, np.inf)[stretch]
  if 2 * np.sum(kept) < at.size:
    return None, jumps
  return rows[kept], jumps


def _stride(steps: np.ndarray) -> float:
  gaps = np.diff(steps)
  gaps = gaps[gaps > 0]
  if not gaps.size:
    return 1.0
  values_a_step = round(steps.size / (gaps.size + 1))
  return float(np.median(gaps)) / values_a_step


def _beside(
  columns: Mapping[str, np.ndarray],
  name: str,
  steps: np.ndarray,
  places: np.ndarray,
) -> np.ndarray:
  values = np.asarray(columns[name], float)
  own = ~np.ma.getmaskarray(columns[name])[places]
  rows, _ = _timeline(columns[name], steps)
  if rows is None or not rows.size:
    return np.where(own, values[places], np.nan)
  last = np.searchsorted(steps[rows], steps[places], side="right") - 1
  before = np.where(last < 0, np.nan, values[rows[np.maximum(last, 0)]])
  return np.where(own, values[places], before)
