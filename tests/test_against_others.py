"""Our estimators compared with heavytails, powerlaw and scipy.stats.

All get the same float64 sample, which ours round to float32. Where two
definitions agree, the values agree to 1e-5. Where they differ, the test states
the difference.
"""

import math

import jax
from jax import lax
import numpy as np
import pytest
from scipy import stats

from htga_optax import estimators, streaming

N, K = 4096, 200
LAWS = {
  "Pareto(0.7)": stats.pareto(0.7),
  "Pareto(1.5)": stats.pareto(1.5),
  "Pareto(3)": stats.pareto(3.0),
  "|t_3|": stats.t(3),
  "|Cauchy|": stats.cauchy(),
  "exponential": stats.expon(),
}
over_laws = pytest.mark.parametrize("law", LAWS)


def package(name):
  return pytest.importorskip(name, reason="it comes with the dev extra")


def sample(law):
  return np.abs(LAWS[law].rvs(size=N, random_state=0))


def excesses_of(law):
  """The K largest values, in descending order, minus the next one."""
  top = np.sort(sample(law))[::-1]
  return top[:K] - top[K]


def agree(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@over_laws
@pytest.mark.parametrize("k", [20, 200, 1000])
def test_hill_equals_that_of_heavytails(law, k):
  tail_index = package("heavytails.tail_index")
  x = sample(law)
  ours = estimators.hill(x, k)
  agree(ours, 1 / tail_index.hill_estimator(x, k))
  theirs = tail_index.tail_index_confidence_interval(x, k, level=0.95)
  error = (theirs["upper"] - theirs["lower"]) / (2 * stats.norm.ppf(0.975))
  agree(estimators.hill_standard_error(ours, k), error * ours**2)


@over_laws
def test_hill_is_maximum_likelihood_of_scipy(law):
  """The fit of a Pareto law above a given threshold."""
  top = np.sort(sample(law))[::-1]
  shape, _, _ = stats.pareto.fit(top[:K], floc=0, fscale=top[K])
  agree(estimators.hill(sample(law), K), shape)


@over_laws
def test_hill_is_that_of_powerlaw_but_for_its_count(law):
  """Three differences to powerlaw.

  Its alpha is that of the density, which is ours plus one. It counts the
  threshold among the values above it. It stops at alpha = 3 by default.
  """
  powerlaw = package("powerlaw")
  x = sample(law)
  theirs = powerlaw.Fit(
    x, xmin=np.sort(x)[-K - 1], parameter_ranges={"alpha": [1, 100]}
  ).power_law
  ours = estimators.hill(x, K) * (K + 1) / K
  agree(ours, theirs.alpha - 1)
  agree(estimators.hill_standard_error(ours, K + 1), theirs.standard_err)


@over_laws
@pytest.mark.parametrize("k", [20, 200, 500])
def test_pickands_and_moment_equal_those_of_heavytails(law, k):
  """heavytails returns xi. Ours is 1/xi, or inf if xi <= 0.

  Differences of logarithms are accurate to 1e-6 in float32.
  """
  tail_index = package("heavytails.tail_index")
  x = sample(law)
  for ours, xi in (
    (estimators.pickands(x, k), tail_index.pickands_estimator(x, k)),
    (estimators.moment(x, k), tail_index.moment_estimator(x, k)[0]),
  ):
    np.testing.assert_allclose(1 / ours, max(xi, 0), rtol=1e-5, atol=1e-6)


@over_laws
def test_generalized_pareto_is_close_to_maximum_likelihood(law):
  """Ours is a mean over the likelihood; theirs searches for its maximum.

  The two differ by at most a quarter of the standard error, which lowers the
  log-likelihood by 0.25^2/2. The standard error of sigma is at most 14 %, and a
  quarter of it is 3.5 %.
  """
  tail_index = package("heavytails.tail_index")
  y = excesses_of(law)
  xi, sigma = map(float, estimators.generalized_pareto_fit(y))
  best, _, scale = stats.genpareto.fit(y, floc=0)
  error = (1 + xi) / math.sqrt(K)
  assert abs(xi - best) < 0.25 * error
  assert abs(xi - tail_index.gpd_mle_estimator(sample(law), K)) < 0.25 * error
  np.testing.assert_allclose(sigma, scale, rtol=0.035)

  def likelihood(xi, sigma):
    return np.sum(stats.genpareto.logpdf(y, xi, scale=sigma))

  assert -1e-4 < likelihood(best, scale) - likelihood(xi, sigma) < 0.25**2 / 2


def test_windowed_hill_equals_that_of_heavytails():
  """heavytails starts at k + 1 values; ours starts at a full window."""
  window = package("heavytails.streaming").WindowedTailIndex(64, 8)
  xs = stats.pareto.rvs(1.5, size=500, random_state=0)
  theirs = []
  for x in xs:
    window.update(x)
    theirs.append(1 / window.hill() if window.ready else math.nan)
  init, update, estimate = streaming.windowed_hill(window_size=64, k=8)

  def step(state, x):
    state = update(state, x)
    return state, estimate(state).tail_index

  _, ours = jax.jit(lambda xs: lax.scan(step, init(), xs))(xs)
  agree(ours[63:], theirs[63:])


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 1.8])
def test_stable_estimators_read_what_scipy_reads_off_quantiles(alpha):
  """SciPy starts its fit from McCulloch's table; the fit itself takes minutes.

  100 samples: the tolerance is four standard errors of the mean difference, and
  0.01 for the table, which gives 1.008 at 1.
  """
  x = stats.levy_stable.rvs(alpha, 0, size=(100, N), random_state=0)
  theirs = [stats.levy_stable._fitstart(row)[0] for row in x]
  for function in (
    estimators.log_moment,
    lambda x: estimators.block_log_moment(x, 8),
    estimators.characteristic_function,
  ):
    gap = np.asarray(jax.jit(jax.vmap(function))(x)) - theirs
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(100) + 0.01
