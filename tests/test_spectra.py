"""Spectra of weights: estimators, their null, the tracker, and the rules."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest
from scipy import integrate

from htga_optax import (
  Reading,
  relay,
  scale_by_layer,
  spectra,
  track_weight_tail_index,
)

RNG = np.random.default_rng(0)


def published(w):
  """PL_Alpha_Hill, from the singular values in float64."""
  x = np.sort(np.linalg.svd(np.float64(w), compute_uv=False) ** 2)
  i = len(x) // 2
  n = len(x) - i
  return 1 + n / (np.sum(np.log(x[i:])) - n * np.log(x[i]))


@pytest.mark.parametrize("shape", [(64, 64), (128, 60), (60, 128)], ids=str)
@pytest.mark.parametrize("law", ["normal", "cauchy"])
def test_the_published_exponent(shape, law):
  draw = getattr(RNG, f"standard_{law}")
  w = np.float32(draw((3, *shape)))
  found = spectra.alpha_hill(spectra.eigenvalues(w))
  np.testing.assert_allclose(found, [published(x) for x in w], rtol=1e-3)
  scaled = spectra.alpha_hill(spectra.eigenvalues(1e-30 * w))
  # Squares of 1e-30 vanish, unless they are scaled first.
  np.testing.assert_allclose(scaled, 0.0)
  near = spectra.alpha_hill(spectra.eigenvalues(1e-15 * w))
  np.testing.assert_allclose(near, found, rtol=1e-3)


def test_eigenvalues():
  w = np.float32(RNG.standard_normal((40, 70)))
  expected = np.linalg.svd(np.float64(w), compute_uv=False)[::-1] ** 2
  found = np.asarray(spectra.eigenvalues(w))
  np.testing.assert_allclose(found, expected, atol=2e-6 * expected[-1])
  np.testing.assert_allclose(spectra.eigenvalues(w.T), found, rtol=1e-4)


@pytest.mark.parametrize("columns", [512, 256, 128, 64])
def test_the_null_is_the_mean_of_untrained_matrices(columns):
  """Five matrices; the standard deviations are 0.01 to 0.17."""
  w = np.float32(RNG.standard_normal((5, 512, columns)))
  found = spectra.alpha_hill(spectra.eigenvalues(w))
  null = spectra.null_alpha_hill(512, columns)
  assert np.mean(found) == pytest.approx(null, rel=0.04)
  relative = spectra.relative_tail_index(w)
  np.testing.assert_allclose(relative, (found - 1) / (null - 1), rtol=1e-5)
  assert np.mean(relative) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("y", [1.0, 0.5, 0.125])
def test_the_null_by_another_quadrature(y):
  low, high = (1 - y**0.5) ** 2, (1 + y**0.5) ** 2
  density = lambda x: np.sqrt((high - x) * (x - low)) / (2 * np.pi * y * x)
  above = lambda t: integrate.quad(density, t, high, limit=200)[0]
  from scipy import optimize

  median = optimize.brentq(lambda t: above(t) - 0.5, low + 1e-9, high - 1e-9)
  mean = integrate.quad(
    lambda x: density(x) * np.log(x / median), median, high, limit=200
  )[0]
  expected = 1 + 0.5 / mean
  found = spectra.null_alpha_hill(1000, round(1000 * y))
  assert found == pytest.approx(expected, rel=1e-3)


def test_a_heavier_spectrum_has_a_smaller_index():
  normal = spectra.relative_tail_index(RNG.standard_normal((256, 128)))
  heavy = spectra.relative_tail_index(RNG.standard_t(1.5, (256, 128)))
  assert heavy < 0.8 < normal


@pytest.mark.parametrize("seed", [0, 1])
def test_the_power_law_is_that_of_powerlaw(seed):
  powerlaw = pytest.importorskip("powerlaw")
  rng = np.random.default_rng(seed)
  w = rng.standard_t(2.0, (120, 100))
  x = np.asarray(spectra.eigenvalues(w), float)
  found = spectra.power_law(x)
  expected = powerlaw.Fit(x, verbose=False)
  assert float(found.xmin) == pytest.approx(expected.xmin, rel=1e-5)
  assert float(found.alpha) == pytest.approx(expected.alpha, rel=1e-3)
  assert float(found.distance) == pytest.approx(expected.D, abs=1e-4)


@pytest.mark.parametrize(
  "w",
  [
    np.zeros((60, 60)),
    np.ones((60, 60)),  # rank one
    np.full((60, 60), np.nan),
    np.eye(60),  # all eigenvalues are equal
    np.ones((1, 60)),
    np.where(np.eye(60, dtype=bool), np.inf, 1.0),
  ],
  ids=["zero", "rank one", "nan", "equal", "one row", "inf"],
)
def test_a_matrix_without_a_tail_has_index_0(w):
  w = np.float32(w)
  assert spectra.alpha_hill(spectra.eigenvalues(w)) == 0
  assert spectra.relative_tail_index(w) == 0


def test_errors():
  with pytest.raises(ValueError, match=r"float32 \[3\]"):
    spectra.eigenvalues(np.ones(3, np.float32))
  with pytest.raises(ValueError, match=r"\(2,\)"):
    spectra.power_law(np.ones(2))
  with pytest.raises(ValueError, match="got 0"):
    spectra.null_alpha_hill(0, 3)
  with pytest.raises(ValueError, match="each matrix"):
    track_weight_tail_index(per_layer=False)
  with pytest.raises(ValueError, match="pass them to update"):
    tx = track_weight_tail_index()
    tx.update(jnp.ones([60, 60]), tx.init(jnp.ones([60, 60])))
  with pytest.raises(ValueError, match=r"low .*-1"):
    scale_by_layer("weight_tail_index", -1.0, 1.0)
  with pytest.raises(ValueError, match="track_weight_tail_index"):
    tx = scale_by_layer("weight_tail_index", 0.5, 1.5)
    tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def some_params():
  return {
    "bias": jnp.ones(64),
    "blocks": jnp.float32(RNG.standard_normal((2, 64, 80))),
    "conv": jnp.float32(RNG.standard_normal((3, 3, 10, 60))),
    "small": jnp.ones([10, 10]),
    "square": jnp.float32(RNG.standard_normal((64, 64))),
  }


def test_the_tracker_measures_every_matrix_every_few_steps():
  params = some_params()
  tx = track_weight_tail_index(every_k_steps=3, per_layer="blocks")
  state = tx.init(params)
  update = jax.jit(tx.update)
  first = None
  for step in range(4):
    moved = jax.tree.map(lambda x, t=step: x ** (1 + t), params)
    updates, state = update(params, state, moved)
    assert updates is not None
    expected = [
      0.0,
      *(spectra.relative_tail_index(x) for x in moved["blocks"]),
      spectra.relative_tail_index(moved["conv"].reshape(90, 60)),
      0.0,
      spectra.relative_tail_index(moved["square"]),
    ]
    if step == 0:
      first = expected
    wanted = expected if step == 3 else first
    np.testing.assert_allclose(state.weight_tail_index, wanted, rtol=1e-3)
  bad = params | {"square": params["square"].at[0, 0].set(jnp.nan)}
  before = state.weight_tail_index
  for _ in range(3):
    _, state = update(params, state, bad)
  assert state.weight_tail_index[-1] == before[-1]
  assert np.all(np.isfinite(state.weight_tail_index))


@pytest.mark.devices(8)
def test_sharded_parameters_have_the_same_readings():
  params = some_params()
  tx = track_weight_tail_index()
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("x"))
  sharded = params | {"square": jax.device_put(params["square"], split)}
  whole, parts = (
    jax.jit(tx.update)(p, tx.init(p), p)[1].weight_tail_index
    for p in (params, sharded)
  )
  np.testing.assert_allclose(whole, parts, rtol=1e-4)


def linear_map(x, low, high):
  """The map of TempBalance's code, over the layers that have a number."""
  x = np.float64(x)
  share = (x - x.min()) / (x.max() - x.min())
  return low + (high - low) * share


@pytest.mark.parametrize("low, high", [(0.5, 1.5), (1.0, 3.0), (3.0, 1.0)])
def test_learning_rates_by_layer(low, high):
  """TempBalance, LLR, and LLR reversed."""
  params = some_params()
  index = jnp.float32([0.0, 2.1, 3.7, 0.0, 2.9])
  tx = scale_by_layer("weight_tail_index", low, high, unknown=0.25)
  updates, state = tx.update(params, tx.init(params), weight_tail_index=index)
  expected = np.full(5, 0.25)
  expected[[1, 2, 4]] = linear_map(index[jnp.array([1, 2, 4])], low, high)
  np.testing.assert_allclose(state.layer_scale, expected, rtol=1e-6)
  for name, factor in zip(params, expected):
    np.testing.assert_allclose(updates[name], factor * params[name], rtol=1e-6)
  equal = jnp.where(index > 0, 2.0, 0.0)
  _, state = tx.update(params, state, weight_tail_index=equal)
  np.testing.assert_allclose(
    state.layer_scale, np.where(index > 0, (low + high) / 2, 0.25)
  )
  _, state = tx.update(params, state, weight_tail_index=0 * index)
  np.testing.assert_allclose(state.layer_scale, 0.25)


def test_weight_decay_by_layer():
  """AlphaDecay: the decay follows the index, the update does not."""
  params = some_params()
  index = jnp.float32([0.0, 2.1, 3.7, 0.0, 2.9])
  grads = jax.tree.map(lambda x: 0.1 * x**2, params)
  rate = optax.linear_schedule(0.1, 0.0, 2)
  tx = scale_by_layer("weight_tail_index", 0.67, 3.0, weight_decay=rate)
  state = tx.init(params)
  for decay in (0.1, 0.05):
    updates, state = tx.update(grads, state, params, weight_tail_index=index)
    factors = np.ones(5)
    factors[[1, 2, 4]] = linear_map(index[jnp.array([1, 2, 4])], 0.67, 3.0)
    for name, factor in zip(params, factors):
      expected = grads[name] + decay * factor * params[name]
      np.testing.assert_allclose(updates[name], expected, atol=1e-6)
  bad = grads | {"bias": grads["bias"].at[0].set(jnp.nan)}
  updates, state = tx.update(bad, state, params, weight_tail_index=index)
  assert not any(np.any(x) for x in updates.values())
  assert state.step_count == 3


def test_a_response_changes_the_map():
  """The square root is another published map of TempBalance."""
  params = some_params()
  index = jnp.float32([1.0, 4.0, 9.0, 0.0, 0.0])
  tx = scale_by_layer(Reading("weight_tail_index", jnp.sqrt), 0.0, 1.0)
  _, state = tx.update(params, tx.init(params), weight_tail_index=index)
  np.testing.assert_allclose(state.layer_scale, [0.0, 0.5, 1.0, 1.0, 1.0])


def test_tracker_and_listener_in_a_relay():
  params = some_params()
  tx = relay(
    track_weight_tail_index(relative=False),
    scale_by_layer("weight_tail_index", 0.5, 1.5),
    optax.sgd(1.0),
  )
  _, state = jax.jit(tx.update)(params, tx.init(params), params)
  index = np.asarray(optax.tree.get(state, "weight_tail_index"))
  expected = np.ones(5)
  expected[index > 0] = linear_map(index[index > 0], 0.5, 1.5)
  found = optax.tree.get(state, "layer_scale")
  np.testing.assert_allclose(found, expected, rtol=1e-5)
