"""The stable law compared with SciPy and with formulas, and its cipher."""

import functools
import math

import jax
from jax import lax
import jax.extend.random
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import stats

from htga_optax import stable
from htga_optax.stable import _sampling, _threefry

KEY = jax.random.key(0)
LAWS = [(a, 0.0) for a in (0.5, 0.8, 1.0, 1.05, 1.2, 1.5, 1.8, 1.95, 2.0)] + [
  (0.5, 1.0), (0.8, -0.5), (1.0, 0.5), (1.0, -1.0), (1.05, 1.0),
  (1.2, -1.0), (1.5, 0.5), (1.8, 1.0), (1.95, -0.5), (2.0, 1.0),
]  # fmt: skip


@functools.cache
def sample(alpha, beta=0.0, n=1_000_000, key=0):
  x = stable.sample(jax.random.key(key), alpha, beta, (n,))
  assert x.dtype == jnp.float32
  return np.asarray(x, np.float64)


@pytest.fixture
def s0(monkeypatch):
  """SciPy's law in S0, the parametrization that we use."""
  monkeypatch.setattr(stats.levy_stable, "parameterization", "S0")
  return stats.levy_stable


# -- the law ----------------------------------------------------------------


@pytest.mark.parametrize("alpha, beta", LAWS)
def test_kolmogorov_smirnov_against_scipy(s0, alpha, beta):
  theirs = s0.rvs(alpha, beta, size=100_000, random_state=1)
  ours = sample(alpha, beta)[:100_000]
  assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize(
  "alpha, beta", [law for law in LAWS if law not in {(1.05, 1.0)}]
)
def test_distribution_function_of_scipy(s0, alpha, beta):
  """SciPy integrates; frequencies agree within four standard errors."""
  x = sample(alpha, beta)
  at = np.float64([-20, -5, -2, -1, -0.3, 0, 0.3, 1, 2, 5, 20])
  p = s0.cdf(at, alpha, beta)
  error = np.sqrt(p * (1 - p) / x.size)
  found = np.searchsorted(np.sort(x), at, side="right") / x.size
  np.testing.assert_array_less(np.abs(found - p), 4 * error + 1e-6)


@pytest.mark.parametrize("alpha, beta", LAWS)
def test_characteristic_function_of_a_sample(s0, alpha, beta):
  """Our samples and those of SciPy, which uses another formula."""
  t = np.float64([-3, -1, -0.1, 0.02, 0.3, 1, 2])
  phi = np.asarray(stable.phi(t, alpha, beta))
  assert phi.dtype == np.complex64
  theirs = s0.rvs(alpha, beta, size=200_000, random_state=2)
  for x in (sample(alpha, beta)[: theirs.size], theirs):
    waves = np.exp(1j * t[:, None] * x)
    for part in (np.real, np.imag):
      found, error = part(waves).mean(1), part(waves).std(1) / x.size**0.5
      assert np.all(np.abs(found - part(phi)) < 4 * error + 1e-6)


def test_characteristic_function_at_its_ends():
  phi = stable.phi
  for alpha, beta in LAWS:
    assert phi(0.0, alpha, beta) == 1
    assert abs(phi(1e30, alpha, beta)) == 0
  np.testing.assert_allclose(phi(0.5, 2.0, 1.0), math.exp(-0.25), rtol=1e-6)
  np.testing.assert_allclose(
    phi(3.0, 1.0, 0.5),
    np.exp(-3 * (1 + 0.5j * 2 / np.pi * np.log(3))),
    rtol=1e-5,
  )
  with pytest.raises(ValueError, match=r"alpha must be in \(0, 2\], got 2.5"):
    phi(1.0, 2.5)


@pytest.mark.parametrize(
  "alpha, beta", [*LAWS, (0.1, 0.0), (0.3, 1.0), (0.99, 0.7), (1.001, -1.0)]
)
def test_every_sample_is_that_of_the_textbook_formula(alpha, beta):
  """Nolan's formula, in float64 and in S1, from the same random words."""
  n = 100_000
  words = _threefry._words(jax.random.key_data(KEY), _threefry._counters((n,)))
  angle, r = (
    (np.asarray(word).view(np.int32).astype(np.float64) + 0.5) / 2**32
    for word in words
  )
  v = np.sign(angle) * np.pi * (0.5 - np.abs(angle))
  w = -np.log(np.where(r > 0, r, 1 + r))
  if alpha == 1:
    slope = np.pi / 2 + beta * v
    x = slope * np.tan(v) - beta * np.log(np.pi / 2 * w * np.cos(v) / slope)
    x *= 2 / np.pi
  else:
    alpha = float(np.float32(alpha))
    tan = beta * math.tan(math.pi * alpha / 2)
    theta = math.atan(tan)
    x = np.sin(alpha * v + theta) * (np.cos(v) * math.cos(theta)) ** (
      -1 / alpha
    )
    x *= (np.cos((1 - alpha) * v - theta) / w) ** ((1 - alpha) / alpha)
    x -= tan
  found = [stable.sample(KEY, alpha, beta, (n,))]
  if beta == 0:
    found.append(stable.sample(KEY, alpha, jnp.zeros([]), (n,)))
  most = 1e37  # near the float32 maximum; the exponent is off by 1e-6/alpha
  for y in found:
    y, x = np.clip(y, -most, most), np.clip(x, -most, most)
    np.testing.assert_allclose(y, x, rtol=1e-5 / alpha, atol=2e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, -1.0])
def test_is_continuous_where_alpha_is_one(beta):
  at = [stable.sample(KEY, a, beta, (100_000,)) for a in (0.999, 1.0, 1.001)]
  low, one, high = (np.asarray(x, np.float64) for x in at)
  moved = 2e-3 * (30 + np.abs(one)) * (1 + np.log1p(np.abs(one)))
  assert np.all(np.abs(low - one) < moved)
  assert np.all(np.abs(high - one) < moved)
  near = stable.sample(KEY, np.nextafter(np.float32(1), 0), beta, (100_000,))
  np.testing.assert_allclose(near, one, rtol=3e-5, atol=3e-6)


def test_a_one_sided_law_ends_where_it_should():
  """For alpha < 1 it ends at -beta tan(pi alpha/2), in S0."""
  for alpha in (0.3, 0.5, 0.8):
    end = math.tan(math.pi * alpha / 2)
    assert np.min(sample(alpha, 1.0)) >= -end * (1 + 1e-5)
    assert np.max(sample(alpha, -1.0)) <= end * (1 + 1e-5)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.75, 0.975, 1.0])
def test_laplace_transform_of_the_positive_law(alpha):
  x = stable.positive(KEY, alpha, (1_000_000,))
  x = np.asarray(x, np.float64)
  assert np.all((x > 0) & np.isfinite(x))
  for t in (0.01, 0.3, 1.0, 4.0):
    terms = np.exp(-t * x)
    error = terms.std() / 1000 + 1e-6
    assert abs(terms.mean() - math.exp(-(t**alpha))) < 4 * error
  if alpha == 0.5:
    assert stats.kstest(x[:100_000], stats.levy(scale=0.5).cdf).pvalue > 1e-3
  if alpha == 1:
    np.testing.assert_allclose(x, 1, rtol=5e-7)


@pytest.mark.parametrize("alpha", [0.5, 1.2, 1.9, 2.0])
def test_isotropic_vectors(alpha):
  """All directions have one law, and direction and size are independent."""
  x = np.asarray(stable.isotropic(KEY, alpha, (300_000, 3)), np.float64)
  assert np.all(np.isfinite(x))
  for t in ([1, 0, 0], [0.1, 0.2, -0.3], [0, 2, 2]):
    waves = np.cos(x @ np.float64(t))
    expected = math.exp(-(np.linalg.norm(t) ** alpha))
    assert abs(waves.mean() - expected) < 4 * waves.std() / len(x) ** 0.5 + 1e-6
  far = np.linalg.norm(x, axis=1) > np.quantile(np.linalg.norm(x, axis=1), 0.9)
  directions = x[far] / np.linalg.norm(x[far], axis=1, keepdims=True)
  assert stats.kstest(directions[:, 0], stats.uniform(-1, 2).cdf).pvalue > 1e-3
  batch = stable.isotropic(KEY, jnp.float32([1.0, 2.0]), (4, 2, 3))
  assert batch.shape == (4, 2, 3)
  with pytest.raises(ValueError, match="must have an axis of coordinates"):
    stable.isotropic(KEY, alpha, ())


# -- the tail ---------------------------------------------------------------


@pytest.mark.long_run
@pytest.mark.parametrize("alpha", [0.8, 1.05, 1.2, 1.5, 1.9, 2.0])
def test_frequency_far_out(alpha):
  """Frequencies of 1e-5 and 1e-6, compared with the series of the tail.

  benchmarks/stable_tails.py has 1e-7 and 1e9 draws.
  """

  def terms(x):
    k = np.arange(1, 4)
    gamma = np.float64([math.gamma(alpha * i) / math.factorial(i) for i in k])
    signs = -((-1.0) ** k) * np.sin(np.pi * alpha * k / 2)
    return 2 / np.pi * gamma * signs * x ** (-alpha * k)

  @jax.jit
  def beyond(key, x):
    size = jnp.abs(stable.sample(key, alpha, shape=(20_000_000,)))
    return [jnp.sum(size > y) for y in x]

  at = [(terms(1.0)[0] / level) ** (1 / alpha) for level in (1e-5, 1e-6)]
  p = [np.sum(terms(x)) for x in at]
  if alpha == 2:
    at = [6.2, 6.9]
    p = [math.erfc(x / 2) for x in at]
  for found, expected in zip(beyond(KEY, at), p):
    assert abs(found - 2e7 * expected) < 4 * math.sqrt(2e7 * expected)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_is_finite_everywhere(beta):
  """1e8 draws for each alpha, with and without skewness."""

  @jax.jit
  def lost(alpha):
    def step(count, i):
      x = stable.sample(jax.random.fold_in(KEY, i), alpha, beta, (10_000_000,))
      return count + jnp.sum(~jnp.isfinite(x)), None

    return lax.scan(step, 0, jnp.arange(10))[0]

  for alpha in (0.01, 0.3, 0.999, 1.0, 1.05, 1.2, 1.5, 1.9, 2.0):
    assert lost(alpha) == 0


WORST = np.uint32([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**30])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_is_finite_at_the_ends_of_the_words(monkeypatch, request, dtype):
  """All pairs of extreme random words, for every kind of alpha and beta."""
  x, y = (jnp.asarray(v.ravel()) for v in np.meshgrid(WORST, WORST))
  monkeypatch.setattr(_sampling, "_words", lambda *_: (x, y))
  jax.clear_caches()
  request.addfinalizer(jax.clear_caches)  # of programs traced with these words
  near = np.float32([1, 2])
  below = np.nextafter(near, 0, dtype=np.float32)
  above = np.nextafter(near, 3, dtype=np.float32)[:1]
  alphas = [1e-3, 0.1, 0.5, 0.9, *near, *below, *above, 1.1, 1.5, 1.99]
  for alpha in np.float32(alphas):
    for beta in (0.0, 0.3, 1.0, -1.0):
      z = stable.sample(KEY, alpha, beta, x.shape, dtype)
      assert jnp.all(jnp.isfinite(z)), (alpha, beta, z)
    if alpha <= 1:
      z = stable.positive(KEY, alpha, x.shape, dtype)
      assert jnp.all(jnp.isfinite(z) & (z >= 0)), (alpha, z)


# -- the cipher -------------------------------------------------------------


@pytest.mark.parametrize(
  "shape", [(), (1,), (7,), (3, 5, 2), (1000, 3), (0, 2)]
)
def test_words_are_those_of_jax(shape):
  for seed in (0, 1, 2**31):
    key = jax.random.key(seed)
    data = jax.random.key_data(key)
    x, y = _threefry._words(data, _threefry._counters(shape))
    np.testing.assert_array_equal(x ^ y, jax.random.bits(key, shape))
    n = math.prod(shape)
    if n:
      count = jnp.concatenate(
        [jnp.zeros(n, jnp.uint32), jnp.arange(n).astype(jnp.uint32)]
      )
      both = jax.extend.random.threefry_2x32(data, count)
      np.testing.assert_array_equal(x.ravel(), both[:n])
      np.testing.assert_array_equal(y.ravel(), both[n:])


@pytest.mark.parametrize(
  "shape",
  [(2**17, 2**16), (3, 2**31 - 1), (2**20, 5, 2**12 + 3), (70_001, 70_003)],
)
def test_counters_of_more_than_32_bits(shape):
  """Only the last rows, which a loop over them computes."""
  rows = (slice(-1, None),) * (len(shape) - 1) + (slice(-5, None),)
  high, low = jax.jit(lambda: [x[rows] for x in _threefry._counters(shape)])()
  found = [int(h) << 32 | int(x) for h, x in zip(high.ravel(), low.ravel())]
  n = math.prod(shape)
  assert n > 2**32 and found == list(range(n - 5, n))


def test_keys_of_every_kind():
  x = stable.sample(KEY, 1.5, shape=(5,))
  np.testing.assert_array_equal(
    x, stable.sample(jax.random.key_data(KEY), 1.5, shape=(5,))
  )
  np.testing.assert_array_equal(
    x, stable.sample(np.asarray(jax.random.key_data(KEY)), 1.5, shape=(5,))
  )
  assert np.all(x != stable.sample(jax.random.key(1), 1.5, shape=(5,)))
  rbg = jax.random.key(0, impl="rbg")
  y = stable.sample(rbg, 1.5, shape=(5,))
  assert np.all(np.isfinite(y)) and np.all(x != y)
  words = jax.random.bits(rbg, (2,))
  np.testing.assert_array_equal(y, stable.sample(words, 1.5, shape=(5,)))
  with pytest.raises(
    ValueError, match=r"one key, got shape \(2,\); use jax.vmap"
  ):
    stable.sample(jax.random.split(KEY), 1.5)


# -- arguments --------------------------------------------------------------


@pytest.mark.parametrize(
  "arguments, error, sentence",
  [
    ((0.0,), ValueError, r"alpha must be in \(0, 2\], got 0.0"),
    ((2.1,), ValueError, r"alpha must be in \(0, 2\], got 2.1"),
    ((float("nan"),), ValueError, r"alpha must be in \(0, 2\], got nan"),
    ((1.5, -1.5), ValueError, r"beta must be in \[-1, 1\], got -1.5"),
    ((np.ones(3), 0.0, (2,)), ValueError, "broadcast"),
    ((np.ones(3), 0.0, ()), ValueError, r"broadcast to \(\), got shape \(3,\)"),
    ((1.5, 0.0, (2**32,)), ValueError, "axis of shape must be shorter"),
    ((1.5, 0.0, (2,), jnp.int32), TypeError, "be floating point, got int32"),
  ],
)
def test_bad_arguments_are_named(arguments, error, sentence):
  with pytest.raises(error, match=sentence):
    stable.sample(KEY, *arguments)


def test_positive_names_its_own_range():
  with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], got 1.5"):
    stable.positive(KEY, 1.5)


def test_a_traced_alpha_out_of_range_gives_nan():
  f = jax.jit(lambda a, b: stable.sample(KEY, a, b, (3,)))
  for law in ((0.0, 0.0), (2.1, 0.0), (1.5, 1.1), (np.nan, 0.0)):
    assert np.all(np.isnan(f(*law)))
  assert np.all(np.isfinite(f(1.5, 1.0)))
  assert np.all(np.isnan(jax.jit(lambda a: stable.positive(KEY, a))(1.1)))


def test_alpha_and_beta_may_be_arrays():
  alpha = jnp.float32([0.5, 1.0, 2.0])
  beta = jnp.float32([[0.0], [0.5]])
  x = stable.sample(KEY, alpha, beta)
  assert x.shape == (2, 3)
  for i, j in np.ndindex(2, 3):
    alone = stable.sample(KEY, alpha[j], beta[i, 0], (2, 3))
    np.testing.assert_allclose(x[i, j], alone[i, j], rtol=1e-5)
  assert stable.sample(KEY, alpha, shape=(4, 3)).shape == (4, 3)
  assert stable.sample(KEY, 1.5).shape == ()
  assert stable.positive(KEY, jnp.float32([0.5, 1.0])).shape == (2,)


def test_alpha_may_be_traced_without_a_new_trace():
  traces = []

  @jax.jit
  def f(alpha):
    traces.append(alpha)
    return stable.sample(KEY, alpha, shape=(100,))

  for alpha in (0.5, 1.0, 2.0):
    same = stable.sample(KEY, alpha, shape=(100,))
    np.testing.assert_allclose(f(alpha), same, rtol=2e-6)
  assert len(traces) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_rounded_and_saturated(dtype):
  x = stable.sample(KEY, 0.3, shape=(10_000,))
  y = stable.sample(KEY, 0.3, shape=(10_000,), dtype=dtype)
  most = float(jnp.finfo(dtype).max)
  assert y.dtype == dtype and jnp.all(jnp.isfinite(y))
  np.testing.assert_array_equal(y, jnp.clip(x, -most, most).astype(dtype))
  assert stable.isotropic(KEY, 0.3, (9, 2), dtype).dtype == dtype
  assert stable.positive(KEY, 0.3, (9,), dtype).dtype == dtype


def x64():
  from jax.experimental import enable_x64

  return enable_x64()


def test_float64_has_the_digits_of_float32():
  x = stable.sample(KEY, 1.5, 0.5, (100,))
  with jax.enable_x64(True) if hasattr(jax, "enable_x64") else x64():
    y = stable.sample(KEY, 1.5, 0.5, (100,), jnp.float64)
    assert y.dtype == jnp.float64
    assert stable.sample(KEY, 1.5, 0.5, (100,)).dtype == jnp.float32
    np.testing.assert_array_equal(x, y.astype(jnp.float32))


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
def test_gradient_in_alpha(alpha, beta):
  f = lambda a: stable.sample(KEY, a, beta, (1000,))
  _, slope = jax.jvp(f, (alpha,), (1.0,))
  assert np.all(np.isfinite(slope))
  _, slope_of_beta = jax.jvp(
    lambda b: stable.sample(KEY, alpha, b, (1000,)), (beta,), (1.0,)
  )
  assert np.all(np.isfinite(slope_of_beta))
  if alpha in (0.5, 1.5) or (beta == 0 and alpha == 1):
    h = 2.0**-7
    difference = (f(alpha + h) - f(alpha - h)) / (2 * h)
    close = np.abs(slope - difference) < 1e-3 + 0.02 * np.abs(slope)
    assert np.mean(close) > 0.95


# -- where it runs ----------------------------------------------------------


def test_eager_equals_jit():
  for law in ((1.5, 0.0), (1.0, 0.5)):
    inside = jax.jit(lambda law=law: stable.sample(KEY, *law, (1000,)))()
    np.testing.assert_allclose(
      stable.sample(KEY, *law, (1000,)), inside, rtol=5e-6, atol=1e-6
    )


def test_vmap_over_keys():
  keys = jax.random.split(KEY, 3)
  x = jax.vmap(lambda k: stable.sample(k, 1.5, shape=(50,)))(keys)
  each = [stable.sample(k, 1.5, shape=(50,)) for k in keys]
  np.testing.assert_allclose(x, np.stack(each), rtol=2e-6)
  y = jax.vmap(lambda k: stable.isotropic(k, 1.5, (50,)))(keys)
  each = [stable.isotropic(k, 1.5, (50,)) for k in keys]
  np.testing.assert_allclose(y, np.stack(each), rtol=2e-6)


@pytest.mark.parametrize(
  "spec", [P("a"), P(None, "b"), P("a", "b"), P(None, ("a", "b"))], ids=str
)
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.devices(8)
def test_sharding_does_not_change_the_noise(spec, beta):
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  f = lambda key, alpha: stable.sample(key, alpha, beta, (64, 48))
  whole = jax.jit(f)(KEY, 1.5)
  sharded = jax.jit(f, out_shardings=NamedSharding(mesh, spec))
  compiled = sharded.lower(KEY, 1.5).compile()
  np.testing.assert_array_equal(compiled(KEY, 1.5), whole)
  for word in ("all-", "collective", "permute", "reduce-scatter"):
    assert word not in compiled.as_text()
  assert "f32[64,48]" not in compiled.as_text()


@pytest.mark.devices(8)
def test_sharding_of_an_explicit_mesh():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
  set_mesh = getattr(jax, "set_mesh", getattr(jax.sharding, "use_mesh", None))
  whole = stable.sample(KEY, 1.5, shape=(64,))
  with set_mesh(mesh):
    f = lambda key: jax.sharding.reshard(
      stable.sample(key, 1.5, shape=(64,)), P("a")
    )
    np.testing.assert_allclose(jax.jit(f)(KEY), whole, rtol=2e-6)


@pytest.mark.cpu
def test_is_one_loop_over_the_output():
  """No other array of the size of the sample is stored."""
  f = jax.jit(lambda key, a: stable.sample(key, a, shape=(1000, 1003)))
  memory = f.lower(KEY, 1.5).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 10_000
