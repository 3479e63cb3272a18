"""A training log as columns of numbers."""

import csv
import io
import json
import os
import pathlib

import numpy as np

from htga_optax.diagnostics.logs._columns import columns as columns_of
from htga_optax.diagnostics.logs._columns import masked


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  r"""Reads a log: CSV with a line of names, or one JSON object a line.

  Args:
    path: the file. If it begins with a brace, it is read as JSON lines. An
      incomplete last line, as of a run that is not over, is left out.

  Returns:
    The columns by name, float64, of equal lengths. A cell that is empty,
    missing or no number is nan. Columns without any number are left out.

  Raises:
    OSError: the file cannot be read.
    ValueError: the file is neither CSV nor JSON lines, has no rows, a row of
      another length, or a line that is no object; the message contains the
      line.

  Examples:
    >>> import pathlib, tempfile
    >>> from htga_optax.diagnostics import logs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "run.csv")
    ...   _ = path.write_text("step,loss,note\n1,0.5,warm\n2,,\n")
    ...   print(logs.read(path))
    {'step': array([1., 2.]), 'loss': array([0.5, nan])}
  """
  try:
    text = pathlib.Path(path).read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} is no text: neither CSV nor JSON lines."
    ) from error
  if "\0" in text:
    raise ValueError(f"{path} is no text: neither CSV nor JSON lines.")
  if not text.strip():
    raise ValueError(f"{path} is empty.")
  is_json = text.lstrip()[0] == "{"
  columns = (_read_json if is_json else _read_csv)(os.fspath(path), text)
  found = columns_of({k: masked(x, np.isnan(x)) for k, x in columns.items()})
  if not found:
    raise ValueError(f"{path} has no column with a number in it.")
  return found


def _read_csv(path: str, text: str) -> dict[str, np.ndarray]:
  text = text.replace("\r\n", "\n")
  head, _, body = text.lstrip("\n").partition("\n")
  names = next(csv.reader([head]))
  if len(set(names)) < len(names) or any(map(_is_number, names)):
    raise ValueError(
      f"{path} must begin with a line of different names, got {head[:60]!r}."
    )
  if not body.strip():
    raise ValueError(f"{path} has a line of names and no rows.")
  # Empty cells as nan, for the parser in C; twice, as matches share commas.
  filled = "\n" + body.replace(",,", ",nan,").replace(",,", ",nan,")
  filled = filled.replace(",\n", ",nan\n").replace("\n,", "\nnan,")
  try:
    table = np.loadtxt(
      io.StringIO(filled), delimiter=",", ndmin=2, comments=None
    )
  except ValueError:
    table = None
  if table is None or table.shape[1] != len(names):
    table = _rows(path, names, body)
  return dict(zip(names, table.T))


def _rows(path: str, names: list[str], body: str) -> np.ndarray:
  rows = [row for row in csv.reader(io.StringIO(body)) if row]
  if len(rows[-1]) < len(names) and not body.endswith("\n"):
    rows.pop()
  for i, row in enumerate(rows):
    if len(row) != len(names):
      raise ValueError(
        f"{path}: row {i + 1} has {len(row)} cells, the line of names"
        f" {len(names)}."
      )
  if not rows:
    raise ValueError(f"{path} has a line of names and no rows.")
  return np.array([[_number(cell) for cell in row] for row in rows])


def _read_json(path: str, text: str) -> dict[str, np.ndarray]:
  lines = [line for line in text.split("\n") if line.strip()]
  rows = []
  for i, line in enumerate(lines):
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      if i == len(lines) - 1 and rows and not text.endswith("\n"):
        break
      raise ValueError(f"{path}: line {i + 1} is no JSON: {error}.") from error
    if not isinstance(row, dict):
      raise ValueError(f"{path}: line {i + 1} is no object: {line[:60]}")
    rows.append(row)
  names = dict.fromkeys(name for row in rows for name in row)
  return {
    name: np.array([_number(row.get(name)) for row in rows]) for name in names
  }


def _number(cell: object) -> float:
  if isinstance(cell, (int, float, str)):
    try:
      return float(cell)
    except (ValueError, OverflowError):
      pass
  return float("nan")


def _is_number(cell: str) -> bool:
  return not np.isnan(_number(cell))
