"""Reads JSON logs: an object a line, an array of objects, or one document."""

from collections.abc import Iterator
import json
import re
from typing import Any

import numpy as np

from htga_optax.diagnostics.logs import _columns

_VALUE = re.compile(r"[^\s,]")


def columns(path: str, text: str) -> dict[str, np.ndarray]:
  """The columns of a JSON text."""
  rows = _objects(path, text)
  if len(rows) == 1:
    (document,) = rows
    rows = max(_lists_of_objects(document), key=len, default=rows)
    if rows == [document]:
      as_columns = _document_of_columns(document)
      if as_columns:
        return as_columns
  if not rows:
    raise ValueError(f"{path} has no object that contains a number.")
  rows = [_flat(row) for row in rows]
  names = dict.fromkeys(name for row in rows for name in row)
  return {
    name: _columns.masked(*_columns.parse([row.get(name) for row in rows]))
    for name in names
  }


def _objects(path: str, text: str) -> list[dict[str, Any]]:
  """The objects in order; an incomplete one at the end is left out."""
  decode = json.JSONDecoder().raw_decode
  at = len(text) - len(text.lstrip())
  is_array = text[at] == "["
  at, found = at + is_array, []
  while True:
    begins = _VALUE.search(text, at)
    if begins is None or (is_array and begins[0] == "]"):
      return found
    at = begins.start()
    try:
      row, end = decode(text, at)
    except json.JSONDecodeError as error:
      goes_on = is_array or not text.endswith("\n")
      if found and goes_on and _is_torn(text, error):
        return found
      raise ValueError(
        f"{path}: line {_line(text, at)} is not JSON: {error}."
      ) from error
    if not isinstance(row, dict):
      raise ValueError(
        f"{path}: line {_line(text, at)} is not a JSON object:"
        f" {text[at:end][:60]}"
      )
    found.append(row)
    at = end


def _is_torn(text: str, error: json.JSONDecodeError) -> bool:
  """Whether the text ends inside the value that could not be parsed."""
  rest = text[error.pos :].strip()
  return error.msg.startswith("Unterminated") or not re.search(
    r'[\s,{}"]', rest
  )


def _line(text: str, at: int) -> int:
  """The number of the line at a position, from 1."""
  return text.count("\n", 0, at) + 1


def _lists_of_objects(value: Any) -> Iterator[list[dict[str, Any]]]:
  """The lists in a document that contain only objects."""
  if isinstance(value, dict):
    for inner in value.values():
      yield from _lists_of_objects(inner)
  elif isinstance(value, list) and all(isinstance(v, dict) for v in value):
    yield value


def _document_of_columns(document: dict[str, Any]) -> dict[str, np.ndarray]:
  """The columns of a document that has a list, or cells by row, for each."""
  found = {}
  for name, cells in document.items():
    if isinstance(cells, dict) and cells and all(k.isdigit() for k in cells):
      cells = list(cells.values())
    if isinstance(cells, list):
      found[name] = _columns.masked(*_columns.parse(cells))
  most = max((x.size for x in found.values()), default=0)
  return {name: x for name, x in found.items() if x.size == most}


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
  """The cells of an object and of the objects in it, by joined names."""
  if not before and not any(isinstance(v, dict) for v in row.values()):
    return row
  found = {}
  for name, value in row.items():
    if isinstance(value, dict):
      found |= _flat(value, f"{before}{name}/")
    else:
      found[before + name] = value
  return found
