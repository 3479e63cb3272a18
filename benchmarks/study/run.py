"""Runs the study, as long as you like, and goes on where it stopped.

    python benchmarks/study/run.py --data-dir DATA --minutes 30

DATA contains NAME.npz or NAME.txt for the sets that TFDS shall not load
(fashion_mnist, cifar10, tiny_shakespeare), and ptb.train.txt and ptb.test.txt.
A task without its data is left out, with a sentence.

Results are added to study.sqlite. The program can be ended at any time, also by
`kill -9`: only the groups that are under way are lost. A group is all seeds and
settings of a task and a method, one program in a process of its own. A group
that takes longer than `--limit` seconds, or fails, is tried again once.

On a machine without an accelerator, as many groups run at once as there are
cores, each on one core.
"""

import argparse
from collections.abc import Iterable
import concurrent.futures
import itertools
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import paths  # noqa: F401  # isort: skip
import jax
import numpy as np
from rich.console import Console
import store
import tables
import tasks

HERE = pathlib.Path(__file__).parent
LIMIT = 900  # seconds


class Outcome(NamedTuple):
  """What became of a group.

  Attributes:
    units: the units of the group.
    results: the arrays of each unit; None if there are none.
    seconds: how long it took.
    status: one of `store.DONE`, `store.HUNG`, `store.FAILED`.
    message: why there are no results.
  """

  units: list[store.Unit]
  results: list[dict[str, np.ndarray]] | None
  seconds: float
  status: str = store.DONE
  message: str = ""


def groups_of(units: Iterable[store.Unit]) -> list[list[store.Unit]]:
  """The units of each group, in the order of the first of each."""
  found = {}
  for unit in units:
    found.setdefault(unit.group, []).append(unit)
  return list(found.values())


def name_of(units: list[store.Unit]) -> str:
  """A group in a few words."""
  first = units[0]
  return (
    f"{first.experiment}: {first.task}, {first.method}, batch"
    f" {first.batch_size}, {len(units)} runs"
  )


def run_group(
  units: list[store.Unit], data_dir: str, limit: int, core: int | None
) -> Outcome:
  """Runs a group in a process of its own."""
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, os.fspath(HERE / "worker.py"), folder]
    command += ["--data-dir", data_dir, "--limit", str(limit)]
    command += [] if core is None else ["--core", str(core)]
    try:
      ended = subprocess.run(
        command,
        input="\n".join(unit.json for unit in units),
        stderr=subprocess.PIPE,
        text=True,
        timeout=limit + 10,
      )
    except subprocess.TimeoutExpired:
      why = f"no result after {limit} s"
      return Outcome(units, None, limit + 10, store.HUNG, why)
    seconds = time.monotonic() - start
    if ended.returncode == 0:
      results = []
      for i in range(len(units)):
        with np.load(pathlib.Path(folder) / f"{i}.npz") as arrays:
          results.append(dict(arrays))
      return Outcome(units, results, seconds)
    if limit and seconds >= limit:
      why = f"no result after {limit} s"
      return Outcome(units, None, seconds, store.HUNG, why)
    lines = ended.stderr.strip().splitlines()
    why = lines[-1] if lines else f"exit status {ended.returncode}"
    return Outcome(units, None, seconds, store.FAILED, why)


def revision() -> str:
  """The commit of the code; "+" marks uncommitted changes."""
  git = lambda *command: subprocess.run(
    ["git", "-C", os.fspath(HERE), *command], capture_output=True, text=True
  ).stdout.strip()
  changed = git("status", "--porcelain", "--untracked-files=no", "--", "../..")
  return (git("rev-parse", "--short", "HEAD") or "unknown") + "+" * bool(
    changed
  )


def possible(names: Iterable[str], data_dir: str) -> list[str]:
  """The tasks whose data are there; prints a sentence about the others."""
  found = []
  for name in names:
    try:
      jax.eval_shape(tasks.TASKS[name].make(data_dir).init, jax.random.key(0))
    except (tasks.data.DataError, ImportError) as error:
      print(f"{name} is left out: {error}", file=sys.stderr)
    else:
      found.append(name)
  return found


def run_all(
  units: list[store.Unit],
  path: pathlib.Path,
  data_dir: str,
  minutes: float = float("inf"),
  limit: int = LIMIT,
  jobs: int = 1,
  console: Console | None = None,
) -> None:
  """Runs the units that the store lacks, until the time is over.

  Args:
    units: what shall be in the store.
    path: the store.
    data_dir: the folder of the data.
    minutes: no group starts after this time.
    limit: the seconds that a group may take.
    jobs: how many groups run at once. If more than one, each has one core.
    console: where the progress is printed.
  """
  console = console or Console(highlight=False)
  end = time.monotonic() + 60 * minutes
  machine = tables.machine("python benchmarks/study/run.py")
  cores = queue.SimpleQueue()
  several = jobs > 1 and hasattr(os, "sched_getaffinity")
  ours = sorted(os.sched_getaffinity(0)) if several else [None]
  for _, core in zip(range(jobs), itertools.cycle(ours)):
    cores.put(core)
  stop = threading.Event()

  def one(group):
    if stop.is_set() or time.monotonic() > end:
      return None
    core = cores.get()
    try:
      return run_group(group, data_dir, limit, core)
    finally:
      cores.put(core)

  with store.opened(path) as connection:
    code = revision()
    for _ in range(store.ATTEMPTS):
      left, given_up = store.pending(connection, units)
      groups = groups_of(left)
      for group in groups_of(given_up):
        console.print(f"given up: {name_of(group)}", soft_wrap=True)
      if not groups:
        break
      console.print(
        f"{len(units) - len(left)} of {len(units)} runs are done,"
        f" {len(groups)} groups are left"
      )
      began, finished = time.monotonic(), 0
      with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
          futures = [pool.submit(one, group) for group in groups]
          for future in concurrent.futures.as_completed(futures):
            outcome = future.result()
            if outcome is None:
              continue
            finished += 1
            store.add(
              connection,
              outcome.units,
              outcome.results,
              outcome.seconds,
              machine,
              code,
              outcome.status,
              outcome.message,
            )
            each = (time.monotonic() - began) / finished
            rest = each * (len(groups) - finished) / 60
            what = outcome.message or f"{outcome.seconds:.0f} s"
            console.print(
              f"{name_of(outcome.units)}: {what};"
              f" {len(groups) - finished} left, about {rest:.0f} minutes",
              soft_wrap=True,
            )
        except KeyboardInterrupt:
          stop.set()
          pool.shutdown(cancel_futures=True)
          raise
      if time.monotonic() > end:
        break
    left, _ = store.pending(connection, units)
  console.print(f"{len(units) - len(left)} of {len(units)} runs are done")


def main() -> None:
  """Parses the command line."""
  import atlas
  import comparison
  import effects

  def after_tuning(stage):
    def units(names):
      with store.opened(args.store) as connection:
        found = map(comparison.run_of, store.rows(connection, comparison.NAME))
        known = [
          run for page in comparison.SUITES for run in effects.read_page(page)
        ]
        return stage(effects.merged(known, found), names)

    return units

  experiments = {
    "atlas": atlas.units,
    "again": lambda names: atlas.again(names=names),
    "tuning": comparison.tuning,
    "final": after_tuning(comparison.final),
    "sweep": after_tuning(comparison.sweep),
  }
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--store", type=pathlib.Path, default="study.sqlite")
  parser.add_argument("--data-dir", default=".", help="default: this folder")
  parser.add_argument("--minutes", type=float, default=float("inf"))
  parser.add_argument("--limit", type=int, default=LIMIT, help="of a group, s")
  parser.add_argument("--jobs", type=int, help="groups that run at once")
  parser.add_argument(
    "--experiment",
    choices=experiments,
    default="atlas",
    help="atlas (default); again: a tenth of it, with other seeds; tuning,"
    " final and sweep: the stages of the comparison, in this order",
  )
  parser.add_argument(
    "--only", nargs="+", choices=tasks.TASKS, metavar="TASK", help="these tasks"
  )
  args = parser.parse_args()
  jobs = args.jobs
  if jobs is None:
    jobs = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
  names = possible(args.only or tasks.TASKS, args.data_dir)
  units = experiments[args.experiment](tuple(names))
  try:
    run_all(units, args.store, args.data_dir, args.minutes, args.limit, jobs)
  except store.StoreError as error:
    parser.error(str(error))
  except KeyboardInterrupt:
    sys.exit("stopped; the same command goes on")


if __name__ == "__main__":
  main()
