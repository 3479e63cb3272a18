"""Writes the sentences of a verdict on the whole run and on its rows."""

import math

import numpy as np

from htga_optax.diagnostics.verdicts import _examine, _rows

_PARTS = 10  # of the run; the medians of these parts are compared
_SHOWN = 3  # how many jumps are named


def on_run(found: _examine.Verdict) -> str:
  """Which values the verdict rests on, and what holds over the whole run."""
  rows, size = found.rows, found.values.size
  n, alphas = rows.values.size, found.blocks[1]
  which = f"the last {size} of {n}" if size < n else f"all {n}"
  short = ""
  if size < found.window:
    short = f", fewer than its window of {found.window}"
  said = [
    f"The verdict rests on {which} values, {unit(rows)}s"
    f" {found.steps[0]:.0f} to {found.steps[-1]:.0f}{short}."
  ]
  if alphas.size > 1:
    below = int(np.sum(alphas < 2))
    overlap = ", which overlap" if alphas.size * size > n else ""
    said.append(
      f"Over the run the tail index is below 2 in {below} of {alphas.size}"
      f" windows of {size} values{overlap} (indices from"
      f" {np.nanmin(alphas):.2g} to {np.nanmax(alphas):.2g})."
    )
  said.append(_on_level(rows))
  return " ".join(said)


def _on_level(rows: _rows.Rows) -> str:
  parts = np.array_split(np.arange(rows.values.size), _PARTS)
  medians = np.array([np.median(np.abs(rows.values[part])) for part in parts])
  low, high = float(np.min(medians)), float(np.max(medians))
  if high < 1.5 * low:
    return (
      f"The level is stable: the medians of the {_PARTS} parts of the run are"
      f" between {low:.3g} and {high:.3g}."
    )
  changes = np.diff(np.log(medians))
  place = int(np.argmax(np.abs(changes)))
  factor = math.exp(abs(changes[place]))
  move = "rises" if changes[place] > 0 else "falls"
  first, last = parts[place][0], parts[place + 1][-1]
  return (
    f"The level changes: the medians of the {_PARTS} parts of the run go from"
    f" {medians[0]:.3g} to {medians[-1]:.3g}. The largest change is between"
    f" {unit(rows)}s"
    f" {rows.steps[first]:.0f} and {rows.steps[last]:.0f}, where the median"
    f" {move} by a factor of {factor:.2g}."
  )


def on_rows(rows: _rows.Rows) -> list[str]:
  """The sentences on the distance of rows and on jumps of the step."""
  said, jumps = [], rows.jumps
  if rows.clock is None and jumps.size:
    said.append(
      f"The step jumps back {_times(len(jumps))}, and more than half of the"
      " values are at steps that occur again. It may count within an epoch."
      " Therefore rows are counted instead of steps."
    )
  elif jumps.size:
    places = [f"from {a:.0f} to {b:.0f}" for a, b in jumps[:_SHOWN]]
    places += [f"{len(jumps) - _SHOWN} more"] * (len(jumps) > _SHOWN)
    said.append(
      f"The step jumps back {_times(len(jumps))}: {', '.join(places)}. Of a"
      " step that is repeated, only the last repetition counts."
    )
  if rows.clock is not None and rows.stride > 1:
    said.append(
      f"Rows are {rows.stride:.3g} steps apart. The steps between them are not"
      " in this log; rates hold for them only if their norms are like the"
      " logged ones."
    )
  return said


def unit(rows: _rows.Rows) -> str:
  """The word for the position of a value: "step" or "row"."""
  return "row" if rows.clock is None else "step"


def rate(rows: _rows.Rows, share: float) -> str:
  """A share of the rows in words, as one of so many rows or steps."""
  every = round(1 / share)
  if rows.clock is None or rows.stride <= 1:
    return f"one {unit(rows)} in {every}"
  return (
    f"one row in {every}, that is one logged row in"
    f" {every * rows.stride:.0f} steps"
  )


def _times(count: int) -> str:
  return "once" if count == 1 else f"{count} times"
