"""Columns of numbers from what holds them, and how they are found by name."""

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

import numpy as np


def columns(log: Any) -> dict[str, np.ndarray]:
  """The columns of a log that is in memory.

  Args:
    log: arrays by name, or a frame of pandas or polars. Masked arrays and
      nulls have no value where they are masked; None and text that is no number
      are no value either.

  Returns:
    The columns by name, float64, of equal lengths, as :func:`read` returns
    them. A column in which some cells have no value is a masked array, with nan
    below the mask. Columns without any value, or with more than one a row, are
    left out. Spaces around a name are taken off.

  Raises:
    TypeError: `log` is neither a mapping nor a frame.
    ValueError: a column is complex, or lengths differ.

  Examples:
    >>> from htga_optax.diagnostics import logs
    >>> print(logs.columns({"step": [1, 2], " grad_norm": ["0.5", None]}))
    {'step': array([1., 2.]), 'grad_norm': masked_array(data=[0.5, --],
                 mask=[False,  True],
           fill_value=1e+20)}
  """
  names = None
  if hasattr(log, "__len__") and hasattr(log, "__getitem__"):
    names = getattr(log, "keys", lambda: getattr(log, "columns", None))()
  if names is None:
    raise TypeError(
      f"a log is a mapping of arrays or a frame, got {type(log).__name__}."
    )
  found, sizes = {}, {}
  for name in names:
    column = _column(str(name), log[name])
    if column.ndim != 1:
      continue
    sizes[str(name)] = column.size
    if not np.all(np.ma.getmaskarray(column)):
      found[str(name).strip()] = column
  if len(set(sizes.values())) > 1:
    raise ValueError(f"columns must be of equal lengths, got {sizes}.")
  return found


def _column(name: str, values: Any) -> np.ndarray:
  """A column in float64, masked where there is no value; else the array."""
  data = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
  if data.ndim != 1:
    return data
  if np.iscomplexobj(data):
    raise ValueError(
      f"{name} is complex: give its absolute values, or its real part."
    )
  missing = np.array(np.ma.getmaskarray(data))
  is_null = getattr(values, "is_null", None)  # of polars
  if is_null is not None:
    missing |= np.asarray(is_null(), bool)
  if data.dtype.kind in "OSUTMm":  # text, dates and what else there is
    is_date = data.dtype.kind in "Mm"
    cells = [None] * data.size if is_date else np.ma.getdata(data).tolist()
    numbers, absent = parse(cells)
    missing |= absent
    if any(isinstance(cell, str) for cell in cells):  # pandas: nan is no text
      missing |= [
        isinstance(cell, float) and math.isnan(cell) for cell in cells
      ]
  else:
    numbers = np.array(np.ma.getdata(data), float)
  return masked(numbers, missing)


def parse(cells: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Numbers from cells of any type, and which cells hold none."""
  numbers = np.full(len(cells), np.nan)
  missing = np.zeros(len(cells), bool)
  for i, cell in enumerate(cells):
    try:
      numbers[i] = float(cell)
    except (TypeError, ValueError, OverflowError):
      missing[i] = True
  return numbers, missing


def masked(numbers: np.ndarray, missing: np.ndarray) -> np.ndarray:
  """The numbers, masked and nan where one is missing; plain if none is."""
  if not np.any(missing):
    return numbers
  return np.ma.masked_array(np.where(missing, np.nan, numbers), missing)


def find(
  names: Sequence[str] | Mapping[str, Any],
  wanted: Sequence[str],
  beside: str = "",
) -> str | None:
  """Finds a column by what programs call it.

  Capitals and spaces do not count. "/", "." and " - " part a name, and "-" is
  "_". A name that is wanted is looked for as a whole, then as the last part.

  Args:
    names: of the columns.
    wanted: plain names, the best first.
    beside: a column. Of several with a wanted last part, one with the same
      parts before it is taken first, then one of "train...", then the first.

  Returns:
    The name of the column, or None.

  Examples:
    >>> from htga_optax.diagnostics import logs
    >>> names = ["Step", "eval/grad_norm", "train/Grad-Norm"]
    >>> print(logs.find(names, ["grad_norm"]), logs.find(names, ["step"]))
    train/Grad-Norm Step
  """
  plain = {name: _plain(name) for name in names}
  for want in map(_plain, wanted):
    for name in names:
      if plain[name] == want:
        return name
  folder = _plain(beside).rpartition("/")[0]
  for want in map(_plain, wanted):
    some = [name for name in names if plain[name].endswith("/" + want)]
    if some:
      before = {name: plain[name].removesuffix("/" + want) for name in some}
      return min(
        some,
        key=lambda name: (
          before[name] != folder,
          not before[name].startswith("train"),
        ),
      )
  return None


def _plain(name: str) -> str:
  parts = re.split(r"/|\.| - ", str(name).lower())
  return "/".join(re.sub(r"[\s-]+", "_", part.strip()) for part in parts)
