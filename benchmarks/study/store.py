"""Keeps the results of all runs in one SQLite file.

A row is the outcome of one run. Rows are added and never changed. All rows of a
group are added in one transaction, so that the file is whole whenever the
process ends, also by `kill -9`.
"""

from collections.abc import Iterable, Iterator
import contextlib
import datetime
import hashlib
import io
import json
import pathlib
import sqlite3
from typing import Any, NamedTuple

import numpy as np

# The layout of the table. A file of another layout is refused.
VERSION = 1
ATTEMPTS = 2  # how often a run is tried that hangs or fails

DONE, HUNG, FAILED = "done", "hung", "failed"

_COLUMNS = {
  "key": "text not null",
  "status": "text not null",
  "unit": "text not null",  # JSON of what defines the run
  "seconds": "real not null",  # of the whole group
  "machine": "text not null",
  "revision": "text not null",  # the commit of the code
  "written": "text not null",
  "message": "text not null",  # why a run has no result
  "arrays": "blob not null",  # an .npz file
}


class StoreError(Exception):
  """The file is not a store of this version. The message is one sentence."""


class Unit(NamedTuple):
  """One run: everything that defines its result.

  Attributes:
    experiment: what the run is for. The other numbers have the meaning that
      this experiment gives them.
    task: the task, a name in `tasks.TASKS`.
    method: how it is trained.
    batch_size: the number of examples in a batch.
    steps: the number of gradient steps.
    setting: names and values of the method's numbers.
    seed: the seed of everything random.
    version: the version of the code of the task. It changes when the results
      change.
  """

  experiment: str
  task: str
  method: str
  batch_size: int
  steps: int
  setting: tuple[tuple[str, float], ...]
  seed: int
  version: int

  @property
  def key(self) -> str:
    """A hash of the fields."""
    return hashlib.sha256(self.json.encode()).hexdigest()[:20]

  @property
  def json(self) -> str:
    """The fields as JSON."""
    fields = self._asdict() | {"setting": dict(self.setting)}
    return json.dumps(fields, sort_keys=True)

  @property
  def group(self) -> tuple:
    """What runs of one group have in common: they are one program."""
    names = tuple(name for name, _ in self.setting)
    return (*self[:5], names, self.version)

  @classmethod
  def from_json(cls, text: str) -> "Unit":
    """The inverse of `json`."""
    fields = json.loads(text)
    return cls(**fields | {"setting": tuple(sorted(fields["setting"].items()))})


class Row(NamedTuple):
  """The result of a run that is done."""

  unit: Unit
  arrays: dict[str, np.ndarray]
  seconds: float
  machine: str
  revision: str


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
  """Opens a store, and makes an empty one if there is no file.

  Raises:
    StoreError: the file is of another version, or no SQLite file.
  """
  connection = sqlite3.connect(path, timeout=60)
  try:
    if _version(connection) != VERSION:
      _create(connection, path)
    yield connection
  except sqlite3.DatabaseError as error:
    raise StoreError(f"{path} is not a store: {error}.") from error
  finally:
    connection.close()


def _version(connection: sqlite3.Connection) -> int:
  return connection.execute("pragma user_version").fetchone()[0]


def _create(connection: sqlite3.Connection, path: pathlib.Path) -> None:
  """Makes the table, in one transaction: others may open the file as well."""
  with connection:
    connection.execute("begin immediate")
    version = _version(connection)
    tables = connection.execute("select name from sqlite_master").fetchall()
    if version != VERSION and tables:
      raise StoreError(
        f"{path} has version {version} and this code needs {VERSION}: name"
        " another file, or use the code of the commit that is in its rows."
      )
    if not tables:
      columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
      connection.execute(f"create table runs ({columns})")
      connection.execute(f"pragma user_version = {VERSION}")


def add(
  connection: sqlite3.Connection,
  units: Iterable[Unit],
  results: Iterable[dict[str, np.ndarray]] | None,
  seconds: float,
  machine: str,
  revision: str,
  status: str = DONE,
  message: str = "",
) -> None:
  """Adds the rows of a group. `results` is None if the group has none."""
  units = list(units)
  results = [{}] * len(units) if results is None else results
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  tail = (seconds, machine, revision, now, message)
  rows = [
    (unit.key, status, unit.json, *tail, _packed(arrays))
    for unit, arrays in zip(units, results, strict=True)
  ]
  marks = ", ".join("?" * len(_COLUMNS))
  with connection:
    connection.executemany(f"insert into runs values ({marks})", rows)


def pending(
  connection: sqlite3.Connection, units: Iterable[Unit]
) -> tuple[list[Unit], list[Unit]]:
  """The units that are left to run, and those that were given up."""
  done, tried = set(), {}
  for key, status in connection.execute("select key, status from runs"):
    if status == DONE:
      done.add(key)
    else:
      tried[key] = tried.get(key, 0) + 1
  left = [unit for unit in units if unit.key not in done]
  given_up = [unit for unit in left if tried.get(unit.key, 0) >= ATTEMPTS]
  return [unit for unit in left if unit not in given_up], given_up


def rows(
  connection: sqlite3.Connection, experiment: str | None = None
) -> Iterator[Row]:
  """Yields the runs that are done."""
  found = connection.execute(
    "select unit, arrays, seconds, machine, revision from runs"
    " where status = ? order by rowid",
    [DONE],
  )
  for text, blob, *rest in found:
    unit = Unit.from_json(text)
    if experiment in (None, unit.experiment):
      yield Row(unit, _unpacked(blob), *rest)


def troubles(connection: sqlite3.Connection) -> list[tuple[Unit, str, str]]:
  """The attempts without a result: unit, status, message."""
  found = connection.execute(
    "select unit, status, message from runs where status != ?", [DONE]
  )
  return [(Unit.from_json(text), *rest) for text, *rest in found]


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  return buffer.getvalue()


def _unpacked(blob: bytes) -> dict[str, Any]:
  with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
    return dict(arrays)
