"""Times our code and an opponent in turns, and writes the table of ratios.

Our code runs in a round of pytest-benchmark, and the opponent in the set-up or
the teardown of that round. Therefore a busy machine slows both. A run of all
benchmarks writes its rows into benchmarks/README.md between its two markers; a
run of some prints them.
"""

import pathlib
import random
import statistics
import sys
import time

import pytest
import tables

HERE = pathlib.Path(__file__).resolve().parent

# Some benchmarks time networks of the examples.
sys.path.insert(0, str(HERE.parent / "examples"))

# The other scripts do not measure speed, and one needs packages that the extra
# `dev` does not install.
collect_ignore_glob = ["[!b]*.py"]

ROWS = []
DESELECTED = []


@pytest.fixture
def race(benchmark):
  """race(question, ours, opponent, ...): times both in turns.

  `ours` and `opponent` do the work of `per` steps, and return when it is done.
  A coin decides which is first in a round: the order alone can change the ratio
  of two equal programs by a few percent.
  `most_ratio` is the largest ratio and `most` the largest time of ours that the
  benchmark accepts.
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
    theirs, coin, first = [], random.Random(0), True

    def opponents_turn():
      start = time.perf_counter()
      opponent()
      theirs.append(time.perf_counter() - start)

    def setup():
      nonlocal first
      first = coin.random() < 0.5
      if first:
        opponents_turn()

    def teardown():
      if not first:
        opponents_turn()

    ours(), opponent()
    benchmark.pedantic(
      ours, setup=setup, teardown=teardown, rounds=rounds, warmup_rounds=1
    )
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


def pytest_deselected(items):
  DESELECTED.extend(items)


def pytest_sessionfinish(session, exitstatus):
  if not ROWS:
    return
  head = ["question", "ours", "opponent", "ratio", "at most", "holds"]
  lines = [tables.machine("make bench"), "", *tables.table(head, ROWS)]
  ran = {item.path for item in session.items}
  ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
  if ended and not DESELECTED and ran == set(HERE.glob("bench_*.py")):
    tables.write("table", lines)
  else:
    print("\n" + "\n".join(lines))
