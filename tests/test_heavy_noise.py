"""The example with noise of infinite variance."""

import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

for package in ("matplotlib", "rich"):
  pytest.importorskip(package)


@pytest.fixture
def example(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import heavy_noise

  return heavy_noise


def test_table_and_picture(example, tmp_path):
  errors = np.geomspace(1, 1e-3, 300) * np.arange(1, 5)[:, None]
  errors = example.finite(np.where(errors > 3.9, np.inf, errors))
  assert errors.max() == 1e6
  found = {
    name: example.Result(0.02, errors, np.full_like(errors, 1.5))
    for name in example.LOOKS
  }
  assert list(example.LOOKS) == list(example.MAKERS)
  table = example.tabulate(found, "title")
  columns = [list(column.cells) for column in table.columns]
  assert columns[0] == list(example.MAKERS)
  assert [column[0] for column in columns[1:]] == [
    "0.02",
    "0.0025",
    "0.0037",
    "0.004",
    "1.5",
  ]
  example.draw(found, tmp_path / "picture.png")
  assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_errors_are_one_line(example):
  with pytest.raises(SystemExit, match=r"^heavy_noise: .*300"):
    example.main(["--steps", "10"])


@pytest.mark.slow
def test_clips_help_and_the_formula_of_htga_harms(example, tmp_path):
  """The order of the medians and the index, with 32 seeds."""
  path = str(tmp_path / "picture.png")
  found = example.run(example.parse(["--seeds", "32", "--output", path]))
  error = {n: np.median(r.errors[:, -1]) for n, r in found.items()}
  assert error["normalised"] < error["tail clip"] < error["HTGA, ratio"]
  assert error["HTGA, ratio"] < error["SGD"] < error["HTGA, formula"]
  assert error["SGD+clip"] < error["SGD"] / 3
  # Hill's estimate from 16 norms has a standard error of a quarter, and the
  # median of 32 windows one of 0.09.
  assert 1.3 < np.median(found["SGD"].tail_index[:, -1]) < 1.9
