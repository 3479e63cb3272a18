"""Runs one group of the study in a process of its own, for run.py.

It reads the units as lines of JSON from the standard input, and writes the
arrays of each into a folder.
"""

import argparse
import importlib
import os
import pathlib
import signal
import sys
import threading
import time


def end_with(parent: int) -> None:
  """Ends this process soon after its parent has ended."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


def main() -> None:
  """Runs the group."""
  parser = argparse.ArgumentParser()
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--data-dir", default=".")
  parser.add_argument("--limit", type=int, default=0)
  parser.add_argument("--core", type=int)
  args = parser.parse_args()
  if args.limit and hasattr(signal, "alarm"):
    signal.alarm(args.limit)  # also ends a process that waits inside of XLA
  threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
  if args.core is not None and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {args.core})

  # Imported here, because XLA counts the cores when it starts.
  import paths  # noqa: F401  # isort: skip
  import numpy as np
  import store

  units = [store.Unit.from_json(line) for line in sys.stdin]
  experiment = importlib.import_module(units[0].experiment)
  for i, arrays in enumerate(experiment.run(units, args.data_dir)):
    np.savez(args.out / f"{i}.npz", **arrays)


if __name__ == "__main__":
  main()
