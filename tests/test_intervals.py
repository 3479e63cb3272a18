"""Intervals, drift and misfit: their twins, and known laws."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import signal, special, stats

from htga_optax import intervals, order_statistics, streaming

pytestmark = pytest.mark.long_run

SIZES = [(8, 2), (64, 8), (256, 25), (1024, 64)]


def normals(phi, shape, seed=0):
  """Normals that follow AR(phi) along the last axis."""
  noise = stats.norm.rvs(size=(*shape[:-1], shape[-1] + 300), random_state=seed)
  x = signal.lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)
  return x[..., 300:]


def pareto(phi, shape, seed=0):
  """Pareto(1.5) values with the copula of a Gaussian AR(phi)."""
  return special.ndtr(-normals(phi, shape, seed)) ** (-1 / 1.5)


def windows(n):
  rng = np.random.default_rng(n)
  x = pareto(0.0, (n,))
  return {
    "independent": x,
    "AR(0.9)": pareto(0.9, (n,)),
    "tied": rng.integers(1, 6, n).astype(float),
    "equal": np.full(n, 3.0),
    "rising": np.arange(1.0, n + 1),
    "half zero": np.where(np.arange(n) % 2, x, 0.0),
  }


def over_rows(function, x):
  """Applies a function of a window to many windows."""
  return jax.tree.map(
    np.asarray, jax.jit(jax.vmap(function))(jnp.asarray(x, jnp.float32))
  )


def examine(x, k):
  return over_rows(
    lambda x: intervals.examine(order_statistics.sorted_window(x), k), x
  )


# -- twins ------------------------------------------------------------------


@pytest.mark.parametrize("p", [1 / 64, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("is_excess", [True, False])
def test_the_map_of_correlations_is_a_double_integral(p, is_excess):
  table = intervals._table(p, is_excess)
  rho = 1 - np.linspace(1, 0, table.size) ** 2
  for i in range(0, table.size, 4):
    exact = reference.copula_correlation(rho[i], p, is_excess, points=200)
    # The table cuts its series at rho^200 and adds the remainder there, which
    # is too much for rho near 1.
    assert -1e-4 < table[i] - exact < (1e-3 if rho[i] < 0.97 else 0.02)


def test_correlations_of_tails_fade_faster_than_those_of_the_series():
  """The value of C(0.5) in the docstring of the module."""
  assert abs(reference.copula_correlation(0.5, 0.1, True) - 0.10) < 0.005


@pytest.mark.parametrize("n, k", SIZES)
def test_examine_equals_its_twin(n, k):
  x = windows(n)
  ours = examine(list(x.values()), k)
  for i, (name, row) in enumerate(x.items()):
    theirs = reference.series(np.float32(row), k)
    for mine, other, tolerance in zip(ours, theirs, (3e-3, 1e-3, 3e-3)):
      np.testing.assert_allclose(
        mine[i], other, rtol=tolerance, atol=1e-3, err_msg=name
      )


@pytest.mark.parametrize("inflation", [1.0, 4.0, 1e3])
@pytest.mark.parametrize("bias", [0.8, 1.0, 1.1])
def test_interval_equals_its_twin(inflation, bias):
  series = intervals.Series(*map(jnp.float32, (inflation, bias, 0.0)))
  ends = intervals.series_interval(1.7, 25, series)
  assert ends.dtype == jnp.float32
  np.testing.assert_allclose(
    ends, reference.series_interval(1.7, 25, inflation, bias), rtol=1e-4
  )
  assert ends[0] < min(1.7, 1.7 * bias) and ends[1] > max(1.7, 1.7 * bias)


@pytest.mark.parametrize("n, k", [(32, 4), (64, 8)])
def test_windowed_hill_equals_its_twin(n, k):
  """The stream has a change of level, ties, zeros, nan and inf."""
  xs = pareto(0.5, (4 * n,))
  xs[n : n + 5] *= 5
  xs[2 * n : 2 * n + 6] = 2.0
  xs[2 * n + 9], xs[2 * n + 12] = 0.0, np.inf
  xs[10] = np.nan
  init, update, estimate = streaming.windowed_hill(n, k)

  def step(state, x):
    state = update(state, x)
    return state, estimate(state)

  xs = np.float32(xs)
  _, ours = jax.jit(lambda xs: lax.scan(step, init(), xs))(xs)
  twin = reference.WindowedHill(n, k)
  for i, x in enumerate(xs):
    twin.update(x)
    if i % 3 == 0 or i < n + 8:
      for mine, other in zip(ours, twin.estimate()):
        np.testing.assert_allclose(mine[i], other, rtol=5e-3, atol=5e-3)


# -- coverage ---------------------------------------------------------------


@pytest.mark.parametrize("phi, widest", [(0.0, 2.4), (0.9, 6.0)])
def test_nominal_95_percent_is_at_least_92(phi, widest):
  """2,000 windows as in benchmarks/coverage.py, with another seed."""
  x = pareto(phi, (2000, 256), seed=7)
  low, high = over_rows(lambda x: intervals.hill_interval(x, 25), x).T
  assert np.mean((low < 1.5) & (high > 1.5)) >= 0.92
  assert np.median(high / low) <= widest


def test_interval_of_other_levels():
  """A share of 80 percent of 2,000 has a standard error of 0.9 percent."""
  x = pareto(0.0, (2000, 256))
  low, high = over_rows(lambda x: intervals.hill_interval(x, 25, 0.8), x).T
  assert 0.77 < np.mean((low < 1.5) & (high > 1.5)) < 0.88


# -- drift ------------------------------------------------------------------


def flagged(x, k=25):
  return np.mean(np.abs(examine(x, k).drift) > 2.5)


def test_drift_is_standard_normal_without_one():
  """2,000 windows give a standard deviation within 1.6 percent.

  The test assumes a slightly larger one than the true one, since D is at least
  1.
  """
  for phi, low, high in ((0.0, 0.85, 1.05), (0.9, 0.8, 1.15)):
    drift = examine(pareto(phi, (2000, 256)), 25).drift
    assert abs(drift.mean()) < 0.1
    assert low < drift.std() < high
    assert np.mean(np.abs(drift) > 2.5) < 0.03


@pytest.mark.parametrize(
  "level, share",
  [
    (lambda t: 1 + (t < 0.05), 0.8),
    (lambda t: 1 + (t < 0.2), 0.95),
    (lambda t: 1 + (t < 0.5), 0.5),
    (lambda t: 1 + (t >= 0.95), 0.8),
    (lambda t: np.exp(-t), 0.99),
    (lambda t: (t + 1 / 256) ** -0.5, 0.99),
  ],
)
def test_drift_detects_a_changing_level(level, share):
  """Light norms with a changing level, which Hill reads as a heavy tail."""
  chi = stats.chi.rvs(1000, size=(400, 256), random_state=0)
  assert flagged(chi) < 0.04
  assert flagged(chi * level(np.arange(256) / 256)) > share


@pytest.mark.parametrize("n, k", [(64, 8), (256, 16), (1024, 64)])
def test_a_trend_without_noise_is_drift(n, k):
  falling = np.geomspace(10, 1, n)
  drift = examine([falling, falling[::-1]], k).drift
  assert drift[0] < -3.5 and drift[1] > 3.5


# -- misfit -----------------------------------------------------------------


def follow(xs, n, k):
  """All states and estimates along a series."""
  init, update, estimate = streaming.windowed_hill(n, k)

  def step(state, x):
    new = update(state, x)
    found = estimate(new)
    fade = 1 - 1 / (8 * k)
    is_scored = jnp.any(new.misfit != state.misfit)
    score = new.misfit[0] - fade * state.misfit[0]
    return new, (found.misfit, found.drift, score, is_scored)

  scan = jax.jit(lambda xs: lax.scan(step, init(), xs)[1])
  misfit, drift, score, is_scored = map(np.asarray, scan(jnp.float32(xs)))
  return misfit[n:], drift[n:], score[is_scored]


def test_scores_of_held_out_values_are_uniform():
  """50,000 exceedances; many fits share values.

  The largest distance from the uniform law therefore has an error of 0.01. D is
  above 1, which adds a little.
  """
  _, _, score = follow(pareto(0.0, (500_000,)), 256, 25)
  assert score.size > 45_000
  assert stats.kstest(score + 0.5, "uniform").statistic < 0.015


@pytest.mark.parametrize("phi, at_most", [(0.0, 0.05), (0.9, 0.1)])
def test_power_laws_are_rarely_rejected(phi, at_most):
  """A misfit lasts for 16 windows, so 400,000 steps count as 100 values.

  A share of 2.5 percent is known within 1.6 percent, and 5 percent within 2.2.
  """
  misfit, drift, _ = follow(pareto(phi, (400_000,)), 256, 25)
  rejected = (np.abs(misfit) > 2.5) | (np.abs(drift) > 2.5)
  assert np.mean(rejected) < at_most
  assert 0.7 < misfit.std() < 1.3


@pytest.mark.parametrize("n, k, power", [(256, 25, 0.6), (1024, 64, 0.85)])
def test_a_light_tail_is_rejected_for_its_misfit(n, k, power):
  x = stats.halfnorm.rvs(size=400_000, random_state=0)
  misfit, drift, score = follow(x, n, k)
  assert np.mean(misfit < -2.5) > power
  assert np.mean(misfit > 2.5) == 0
  assert np.mean(np.abs(drift) > 2.5) < 0.04
  if k == 25:  # the value in the docstring
    assert abs(score.mean() + 0.034) < 0.006


# -- unusual input ----------------------------------------------------------


def degenerate_series(n):
  x = pareto(0.0, (3 * n,))
  few = np.arange(3 * n) % n == 3
  return {
    "zeros": 0 * x,
    "equal": 0 * x + 3,
    "half zeros": np.where(np.arange(3 * n) % 2, x, 0),
    "one value": 1.0 * few,
    "large": 1e30 * x / x.max(),
    "small": 1e-30 * x,
    "wide": np.where(few, 1e30, 1e-30 * x),
    "infinite": np.where(few, np.inf, x),
    "nan": np.where(few, np.nan, x),
    "nothing": np.nan * x,
  }


@pytest.mark.parametrize("n, k", [(2, 1), (3, 2), (8, 2), (100, 10)])
def test_no_series_breaks_the_state(n, k):
  init, update, estimate = streaming.windowed_hill(n, k)

  def last(xs):
    state, _ = lax.scan(lambda s, x: (update(s, x), None), init(), xs)
    return state, estimate(state)

  cases = degenerate_series(n)
  states, found = over_rows(last, list(cases.values()))
  for leaf in jax.tree.leaves((states, found.drift, found.misfit)):
    assert np.all(np.isfinite(leaf))
  for i, name in enumerate(cases):
    low, high = found.interval[i]
    if found.tail_index[i]:
      assert 0 <= low < found.tail_index[i] < high < np.inf, name
    else:
      assert low == high == 0, name
    if name in ("zeros", "equal"):
      np.testing.assert_allclose(
        states.series.variance_inflation[i], 1, rtol=1e-3
      )
      assert states.series.bias[i] == 1 and states.series.drift[i] == 0


def test_a_value_that_is_not_finite_leaves_the_state_as_it_is():
  init, update, _ = streaming.windowed_hill(64, 8)
  state = init()
  step = jax.jit(update)
  for x in pareto(0.0, (80,)):
    state = step(state, x)
  for x in (np.inf, np.nan, -np.inf):
    jax.tree.map(np.testing.assert_array_equal, step(state, x), state)


def test_the_series_is_examined_once_the_window_is_full():
  """A listener gets the index and its drift in the same step."""
  x = np.geomspace(10, 1, 64)
  init, update, estimate = streaming.windowed_hill(64, 8)
  step, state = jax.jit(update), init()
  for value in x:
    assert state.series.drift == 0
    state = step(state, value)
  assert estimate(state).tail_index > 0
  np.testing.assert_allclose(estimate(state).drift, examine([x], 8).drift[0])


def test_x64_changes_nothing():
  x = pareto(0.5, (100,))

  def run(xs):
    init, update, estimate = streaming.windowed_hill(32, 4)
    state, _ = lax.scan(lambda s, x: (update(s, x), None), init(), xs)
    return *estimate(state), intervals.hill_interval(xs, 10)

  narrow = jax.jit(run)(x)
  with jax.enable_x64(True) if hasattr(jax, "enable_x64") else x64():
    wide = jax.jit(run)(x)
  for a, b in zip(narrow, wide):
    assert a.dtype == b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=1e-5)


def x64():
  from jax.experimental import enable_x64

  return enable_x64()


def test_intervals_are_nan_where_there_is_no_estimate():
  x = [np.zeros(20), np.ones(20), np.r_[np.ones(19), np.nan]]
  assert np.all(np.isnan(over_rows(lambda x: intervals.hill_interval(x, 5), x)))


def test_bad_arguments_are_named():
  x = pareto(0.0, (20,))
  with pytest.raises(ValueError, match="k=20 for a sample of 20"):
    intervals.hill_interval(x, 20)
  with pytest.raises(ValueError, match=r"got shape \(2, 10\)"):
    intervals.hill_interval(x.reshape(2, 10), 5)
  with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
    intervals.hill_interval(x, 5, level=95)


def test_vmap_over_windows_equals_one_by_one():
  """Under vmap, all series are examined when one is due; results agree."""
  xs = pareto(0.5, (3, 120)).astype(np.float32)
  xs[1, 50] = np.nan
  init, update, estimate = streaming.windowed_hill(32, 4)

  def last(xs):
    return estimate(lax.scan(lambda s, x: (update(s, x), None), init(), xs)[0])

  together = over_rows(last, xs)
  for i, row in enumerate(xs):
    for a, b in zip(together, jax.jit(last)(row)):
      np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
