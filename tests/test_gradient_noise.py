"""Gradients of two batches: noise norm, moments, Pareto k and the tracker."""

import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import estimators, gradient_noise

SIZES = [(32, 32, 0), (8, 24, 0), (32, 8, 8), (16, 16, 4)]


# -- noise norm and moments -------------------------------------------------


def pair(seed=0, size=50):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((2, size)).astype(np.float32)


def tree(x):
  return {"w": x[:40].reshape(8, 5), "none": None, "b": [x[40:], {}]}


@pytest.mark.parametrize("sizes", SIZES)
def test_moments_equal_the_formula(sizes):
  a, b = pair()
  got = gradient_noise.moments(tree(a), tree(b), *sizes)
  expected = reference.gradient_moments(
    a.astype(float), b.astype(float), *sizes
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert all(x.dtype == jnp.float32 and x.shape == () for x in got)


def test_complex_leaves():
  a, b = pair(0) + 1j * pair(1)
  np.testing.assert_allclose(
    gradient_noise.moments(tree(a), tree(b), 4),
    reference.gradient_moments(a, b, 4, 4, 0),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    gradient_noise.noise_norm(tree(a), tree(b)),
    np.linalg.norm(a - b) / np.sqrt(2),
    rtol=1e-6,
  )


@pytest.mark.parametrize("sizes", SIZES)
def test_moments_are_unbiased(sizes):
  """tr(Sigma) = 20 and |G|^2 = 5, for every overlap of the batches.

  20000 draws; the tolerance is four standard errors.
  """
  n_a, n_b, n_ab = sizes
  rng = np.random.default_rng(0)
  x = rng.standard_normal((20000, n_a + n_b - n_ab, 20)).astype(np.float32)
  x += 0.5
  a, b = x[:, :n_a].mean(axis=1), x[:, n_a - n_ab :].mean(axis=1)
  draws = jax.vmap(lambda a, b: gradient_noise.moments(a, b, *sizes))(a, b)
  for got, expected in zip(draws, (20, 5)):
    got = np.asarray(got)
    assert abs(got.mean() - expected) < 4 * got.std() / math.sqrt(len(got))


def test_moments_over_all_parts_equal_the_form_with_two_norms():
  """McCandlish et al., appendix A: from |g| at batch sizes 2 and 6."""
  x = np.random.default_rng(0).standard_normal((6, 10)) + 0.3
  parts = [x[list(i)].mean(axis=0) for i in itertools.combinations(range(6), 2)]
  whole = x.mean(axis=0)
  got = [gradient_noise.moments(whole, part, 6, 2, 2) for part in parts]
  small = np.mean([part @ part for part in parts])
  large = whole @ whole
  trace = (small - large) / (1 / 2 - 1 / 6)
  square = (6 * large - 2 * small) / (6 - 2)
  np.testing.assert_allclose(np.mean(got, axis=0), [trace, square], rtol=1e-5)


def test_float16_does_not_overflow():
  a, b = jnp.full([2, 6400], 1e3, jnp.float16) * jnp.float16([[1], [-1]])
  # Norms of 8e4 and a difference of 1.6e5, both beyond 65504.
  np.testing.assert_allclose(
    gradient_noise.noise_norm(a, b), 1.6e5 / math.sqrt(2), rtol=1e-6
  )
  np.testing.assert_allclose(
    gradient_noise.moments(a, b, 2), [2.56e10, -6.4e9], rtol=1e-6
  )
  mixed = gradient_noise.moments(a, b.astype(jnp.bfloat16), 2)
  np.testing.assert_allclose(mixed, [2.56e10, -6.4e9], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_noise_norm_neither_overflows_nor_vanishes(size):
  a = size * jnp.float32([3.0, 4.0])
  value, slope = jax.value_and_grad(gradient_noise.noise_norm)(a, -a)
  np.testing.assert_allclose(value, 10 * size / math.sqrt(2), rtol=1e-6)
  assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("empty", [{}, {"a": None}, [], ()], ids=str)
def test_trees_without_leaves(empty):
  assert gradient_noise.noise_norm(empty, empty) == 0
  assert gradient_noise.moments(empty, empty, 8) == (0, 0)


def test_noise_norm_has_the_tail_of_the_noise():
  """A gradient of norm 100 hides the tail; the difference does not.

  2000 values, k = 100; the tolerance is four standard errors of 10 %.
  """
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((2, 2000, 5))
  noise *= rng.pareto(1.5, (2, 2000, 1)) + 1
  a, b = (100 + noise).astype(np.float32)
  differences = jax.vmap(gradient_noise.noise_norm)(a, b)
  assert abs(estimators.hill(differences, 100) - 1.5) < 0.6
  assert estimators.hill(np.linalg.norm(a, axis=1), 100) > 4


# -- Pareto k ---------------------------------------------------------------

LAWS = {
  "pareto(4)": (stats.pareto(4), 1 / 4),
  "pareto(1.5)": (stats.pareto(1.5), 1 / 1.5),
  "pareto(0.8)": (stats.pareto(0.8), 1 / 0.8),
  "t(3)": (stats.t(3), 1 / 3),
  "cauchy": (stats.cauchy, 1.0),
  "half-normal": (stats.norm, 0.0),
}


@pytest.mark.parametrize("n", [21, 100, 1000])
@pytest.mark.parametrize("law", LAWS)
def test_pareto_k_equals_its_twin(law, n):
  x = np.abs(LAWS[law][0].rvs(size=n, random_state=n)).astype(np.float32)
  got = jax.jit(gradient_noise.pareto_k_diagnostic)(x)
  xi, threshold, reliable, enough = reference.pareto_k_diagnostic(x)
  np.testing.assert_allclose(got.pareto_k, xi, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(got.threshold, threshold, rtol=1e-6)
  assert got.mean_is_reliable == reliable
  # The exponent multiplies an error in xi by its logarithm.
  np.testing.assert_allclose(
    np.log(got.sufficient_size), np.log(enough), rtol=1e-2
  )


@pytest.mark.parametrize("law", LAWS)
def test_pareto_k_of_known_laws(law):
  """500 replications of n = 1000, k = 95.

  The standard error of the mean is (1 + xi)/sqrt(95 * 500). The tolerance is
  four standard errors, and 0.1 for bias: the cut at 0, and a tail that is no
  power law near the threshold.
  """
  distribution, xi = LAWS[law]
  x = np.abs(distribution.rvs(size=(500, 1000), random_state=0))
  got = jax.vmap(gradient_noise.pareto_k_diagnostic)(x.astype(np.float32))
  error = (1 + xi) / math.sqrt(95 * 500)
  assert abs(got.pareto_k.mean() - xi) < 4 * error + 0.1
  np.testing.assert_array_equal(
    got.mean_is_reliable, got.sufficient_size < 1000
  )
  reliable = np.mean(got.mean_is_reliable)
  if xi < 0.5:
    assert reliable > 0.9
  elif xi >= 1:
    assert reliable < 0.1


LARGE_ENOUGH = [(stats.pareto(1 / xi), xi, 0.2) for xi in (0.5, 0.6, 0.7)]


@pytest.mark.parametrize(
  "law, xi, within", [*LARGE_ENOUGH, (stats.t(2), 0.5, 0.3)]
)
def test_a_sufficient_size_is_sufficient(law, xi, within):
  """The proportions that the docstring gives for the plain mean.

  4000 replications give them within 0.8 and 0.5 percent.
  """
  n = round(10 ** (1 / (1 - xi)))
  x = np.abs(law.rvs(size=(4000, n), random_state=0))
  mean = math.sqrt(2) if law.dist.name == "t" else law.mean()
  error = np.abs(x.mean(axis=1) / mean - 1)
  assert np.mean(error < within / 2) > 0.5
  assert np.mean(error < within) > 0.9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pareto_k_of_a_bad_sample_is_nan(bad):
  x = np.random.default_rng(0).pareto(2, 100)
  for sample in (np.append(x, bad), np.ones(100), np.zeros(100)):
    got = gradient_noise.pareto_k_diagnostic(sample)
    assert np.isnan(got.pareto_k) and np.isnan(got.sufficient_size)
    assert not got.mean_is_reliable and 0.5 <= got.threshold <= 0.7


def test_pareto_k_has_finite_gradients():
  @jax.jit
  @jax.grad
  def slope(x):
    got = gradient_noise.pareto_k_diagnostic(x)
    size = jnp.where(got.sufficient_size < jnp.inf, got.sufficient_size, 0.0)
    return got.pareto_k + size

  for power in (0.0, 0.2, 0.5, 0.99, 1.5):
    assert np.all(np.isfinite(slope((jnp.arange(200) + 0.5) ** -power)))


# -- tracker ----------------------------------------------------------------


def scan(tx, gradients, others):
  """All updates and all states."""

  @jax.jit
  def run(gradients, others):
    def step(state, two):
      updates, state = tx.update(two[0], state, other_updates=two[1])
      return state, (updates, state)

    first = jax.tree.map(lambda x: x[0], gradients)
    return lax.scan(step, tx.init(first), (gradients, others))[1]

  return run(gradients, others)


def log(states, name):
  return np.asarray(optax.tree.get(states, name), np.float64)


@pytest.mark.parametrize("sizes", SIZES)
def test_tracker_equals_its_twin_and_passes_updates_on(sizes):
  rng = np.random.default_rng(0)
  a, b = rng.standard_normal((2, 60, 5)).astype(np.float32) + 0.3
  a[0], b[20, 2], a[21] = np.nan, np.inf, 1e30
  updates, states = scan(
    htga_optax.track_gradient_noise(*sizes, decay=0.9), a, b
  )
  np.testing.assert_array_equal(updates, a)
  twin = reference.NoiseTracker(*sizes, decay=0.9)
  a[21] = np.nan  # its square overflows float32
  names = ("gradient_noise_scale", "covariance_trace", "squared_gradient_norm")
  for i in range(60):
    expected = twin.update(a[i].astype(float), b[i].astype(float))
    for name, value in zip(names, expected):
      np.testing.assert_allclose(
        log(states, name)[i], value, rtol=1e-3, atol=1e-4, err_msg=name
      )
    np.testing.assert_allclose(
      log(states, "noise_norm")[i], twin.noise_norm, rtol=1e-5
    )
  # It is unknown after the first step, which is nan, and whenever the average
  # is not positive.
  scale = log(states, "gradient_noise_scale")
  assert scale[0] == 0
  np.testing.assert_array_equal(scale > 0, log(states, names[2]) > 0)


def regression(steps, batch, seed=0):
  """Gradients [steps, batch, 20] of single examples of a linear regression.

  x ~ N(0, I), the noise has variance 1, and |w - w*|^2 = 5/4. With G = w - w*,

      g = x <x, G> - noise x,   tr(Sigma) = 21 |G|^2 + 20,   B = 37.
  """
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((steps, batch, 20))
  residual = x @ np.full(20, 0.25) - rng.standard_normal((steps, batch))
  return (x * residual[..., None]).astype(np.float32)


def test_noise_scale_of_a_linear_regression():
  """An average over 1000 steps; the tolerance is 5 percent.

  With ten other seeds the noise scale was 36.1 to 37.7, and the squared norm
  1.23 to 1.27.
  """
  g = regression(3000, 64)
  a, b = g[:, :32].mean(axis=1), g[:, 32:].mean(axis=1)
  tx = htga_optax.track_gradient_noise(batch_size=32, decay=0.999)
  _, states = scan(tx, a, b)
  last = jax.tree.map(lambda x: x[-1], states)
  np.testing.assert_allclose(last.gradient_noise_scale, 37, rtol=0.05)
  np.testing.assert_allclose(last.moments.covariance_trace, 46.25, rtol=0.05)
  np.testing.assert_allclose(
    last.moments.squared_gradient_norm, 1.25, rtol=0.05
  )
  # The values in the docstring for shorter averages and smaller batches. The
  # fraction varies by 0.01 and 0.04 between seeds.
  for batch, fraction in ((32, 0.95), (8, 0.66)):
    a, b = g[:, :batch].mean(axis=1), g[:, 32 : 32 + batch].mean(axis=1)
    _, short = scan(htga_optax.track_gradient_noise(batch, decay=0.95), a, b)
    scale = log(short, "gradient_noise_scale")[200:]
    assert abs(np.mean(np.abs(scale / 37 - 1) < 0.2) - fraction) < 0.08
  mean_square = np.mean(log(states, "noise_norm") ** 2)
  np.testing.assert_allclose(mean_square, 46.25 / 32, rtol=0.05)


def test_inside_multi_steps_micro_batches_are_enough():
  """Four micro-batches of eight examples; the last gives the other gradient."""
  g = regression(3000, 32).reshape(3000, 4, 8, 20).mean(axis=2)
  a, b = g.mean(axis=1), g[:, 3]
  tx = htga_optax.track_gradient_noise(32, 8, 8, decay=0.999)
  _, states = scan(tx, a, b)
  micro = g.reshape(12000, 20)
  _, accumulated = scan(optax.MultiSteps(tx, 4), micro, micro)
  for name in ("gradient_noise_scale", "noise_norm"):
    got = log(accumulated, name)
    np.testing.assert_allclose(got[3::4], log(states, name), rtol=1e-4)
    np.testing.assert_array_equal(got[4::4], got[3:-1:4])
  np.testing.assert_allclose(
    log(accumulated, "gradient_noise_scale")[-1], 37, rtol=0.05
  )


def test_other_updates_flow_through_a_relay():
  heard = {}

  def update(updates, state, params=None, **extra_args):
    heard.update(extra_args)
    return updates, state

  tx = htga_optax.relay(
    htga_optax.track_gradient_noise(batch_size=4),
    optax.GradientTransformationExtraArgs(optax.init_empty_state, update),
  )
  a, b = pair()
  _, state = tx.update(a, tx.init(a), a, other_updates=b)
  assert heard["noise_norm"] == optax.tree.get(state, "noise_norm") > 0
  np.testing.assert_allclose(
    heard["noise_norm"], gradient_noise.noise_norm(a, b), rtol=1e-6
  )
  assert "gradient_noise_scale" in heard


# -- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
  "args, kwargs, sentence",
  [
    ((0,), {}, "batch_size must be positive, got 0."),
    ((math.inf,), {}, "batch_size must be positive, got inf."),
    ((8, -1), {}, "other_batch_size must be positive, got -1."),
    ((8, 4, 5), {}, "shared_size must be at least 0, at most 4 and below 8,"
     " got 5."),
    ((8, None, 8), {}, "at most 8 and below 8, got 8."),
    ((8,), {"decay": 1.0}, "decay must be in [0, 1), got 1.0."),
  ],
)  # fmt: skip
def test_bad_arguments_are_one_sentence_with_the_value(args, kwargs, sentence):
  with pytest.raises(ValueError) as raised:
    htga_optax.track_gradient_noise(*args, **kwargs)
  assert sentence in str(raised.value)
  if not kwargs:
    with pytest.raises(ValueError) as raised:
      gradient_noise.moments(*pair(), *args)
    assert sentence in str(raised.value)


def test_without_a_second_gradient_it_says_what_to_pass():
  tx = htga_optax.track_gradient_noise(batch_size=8)
  a, b = pair()
  for other in ({}, {"other_updates": {"w": b}}):
    with pytest.raises(ValueError, match="pass other_updates= to update") as e:
      jax.jit(tx.update)(a, tx.init(a), **other)
    assert str(e.value).count(". ") == 0
  masked = optax.masked(tx, {"a": True, "b": False})
  two = {"a": a, "b": b}
  with pytest.raises(
    ValueError, match="mask_compatible_extra_args=True to opt"
  ):
    masked.update(two, masked.init(two), other_updates=two)


def test_gradients_must_be_alike_and_floating_point():
  a, b = pair()
  for measure in (
    gradient_noise.noise_norm,
    lambda a, b: gradient_noise.moments(a, b, 8),
  ):
    with pytest.raises(ValueError, match=r"shapes, got \(50,\) and \(1,\)\."):
      measure(a, b[:1])
    with pytest.raises(ValueError):
      measure({"w": a}, {"v": b})
    with pytest.raises(TypeError, match="floating point, got int32"):
      measure({"w": jnp.arange(3)}, {"w": jnp.arange(3)})


def test_pareto_k_names_a_bad_size():
  with pytest.raises(ValueError, match="k must be at least 5, got 4"):
    gradient_noise.pareto_k_diagnostic(jnp.ones(20))
  with pytest.raises(ValueError, match="k=30 for a sample of 30"):
    gradient_noise.pareto_k_diagnostic(jnp.ones(30), k=30)
  with pytest.raises(ValueError, match=r"got shape \(5, 9\)"):
    gradient_noise.pareto_k_diagnostic(jnp.ones([5, 9]))
