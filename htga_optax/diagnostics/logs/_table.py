"""Reads text tables: a line of names, and rows of cells with a separator."""

import csv
import io
import re
import sys

import numpy as np

from htga_optax.diagnostics.logs import _columns

# Stands for an empty cell, because the parser of NumPy accepts none.
_EMPTY = repr(-sys.float_info.max)


def columns(path: str, text: str) -> dict[str, np.ndarray]:
  """The columns of a table."""
  head, body = _parted(text)
  separator = _separator(head, body)
  if separator == " ":
    head, body = (re.sub("[ \t]+", "\t", part) for part in (head, body))
    body = body.replace("\n\t", "\n").removeprefix("\t")
    separator = "\t"
  (names,) = csv.reader([head], delimiter=separator, skipinitialspace=True)
  names = [name.strip() for name in names]
  if len(set(names)) < len(names) or any(map(_is_number, names)):
    raise ValueError(
      f"{path} must begin with a line of different names, got {head[:60]!r}."
    )
  if not body.strip():
    raise ValueError(f"{path} has a line of names but no rows.")
  if separator != ",":
    body = _with_points(body, separator)
  table = _parsed(body, separator)
  if table is None or table.shape[1] != len(names):
    return dict(zip(names, _cells(path, names, body, separator)))
  return {
    name: _columns.masked(x, x == -sys.float_info.max)
    for name, x in zip(names, table.T)
  }


def _parted(text: str) -> tuple[str, str]:
  """The line of names and the rows, without comments and repeated names."""
  comment, head, body = "", "", text.lstrip("\n")
  while body:
    head, _, body = body.partition("\n")
    if head.strip() and not head.startswith("#"):
      break
    comment = head.lstrip("# ") or comment
  else:
    return comment, ""
  # NumPy writes the names as a comment.
  cells = re.split(r"[,;\s]+", head.strip())
  if comment and all(map(_is_number, cells)):
    head, body = comment, f"{head}\n{body}"
  if "\n#" in "\n" + body:
    body = re.sub(r"^#.*\n?", "", body, flags=re.MULTILINE)
  if head in body:
    body = re.sub(rf"^{re.escape(head)}(\n|$)", "", body, flags=re.MULTILINE)
  return head.strip(" "), body


def _separator(head: str, body: str) -> str:
  """The separator that is most frequent in the line of names.

  Spaces, if the line has no other separator and as many words as the first row.
  """
  bare = re.sub(r'"[^"]*"', "", head)
  most = max(",;\t", key=bare.count)
  count, (row, *_) = len(head.split()), body.split("\n", 1)
  is_spaced = most not in bare and count > 1 and len(row.split()) == count
  return " " if is_spaced else most


def _with_points(body: str, separator: str) -> str:
  """Replaces decimal commas in cells by points."""
  begins, ends = rf"(?<![^{separator}\n])", rf"(?=[{separator}\n]|$)"
  if "," not in body or re.search(rf"{begins} *[+-]?\d*\.\d", body):
    return body
  comma = rf'{begins} *"?([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)"? *{ends}'
  return re.sub(comma, r"\1.\2", body)


def _parsed(body: str, separator: str) -> np.ndarray | None:
  """The table, by NumPy's parser; None if it contains anything but numbers."""
  filled = "\n" + body
  for _ in range(2):  # twice, because adjacent matches share a separator
    filled = filled.replace(2 * separator, f"{separator}{_EMPTY}{separator}")
  filled = filled.replace(f"{separator}\n", f"{separator}{_EMPTY}\n")
  filled = filled.replace(f"\n{separator}", f"\n{_EMPTY}{separator}")
  try:
    return np.loadtxt(
      io.StringIO(filled), delimiter=separator, ndmin=2, comments=None
    )
  except ValueError:
    return None


def _cells(
  path: str, names: list[str], body: str, separator: str
) -> list[np.ndarray]:
  """The columns of a table with text, cell by cell."""
  reader = csv.reader(
    io.StringIO(body), delimiter=separator, skipinitialspace=True
  )
  rows = [row for row in reader if row]
  if len(rows[-1]) < len(names) and not body.endswith("\n"):
    rows.pop()
  for i, row in enumerate(rows):
    if len(row) != len(names):
      raise ValueError(
        f"{path}: row {i + 1} has {len(row)} cells, but the line of names has"
        f" {len(names)}."
      )
  if not rows:
    raise ValueError(f"{path} has a line of names but no rows.")
  return [_columns.masked(*_columns.parse(cells)) for cells in zip(*rows)]


def _is_number(cell: str) -> bool:
  return not _columns.parse([cell])[1][0]
