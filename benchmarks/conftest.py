"""Ratios in one run, and the table of them.

A benchmark times two things by turns, ours in pytest-benchmark's round and the
opponent in the set-up of that round, so that a busy machine slows both. Rows
end up in benchmarks/README.md between its two markers.
"""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
import time

import jax
import pytest

README = pathlib.Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
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


def machine():
  """What the figures were measured on."""
  cpu = platform.processor() or platform.machine()
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    names = [x for x in info.read_text().splitlines() if "model name" in x]
    cpu = names[0].split(":")[1].strip() if names else cpu
  devices = jax.devices()
  accelerator = (
    "" if devices[0].platform == "cpu" else f", {devices[0].device_kind}"
  )

  packages = ("jax", "jaxlib", "optax", "numpy", "scipy")
  packages += ("heavytails", "powerlaw")
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
  return (
    f"{cpu}, {os.cpu_count()} cores{accelerator}; Python"
    f" {platform.python_version()}, {versions};"
    f" {datetime.date.today().isoformat()}; `make bench`"
  )


def pytest_sessionfinish(session, exitstatus):
  del session, exitstatus
  if not ROWS:
    return
  lines = [
    machine(),
    "",
    "| question | ours | opponent | ratio | at most | holds |",
    "|---|---|---|---|---|---|",
    *("| " + " | ".join(cells) + " |" for cells in ROWS),
  ]
  table = "\n".join(lines) + "\n"
  text = README.read_text()
  before, rest = text.split(BEGIN)
  README.write_text(before + BEGIN + table + END + rest.split(END)[1])
  print("\n" + table)
