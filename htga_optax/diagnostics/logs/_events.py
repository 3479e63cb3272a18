"""Reads the scalars of TensorBoard event files, by tag and step."""

from collections.abc import Iterator
import importlib
import pathlib
import struct
from typing import Any

import numpy as np

from htga_optax.diagnostics import _optional
from htga_optax.diagnostics.logs import _columns


def columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The columns of an event file, or of all event files in a folder."""
  files = sorted(path.rglob("*tfevents*")) if path.is_dir() else [path]
  if not files:
    raise ValueError(f"{path} is a folder without event files (TensorBoard).")
  rows = []
  for file in files:
    folder = "" if path == file else file.relative_to(path).parent.as_posix()
    before = f"{folder}/" if folder not in ("", ".") else ""
    rows += _rows(file, before)
  names = dict.fromkeys(name for row in rows for name in row)
  return {
    name: _columns.masked(*_columns.parse([row.get(name) for row in rows]))
    for name in names
  }


def _rows(file: pathlib.Path, before: str) -> list[dict[str, float]]:
  """The scalars of a file; successive scalars of one step share a row."""
  rows = []
  for event in _events(file):
    for value in event.summary.value:
      number, name = _scalar(value), before + value.tag
      if number is None:
        continue
      if not rows or rows[-1]["step"] != event.step or name in rows[-1]:
        rows.append({"step": float(event.step)})
      rows[-1][name] = number
  return rows


def _events(file: pathlib.Path) -> Iterator[Any]:
  """The events of a file; an incomplete one at its end is left out."""
  kind, data, at = _kind(), file.read_bytes(), 0
  while at + 12 <= len(data):
    (size,) = struct.unpack_from("<Q", data, at)
    record = data[at + 12 : at + 12 + size]
    at += 16 + size  # length, its checksum, the event, its checksum
    if at > len(data):
      break
    event = kind()
    try:
      event.ParseFromString(record)
    except Exception as error:  # of protobuf, whose module may have any name
      raise ValueError(f"{file} is not an event file: {error}.") from error
    yield event


def _kind() -> Any:
  """The protobuf class of an event."""
  for module in ("tensorboardX.proto", "tensorboard.compat.proto"):
    try:
      return importlib.import_module(f"{module}.event_pb2").Event
    except ImportError:
      continue
  return _optional.load("tensorboardX.proto.event_pb2", "logging").Event


def _scalar(value: Any) -> float | None:
  """The number of a summary that TensorFlow 1 or 2 wrote; None if not one."""
  if value.WhichOneof("value") == "simple_value":
    return value.simple_value
  if value.WhichOneof("value") != "tensor":
    return None
  tensor = value.tensor
  kinds = {1: (np.float32, tensor.float_val), 2: (float, tensor.double_val)}
  if tensor.dtype not in kinds:
    return None
  dtype, numbers = kinds[tensor.dtype]
  if not numbers:
    numbers = np.frombuffer(tensor.tensor_content, dtype)
  return float(numbers[0]) if len(numbers) == 1 else None
