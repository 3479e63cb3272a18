"""Times one estimate of a tail index, against other programs."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from htga_optax import estimators

SIZES = [(256, 16), (4096, 200)]
sizes = pytest.mark.parametrize("n, k", SIZES)


def sample(n):
  return stats.levy_stable.rvs(1.5, 0, size=n, random_state=0)


def jitted(f, x):
  """A function that jits f and runs it on x, which is on the device."""
  run, x = jax.jit(f), jnp.asarray(x, jnp.float32)
  return lambda: jax.block_until_ready(run(x))


def ours(name, x, *sizes):
  return jitted(lambda x: getattr(estimators, name)(x, *sizes), x)


@sizes
@pytest.mark.parametrize("name", ["hill", "pickands", "moment"])
def test_estimator_over_heavytails(race, name, n, k):
  from heavytails import tail_index

  x = np.abs(sample(n))
  theirs = getattr(tail_index, f"{name}_estimator")
  race(
    f"`{name}`, n={n}, k={k}, over heavytails",
    ours(name, x, k),
    lambda: theirs(x, k),
    rounds=100,
    unit="us",
  )


@sizes
def test_hill_over_partition(race, n, k):
  """Hill by hand on the host: a partition, then logarithms."""
  x = np.abs(sample(n)).astype(np.float32)

  def theirs():
    tail = np.partition(x, n - k - 1)[n - k - 1 :]
    return k / np.sum(np.log(tail / tail[0]))

  race(
    f"`hill`, n={n}, k={k}, over `numpy.partition`",
    ours("hill", x, k),
    theirs,
    rounds=100,
    unit="us",
  )


@sizes
def test_hill_over_top_k(race, n, k):
  """The straightforward code; on CPU its slice turns it into a full sort."""
  x = np.abs(sample(n))

  def theirs(x):
    tail = lax.top_k(x, k + 1)[0]
    return 1 / jnp.mean(jnp.log(tail[:k] / tail[k]))

  race(
    f"`hill`, n={n}, k={k}, over `lax.top_k` and its slices",
    ours("hill", x, k),
    jitted(theirs, x),
    rounds=100,
    unit="us",
  )


@sizes
def test_hill_over_pareto_fit(race, n, k):
  x = np.abs(sample(n))

  def theirs():
    top = np.sort(x)[::-1]
    return stats.pareto.fit(top[:k], floc=0, fscale=top[k])[0]

  race(
    f"`hill`, n={n}, k={k}, over `scipy.stats.pareto.fit` of a sorted sample",
    ours("hill", x, k),
    theirs,
    rounds=30,
    unit="us",
  )


@sizes
def test_hill_over_powerlaw(race, n, k):
  """The threshold is given instead of searched, and alpha may exceed 3."""
  import powerlaw

  x = np.abs(sample(n))
  threshold, ranges = np.sort(x)[-k - 1], {"alpha": [1, 100]}

  def theirs():
    fit = powerlaw.Fit(x, xmin=threshold, parameter_ranges=ranges)
    return fit.power_law.alpha

  race(
    f"`hill`, n={n}, k={k}, over `powerlaw.Fit(xmin=...)`",
    ours("hill", x, k),
    theirs,
    rounds=30,
    unit="us",
  )


@sizes
def test_generalized_pareto_over_heavytails(race, n, k):
  from heavytails import tail_index

  x = np.abs(sample(n))
  race(
    f"`generalized_pareto`, n={n}, k={k}, over heavytails `gpd_mle_estimator`",
    ours("generalized_pareto", x, k),
    lambda: tail_index.gpd_mle_estimator(x, k),
    rounds=10,
  )


@sizes
def test_generalized_pareto_over_genpareto_fit(race, n, k):
  x = np.abs(sample(n))

  def theirs():
    top = np.sort(x)[::-1]
    return stats.genpareto.fit(top[:k] - top[k], floc=0)[0]

  race(
    f"`generalized_pareto`, n={n}, k={k}, over `scipy.stats.genpareto.fit`",
    ours("generalized_pareto", x, k),
    theirs,
    rounds=10,
  )


@pytest.mark.parametrize("n", [n for n, _ in SIZES])
@pytest.mark.parametrize(
  "name", ["log_moment", "block_log_moment", "characteristic_function"]
)
def test_stable_estimator_over_quantile_fit(race, name, n):
  x = sample(n)
  race(
    f"`{name}`, n={n}, over the quantile fit of `scipy.stats.levy_stable`",
    ours(name, x, *([8] if name == "block_log_moment" else [])),
    lambda: stats.levy_stable._fitstart(x)[0],
    rounds=100,
    unit="us",
  )
