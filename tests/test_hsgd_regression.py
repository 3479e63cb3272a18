"""The examples of hSGD: tests of fit, a short run of both, errors."""

import functools
import pathlib

import numpy as np
import pytest
from scipy import stats

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

for package in ("matplotlib", "rich", "sklearn"):
  pytest.importorskip(package)


@pytest.fixture
def goodness(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import goodness

  return goodness


@pytest.fixture
def regression(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import hsgd_regression

  return hsgd_regression


@pytest.fixture
def sweep(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import eta_over_b

  return eta_over_b


# -- goodness of fit --------------------------------------------------------


@pytest.mark.parametrize("name", ["Student t", "stable"])
def test_a_family_is_rejected_as_often_as_stated(goodness, name):
  """P-values of 50 samples of the family are uniform, and the test has power.

  The power is shown against a skewed law, since it is small between these
  families.
  """
  law = stats.t(2) if name == "Student t" else stats.levy_stable(1.5, 0)
  x = law.rvs(size=(50, 500), random_state=0)
  verdict = goodness.judge(name, x, seed=0, replications=199)
  assert stats.kstest(verdict.pvalues, stats.uniform.cdf).pvalue > 1e-3
  x = stats.gumbel_r.rvs(size=(50, 500), random_state=0)
  verdict = goodness.judge(name, x, seed=0, replications=199)
  assert np.mean(verdict.pvalues < 0.05) > 0.5


# -- both examples ----------------------------------------------------------


def test_random_features_are_bounded(regression):
  found = {p.name: p for p in regression.problems()}
  assert len(found) == 6
  for name, p in found.items():
    assert p.features.shape[0] == len(p.targets)
    if "random" in name:
      assert np.max(np.abs(p.features)) <= 2**0.5
    elif "synthetic" not in name:
      np.testing.assert_allclose(p.features.std(axis=0), 1)


def test_a_short_run_draws_and_tabulates(regression, monkeypatch, tmp_path):
  some = [p for p in regression.problems() if p.name in ("diabetes",)]
  monkeypatch.setattr(regression, "problems", lambda: some)
  monkeypatch.setattr(regression, "SHOWN", ("diabetes",) * 3)
  judge = functools.partial(regression.goodness.judge, replications=39)
  monkeypatch.setattr(regression.goodness, "judge", judge)
  picture = tmp_path / "a.png"
  args = ["--chains", "50", "--repetitions", "2", "--output", str(picture)]
  results = regression.run(regression.parse(args))
  assert picture.read_bytes().startswith(b"\x89PNG")
  table = picture.with_suffix(".md").read_text()
  assert "--chains 50 --repetitions 2 --seed 0" in table
  assert table.count("\n| diabetes | hSGD |") == 2
  for r in results:
    assert r.sample.shape == (2, 50) and np.all(np.isfinite(r.sample))
    assert 4 < r.bounds[0] < r.bounds[1] < 6
    assert 0.5 < r.sample.std() / r.sd < 3
    assert r.hill[1] < r.hill[0] < r.hill[2]


@pytest.mark.slow
def test_a_short_sweep_draws(sweep, monkeypatch, tmp_path):
  monkeypatch.setattr(sweep, "RATIOS", np.float64([0.1, 0.3]))
  monkeypatch.setattr(sweep, "SPECTRA", (np.ones(2), np.float64([1, 0.5])))
  monkeypatch.setattr(sweep, "TAIL", 0.05)
  monkeypatch.setattr(sweep, "FORGET", 3.0)
  picture = tmp_path / "a.png"
  args = ["--chains", "400", "--output", str(picture)]
  curves = sweep.run(sweep.parse(args))
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert [[c.name for c in found] for found in curves] == [
    list(sweep.LOOKS)
  ] * 2
  for curve in curves[0]:
    assert np.all(curve.theory > 1)
  for curve in curves[1]:
    assert np.all(np.isnan(curve.theory))
  # A larger learning rate has a heavier tail.
  assert curves[0][0].hill[0] > curves[0][0].hill[1] > 1


@pytest.mark.parametrize("name", ["regression", "sweep"])
@pytest.mark.parametrize(
  "argv, said",
  [
    (["--chains", "1"], "must be 50, 51, ..., got 1"),
    (["--seed", "-1"], "must be 0, 1, ..., got -1"),
    (["--output", "a.txt"], "must end in .png, got a.txt"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
  ],
)
def test_bad_arguments_are_one_line(request, name, argv, said):
  example = request.getfixturevalue(name)
  with pytest.raises(SystemExit) as stopped:
    example.main(argv)
  message = stopped.value.code  # printed to stderr, with status 1
  assert isinstance(message, str), message
  assert message.startswith(example.__name__) and "\n" not in message
  assert said in message
