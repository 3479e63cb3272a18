"""What the study measures of a series of norms, and of AlgoPerf's logs.

Nearly all series have 512 norms, so that the tests share two programs.
"""

import importlib
import pathlib

import numpy as np
import pytest
import reference
from scipy import signal, special, stats

pytestmark = pytest.mark.long_run

ROOT = pathlib.Path(__file__).parent.parent
N, K = 512, 25


def module(monkeypatch, name):
  for folder in ("examples", "benchmarks", "benchmarks/study"):
    monkeypatch.syspath_prepend(ROOT / folder)
  return importlib.import_module(name)


@pytest.fixture
def measure(monkeypatch):
  return module(monkeypatch, "measure")


@pytest.fixture
def algoperf(monkeypatch):
  return module(monkeypatch, "algoperf")


def series(isf, rho, m, seed=0):
  """Norms with the law of isf and an AR(1) Gaussian copula, [m, N]."""
  rng = np.random.default_rng(seed)
  noise = rng.standard_normal((m, N + 200)) * np.sqrt(1 - rho**2)
  gaussian = signal.lfilter([1], [1, -rho], noise)[:, 200:]
  return isf(special.ndtr(-gaussian))


def over_level(norms):
  """The twin of `measure.over_level`, for one series."""
  levels = []
  for t in range(norms.size):
    first = min(max(t - 25, 0), norms.size - 51)
    levels.append(np.median(norms[first : first + 51]))
  return norms / levels


def test_numbers_equal_their_twins(measure):
  norms = series(stats.pareto(1.5).isf, 0.6, 3)
  norms *= np.geomspace(10, 1, N)
  found = measure.examine(norms)
  assert np.all(found["known"]) and not np.any(found["left_out"])
  for i, raw in enumerate(norms):
    for prefix, x in (("raw_", raw), ("", over_level(raw))):
      index = reference.hill(x, K)
      inflation, bias, drift = reference.series(x, K)
      low, high = reference.series_interval(index, K, inflation, bias)
      names = ("index", "low", "high", "drift")
      # The package interpolates the correlations of 12 lags.
      for name, twin in zip(names, (index, low, high, drift)):
        assert found[prefix + name][i] == pytest.approx(twin, rel=5e-3)
    assert found["inflation"][i] == pytest.approx(inflation, rel=5e-3)
    tail = np.sort(x)[-K - 1 :]
    xi, _ = reference.generalized_pareto_fit(tail[1:] - tail[0])
    assert found["xi"][i] == pytest.approx(xi, abs=1e-3)
    width = 1.96 * (1 + xi) * np.sqrt(inflation / K)
    assert found["xi_high"][i] - xi == pytest.approx(width, rel=5e-3)
    assert xi - found["xi_low"][i] == pytest.approx(width, rel=5e-3)


def test_windows_equal_their_twin(measure):
  norms = series(stats.pareto(1.5).isf, 0.0, 2)
  found = measure.windows(norms)
  assert np.all(found["index"][:, : measure.WINDOW - 1] == 0)
  for i, raw in enumerate(norms):
    x = over_level(raw)
    for t in (255, 300, N - 1):
      twin = reference.hill(x[t - 255 : t + 1], 16)
      assert found["index"][i, t] == pytest.approx(twin, rel=1e-3)
      assert found["low"][i, t] < twin < found["high"][i, t]


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_hold(measure, rho):
  """Nominally 95 percent; a share of 400 has a standard error of 1.1 percent.

  The standard error of xi is asymptotic, and k is 25: 88 to 95 percent hold.
  """
  found = measure.examine(series(stats.pareto(1.5).isf, rho, 400, seed=1))
  assert np.mean((found["low"] <= 1.5) & (found["high"] >= 1.5)) > 0.92
  holds = (found["xi_low"] <= 1 / 1.5) & (found["xi_high"] >= 1 / 1.5)
  assert np.mean(holds) > 0.85
  assert np.mean(found["rejected"]) < 0.05
  # The correlation of the series, not that of the norms over their level. The
  # mean of 400 has a standard error of 0.003.
  assert np.mean(found["rho"]) == pytest.approx(rho, abs=0.03)


def test_a_level_that_moves_is_no_tail(measure):
  """Light norms with a trend, and with tenfold jumps.

  Their index without either is 110. The level of the trackers follows the jumps
  slowly, and the norms over it seem to have a tail.
  """
  norms = stats.chi(1000).rvs(size=(2, N), random_state=0)
  norms[0] *= np.geomspace(10, 1, N)
  norms[1] *= 10.0 ** (np.arange(N) // 128 % 2)
  found = measure.examine(norms)
  assert found["index"][0] > 1.5 * found["raw_index"][0]
  assert found["index"][1] > 70
  causal = reference.over_level(norms[1].tolist())
  assert reference.hill(causal, K) < 7


@pytest.mark.slow
def test_known_laws(measure):
  """Hill's estimate at n = 512 of the laws themselves, drawn by SciPy.

  The median removes a little of the largest values of a half-normal law. The
  bands are those of 200 series; 10 percent is three standard errors of a
  median.
  """
  rng = np.random.default_rng(0)
  bands = measure.light_bands(N, 0.0, rng)
  raw = measure.light_bands(N, 0.0, rng, of="raw_index")
  laws = {
    "half-normal": stats.halfnorm(),
    "lognormal(0.2)": stats.lognorm(0.2),
    "chi(1000)": stats.chi(1000),
    "|t_3|": stats.t(3),
    "Pareto(2)": stats.pareto(2),
    "Pareto(1.5)": stats.pareto(1.5),
  }
  assert list(bands) == list(measure.LAWS) == list(laws)
  for name, law in laws.items():
    x = np.abs(law.rvs(size=(200, N), random_state=1))
    twin = np.median([reference.hill(row, K) for row in x])
    low, middle, high = raw[name]
    assert middle == pytest.approx(twin, rel=0.1)
    assert low < twin < high
    assert bands[name][1] == pytest.approx(middle, rel=0.15)


def test_norms_that_are_no_norms_are_left_out(measure):
  """The others are examined as if the bad norms were not in the log."""
  good = series(stats.pareto(1.5).isf, 0.0, 3)
  norms = np.insert(good, np.full(8, 300), [0, np.nan, np.inf, -1] * 2, axis=1)
  norms[2, 300:308] = 1e35  # float32 would overflow
  found, expected = measure.examine(norms), measure.examine(good)
  assert np.all(found["left_out"] == 8) and np.all(found["used"] == N)
  for name, values in expected.items():
    if name != "left_out":
      np.testing.assert_array_equal(found[name], values)


def test_a_series_without_an_estimate_is_flagged(measure):
  norms = series(stats.pareto(1.5).isf, 0.0, 4)
  norms[1] = np.nan
  norms[2] = 3.0
  norms[3, 99:] = np.inf
  found = measure.examine(norms)
  np.testing.assert_array_equal(found["known"], [True, False, False, False])
  np.testing.assert_array_equal(found["used"][[0, 1]], [N, 0])
  np.testing.assert_array_equal(found["left_out"], [0, N, 0, N - 99])
  assert not np.any(found["rejected"][1:])
  for name in ("index", "low", "raw_high", "xi", "misfit", "inflation"):
    assert np.isfinite(found[name][0])
    assert np.all(np.isnan(found[name][1:]))


def test_a_run_that_diverges_has_an_estimate(measure):
  norms = series(stats.halfnorm().isf, 0.0, 1)
  norms[0, 256:] *= np.geomspace(1, 1e19, 256)
  found = measure.examine(norms)
  assert found["known"][0] and found["raw_index"][0] < 1


@pytest.mark.parametrize(
  "shape, k, message",
  [
    ((2, 99), None, r"got shape \(2, 99\)"),
    ((500,), None, r"got shape \(500,\)"),
    ((2, N), 4, "got k=4 for n=512"),
    ((2, N), N, "got k=512 for n=512"),
  ],
)
def test_invalid_arguments(measure, shape, k, message):
  with pytest.raises(ValueError, match=message):
    measure.examine(np.ones(shape), k)


def test_lengths_of_programs(measure):
  allowed = {m * 2**j for m in range(8, 16) for j in range(12)}
  for n in range(8, 6000):
    found = measure.round_length(n)
    assert found == max(a for a in allowed if a <= n)
    assert n - found <= n / 9


def test_verdicts(measure):
  index = np.array([1.5, 1.5, 3.0, 3.9, 5.0, np.nan])
  low = np.array([1.2, 1.1, 2.5, 3.0, 4.0, np.nan])
  high = np.array([1.9, 2.1, 3.8, 5.0, 6.0, np.nan])
  np.testing.assert_array_equal(
    measure.verdict(index, low, high, np.full(6, 4.0)),
    [
      "infinite variance",
      "heavy",
      "heavy",
      "cannot be told",
      "light",
      "cannot be told",
    ],
  )
  # Half-normal norms may have an index below 2 if they are strongly dependent.
  found = measure.verdict(*(np.array([x]) for x in (1.5, 1.2, 1.9, 1.4)))
  assert found == ["light"]


# -- AlgoPerf ---------------------------------------------------------------


def log(folder, place, norms, stride=100):
  path = folder / place / "measurements.csv"
  path.parent.mkdir(parents=True)
  rows = [f"{stride * i},{x}" for i, x in enumerate(norms)]
  text = "\n".join(["global_step,grad_norm", *rows, "99999,"])
  path.write_text(text + "\n")


def logs_in(folder):
  """Two submissions with three studies each; one of them is Pareto(1)."""
  laws = {"adam": stats.halfnorm().isf, "wild": stats.pareto(1.0).isf}
  for name, isf in laws.items():
    for i, norms in enumerate(series(isf, 0.0, 3, seed=5)):
      place = f"old/algoperf_v05/logs/self_tuning/{name}/study_{i}"
      log(folder, f"{place}/wmt_glu_tanh_jax/trial_1", norms, 500)
  log(folder, f"{place}/ogbg_jax/trial_1", norms[:300])


def test_logs_are_read_measured_and_compared(algoperf, tmp_path):
  logs_in(tmp_path)
  logs = list(algoperf.real_norms.runs_in(tmp_path))
  assert [run.stride for run in logs if run.norms.size == N] == [500] * 6
  np.testing.assert_array_equal(
    sorted(run.workload for run in logs), ["ogbg"] + ["wmt"] * 6
  )
  runs = algoperf.measured(logs)
  assert [run.submission for run in runs] == (
    ["adam (self, v05)"] * 3 + ["wild (self, v05)"] * 3
  )
  assert {run.workload for run in runs} == {"wmt_glu_tanh_jax"}
  np.testing.assert_array_equal(
    [run.verdict for run in runs],
    ["light"] * 3 + ["infinite variance"] * 3,
  )
  assert all(run.diverged is None for run in runs)
  assert not np.any(runs[0].below) and np.mean(runs[-1].below) > 0.9

  groups = algoperf.groups_of(runs, (2,))
  logs = [np.log([run.found["index"] for run in g]) for g in groups]
  twin = np.sqrt(np.mean([np.var(x, ddof=1) for x in logs]))
  assert algoperf.deviation(groups) == pytest.approx(twin)
  pairs = [
    100 * (a.found["low"] <= b.found["index"] <= a.found["high"])
    for g in groups
    for a in g
    for b in g
    if a is not b
  ]
  assert algoperf.inside(groups) == pytest.approx(np.mean(pairs))
  assert len(algoperf.heavy_table(runs)) == 2 + 3
  *_, last = algoperf.group_table("name", runs, lambda run: run.submission)
  assert last.startswith("| all | 6 |") and " | 3 | " in last


@pytest.mark.slow
def test_the_command_writes_the_page_and_the_picture(
  algoperf, tmp_path, monkeypatch
):
  logs_in(tmp_path)
  page, picture = tmp_path / "page.md", tmp_path / "page.png"
  # The text of the page, and no tables.
  parts = algoperf.PAGE.read_text().split("<!-- ")
  marks = [part.split(" -->\n") for part in parts[1:]]
  page.write_text("".join(f"<!-- {name} -->\n" for name, _ in marks))
  for name, value in (
    ("PAGE", page),
    ("PICTURE", picture),
    ("LENGTHS", ()),  # no laws are simulated
    ("RESAMPLES", 9),
  ):
    monkeypatch.setattr(algoperf, name, value)
  monkeypatch.setattr("sys.argv", ["algoperf.py", str(tmp_path)])
  algoperf.main()
  text = page.read_text()
  assert "6 runs with 500 norms or more, 0 with 400 to 499; 0 of all" in text
  assert (
    "| wmt_glu_tanh_jax | 6 | " in text and "| wild (self, v05) | 3 | " in text
  )
  assert "| and trial; only the study differs | 2 (6) | " in text
  assert picture.stat().st_size < 300_000


def test_divergence(algoperf):
  norms = series(stats.halfnorm().isf, 0.0, 1)[0]
  assert algoperf.divergence(norms) is None
  norms[400:] *= 1e5
  assert algoperf.divergence(norms) == pytest.approx(400 / N, abs=0.05)
