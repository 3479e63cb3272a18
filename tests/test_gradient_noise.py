"""Two batches' gradients: noise norm, moments, Pareto k and the tracker."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from htga_optax import estimators, gradient_noise

SIZES = [(32, 32, 0), (8, 24, 0), (32, 8, 8), (16, 16, 4)]


# -- noise norm and moments -------------------------------------------------


def pair(seed=0, size=50):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((2, size)).astype(np.float32)


def tree(x):
  return {"w": x[:40].reshape(8, 5), "none": None, "b": [x[40:], {}]}


@pytest.mark.parametrize("sizes", SIZES)
def test_moments_are_the_formula(sizes):
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
  """tr(Sigma) = 20 and |G|^2 = 5, whatever the batches share; 20000 draws,
  four standard errors allowed."""
  n_a, n_b, n_ab = sizes
  rng = np.random.default_rng(0)
  x = rng.standard_normal((20000, n_a + n_b - n_ab, 20)).astype(np.float32)
  x += 0.5
  a, b = x[:, :n_a].mean(axis=1), x[:, n_a - n_ab :].mean(axis=1)
  draws = jax.vmap(lambda a, b: gradient_noise.moments(a, b, *sizes))(a, b)
  for got, expected in zip(draws, (20, 5)):
    got = np.asarray(got)
    assert abs(got.mean() - expected) < 4 * got.std() / math.sqrt(len(got))


def test_over_all_parts_it_is_the_form_with_two_norms():
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
  """A gradient of norm 100 hides the tail, the difference does not: 2000
  values, k = 100, four standard errors of 10 % allowed."""
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
def test_pareto_k_is_its_twin(law, n):
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
  """500 replications of n = 1000, k = 95; the standard error of the mean is
  (1 + xi)/sqrt(95 * 500), four allowed, and 0.1 for the bias of a tail that is
  no power law near the threshold and of the cut at 0."""
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
  """What the docstring says of the plain mean; 4000 replications give the
  proportions within 0.8 and 0.5 percent."""
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


# -- bad input --------------------------------------------------------------


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
