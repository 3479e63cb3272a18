"""Converts a log in memory to columns of numbers, and finds columns by name."""

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

import numpy as np


def columns(log: Any) -> dict[str, np.ndarray]:
  """Converts a log in memory to columns of numbers.

  Args:
    log: arrays by name, or a frame of pandas or polars. A cell has no value if
      it is masked, null, None or text that is not a number.

  Returns:
    The columns by name, float64, of equal lengths, as :func:`read` returns
    them. A column in which some cells have no value is a masked array, with nan
    below the mask. Columns without any value, or with more than one value a
    row, are left out. Spaces around a name are removed.

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
      f"a log must be a mapping of arrays or a frame, got {type(log).__name__}."
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
  """A column in float64, masked where a cell has no value.

  An array that is not one-dimensional is returned as it is.
  """
  data = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
  if data.ndim != 1:
    return data
  if np.iscomplexobj(data):
    raise ValueError(
      f"{name} is complex: give its absolute values, or its real part."
    )
  missing = np.array(np.ma.getmaskarray(data))
  is_null = getattr(values, "is_null", None)  # a method of polars
  if is_null is not None:
    missing |= np.asarray(is_null(), bool)
  if data.dtype.kind in "OSUTMm":  # text, dates and other objects
    is_date = data.dtype.kind in "Mm"
    cells = [None] * data.size if is_date else np.ma.getdata(data).tolist()
    numbers, absent = parse(cells)
    missing |= absent
    # In a column of text, pandas stores an empty cell as nan.
    if any(isinstance(cell, str) for cell in cells):
      missing |= [
        isinstance(cell, float) and math.isnan(cell) for cell in cells
      ]
  else:
    numbers = np.array(np.ma.getdata(data), float)
  return masked(numbers, missing)


def parse(cells: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Converts cells of any type to numbers; also returns which hold none."""
  numbers = np.full(len(cells), np.nan)
  missing = np.zeros(len(cells), bool)
  for i, cell in enumerate(cells):
    try:
      numbers[i] = float(cell)
    except (TypeError, ValueError, OverflowError):
      missing[i] = True
  return numbers, missing


def masked(numbers: np.ndarray, missing: np.ndarray) -> np.ndarray:
  """Masks the missing numbers, with nan below the mask, if there are any."""
  if not np.any(missing):
    return numbers
  return np.ma.masked_array(np.where(missing, np.nan, numbers), missing)


def find(
  names: Sequence[str] | Mapping[str, Any],
  wanted: Sequence[str],
  beside: str = "",
) -> str | None:
  """Finds a column by the names that programs give it.

  The case of letters does not matter. Spaces and "-" count as "_". The
  separators "/", "." and " - " divide a name into parts. A wanted name is
  compared first with whole names, then with the last part of names.

  Args:
    names: the names of the columns.
    wanted: the names to look for, in order of preference.
    beside: the name of another column. If several columns have a wanted last
      part, the first choice is a column whose other parts are those of
      `beside`, the second one whose other parts begin with "train", and the
      third the first column.

  Returns:
    The name of the column; None if there is none.

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
  """A name in the form in which names are compared."""
  parts = re.split(r"/|\.| - ", str(name).lower())
  return "/".join(re.sub(r"[\s-]+", "_", part.strip()) for part in parts)
