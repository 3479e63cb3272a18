"""Normalised updates and normalised SGD, against NumPy in float64.

The tolerances are a few roundings of float32.
"""

import cases
import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import htga_optax
from htga_optax import Reading, normalize, normalized_sgd


def norm_of(tree):
  return np.sqrt(
    sum(np.sum(np.abs(np.asarray(x, np.complex128)) ** 2) for x in tree)
  )


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("eps", [0.0, 0.5, 30.0])
def test_it_equals_its_twin(eps, per_layer):
  grads = jax.tree.map(lambda x: x[0], cases.gradients(1))
  tx = normalize(eps, per_layer=per_layer)
  updates, _ = tx.update(grads, tx.init(grads))
  leaves = jax.tree.leaves(grads)
  for got, x in zip(jax.tree.leaves(updates), leaves, strict=True):
    r = norm_of([x] if per_layer else leaves)
    expected = np.asarray(x, np.float64) / np.hypot(eps, r)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-25, 1.0, 1e25])
@pytest.mark.parametrize("r", [0.0, 1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_no_size_overflows(eps, r):
  """The squares of most of these numbers are not in the range of float32."""
  grads = jnp.asarray([0.6, 0.8]) * r
  tx = normalize(eps)
  updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
  expected = np.array([0.6, 0.8]) * r / (np.hypot(eps, r) or 1.0)
  np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-37)


def test_a_large_eps_is_a_clip_without_a_corner():
  eps = 2.0
  tx = normalize(eps)
  clip = optax.clip_by_global_norm(eps)
  for r in (1e-3, 1e3):
    grads = jnp.asarray([r, 0.0])
    ours, _ = tx.update(grads, tx.init(grads))
    theirs, _ = clip.update(grads, clip.init(grads))
    np.testing.assert_allclose(eps * ours, theirs, rtol=1e-5)


def test_eps_follows_a_schedule_or_a_reading():
  grads = jnp.asarray([3.0, 4.0])
  tx = normalize(lambda count: 12.0 * count)
  state = tx.init(grads)
  for expected in (1.0, 5 / 13):
    updates, state = tx.update(grads, state)
    np.testing.assert_allclose(jnp.linalg.norm(updates), expected, rtol=1e-6)
  tx = htga_optax.relay(
    htga_optax.track_tail_index(), normalize(Reading("update_norm"))
  )
  updates, _ = tx.update(grads, tx.init(grads))
  np.testing.assert_allclose(jnp.linalg.norm(updates), 0.5**0.5, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 3.0])
def test_normalized_sgd_equals_its_twin(eps):
  """A gradient that is not finite counts as zero."""
  grads = np.random.default_rng(0).standard_t(1.5, (20, 5)).astype(np.float32)
  grads[7, 2] = np.nan
  tx = normalized_sgd(optax.linear_schedule(0.1, 0.0, 20), 0.7, eps)

  def body(state, g):
    updates, state = tx.update(g, state)
    return state, updates

  _, updates = lax.scan(body, tx.init(jnp.zeros(5)), jnp.asarray(grads))
  m = np.zeros(5)
  for t, (g, got) in enumerate(zip(grads, updates)):
    g = np.where(np.isfinite(g).all(), g, 0).astype(np.float64)
    m = 0.7 * m + 0.3 * g
    rate = 0.1 * (1 - t / 20)
    expected = -rate * m / np.hypot(eps, np.linalg.norm(m))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)


def test_normalized_sgd_resists_noise_without_variance():
  """The noise of the gradient has the tail index 1.2: a mean, and no variance.

  The loss is |x|^2 / 2 in 10 dimensions, from |x| = 10. The rate decays to 0 in
  3,000 steps. Eight runs of normalised SGD end at most 1.3 away. SGD ends 3.2
  away or more in the median, whatever its rate: with a large one it follows
  the largest gradients, with a small one it does not arrive. Asked is less than
  half of SGD's median at its best rate.
  """
  rng = np.random.default_rng(0)
  noise = rng.pareto(1.2, (8, 3000, 10)) * rng.choice([-1, 1], (8, 3000, 10))

  def distances(optimizer, rate):
    tx = optimizer(optax.linear_schedule(rate, 0.0, 3000))

    def run(noise):
      def body(carry, z):
        x, state = carry
        updates, state = tx.update(x + z, state)
        return (x + updates, state), None

      x = jnp.full(10, 10 / 10**0.5)
      (x, _), _ = lax.scan(body, (x, tx.init(x)), noise)
      return jnp.linalg.norm(x)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(noise, jnp.float32)))

  rates = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
  least = min(np.median(distances(optax.sgd, rate)) for rate in rates)
  assert np.max(distances(normalized_sgd, 0.03)) < least / 2


def test_complex_updates_have_norm_one():
  grads = {"z": jnp.asarray([3 + 4j, 0j]), "x": jnp.asarray([12.0])}
  tx = normalize()
  updates, _ = tx.update(grads, tx.init(grads))
  np.testing.assert_allclose(norm_of(jax.tree.leaves(updates)), 1, rtol=1e-6)
  chex.assert_trees_all_equal_dtypes(updates, grads)


@pytest.mark.parametrize(
  "make, error, message",
  [
    (lambda: normalize(-1.0), ValueError, "eps .* got -1.0"),
    (lambda: normalize(float("inf")), ValueError, "eps .* got inf"),
    (lambda: normalized_sgd(-0.1), ValueError, "learning_rate .* got -0.1"),
    (lambda: normalized_sgd(0.1, 1.0), ValueError, "momentum .* got 1.0"),
    (lambda: normalized_sgd(0.1, eps=-1.0), ValueError, "eps .* got -1.0"),
  ],
)
def test_bad_arguments(make, error, message):
  with pytest.raises(error, match=message):
    make()
