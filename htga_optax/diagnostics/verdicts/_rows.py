"""The values of a column in order of steps, and what is left out of it.

A log has a value in some rows and a step in some rows. A value takes the step
of its own row, or else of the nearest row before it that has one. Where the
step jumps back, a run was resumed: what it had done from that step on is done
again, and the last time counts. Values that share a step without a jump all
count.
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
  "again": "of steps that come again",
}


class Rows(NamedTuple):
  """A column of a log, in order of steps.

  Attributes:
    column: its name in the log.
    values: its values that are finite and not 0, float64 [n].
    steps: their steps, never falling, [n]; numbers of rows where there is no
      column of steps.
    places: the number of the row of each, from 0 on, [n].
    loss: the loss of the same row, or the last at this step or before it, [n];
      nan before the first; None if the log has none.
    clock: the name of the column of steps; None if rows are counted.
    stride: how many steps one value comes after the other, mostly; below 1 if
      several share a step, and 1 if rows are counted.
    jumps: where the step jumps back, from and to, [jumps, 2].
    left_out: the steps of what is left out, by reason: "no value" (a row
      without a number), "nan", "infinite", "0", "too large" (beyond 1e30 times
      the median) and "again" (the step comes again later).
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
  """Takes a column of norms out of a log.

  Args:
    columns: as :func:`htga_optax.diagnostics.logs.columns` returns them.
    column: its name; if None, the first that is found by a name of `NORMS`.

  Returns:
    The :class:`Rows`.

  Raises:
    ValueError: there is no such column.
  """
  name = _name(columns, column)
  clock, steps = _clock(columns, name)
  rows, jumps = _timeline(columns[name], steps)
  if rows is None:  # not the steps of a run that was resumed
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
  """The sentence on what is left out, with its reasons."""
  parts = [f"{x.size} {_REASONS[name]}" for name, x in rows.left_out.items()]
  return f"Left out of {rows.column}: {', '.join(parts)}."


def curve(
  columns: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """The steps and the values of any column, in order of steps.

  Values that are not finite are left in.
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
  """Another column at the rows of a column.

  Args:
    columns: the log.
    rows: what :func:`take` returned for it.
    name: of the other column.

  Returns:
    Its value in the same row, or the last one at this step or before it, [n];
    nan before the first.
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
    raise ValueError(f"no column of numbers {column}; there are: {there}.")
  if column is None:
    raise ValueError(
      f"no column of norms ({', '.join(NORMS)}); name one with --column, of:"
      f" {there}."
    )
  return column


def _clock(
  columns: Mapping[str, np.ndarray], name: str
) -> tuple[str | None, np.ndarray]:
  """The column of steps, and a step for each row."""
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
  """The rows with a value whose step does not come again, and the jumps back.

  The rows are None if more than half come again: such a step counts within an
  epoch, or it is out of order.
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
