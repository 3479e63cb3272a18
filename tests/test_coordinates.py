"""The tail index of a gradient's entries: by a sort, sharded, and tracked."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import coordinates


def tree_of(x):
  """The entries in three leaves and a None."""
  a, b, c = np.split(x, [7, 1001])
  return {"a": a, "none": None, "b": [b, c.reshape(-1, 2)]}


@pytest.mark.parametrize("tail_fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("law", ["t2", "laplace", "ties"])
def test_it_is_hill_of_the_sorted_magnitudes(tail_fraction, law):
  x = {
    "t2": stats.t.rvs(2, size=3001, random_state=0),
    "laplace": stats.laplace.rvs(size=3001, random_state=0),
    "ties": stats.poisson.rvs(9, size=3001, random_state=0),
  }[law].astype(np.float32)
  k = int(np.ceil(tail_fraction * x.size))
  expected = reference.hill(np.abs(x), k)
  got = jax.jit(lambda tree: coordinates.hill(tree, tail_fraction))(tree_of(x))
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_readings_of_the_docstring():
  """At n = 1e6 the standard error is 1 percent; the tolerance is 4 percent."""
  for law, reads in (
    (stats.norm, 8.9),
    (stats.laplace, 5.5),
    (stats.t(3), 2.9),
  ):
    x = law.rvs(size=1_000_000, random_state=1).astype(np.float32)
    assert abs(coordinates.hill(x) / reads - 1) < 0.04


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_ranked_in_its_own_dtype(dtype):
  x = jnp.asarray(stats.t.rvs(2, size=4000, random_state=2), dtype)
  expected = reference.hill(np.abs(np.asarray(x, np.float64)), 40)
  np.testing.assert_allclose(coordinates.hill(x), expected, rtol=1e-4)


@pytest.mark.devices(8)
def test_a_sharded_gradient_is_not_gathered():
  mesh = jax.make_mesh((8,), ("d",))
  x = stats.t.rvs(2, size=8 * 1000, random_state=3).astype(np.float32)
  sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
  hill = jax.jit(coordinates.hill)
  np.testing.assert_allclose(hill(sharded), hill(x), rtol=1e-5)
  hlo = hill.lower(sharded).compile().as_text()
  gathered = re.findall(r"= (\S+) all-gather", hlo)
  assert gathered and not [
    x for x in gathered if not re.match(r"s32\[8(,1)?\]", x)
  ]
  parts = jax.pmap(
    lambda part: coordinates.hill(part, shard_axis_name="d"), axis_name="d"
  )(x.reshape(8, 1000))
  np.testing.assert_allclose(parts, np.full(8, hill(x)), rtol=1e-5)


@pytest.mark.parametrize(
  "x",
  [
    np.zeros(1000),
    np.ones(1000),
    np.r_[np.nan, np.ones(999)],
    np.r_[np.inf, np.arange(999.0)],
    np.r_[np.ones(5), np.zeros(995)],
    np.arange(10.0),
    np.zeros(0),
  ],
)
def test_without_a_tail_there_is_no_index(x):
  assert np.isnan(coordinates.hill(np.float32(x)))


def test_the_tracker_measures_every_k_steps_and_keeps_the_last():
  tx = htga_optax.track_coordinate_tail_index(0.1, every_k_steps=3)
  rng = np.random.default_rng(4)
  grads = rng.standard_t(2, size=(7, 500)).astype(np.float32)
  grads[3, 0] = np.nan
  state, update = tx.init(grads[0]), jax.jit(tx.update)
  read = []
  for g in grads:
    _, state = update(g, state)
    read.append(float(state.coordinate_tail_index))
  first, last = (reference.hill(np.abs(grads[i]), 50) for i in (0, 6))
  np.testing.assert_allclose(read, [first] * 6 + [last], rtol=1e-5)


def test_per_layer_reads_zero_for_what_is_small():
  tx = htga_optax.track_coordinate_tail_index(
    0.1, every_k_steps=1, per_layer=True
  )
  grads = {
    "bias": jnp.ones(5),
    "none": None,
    "kernel": jnp.asarray(stats.t.rvs(2, size=(20, 20), random_state=5)),
  }
  _, state = tx.update(grads, tx.init(grads))
  read = htga_optax.by_layer(state.coordinate_tail_index, grads)
  assert read.keys() == {"bias", "kernel"} and read["bias"] == 0
  expected = reference.hill(np.abs(grads["kernel"]).ravel(), 40)
  np.testing.assert_allclose(read["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
  "kwargs, error, words",
  [
    (
      {"tail_fraction": 0.0},
      ValueError,
      r"tail_fraction must be in \(0, 1\), got 0.0",
    ),
    ({"tail_fraction": 1}, ValueError, "got 1"),
    ({"every_k_steps": 0}, ValueError, "every_k_steps must be at least 1"),
    ({"every_k_steps": 2.0}, TypeError, "every_k_steps must be a static"),
  ],
)
def test_bad_arguments_are_named(kwargs, error, words):
  with pytest.raises(error, match=words):
    htga_optax.track_coordinate_tail_index(**kwargs)


def test_gradients_and_updates_side_by_side():
  """The names of the members distinguish two trackers in one chain."""
  track = lambda: htga_optax.track_tail_index(16, 3, per_layer=True)
  tx = optax.named_chain(
    ("gradients", track()), ("adam", optax.adam(0.1)), ("updates", track())
  )
  params = {"w": jnp.zeros(3), "b": jnp.zeros(2)}
  state, update = tx.init(params), jax.jit(tx.update)
  rng = np.random.default_rng(6)
  for _ in range(20):
    grads = jax.tree.map(
      lambda x: jnp.float32(rng.standard_t(1.5, x.shape)), params
    )
    _, state = update(grads, state)
  read = {
    name: optax.tree.get(state[name], "tail_index")
    for name in ("gradients", "updates")
  }
  gradients, updates = (
    htga_optax.by_layer(read[name], params) for name in ("gradients", "updates")
  )
  assert gradients["w"] < updates["w"]
