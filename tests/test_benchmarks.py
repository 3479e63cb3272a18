"""Tests that only a run of all benchmarks replaces the table of ratios."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"
TRIVIAL = """
def test_{name}(race):
  race("is {name} fast", lambda: None, lambda: None, rounds=2)
"""


@pytest.mark.slow
def test_only_a_whole_run_replaces_the_table(tmp_path):
  for name in ("conftest.py", "tables.py", "README.md"):
    shutil.copy(BENCHMARKS / name, tmp_path)
  for name in ("one", "two"):
    path = tmp_path / f"bench_{name}.py"
    path.write_text(TRIVIAL.format(name=name))
  page = tmp_path / "README.md"
  before = page.read_text()

  def bench(*arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p"]
    command += ["no:cacheprovider", "-o", "python_files=bench_*.py"]
    # pytest-benchmark times nothing in a worker of xdist.
    worker = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
    found = subprocess.run(
      [*command, *arguments],
      cwd=tmp_path,
      env={k: v for k, v in os.environ.items() if k not in worker},
      capture_output=True,
      text=True,
      timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "| is one fast |" in found.stdout
    return page.read_text()

  assert bench("bench_one.py") == before
  assert bench("-k", "one", ".") == before
  after = bench(".")
  assert "is one fast" in after
  assert "is two fast" in after
