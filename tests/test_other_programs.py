"""Programs that call `update` themselves, discard states, or pass other trees.

Such trees have leaves that are no floating-point arrays. `tests/clients` has
real programs.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import htga_optax


def bowl(w):
  return jnp.sum(jnp.asarray([1.0, 3.0, 10.0]) * w**2) / 2


# -- tell -------------------------------------------------------------------


def told_by(run, *args, every_k_steps=2):
  """The arguments of the callback when `run` uses the transformation."""
  calls = []
  tx = htga_optax.relay(
    htga_optax.track_tail_index(8, 2, per_layer=True),
    htga_optax.tell(lambda *call: calls.append(call), every_k_steps),
    optax.sgd(0.1),
  )
  run(tx, *args)
  jax.effects_barrier()
  return sorted(calls, key=lambda call: call[0])


def eager(tx, grads):
  state = tx.init(grads[0])
  for g in grads:
    _, state = tx.update(g, state, g)


def scanned(tx, grads):
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
  step = lambda state, g: tx.update(g, state, g)[::-1]
  jax.jit(lambda: jax.lax.scan(step, tx.init(grads[0]), stacked))()


@pytest.mark.parametrize("run", [eager, scanned])
def test_tell_tells_what_the_members_before_it_read(run):
  grads = [{"a": jnp.ones(4) * i, "b": jnp.ones(1) * i} for i in range(5)]
  calls = told_by(run, grads)
  assert [step for step, _ in calls] == [0, 2, 4]
  for step, told in calls:
    np.testing.assert_allclose(told["update_norm"], [2 * step, step], rtol=1e-6)
    assert isinstance(told["update_norm"], np.ndarray)
    assert told["tail_index_interval"].shape == (2, 2)


def test_tell_tells_of_every_member_of_an_ensemble():
  grads = jnp.arange(1.0, 4.0)
  calls = []
  tx = htga_optax.relay(
    htga_optax.track_tail_index(8, 2),
    htga_optax.tell(lambda step, told: calls.append((step, told)), 2),
  )
  state = jax.vmap(tx.init)(grads)
  update = jax.jit(jax.vmap(tx.update))
  for _ in range(3):
    _, state = update(grads, state)
  jax.effects_barrier()
  assert sorted((step, told["update_norm"]) for step, told in calls) == [
    (step, float(norm)) for step in (0, 2) for norm in (1, 2, 3)
  ]
  assert all(isinstance(told["update_norm"], float) for _, told in calls)


def test_tell_in_a_relay_in_a_relay_tells_all():
  told, w = [], jnp.ones(4)
  tx = htga_optax.relay(
    htga_optax.track_tail_index(8, 2),
    htga_optax.relay(
      htga_optax.track_sharpness(),
      htga_optax.tell(lambda step, given: told.append(given), 1),
    ),
  )
  tx.update(w, tx.init(w), w, value_fn=lambda w: jnp.sum(w**2), grad=w)
  jax.effects_barrier()
  (given,) = told
  assert given["update_norm"] == 2.0
  assert given["sharpness"] > 0
  assert not {"grad", "value_fn"} & set(given)


def test_tell_without_a_relay_says_where_it_belongs():
  tx, w = htga_optax.tell(print), jnp.ones(4)
  with pytest.raises(ValueError, match=r"after a tracker in htga_optax.relay"):
    tx.update(w, tx.init(w), w, tail_index=1.0)


def test_tell_takes_a_function():
  with pytest.raises(TypeError, match="callback must be a function, got 3"):
    htga_optax.tell(3)


# -- losses -----------------------------------------------------------------


def test_a_bound_loss_is_the_loss_of_the_update():
  w = jnp.ones(3)
  tx = htga_optax.track_sharpness(every_k_steps=1)
  bound = htga_optax.with_value_fn(tx, bowl)
  expected = tx.update(w, tx.init(w), w, value_fn=bowl)[1]
  for value_fn in ({}, {"value_fn": bowl}):
    state = bound.update(w, bound.init(w), w, **value_fn)[1]
    np.testing.assert_array_equal(state.sharpness, expected.sharpness)
  other = lambda w: 2 * bowl(w)
  state = bound.update(w, bound.init(w), w, value_fn=other)[1]
  np.testing.assert_allclose(state.sharpness, 2 * expected.sharpness, rtol=1e-6)


def test_a_bound_loss_feeds_a_line_search():
  w = jnp.ones(3)
  value, grads = jax.value_and_grad(bowl)(w)
  search = optax.chain(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)
  )
  tx = htga_optax.with_value_fn(search, bowl)
  updates, _ = tx.update(grads, tx.init(w), w, value=value, grad=grads)
  assert bowl(w + updates) < value


def test_without_a_loss_the_error_names_both_remedies():
  tx, w = htga_optax.ahtsgd(0.1, 0.01, key=0), jnp.ones(3)
  with pytest.raises(ValueError, match=r"value_fn=.*with_value_fn\(tx, loss\)"):
    tx.update(w, tx.init(w), w)


def test_without_a_reading_the_error_names_both_remedies():
  tx, w = optax.chain(htga_optax.scale_by_tail_index()), jnp.ones(3)
  with pytest.raises(
    ValueError, match=r"track_tail_index\(\) before it.*pass tail_index="
  ):
    tx.update(w, tx.init(w), w)


def test_the_loss_gets_further_arguments_of_the_update():
  loss = lambda w, batch, scale=1.0: scale * jnp.sum(batch * w**2) / 2
  w, batch = jnp.ones(3), jnp.asarray([1.0, 2.0, 5.0])
  tx = htga_optax.track_sharpness(every_k_steps=1, num_matvecs=9)
  for given, expected in (({}, 5.0), ({"scale": 2.0, "tau": 1.0}, 10.0)):
    _, state = tx.update(w, tx.init(w), w, value_fn=loss, batch=batch, **given)
    np.testing.assert_allclose(state.sharpness, expected, rtol=1e-4)


@pytest.mark.parametrize(
  "value_fn", [lambda w: (bowl(w), {"acc": 1.0}), lambda w: w**2]
)
def test_a_loss_that_is_not_one_number_is_refused(value_fn):
  tx, w = htga_optax.track_sharpness(), jnp.ones(3)
  with pytest.raises(TypeError, match="must return the loss, one number"):
    tx.update(w, tx.init(w), w, value_fn=value_fn)


def test_behind_flatten_the_error_says_what_the_loss_gets():
  tx = optax.flatten(htga_optax.track_sharpness())
  params = {"w": jnp.ones(3)}
  with pytest.raises(
    TypeError, match=r"one vector of 3 numbers. If optax.flatten"
  ):
    tx.update(params, tx.init(params), params, value_fn=lambda p: bowl(p["w"]))


def test_a_loss_sees_leaves_that_are_not_floating():
  """Integers and functions, as in an Equinox module."""
  params = {"w": jnp.ones(3), "ids": jnp.arange(3), "act": jnp.tanh, "n": None}

  def loss(p):
    return jnp.sum(p["act"](p["w"]) * 0 + p["ids"] * p["w"] ** 2) / 2

  tx = htga_optax.track_sharpness(every_k_steps=1, num_matvecs=9)
  for seen in (params, params | {"act": None, "ids": None}):
    state = tx.init(seen)
    grads = {"w": jnp.ones(3), "ids": None, "act": None, "n": None}
    _, state = tx.update(grads, state, params, value_fn=loss)
    np.testing.assert_allclose(state.sharpness, 2.0, rtol=1e-4)


def test_parameters_of_another_structure_are_named():
  tx = htga_optax.track_sharpness()
  state = tx.init({"a": jnp.ones(2)})
  params = {"a": jnp.ones(2), "b": jnp.ones(3)}
  with pytest.raises(ValueError, match="differ in 'b'; give both"):
    tx.update(params, state, params, value_fn=lambda p: jnp.sum(p["a"]))


# -- trees ------------------------------------------------------------------


def test_a_frozen_layer_is_named():
  params = {"body": jnp.ones(2), "head": jnp.ones(3)}
  tx = htga_optax.htga(0.1, per_layer=True)
  with pytest.raises(ValueError, match="and lack 'body': call init with"):
    tx.update(params | {"body": None}, tx.init(params), params)


def test_a_relay_takes_multi_steps_as_it_is():
  """It works as in optax.chain, and gets the reading of a tracker before it."""
  inner = htga_optax.scale_by_tail_index(beta=1.0, target=2.0)
  steps = optax.MultiSteps(inner, every_k_schedule=2)
  tx = htga_optax.relay(htga_optax.track_tail_index(8, 2), steps)
  grads = jnp.arange(1.0, 13.0)
  state = tx.init(grads[0])
  for g in grads:
    updates, state = tx.update(g, state, g)
  scale = jnp.clip(state.members[0].tail_index / 2, 0.5, 2.0)
  np.testing.assert_allclose(updates, 11.5 * scale, rtol=1e-6)


# -- modes ------------------------------------------------------------------


@pytest.mark.slow
def test_doctests_hold_in_strict_modes():
  run = "-m pytest -q -p no:cacheprovider --doctest-modules --pyargs htga_optax"
  subprocess.run(
    [sys.executable, *run.split()],
    check=True,
    timeout=600,
    env=os.environ
    | {
      "JAX_NUMPY_DTYPE_PROMOTION": "strict",
      "JAX_NUMPY_RANK_PROMOTION": "raise",
    },
  )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.devices(8)
def test_noise_on_an_explicit_mesh_that_nobody_jits(dtype):
  mesh = jax.make_mesh(
    (8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,)
  )
  spec = jax.sharding.PartitionSpec("x")
  tx = htga_optax.add_stable_noise(1.5, 0.1, key=0, max_jump=5.0)
  w = jnp.ones(16, dtype)
  expected, _ = tx.update(w, tx.init(w))
  set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
  with set_mesh(mesh):
    split = jax.device_put(w, jax.sharding.NamedSharding(mesh, spec))
    updates, _ = tx.update(split, tx.init(split))
  assert updates.sharding.spec == spec
  np.testing.assert_array_equal(np.asarray(updates), np.asarray(expected))
