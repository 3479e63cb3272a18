"""Tail indices of hSGD and SGD on ridge regression, and their simulators."""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from htga_optax import estimators, hsgd, stable
from htga_optax.hsgd import _simulators

pytestmark = pytest.mark.long_run

KEY = jax.random.key(0)
SPECTRUM = np.float32([1.0, 0.3, 0.7, 0.0, 0.05])


def problem(eigenvalues=SPECTRUM, least_loss=0.5, solution=1.0):
  eigenvalues = jnp.asarray(eigenvalues, jnp.float32)
  solution = jnp.where(eigenvalues > 0, jnp.float32(solution), 0.0)
  return hsgd.Regression(eigenvalues, solution, jnp.float32(least_loss))


# -- the exact index in two dimensions --------------------------------------


def growth(p, eigenvalues, rate, batch_size, decay, n=48):
  """The growth rate of E ||Y_t||^p for hSGD far out, in two dimensions.

  It is the largest eigenvalue of the generator on rho^p g(phi). g is given at n
  points, and its derivatives come from its Fourier series.
  """
  phi = 2 * np.pi * np.arange(n) / n
  c, s = np.cos(phi), np.sin(phi)
  wave = np.fft.fftfreq(n, 1 / n)
  to = np.fft.fft(np.eye(n), axis=0)
  odd = 1j * np.where(abs(wave) == n / 2, 0, wave)
  d1 = np.fft.ifft(odd[:, None] * to, axis=0).real
  d2 = np.fft.ifft(-(wave**2)[:, None] * to, axis=0).real
  twice = 2 * s * c * (1 - p)
  first = (
    np.diag(c * p) - s[:, None] * d1,
    np.diag(s * p) + c[:, None] * d1,
  )
  second = (
    np.diag(c * c * p * (p - 1) + s * s * p)
    + twice[:, None] * d1
    + (s * s)[:, None] * d2,
    np.diag(s * s * p * (p - 1) + c * c * p)
    - twice[:, None] * d1
    + (c * c)[:, None] * d2,
  )
  loss = eigenvalues[0] * c**2 + eigenvalues[1] * s**2
  generator = np.zeros((n, n))
  for value, y, g1, g2 in zip(eigenvalues, (c, s), first, second):
    generator -= rate * (value + decay) * y[:, None] * g1
    generator += rate**2 / (2 * batch_size) * (loss * value)[:, None] * g2
  return np.linalg.eigvals(generator).real.max()


@functools.cache
def exact_index(eigenvalues, rate, batch_size=1, decay=0.1):
  lower, upper = 0.05, 40.0
  while upper - lower > 1e-4:
    middle = (lower + upper) / 2
    if growth(middle, eigenvalues, rate, batch_size, decay) < 0:
      lower = middle
    else:
      upper = middle
  return lower


@pytest.mark.parametrize(
  "smaller, rate, lower, index, upper",
  [
    (0.7, 0.6, 3.993, 4.206, 4.667),
    (0.4, 1.0, 2.848, 2.991, 3.200),
    (0.2, 1.0, 3.053, 3.144, 3.200),
    # Near gamma_2 = 1.314 and above, where 1 + 2B/(gamma M) is a bad bound.
    (0.7, 1.2, 2.160, 2.186, 2.237),
    (0.7, 1.3, 2.019, 2.022, 2.028),
    (0.7, 2.5, 0.822, 1.058, 1.206),
    (0.2, 3.0, 0.000, 1.426, 1.587),
  ],
)
def test_the_exact_index_in_two_dimensions_is_within_bounds(
  smaller, rate, lower, index, upper
):
  found = exact_index((1.0, smaller), rate)
  bounds = hsgd.tail_index_bounds([1.0, smaller], rate, 1, 0.1)
  np.testing.assert_allclose(bounds, [lower, upper], atol=6e-4)
  np.testing.assert_allclose(found, index, atol=1e-3)
  assert bounds.lower <= found <= bounds.upper


# -- bounds -----------------------------------------------------------------


def bounds(eigenvalues, rate, batch_size, decay):
  """The bounds in float64, one formula per line."""
  values = np.float64([x for x in eigenvalues if x > 0])
  t = values**2 / (values + decay)
  drift = 2 * batch_size / rate
  star = 1 + drift * (values.max() + decay) / values.max() ** 2
  by_most = 2 + (drift - t.sum()) / t.max()
  by_least = 2 + (drift - t.sum()) / t.min()
  if rate <= 2 * batch_size / t.sum():
    return by_most, min(star, by_least)
  if by_most <= 0:
    return math.nan, math.nan
  return max(by_least, 0), by_most


@pytest.mark.parametrize("decay", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("batch_size", [1, 20])
def test_bounds_equal_their_formula(batch_size, decay):
  rates = batch_size * np.float32([1e-4, 0.1, 0.5, 1, 2, 5, 20, 1e3])
  got = hsgd.tail_index_bounds(SPECTRUM, rates, batch_size, decay)
  expected = [bounds(SPECTRUM, x, batch_size, decay) for x in rates]
  np.testing.assert_allclose(np.transpose(got), expected, rtol=1e-4)
  assert all(x.dtype == jnp.float32 for x in got)


def test_zeros_and_order_do_not_matter():
  expected = hsgd.tail_index_bounds([1.0, 0.7], 0.6, 1, 0.1)
  for decay in (0.0, 0.1):
    expected = hsgd.tail_index_bounds([1.0, 0.7], 0.6, 1, decay)
    got = hsgd.tail_index_bounds([0.0, 0.7, 0.0, 1.0], 0.6, 1, decay)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5, 100])
def test_bounds_of_equal_eigenvalues_are_the_index(d):
  """The index is 2 - d + 2B(lambda + delta)/(gamma lambda^2).

  In one dimension that is 1 + 2B(lambda + delta)/(gamma lambda^2).
  """
  for value, rate, batch_size, decay in (
    (1.0, 0.37, 1, 0.1),
    (0.5, 0.1, 3, 0.0),
    (2.0, 0.02, 1, 1.0),
  ):
    index = 2 - d + 2 * batch_size * (value + decay) / (rate * value**2)
    got = hsgd.tail_index_bounds([value] * d, rate, batch_size, decay)
    if index > 0:
      np.testing.assert_allclose(got, [index, index], rtol=1e-4)
    else:
      assert np.all(np.isnan(got))
  assert hsgd.tail_index_bounds([1.0], 1.1, 1, 0.1) == (3, 3)


@pytest.mark.parametrize("eigenvalues", [[1.0], [1.0] * 5, SPECTRUM])
@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 3.5, 8.0])
def test_bounds_at_critical_rates_equal_the_order(eigenvalues, order):
  rates = hsgd.critical_learning_rate(eigenvalues, 4, 0.1, order)
  assert 0 < rates.lower <= rates.upper
  for name in ("lower", "upper"):
    rate = getattr(rates, name)
    if order == 0 or not math.isfinite(rate):
      # No rate reaches this order, or it has no bound, so test at almost that
      # rate.
      rate = 1e6 if not math.isfinite(rate) else float(rate) * 0.999
      got = getattr(hsgd.tail_index_bounds(eigenvalues, rate, 4, 0.1), name)
      assert got >= order
    else:
      got = getattr(hsgd.tail_index_bounds(eigenvalues, rate, 4, 0.1), name)
      np.testing.assert_allclose(got, order, rtol=1e-3, atol=1e-3)
  if order == 2:
    assert rates.lower == rates.upper


def test_beyond_stationarity():
  """With five equal eigenvalues, rates below 0.733 have a stationary law."""
  rates = hsgd.critical_learning_rate([1.0] * 5, 1, 0.1, order=0)
  np.testing.assert_allclose(rates, 2 * 1.1 / 3, rtol=1e-6)
  got = hsgd.tail_index_bounds([1.0] * 5, np.float32([0.7, 0.8]), 1, 0.1)
  np.testing.assert_allclose(got.lower, [2.2 / 0.7 - 3, math.nan], rtol=1e-4)
  np.testing.assert_array_equal(np.isnan(got.upper), [False, True])


def test_under_transformations():
  rates = jnp.float32([0.2, 0.6, 2.0])
  of = functools.partial(hsgd.tail_index_bounds, SPECTRUM)
  expected = of(rates, 2, 0.1)
  for got in (
    jax.jit(of)(rates, 2, 0.1),
    jax.vmap(lambda rate: of(rate, 2, 0.1))(rates),
    jax.jit(hsgd.tail_index_bounds)(SPECTRUM, rates, 2, 0.1),
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  grid = of(rates[:, None], jnp.float32([1, 4]), 0.1)
  assert grid.lower.shape == grid.upper.shape == (3, 2)
  np.testing.assert_allclose(grid.upper[1, 1], of(0.6, 4, 0.1).upper)
  slope = jax.grad(lambda rate: of(rate, 2, 0.1).upper)(0.2)
  assert slope < 0  # larger rates, heavier tails


# -- moments and proxies ----------------------------------------------------


def test_moments_equal_the_formula():
  """gamma/B E[L] w_i solve the equation of the second moments."""
  of, rate, batch_size, decay = problem(), 0.9, 2, 0.1
  got = hsgd.stationary_moments(of, rate, batch_size, decay)
  values = np.asarray(of.eigenvalues, np.float64)
  r = np.where(values > 0, values / (values + decay), 0.0)
  np.testing.assert_allclose(hsgd.ridge_solution(of, decay), r, rtol=1e-6)
  s = np.asarray(of.solution)
  loss = 0.5 + values @ (r - s) ** 2 / 2 + values @ got.variance / 2
  np.testing.assert_allclose(got.loss, loss, rtol=1e-5)
  # 0 = -2 gamma (lambda + delta) Var + (2 gamma^2/B) E[L] lambda
  flow = -2 * rate * (values + decay) * np.asarray(got.variance)
  flow += 2 * rate**2 / batch_size * loss * values
  np.testing.assert_allclose(flow, 0, atol=1e-6)


def test_there_are_no_moments_from_the_critical_rate_on():
  critical = float(hsgd.critical_learning_rate(SPECTRUM, 1, 0.1).lower)
  below = hsgd.stationary_moments(problem(), 0.99 * critical, 1, 0.1)
  assert np.all(np.isfinite(below.variance)) and below.loss > 10
  beyond = hsgd.stationary_moments(problem(), 1.01 * critical, 1, 0.1)
  assert np.isinf(beyond.loss)
  np.testing.assert_array_equal(np.isinf(beyond.variance), SPECTRUM > 0)
  law = hsgd.proxy(problem(), 1.01 * critical, 1, 0.1)
  np.testing.assert_array_equal(np.isinf(law.scale), SPECTRUM > 0)
  assert not np.any(np.isnan(law))


def log_density(law, i, x):
  """The log density of a proxy, up to a constant."""
  df, loc, scale, skew = (float(y[i]) for y in law)
  z = (x - loc) / (scale * math.sqrt(df))
  return -(df + 1) / 2 * np.log1p(z**2) - skew * np.arctan(z)


@pytest.mark.parametrize("decay, solution", [(0.1, 0.0), (0.5, 2.0)])
@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_the_proxy_in_one_dimension_is_stationary(decay, solution, rate):
  """The flux of the Fokker-Planck equation is 0: 2 drift = (V p)'/p.

  This also holds where there is no second moment.
  """
  value, least_loss, batch_size = 1.0, 0.3, 2
  of = problem([value], least_loss, solution)
  law = hsgd.proxy(of, rate, batch_size, decay)
  assert (law.skew[0] == 0) == (solution == 0)
  x, h = np.linspace(-5, 5, 101), 1e-4

  def variance(x):
    loss = least_loss + value * (x - solution) ** 2 / 2
    return 2 * rate**2 / batch_size * loss * value

  def log_vp(x):
    return np.log(variance(x)) + log_density(law, 0, x)

  drift = -rate * (value * (x - solution) + decay * x)
  slope = (log_vp(x + h) - log_vp(x - h)) / (2 * h)
  np.testing.assert_allclose(
    slope, 2 * drift / variance(x), rtol=1e-4, atol=1e-5
  )
  index = hsgd.tail_index_bounds([value], rate, batch_size, decay)
  np.testing.assert_allclose([law.tail_index[0]] * 2, index, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_proxies_have_the_exact_mean_and_variance(decay):
  of, rate = problem(solution=[1.0, -2.0, 0.5, 0.0, 3.0]), 0.4
  law = hsgd.proxy(of, rate, 1, decay)
  mean = hsgd.ridge_solution(of, decay)
  _, variance = hsgd.stationary_moments(of, rate, 1, decay)
  for i in np.flatnonzero(SPECTRUM):
    scale = float(law.scale[i])

    def moment(power, i=i, scale=scale):
      of = lambda z: (
        z**power * np.exp(log_density(law, i, float(mean[i]) + z * scale))
      )
      return integrate.quad(of, -np.inf, np.inf)[0]

    assert abs(moment(1) / moment(0)) < 1e-4
    np.testing.assert_allclose(
      moment(2) / moment(0) * scale**2, variance[i], rtol=1e-3
    )
  assert law.tail_index[3] == math.inf and law.scale[3] == 0
  if not decay:
    np.testing.assert_array_equal(law.skew, 0)


# -- SGD on Gaussian rows ---------------------------------------------------


@pytest.mark.parametrize(
  "args, index", [((20, 0.18, 2, 0.1), 4.09), ((20, 0.19, 2, 0.1), 1.43)]
)
def test_streaming_index_of_known_cases(args, index):
  assert abs(hsgd.streaming_tail_index(*args) - index) < 0.006
  eigenvalues = [1.0] * args[0]
  above = hsgd.tail_index_bounds(eigenvalues, *args[1:]).lower
  assert abs(above - (2 - 20 + 2 * 2 * 1.1 / args[1])) < 1e-3
  assert above > index + 2  # here SGD and hSGD differ


@pytest.mark.parametrize("d", [1, 2, 3, 20, 1000])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 300])
def test_streaming_index_is_2_at_the_critical_rate(d, batch_size):
  """E ||M e||^2 = 1 at gamma = (2/(1 + ...)), for delta = 0:
  -2 gamma + gamma^2 (B + 1 + d)/B = 0."""
  rate = 2 * batch_size / (batch_size + 1 + d)
  got = hsgd.streaming_tail_index(d, rate, batch_size)
  np.testing.assert_allclose(got, 2, atol=1e-4)
  scaled = hsgd.streaming_tail_index(d, rate / 3, batch_size, eigenvalue=3.0)
  np.testing.assert_allclose(scaled, got, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.3])
def test_streaming_index_in_one_dimension_by_adaptive_quadrature(rate):
  p = hsgd.streaming_tail_index(1, rate, 3, 0.2)
  kink = 3 * (1 - rate * 0.2) / rate

  def integrand(s):
    return abs(1 - rate * 0.2 - rate / 3 * s) ** p * stats.chi2.pdf(s, 3)

  parts = [(0, kink), (kink, kink + 50), (kink + 50, kink + 500)]
  total = sum(integrate.quad(integrand, *part, limit=200)[0] for part in parts)
  np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize(
  "args, of_hsgd, of_sgd",
  [
    ((1, 0.1, 1), 21.0, 17.3),
    ((5, 0.3, 10), 63.7, 43.8),
    ((5, 1.0, 10), 17.0, 5.2),
    ((20, 0.19, 2, 0.1), 5.2, 1.4),
    ((1000, 0.0197, 10), 17.2, 177.5),
  ],
)
def test_hsgd_is_not_sgd(args, of_hsgd, of_sgd):
  """The table in the docstring."""
  bounds = hsgd.tail_index_bounds([1.0] * args[0], *args[1:])
  np.testing.assert_allclose(bounds, [of_hsgd] * 2, atol=0.06)
  assert abs(hsgd.streaming_tail_index(*args) - of_sgd) < 0.06


def test_streaming_index_without_a_finite_value():
  assert math.isnan(hsgd.streaming_tail_index(20, 0.3, 2, 0.1))
  assert hsgd.streaming_tail_index(20, 1e-4, 2, 0.1) == math.inf


# -- simulators -------------------------------------------------------------


def hill(x, k):
  return float(estimators.hill(jnp.abs(jnp.ravel(x)), k))


def test_chains_in_one_dimension_are_student_t():
  """The index is 3; k = 200 of 20000. Allows four standard errors of 7 %."""
  of = problem([1.0], 0.5, 0.0)
  x = hsgd.simulate(KEY, of, 1.1, 1, 0.1, chains=20_000, burn_in=999, dt=0.02)
  law = hsgd.proxy(of, 1.1, 1, 0.1)
  assert law.tail_index[0] == 3
  exact = stats.t(3, scale=float(law.scale[0]))
  assert stats.kstest(np.ravel(x), exact.cdf).pvalue > 1e-3
  assert abs(hill(x, 200) / 3 - 1) < 0.28


def test_chains_in_five_dimensions_have_their_index():
  """The index is 2.946 for equal eigenvalues; k = 200 of 10000 norms."""
  of = problem([1.0] * 5, 0.5, 0.0)
  x = hsgd.simulate(KEY, of, 0.37, 1, 0.1, chains=10_000, burn_in=499)
  assert abs(hill(jnp.linalg.norm(x, axis=-1), 200) / 2.946 - 1) < 0.28


@pytest.mark.parametrize("rate, burn_in", [(0.18, 200), (0.19, 400)])
def test_sgd_has_the_index_of_sgd_and_not_of_hsgd(rate, burn_in):
  """The index of SGD is 4.09 and 1.43, that of hSGD 6.44 and 5.16.

  With k = 100 of 5000 norms, four standard errors are 40 %. A chain of index
  1.43 forgets its start only slowly, so its tail reads lighter than it is.
  """
  of = problem([1.0] * 20, 0.5, 0.0)
  x = hsgd.streaming_sgd(KEY, of, rate, 2, 0.1, chains=5000, burn_in=burn_in)
  index = hsgd.streaming_tail_index(20, rate, 2, 0.1)
  got = hill(jnp.linalg.norm(x, axis=-1), 100)
  assert abs(got / index - 1) < 0.4
  assert got < 0.9 * hsgd.tail_index_bounds([1.0] * 20, rate, 2, 0.1).lower


def test_moments_of_chains():
  """20000 chains with a tail index of 7 to 10.

  The tolerance is five standard errors of a variance with kurtosis below 9, and
  1 % for dt.
  """
  of = problem(solution=[1.0, -1.0, 0.5, 0.0, 2.0])
  x = np.asarray(
    hsgd.simulate(KEY, of, 0.3, 1, 0.2, chains=20_000, burn_in=999)[0]
  )
  mean = hsgd.ridge_solution(of, 0.2)
  _, variance = hsgd.stationary_moments(of, 0.3, 1, 0.2)
  error = np.sqrt(variance / len(x))
  assert np.all(abs(x.mean(axis=0) - mean) <= 5 * error)
  some = SPECTRUM > 0
  np.testing.assert_allclose(
    x.var(axis=0)[some], variance[some], rtol=5 * (8 / len(x)) ** 0.5 + 0.01
  )
  assert np.all(x[:, ~some] == 0)


def noise_of(start, shape):
  """The draws of the simulators in their first block."""
  key = jax.random.fold_in(KEY, start)
  return np.asarray(stable.sample(key, 2.0, shape=shape), np.float64)


@pytest.mark.parametrize("blocks", [1, 3])
def test_simulators_equal_their_loops(monkeypatch, blocks):
  """hSGD and streaming SGD, step by step in float64."""
  d, chains, steps, rate, decay = 5, 3, 12, 0.3, 0.2
  of = problem()
  values, s, least = (np.asarray(x, np.float64) for x in of)
  r = np.asarray(hsgd.ridge_solution(of, decay), np.float64)
  monkeypatch.setattr(_simulators, "_BLOCK", steps // blocks * d * chains)
  noise = np.concatenate(
    [noise_of(i, (steps // blocks, d, chains)) for i in range(blocks)]
  )
  kwargs = {"chains": chains, "samples": steps}
  jax.clear_caches()  # a jitted simulator would keep its block size
  got = hsgd.simulate(KEY, of, rate, 2, decay, dt=0.1, **kwargs)
  x = np.tile(r, (chains, 1))
  for i in range(steps):
    y = x - s
    loss = least + (values * y**2).sum(axis=1) / 2
    x = x - rate * 0.1 * (values * y + decay * x)
    normal = noise[i].T / math.sqrt(2)
    x += rate * np.sqrt(2 * 0.1 * loss[:, None] * values / 2) * normal
    np.testing.assert_allclose(got[i], x, rtol=1e-4, atol=1e-5)
  width = 2 * (d + 1) * chains
  monkeypatch.setattr(_simulators, "_BLOCK", steps // blocks * width)
  noise = np.concatenate(
    [noise_of(i, (steps // blocks, 2, d + 1, chains)) for i in range(blocks)]
  )
  got = hsgd.streaming_sgd(KEY, of, rate, 2, decay, **kwargs)
  x = np.tile(r, (chains, 1))
  for i in range(steps):
    normal = np.moveaxis(noise[i], 2, 0) / math.sqrt(2)
    rows = np.sqrt(values) * normal[..., :d]
    targets = rows @ s + np.sqrt(2 * least) * normal[..., d]
    residuals = np.einsum("cbd,cd->cb", rows, x) - targets
    gradient = np.einsum("cb,cbd->cd", residuals, rows) / 2
    x = x - rate * (gradient + decay * x)
    np.testing.assert_allclose(got[i], x, rtol=1e-4, atol=1e-4)
  jax.clear_caches()


def test_thinning_and_burning_in_keep_some_points_of_the_same_chain():
  of = functools.partial(hsgd.simulate, KEY, problem(), 0.3, chains=4)
  every = of(samples=23)
  assert every.shape == (23, 4, 5) and every.dtype == jnp.float32
  np.testing.assert_array_equal(of(samples=6, thin=3, burn_in=5), every[7::3])
  np.testing.assert_array_equal(of(burn_in=22), every[22:])
  again = hsgd.simulate(KEY, problem(), 0.3, chains=4, start=every[-1])
  first = hsgd.simulate(KEY, problem(), 0.3, chains=4)
  assert np.all(again[0, :, 0] != first[0, :, 0])


DATA = np.random.default_rng(0)
FEATURES = DATA.standard_normal((30, 3)) @ np.diag([1.0, 0.7, 0.4])
TARGETS = FEATURES @ [1.0, -1.0, 2.0] + 0.5 * DATA.standard_normal(30)


@pytest.mark.parametrize("name", ["simulate", "streaming_sgd", "minibatch_sgd"])
def test_a_sweep_of_rates_is_one_vmap(name):
  """More rates than coordinates, which XLA has been seen to sum wrongly."""
  data = (FEATURES, TARGETS) if name == "minibatch_sgd" else (problem(),)

  def run(rate):
    settings = {"chains": 100, "samples": 3}
    return getattr(hsgd, name)(KEY, *data, rate, 4, 0.1, **settings)

  rates = jnp.linspace(0.05, 0.6, 9)
  got = jax.jit(jax.vmap(run))(rates)
  alone = jnp.stack([run(rate) for rate in rates])
  np.testing.assert_allclose(got, alone, rtol=1e-3, atol=1e-4)


def test_a_data_set_is_diagonalised():
  of, basis = hsgd.regression(FEATURES, TARGETS)
  hessian = FEATURES.T @ FEATURES / 30
  np.testing.assert_allclose(
    basis @ np.diag(of.eigenvalues) @ basis.T, hessian, atol=1e-6
  )
  assert np.all(np.diff(of.eigenvalues) <= 0)
  x, residue = np.linalg.lstsq(FEATURES, TARGETS, rcond=None)[:2]
  np.testing.assert_allclose(basis @ of.solution, x, rtol=1e-5)
  np.testing.assert_allclose(of.least_loss, residue[0] / 60, rtol=1e-5)
  wide, _ = hsgd.regression(FEATURES[:2], TARGETS[:2])
  assert wide.eigenvalues[2] == wide.solution[2] == 0
  np.testing.assert_allclose(wide.least_loss, 0, atol=1e-7)


def test_minibatch_sgd_has_its_mean_and_covariance():
  """The exact moments of the recursion x <- M x + v with a random (M, v).

  5000 chains with a light tail.
  """
  rate, decay = 0.1, 0.2
  single = np.stack([np.outer(a, a) for a in FEATURES])
  steps = np.eye(3) * (1 - rate * decay) - rate * single
  pushes = rate * FEATURES * TARGETS[:, None]
  mean = np.linalg.solve(np.eye(3) - steps.mean(axis=0), pushes.mean(axis=0))
  noise = steps @ mean + pushes - mean
  noise = np.einsum("ni,nj->ij", noise, noise) / 30
  square = np.einsum("nij,nkl->ikjl", steps, steps).reshape(9, 9) / 30
  covariance = np.linalg.solve(np.eye(9) - square, noise.ravel()).reshape(3, 3)
  x = hsgd.minibatch_sgd(
    KEY, FEATURES, TARGETS, rate, 1, decay, chains=5000, burn_in=299
  )[0]
  error = np.sqrt(np.diag(covariance) / 5000)
  assert np.all(abs(np.mean(x, axis=0) - mean) < 4 * error)
  of, basis = hsgd.regression(FEATURES, TARGETS)
  np.testing.assert_allclose(
    basis @ hsgd.ridge_solution(of, decay), mean, rtol=1e-4
  )
  np.testing.assert_allclose(
    np.cov(np.transpose(x)), covariance, atol=0.15 * covariance.max()
  )


def test_on_few_rows_with_a_small_rate_there_is_no_tail():
  """gamma ||a||^2 < 2 for every row, so each step is a contraction.

  No chain leaves a ball, although hSGD has a power-law tail.
  """
  rate, decay = 0.1, 0.1
  most = (FEATURES**2).sum(axis=1).max()
  assert rate * (most + decay) < 2
  x = hsgd.minibatch_sgd(
    KEY, FEATURES, TARGETS, rate, 1, decay, chains=100, samples=2000
  )
  push = rate * np.abs(FEATURES * TARGETS[:, None]).sum(axis=1).max()
  assert np.max(np.linalg.norm(x, axis=-1)) < push / (rate * decay)
  of, _ = hsgd.regression(FEATURES, TARGETS)
  assert hsgd.tail_index_bounds(of.eigenvalues, rate, 1, decay).upper < 40


def test_chains_without_a_stationary_law_overflow():
  of = problem([1.0] * 20, 0.5, 0.0)
  x = hsgd.streaming_sgd(KEY, of, 0.6, 2, 0.1, chains=10, burn_in=500)
  assert not np.any(np.isfinite(x))


# -- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
  "args, sentence",
  [
    (([], 0.1), "a non-empty vector, got shape (0,)."),
    (([[1.0]], 0.1), "a non-empty vector, got shape (1, 1)."),
    (([1.0, -0.5], 0.1), "at least 0 and not all 0, got [1.0, -0.5]."),
    (([1.0, math.nan], 0.1), "at least 0 and not all 0, got [1.0, nan]."),
    (([math.inf], 0.1), "finite, at least 0 and not all 0, got [inf]."),
    (([0.0, 0.0], 0.1), "at least 0 and not all 0, got [0.0, 0.0]."),
    (([1.0], 0.0), "learning_rate must be positive and finite, got 0.0."),
    (([1.0], math.nan), "learning_rate must be positive and finite, got nan."),
    (([1.0], 0.1, 0), "batch_size must be positive and finite, got 0."),
    (([1.0], 0.1, 1, -1.0), "weight_decay must be at least 0 and finite, got"
     " -1.0."),
  ],
)  # fmt: skip
def test_bad_arguments_are_one_sentence_with_the_value(args, sentence):
  calls = [lambda: hsgd.tail_index_bounds(*args)]
  if len(np.shape(args[0])) == 1:
    of = hsgd.Regression(args[0], jnp.zeros(len(args[0])), 0.5)
    calls += [
      lambda: hsgd.stationary_moments(of, *args[1:]),
      lambda: hsgd.proxy(of, *args[1:]),
      lambda: hsgd.simulate(KEY, of, *args[1:], chains=2),
      lambda: hsgd.streaming_sgd(KEY, of, *args[1:], chains=2),
    ]
  for call in calls:
    with pytest.raises(ValueError) as raised:
      call()
    message = str(raised.value)
    assert sentence in message or "must be at least 1, got 0" in message


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_values_that_cannot_be_checked_give_nan(bad):
  traced = jax.jit(hsgd.tail_index_bounds)
  for args in (
    (jnp.float32([1.0, bad]), 0.1, 1, 0.1),
    (jnp.ones(2), -0.1, 1, 0.1),
    (jnp.ones(2), 0.1, 0, 0.1),
    (jnp.ones(2), 0.1, 1, -abs(bad)),
  ):
    assert np.all(np.isnan(traced(*args))), args
    critical = jax.jit(hsgd.critical_learning_rate)
    if args[1] > 0:
      assert np.all(np.isnan(critical(args[0], *args[2:]))), args
    of = hsgd.Regression(args[0], jnp.zeros(2), 0.5)
    for f in (hsgd.stationary_moments, hsgd.proxy):
      got = jax.jit(f)(of, *args[1:])
      assert np.all(np.isnan(got[0])), (f, args)


@pytest.mark.parametrize(
  "kwargs, sentence",
  [
    ({"chains": 0}, "chains must be at least 1, got 0."),
    ({"samples": 0}, "samples must be at least 1, got 0."),
    ({"thin": -1}, "thin must be at least 1, got -1."),
    ({"burn_in": -1}, "burn_in must be at least 0, got -1."),
    ({"burn_in": 2**31}, "samples * thin must be below 2^31, got 2147483649."),
    ({"start": np.ones((3, 5))}, "must have shape (2, 5), got (3, 5)."),
    ({"dt": 0.0}, "dt must be positive and finite, got 0.0."),
  ],
)
def test_bad_sizes_are_one_sentence(kwargs, sentence):
  with pytest.raises(ValueError) as raised:
    hsgd.simulate(KEY, problem(), 0.1, **{"chains": 2, **kwargs})
  assert sentence in str(raised.value)


def test_other_bad_input():
  with pytest.raises(TypeError, match="batch_size must be a static integer"):
    hsgd.streaming_sgd(KEY, problem(), 0.1, 1.5, chains=2)
  with pytest.raises(TypeError, match="dimension must be a static integer"):
    hsgd.streaming_tail_index(2.0, 0.1)
  for args, name in (
    ((2, -0.1), "learning_rate"),
    ((2, math.nan), "learning_rate"),
    ((2, 0.1, 1, -1.0), "weight_decay"),
    ((2, 0.1, 1, 0.0, 0.0), "eigenvalue"),
  ):
    with pytest.raises(ValueError, match=f"{name} must be"):
      hsgd.streaming_tail_index(*args)
  with pytest.raises(ValueError, match="order must be at least 0, got -1"):
    hsgd.critical_learning_rate([1.0], order=-1)
  with pytest.raises(ValueError, match=r"got shapes \(3, 2\) and \(2,\)"):
    hsgd.regression(np.ones((3, 2)), np.ones(2))
  with pytest.raises(ValueError, match="must be finite"):
    hsgd.minibatch_sgd(KEY, [[math.nan]], [1.0], 0.1, chains=1)
  with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
    of = hsgd.Regression(jnp.ones(2), jnp.zeros(3), 0.5)
    hsgd.simulate(KEY, of, 0.1, chains=1)


# -- speed and long runs ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulate", "streaming_sgd", "minibatch_sgd"])
def test_a_thousand_chains_of_1e5_steps_take_less_than_a_minute(name):
  """Each takes 6 to 12 seconds of one core; processor time is measured."""
  data = np.random.default_rng(0)
  features = data.standard_normal((442, 10))
  of = (problem(np.linspace(1, 0.1, 10)),)
  if name == "minibatch_sgd":
    of = (features, features @ np.ones(10) + data.standard_normal(442))
  start = time.process_time()
  x = getattr(hsgd, name)(KEY, *of, 0.02, chains=1000, burn_in=99_999)
  assert np.all(np.isfinite(x))
  assert time.process_time() - start < 60


@pytest.mark.slow
def test_bounds_hold_in_ten_dimensions():
  """20000 chains of hSGD.

  With k = 200 the interval of Hill's estimate extends 14 % to each side; 10 %
  is allowed for its bias.
  """
  values = np.linspace(1, 0.1, 10)
  of = problem(values, 0.5, 0.0)
  rate = 0.5
  lower, upper = hsgd.tail_index_bounds(values, rate, 1, 0.1)
  x = hsgd.simulate(KEY, of, rate, 1, 0.1, chains=20_000, burn_in=999)
  for sample in (jnp.linalg.norm(x, axis=-1), x[..., 0]):
    low, high = estimators.hill_interval(hill(sample, 200), 200)
    assert high > 0.9 * lower and low < 1.1 * upper, (low, high, lower, upper)
