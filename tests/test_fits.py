"""Laws fitted on the host, compared with scipy."""

import sys

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from htga_optax import estimators
from htga_optax.diagnostics import fits

X = np.concatenate([[1e-2, 0.1, 0.3], np.geomspace(0.5, 5e3, 12)])
X = np.concatenate([-X[::-1], X])
SHAPES = {
  "Student t": (2.5,),
  "skew t": (1.2, 3.0),
  "stable": (1.3,),
  "lognormal": (0.8,),
  "Pareto tail": (1.5,),
  "lognormal tail": (-0.5, 0.7),
  "exponential tail": (3.0,),
}


def law(name, loc=0.0, scale=1.0):
  return fits.Fit(name, SHAPES[name], loc, scale, 0.0, 0, 1.0)


@pytest.mark.parametrize("alpha", [0.5, 0.77, 1.1, 1.5, 1.813, 1.97])
def test_stable_density_and_tail_equal_scipys(alpha):
  found = fits.Fit("stable", (alpha,), 0.0, 1.0, 0.0, 0, 1.0)
  expected = stats.levy_stable.pdf(X, alpha, 0)
  np.testing.assert_allclose(np.exp(found.logpdf(X)), expected, rtol=2e-4)
  x = X[np.abs(X) < 60]  # farther out, and at 1.013, SciPy 1.17 returns 0
  expected = stats.levy_stable.cdf(x, alpha, 0)
  np.testing.assert_allclose(found.cdf(x), expected, rtol=1e-4, atol=1e-9)
  np.testing.assert_allclose(found.sf(X), found.cdf(-X), rtol=1e-12)


@pytest.mark.parametrize(
  "alpha, of", [(1.0, stats.cauchy()), (2.0, stats.norm(scale=2**0.5))]
)
def test_stable_has_its_closed_forms(alpha, of):
  found = fits.Fit("stable", (alpha,), 0.0, 1.0, 0.0, 0, 1.0)
  x = np.linspace(-7, 7, 99)
  np.testing.assert_allclose(np.exp(found.logpdf(x)), of.pdf(x), rtol=1e-4)
  np.testing.assert_allclose(found.cdf(x), of.cdf(x), rtol=1e-4)


def test_student_and_skew_t_equal_scipys():
  for got, of in (
    (law("Student t", 1.0, 2.0), stats.t(2.5, 1.0, 2.0)),
    (law("skew t", 1.0, 2.0), stats.jf_skew_t(1.2, 3.0, 1.0, 2.0)),
  ):
    x = np.linspace(-30, 30, 61)
    np.testing.assert_allclose(got.logpdf(x), of.logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(got.cdf(x), of.cdf(x), rtol=1e-9)
    p = np.linspace(0.01, 0.99, 20)
    np.testing.assert_allclose(got.quantile(p), of.ppf(p), rtol=1e-7)


@pytest.mark.parametrize("name", fits.LAWS)
def test_functions_of_a_law_agree(name):
  loc = 2.0 if fits.LAWS[name].support == "real" else 0.0
  found = law(name, loc, 3.0)
  p = np.linspace(0.02, 0.98, 25)
  x = found.quantile(p)
  np.testing.assert_allclose(found.cdf(x), p, atol=1e-4)  # stable: from a table
  np.testing.assert_allclose(found.cdf(x) + found.sf(x), 1, atol=1e-12)
  mass, _ = integrate.quad(lambda v: np.exp(found.logpdf(v)), x[0], x[-1])
  assert mass == pytest.approx(found.cdf(x[-1]) - found.cdf(x[0]), abs=1e-5)
  sample = found.sample(np.random.default_rng(0), 20_000)
  assert stats.kstest(sample, found.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", fits.LAWS)
def test_fits_recover_the_law(name):
  """Its log-likelihood exceeds that of the true law by half a chi-square."""
  support = fits.LAWS[name].support
  true = law(name, *((2.0, 3.0) if support == "real" else (0.0, 3.0)))
  x = true.sample(np.random.default_rng(1), 20_000)
  if support == "tail":  # as many values are below the threshold
    x = np.concatenate([x, np.linspace(1, 3, x.size + 1)])
    found = fits.fit(name, x, k=20_000)
    assert found.scale == 3 and found.share == pytest.approx(0.5, abs=1e-3)
    x = x[x > 3]
  else:
    found = fits.fit(name, x)
  gain = found.log_likelihood - np.sum(true.logpdf(x))
  assert 0 <= gain < 10  # a chi-square of four degrees exceeds 20 in 5e-4
  assert found.log_likelihood == pytest.approx(np.sum(found.logpdf(x)))
  # Within five standard errors; each standard error is near 1 %.
  if name != "lognormal tail":
    np.testing.assert_allclose(found.shape, SHAPES[name], rtol=0.08)


def test_the_maximum_equals_scipys():
  x = stats.t.rvs(3, size=3000, random_state=np.random.default_rng(0))
  df, loc, scale = stats.t.fit(x)
  found = fits.fit("Student t", x)
  np.testing.assert_allclose(found.shape, df, rtol=1e-3)
  np.testing.assert_allclose([found.loc, found.scale], [loc, scale], atol=1e-3)
  found = fits.fit("skew t", x)

  def loss(v):
    return -np.sum(stats.jf_skew_t.logpdf(x, *np.exp(v[:2]), v[2], v[3]))

  best = optimize.minimize(loss, [0.4, 0.4, 0, 1], method="Nelder-Mead")
  assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-2)


def test_the_lognormal_tail_is_a_maximum():
  x = np.exp(np.random.default_rng(0).standard_normal(5000))
  found = fits.fit("lognormal tail", x, k=1000)
  logs = np.log(x[x > found.scale])
  u = np.log(found.scale)

  def loss(v):
    sd = np.exp(v[1])
    of = stats.norm(v[0], sd)
    return -np.sum(of.logpdf(logs) - of.logsf(u) - logs)

  best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead")
  assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-2)


def test_light_tails_end_at_the_bounds():
  x = np.random.default_rng(0).standard_normal(5000)
  assert fits.fit("stable", x).shape == (2.0,)
  assert fits.fit("stable", x).tail_index == np.inf
  assert fits.fit("Student t", x).shape[0] > 30


@pytest.mark.parametrize("name", list(fits.LAWS)[:3])
def test_outliers_of_any_size(name):
  x = np.random.default_rng(0).standard_normal(200)
  x[:3] = 1e9, -1e30, 1e200
  found = fits.fit(name, x)
  assert np.all(np.isfinite(found[2:5])) and found.tail_index < 2


@pytest.mark.parametrize("name, n", [("Student t", 150), ("Pareto tail", 1500)])
def test_pvalues_are_uniform_on_the_law(name, n):
  rng = np.random.default_rng(0)
  pvalues = []
  for seed in range(60):
    x = rng.pareto(2.0, n) + 1 if "tail" in name else rng.standard_t(3, n)
    test = fits.goodness(name, x, replications=39, seed=seed)
    pvalues.append((test.ks_pvalue, test.anderson_darling_pvalue))
  for p in np.transpose(pvalues):
    p -= rng.uniform(0, 1 / 40, p.size)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_a_wrong_law_is_rejected():
  rng = np.random.default_rng(0)
  x = rng.standard_normal(2000)
  for name in ("exponential tail", "Pareto tail"):
    heavy = fits.goodness(name, np.exp(3 * x) + 1, k=1000, replications=39)
    assert heavy.anderson_darling_pvalue == 1 / 40
  test = fits.goodness("stable", rng.standard_t(3, 20_000), replications=39)
  assert test.ks_pvalue == test.anderson_darling_pvalue == 1 / 40
  test = fits.goodness("lognormal", np.abs(x), replications=39)
  assert test.ks_pvalue == 1 / 40


def test_a_pvalue_without_bootstrap_is_too_large():
  """Compares the same distance with a fixed law: why a bootstrap is needed."""
  x = np.random.default_rng(2).uniform(-1, 1, 60)
  test = fits.goodness("Student t", x, replications=99)
  textbook = stats.kstest(x, test.fit.cdf)
  assert test.ks == pytest.approx(textbook.statistic)
  assert test.ks_pvalue < 0.6 * textbook.pvalue


def test_distances_equal_scipys():
  x = np.sort(np.random.default_rng(0).standard_normal(100))
  found = fits.Fit("stable", (2.0,), 0.0, 2**-0.5, 0.0, 100, 1.0)
  ks, ad = fits.distances(found, x)
  assert ks == pytest.approx(stats.kstest(x, "norm").statistic, abs=1e-6)
  i = np.arange(1, 101)
  logs = stats.norm.logcdf(x) + stats.norm.logsf(x[::-1])
  assert ad == pytest.approx(-100 - np.sum((2 * i - 1) * logs) / 100, abs=1e-4)


def test_vuong():
  x = np.random.default_rng(0).standard_t(3, 4000)
  student, stable = (fits.fit(name, x) for name in ("Student t", "stable"))
  one, other = fits.vuong(x, student, stable), fits.vuong(x, stable, student)
  assert one.log_ratio == -other.log_ratio > 0 and one.pvalue == other.pvalue
  ratios = student.logpdf(x) - stable.logpdf(x)
  z = ratios.sum() / (ratios.std() * 4000**0.5)
  assert one.statistic == pytest.approx(z)
  assert one.pvalue == pytest.approx(2 * stats.norm.sf(z))
  assert fits.vuong(x, student, student).pvalue == 1


def test_vuong_of_nested_tails_has_its_level():
  rng = np.random.default_rng(0)
  rejected = 0
  for _ in range(400):
    x = rng.pareto(1.5, 400) + 1
    tails = [fits.fit(n, x, 100) for n in ("Pareto tail", "lognormal tail")]
    found = fits.vuong(x, *tails)
    assert found.nested and found.log_ratio <= 0.01  # y is at most 100
    rejected += found.pvalue < 0.05
  assert 5 <= rejected <= 34  # 20 are expected, with an sd of 4.4


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(law="normal"), "law must be one of Student t, .*, got 'normal'."),
    (dict(x=np.ones((2, 9))), r"one-dimensional with .* got shape \(2, 9\)."),
    (dict(x=np.ones(3)), r"at least 10 values, got shape \(3,\)."),
    (dict(x=np.array([np.nan] * 2 + [1.0] * 9)), "finite, got 2 nan or inf"),
    (dict(x=np.ones(20)), "half of the values are equal to 1."),
    (dict(law="lognormal"), "lognormal needs positive values, got -2.3"),
    (dict(law="lognormal", x=np.ones(20)), "all values are 1."),
    (dict(law="Pareto tail", x=-np.ones(20)), "positive threshold, got -1."),
    (dict(law="Pareto tail", x=np.ones(20)), "fewer than 2 values exceed 1."),
    (dict(law="Pareto tail", k=100), r"k must be in \[2, 99\], got 100."),
  ],
)
def test_samples_that_cannot_be_fitted_are_refused(change, message):
  x = np.random.default_rng(0).standard_normal(100)
  with pytest.raises(ValueError, match=message):
    fits.fit(**({"law": "Student t", "x": x} | change))


def test_masked_values_are_left_out():
  x = np.random.default_rng(0).pareto(1.5, 300) + 1
  holes = np.arange(300) % 3 == 0
  masked = np.ma.masked_array(np.where(holes, 1e9, x), holes)
  one, other = (
    fits.fit(name, masked) for name in ("Pareto tail", "exponential tail")
  )
  assert one == fits.fit("Pareto tail", x[~holes])
  assert fits.vuong(masked, one, other) == fits.vuong(x[~holes], one, other)
  test = fits.goodness("lognormal", masked, replications=9)
  assert test == fits.goodness("lognormal", x[~holes], replications=9)
  for of in (fits.fit, fits.goodness):
    with pytest.raises(ValueError, match="x is complex: give its absolute"):
      of("lognormal", x + 0j)


@pytest.mark.parametrize("name", fits.LAWS)
def test_the_scale_does_not_matter(name):
  x = np.random.default_rng(0).standard_t(3, 400)
  x = x if fits.LAWS[name].support == "real" else np.abs(x)
  expected = fits.fit(name, x)
  for scale in (1e-300, 1e39, 1e300):
    found = fits.fit(name, scale * x)
    np.testing.assert_allclose(found.shape, expected.shape, rtol=1e-6)
    assert found.scale == pytest.approx(scale * expected.scale, rel=1e-6)
    assert found.log_likelihood == pytest.approx(
      expected.log_likelihood - found.n * np.log(scale), abs=1e-6
    )


@pytest.mark.parametrize("k", [100, 300, 500, 1000])
def test_ties_with_the_threshold_are_the_difference_to_hill(k):
  x = np.random.default_rng(0).zipf(2.2, 5000).astype(float)
  found, n = fits.fit("Pareto tail", x, k), np.sum(x > np.sort(x)[-(k + 1)])
  assert found.n == n < k
  hill = float(estimators.hill(x, k))
  assert found.tail_index == pytest.approx(hill * n / k, rel=1e-5)
  # Without ties the two agree.
  x = np.random.default_rng(0).pareto(1.2, 5000) + 1
  hill = float(estimators.hill(x, k))
  assert fits.fit("Pareto tail", x, k).tail_index == pytest.approx(
    hill, rel=1e-5
  )


@pytest.mark.parametrize(
  "name", [n for n in fits.LAWS if fits.LAWS[n].support == "tail"]
)
def test_a_fit_of_few_values_warns(name):
  x = np.random.default_rng(1).pareto(1.5, 99) + 1
  with pytest.warns(UserWarning, match=f"{name}: the fit rests on 9 values"):
    fits.fit(name, x)
  fits.fit(name, x, k=10)
  x[np.argsort(x)[-8:-5]] = np.sort(x)[-8]  # equal to the threshold
  with pytest.warns(UserWarning, match=f"{name}: the fit rests on 5 values"):
    fits.goodness(name, x, k=7, replications=1)


def test_vuong_needs_the_same_values():
  x = np.random.default_rng(0).pareto(1.5, 400) + 1
  pareto = fits.fit("Pareto tail", x)
  for other in (fits.fit("lognormal", x), fits.fit("Pareto tail", x, 50)):
    with pytest.raises(ValueError, match="two laws of the same values, got"):
      fits.vuong(x, pareto, other)


def test_without_scipy_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "scipy.special", None)
  with pytest.raises(ImportError, match=r'pip install "htga_optax\[diagn'):
    fits.goodness("lognormal", np.arange(1.0, 100.0))


@pytest.mark.slow
def test_stable_fit_equals_scipys():
  """200 values only: SciPy's search is slow (benchmarks/bench_fits.py)."""
  x = stats.levy_stable.rvs(
    1.5, 0, size=200, random_state=np.random.default_rng(0)
  )
  found = fits.fit("stable", x)
  alpha, beta, loc, scale = stats.levy_stable.fit(x, fbeta=0)
  other = found._replace(shape=(alpha,), loc=loc, scale=scale)
  assert beta == 0
  # Each search finds the maximum within a tenth of a standard error, 0.005.
  assert found.log_likelihood > np.sum(other.logpdf(x)) - 0.005
  assert found.shape[0] == pytest.approx(alpha, abs=0.02)
