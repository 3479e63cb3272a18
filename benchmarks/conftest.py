"""Ratios in one run, and the table of them.

A benchmark times two things by turns, ours in pytest-benchmark's round and the
opponent in the set-up of that round, so that a busy machine slows both. Rows
end up in benchmarks/README.md between its two markers.
"""

import pathlib
import statistics
import sys
import time

import pytest
import tables

# The networks of the examples are timed too.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

# Scripts are no benchmarks of speed, and one needs what `dev` has not.
collect_ignore_glob = ["[!b]*.py"]

ROWS = []


@pytest.fixture
def race(benchmark):
  """race(question, ours, opponent, ...): times both by turns.

  `ours` and `opponent` return when their work is done, which is `per` steps.
  `most_ratio` and `most` are the largest ratio, and the largest time of ours,
  that are accepted.
  """

  def run(
    question,
    ours,
    opponent,
    most_ratio=float("inf"),
    most=float("inf"),
    rounds=30,
    unit="ms",
    per=1,
  ):
    theirs = []

    def setup():
      start = time.perf_counter()
      opponent()
      theirs.append(time.perf_counter() - start)

    ours(), opponent()
    benchmark.pedantic(ours, setup=setup, rounds=rounds, warmup_rounds=1)
    scale = {"s": 1, "ms": 1e3, "us": 1e6}[unit] / per
    mine = scale * statistics.median(benchmark.stats.stats.data)
    other = scale * statistics.median(theirs)
    ratio = mine / other
    holds = ratio <= most_ratio and mine <= most
    targets = [f"ratio {most_ratio:.3g}"] * (most_ratio < float("inf"))
    targets += [f"{most:.3g} {unit}"] * (most < float("inf"))
    ROWS.append(
      [
        question,
        f"{mine:.3g} {unit}",
        f"{other:.3g} {unit}",
        f"{ratio:.3g}",
        ", ".join(targets),
        ("yes" if holds else "**no**") if targets else "",
      ]
    )
    assert holds, " | ".join(ROWS[-1])

  return run


def pytest_sessionfinish(session, exitstatus):
  del session, exitstatus
  if not ROWS:
    return
  head = ["question", "ours", "opponent", "ratio", "at most", "holds"]
  rows = tables.table(head, ROWS)
  tables.write("table", [tables.machine("make bench"), "", *rows])
