"""Reads a file or a folder into columns, by its content."""

import codecs
import os
import pathlib
import zlib

import numpy as np

from htga_optax.diagnostics.logs import _columns, _events, _json, _table


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  r"""Reads a log: a text table, JSON, or TensorBoard event files.

  A table begins with a line of names. Its separator is a comma, a semicolon, a
  tab or spaces. With semicolons or tabs, cells may have a decimal comma. Lines
  that begin with "#", and lines that repeat the names, are left out.

  JSON is an object a line, an array of objects, or one document. Of a document
  the longest list of objects is read (`log_history` in `trainer_state.json`),
  or else its columns. The names of nested objects are joined by "/".

  A text may be gzipped. Its encoding is UTF-8 or UTF-16. An incomplete last
  row, as in the log of a run that has not ended, is left out.

  Args:
    path: a text file; or an event file; or a folder of event files. Event files
      give a column for each scalar, named with its folder, and a column "step".

  Returns:
    The columns by name, float64, of equal lengths. A column in which some cells
    are empty, missing or not a number is a masked array, with nan below the
    mask. Columns without any number are left out.

  Raises:
    ImportError: the log has event files, and neither tensorboardX nor
      tensorboard is installed.
    OSError: the file cannot be read.
    ValueError: the file has none of these formats, it has no rows, a row has
      another length, or a line is not a JSON object; the message contains the
      line.

  Examples:
    >>> import pathlib, tempfile
    >>> from htga_optax.diagnostics import logs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "run.csv")
    ...   _ = path.write_text("step;loss;note\n1;0,5;warm\n2;;\n")
    ...   found = logs.read(path)
    >>> print(found["step"], found["loss"])
    [1. 2.] [0.5 --]
  """
  path = pathlib.Path(path)
  if path.is_dir() or "tfevents" in path.name:
    columns = _events.columns(path)
  else:
    columns = _columns_of_text(str(path), _text(path))
  found = _columns.columns(columns)
  if not found:
    raise ValueError(f"{path} has no column that contains a number.")
  return found


def _columns_of_text(path: str, text: str) -> dict[str, np.ndarray]:
  if not text.strip():
    raise ValueError(f"{path} is empty.")
  is_json = text.lstrip()[0] in "{["
  return (_json if is_json else _table).columns(path, text)


def _text(path: pathlib.Path) -> str:
  data = path.read_bytes()
  if data.startswith(b"\x1f\x8b"):
    data = _unzipped(str(path), data)
  is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  # An incremental decoder ignores an incomplete character at the end.
  decoder = codecs.getincrementaldecoder("utf-16" if is_wide else "utf-8-sig")()
  try:
    text = decoder.decode(data)
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} is not text: neither a table nor JSON."
    ) from error
  if "\0" in text:
    raise ValueError(f"{path} is not text: neither a table nor JSON.")
  return text.replace("\r\n", "\n").replace("\r", "\n")


def _unzipped(path: str, data: bytes) -> bytes:
  """The content of a gzip file; its last member may be incomplete."""
  parts = []
  try:
    while data:
      member = zlib.decompressobj(wbits=31)
      parts.append(member.decompress(data))
      data = member.unused_data
  except zlib.error as error:
    raise ValueError(f"{path} is a damaged gzip file: {error}.") from error
  return b"".join(parts)
