"""Slices of a loss, and spectral densities, in cases with known results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from htga_optax import curvature
from htga_optax.diagnostics import landscape


def params(dtype=jnp.float32):
  key = jax.random.key(0)
  return {
    "conv": jax.random.normal(key, [3, 3, 2, 4], dtype)
    * jnp.arange(4, dtype=dtype),
    "bias": jnp.ones(4, dtype),
  }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_filters_have_the_lengths_of_the_parameters(dtype):
  tree = params(dtype)
  direction = landscape.filter_normalized(tree, key=jax.random.key(1))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), direction) == jax.tree.map(
    lambda x: (x.shape, x.dtype), tree
  )
  lengths = [
    np.linalg.norm(np.float32(t["conv"]).reshape(-1, 4), axis=0)
    for t in (direction, tree)
  ]
  rtol = 1e-5 if dtype == jnp.float32 else 0.02
  np.testing.assert_allclose(*lengths, rtol=rtol)
  assert lengths[0][0] == 0 and not np.any(direction["bias"])


def test_the_slice_does_not_depend_on_the_scale_of_a_layer():
  """Doubling one layer of a ReLU net and halving the next changes nothing."""
  rng = np.random.default_rng(0)
  x = jnp.float32(rng.standard_normal((20, 5)))
  w = [jnp.float32(rng.standard_normal(s)) for s in ((5, 8), (8, 3))]
  loss_fn = lambda w: jnp.mean((jax.nn.relu(x @ w[0]) @ w[1] - 1) ** 2)
  steps = jnp.linspace(-1, 1, 5)
  slices = []
  for scaled in (w, [4 * w[0], w[1] / 4]):
    d = landscape.filter_normalized(scaled, key=jax.random.key(2))
    slices.append(landscape.loss_slice(loss_fn, scaled, [d], steps))
  np.testing.assert_allclose(*slices, rtol=1e-4)
  assert slices[0][2] == pytest.approx(float(loss_fn(w)), rel=1e-5)


def test_a_square_has_its_directions_in_order():
  loss_fn = lambda p: p[0] + 10 * p[1]
  found = landscape.loss_slice(
    loss_fn, jnp.zeros(2), [jnp.eye(2)[0], jnp.eye(2)[1]], jnp.arange(3.0)
  )
  expected = np.arange(3)[:, None] + 10 * np.arange(3)
  np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
  "directions, steps, message",
  [
    ([], np.zeros(3), "directions must be one or two, got 0."),
    ([0.0] * 3, np.zeros(3), "directions must be one or two, got 3."),
    ([0.0], np.zeros((3, 1)), r"steps must be one-dimensional, got \(3, 1\)."),
  ],
)
def test_bad_slices_are_refused(directions, steps, message):
  with pytest.raises(ValueError, match=message):
    landscape.loss_slice(lambda p: p, jnp.zeros([]), directions, steps)


def test_the_density_is_that_of_the_eigenvalues():
  """The density of a Wigner matrix has the moments of its eigenvalues."""
  rng = np.random.default_rng(0)
  a = rng.standard_normal((300, 300))
  a = (a + a.T) / np.sqrt(600)
  eigenvalues = np.linalg.eigvalsh(a)
  matrix = jnp.float32(a)
  found = landscape.spectral_density(
    lambda v: matrix @ v, jnp.zeros(300), 40, probes=16, key=jax.random.key(0)
  )
  np.testing.assert_allclose(jnp.sum(found.weights, axis=1), 1, rtol=1e-4)
  spacing = float(found.points[1] - found.points[0])
  assert float(jnp.sum(found.density)) * spacing == pytest.approx(1, abs=1e-3)
  for power in (1, 2, 4):
    got = float(jnp.mean(jnp.sum(found.weights * found.nodes**power, axis=1)))
    values = eigenvalues**power
    # The variance of a probe is at most 2 sum f(lambda)^2/n^2.
    error = np.sqrt(2 * np.sum(values**2) / 16) / 300
    assert got == pytest.approx(np.mean(values), abs=4 * error)
  assert float(jnp.max(found.nodes)) == pytest.approx(eigenvalues[-1], rel=0.01)
  middle = found.density[np.argmin(np.abs(found.points))]
  assert float(middle) == pytest.approx(1 / np.pi, rel=0.2)  # semicircle


def test_lanczos_that_ends_early():
  """Two eigenvalues, and many more products."""
  diagonal = jnp.repeat(jnp.float32([-1.0, 3.0]), 5)
  found = landscape.spectral_density(
    lambda v: diagonal * v, jnp.zeros(10), 8, probes=4, key=jax.random.key(0)
  )
  # The grid extends four widths, each an eighth of the range, beyond both ends.
  assert float(found.points[0]) > -3.1 and float(found.points[-1]) < 5.1
  assert np.all(np.isfinite(found.density))


def test_a_tree_and_its_hessian():
  tree = {"a": jnp.ones(3), "b": jnp.ones([2, 2])}
  loss_fn = lambda p: jnp.sum(p["a"] ** 2) + 3 * jnp.sum(p["b"] ** 2)
  found = landscape.spectral_density(
    curvature.hessian(loss_fn, tree), tree, 4, probes=2, key=jax.random.key(0)
  )
  inside = np.asarray(found.weights) > 1e-6
  nodes = np.asarray(found.nodes)[inside]
  np.testing.assert_allclose(np.unique(nodes.round(3)), [2, 6])


def test_sizes_are_checked():
  for change in ({"probes": 0}, {"points": 0}, {"num_matvecs": 0}):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
      landscape.spectral_density(
        lambda v: v, jnp.zeros(3), key=jax.random.key(0), **change
      )
