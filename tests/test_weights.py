"""Readings of the weights, and the published rules that they steer.

float32 and NumPy's float64 agree on a tail index to 1e-3 or better; the updates
that follow from it are compared to 1e-3 as well.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import reference

from htga_optax import (
  Reading,
  add_decayed_weights_by_layer,
  by_layer,
  layer_names,
  relay,
  scale_by_layer,
  spectra,
  track_weight_tail_index,
)

set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
INDEX = Reading("weight_tail_index")
RATIO = Reading("weight_tail_ratio")


def weights(seed=0, dtype=jnp.float32):
  """Matrices of several kinds, with and without a heavy tail."""
  rng = np.random.default_rng(seed)
  tree = {
    "blocks": {"kernel": rng.standard_normal((2, 60, 80))},
    "conv": {"kernel": rng.standard_t(2, (3, 3, 8, 64)), "bias": np.zeros(64)},
    "dense": {"kernel": rng.standard_t(1.5, (60, 80)), "bias": np.ones(80)},
    "embedding": rng.standard_normal((200, 60)),
    "small": rng.standard_normal((200, 49)),
  }
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def expected(params):
  """The tail index of every layer, by NumPy."""
  alpha = lambda w: reference.pl_alpha_hill(
    np.linalg.svd(np.asarray(w, float), compute_uv=False) ** 2
  )
  blocks, conv, dense = (
    params[k]["kernel"] for k in ("blocks", "conv", "dense")
  )
  found = {f"blocks/kernel/{i}": alpha(blocks[i]) - 1 for i in range(2)}
  found["conv/kernel"] = alpha(conv.reshape(72, 64)) - 1
  found["dense/kernel"] = alpha(dense) - 1
  return [found.get(name, 0.0) for name in layer_names(params, "blocks")]


def measured(tx, params, state=None):
  state = tx.init(params) if state is None else state
  return jax.jit(tx.update)(params, state, params)[1]


def test_it_measures_every_matrix_by_its_layer():
  params = weights()
  state = measured(track_weight_tail_index(per_layer="blocks"), params)
  index = expected(params)
  np.testing.assert_allclose(state.weight_tail_index, index, rtol=1e-3)
  shapes = {
    "blocks/kernel/0": (60, 80),
    "blocks/kernel/1": (60, 80),
    "conv/kernel": (72, 64),
    "dense/kernel": (60, 80),
  }
  ratio = by_layer(state.weight_tail_ratio, params, "blocks")
  for (name, found), value in zip(ratio.items(), index):
    null = spectra.null_alpha(*shapes.get(name, (2, 3))) - 1
    assert found == pytest.approx(value / null, rel=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_other_dtypes(dtype):
  w = weights()["dense"]["kernel"].astype(dtype)
  w = w * (1 + 1j) if dtype == jnp.complex64 else w
  state = measured(track_weight_tail_index(), {"w": w})
  np.testing.assert_allclose(
    state.weight_tail_index, spectra.tail(w).tail_index, rtol=1e-3
  )


def test_it_measures_every_k_steps_until_the_end():
  tx = track_weight_tail_index(every_k_steps=2, until_step=4)
  state, seen = None, []
  for seed in range(7):
    params = {"w": weights(seed)["dense"]["kernel"]}
    state = measured(tx, params, state)
    seen.append(float(state.weight_tail_index[0]))
  of = lambda seed: spectra.tail(weights(seed)["dense"]["kernel"]).tail_index
  assert seen == pytest.approx([float(of(i)) for i in (0, 0, 2, 2, 2, 2, 2)])


@pytest.mark.parametrize("bad", ["nan", "zeros", "rank one", "orthogonal"])
def test_a_matrix_without_an_estimate_keeps_its_reading(bad):
  rng = np.random.default_rng(0)
  good = {"w": weights()["dense"]["kernel"], "v": weights()["small"][:, :49]}
  w = {
    "nan": np.full((60, 80), np.nan),
    "zeros": np.zeros((60, 80)),
    "rank one": np.outer(rng.standard_normal(60), rng.standard_normal(80)),
    "orthogonal": np.linalg.qr(rng.standard_normal((80, 80)))[0][:60],
  }[bad]
  tx = track_weight_tail_index(every_k_steps=1)
  known = measured(tx, good)
  after = measured(tx, good | {"w": jnp.asarray(w, jnp.float32)}, known)
  np.testing.assert_array_equal(after[:2], known[:2])
  first = measured(tx, good | {"w": jnp.asarray(w, jnp.float32)})
  assert not np.any(first[:2])


@pytest.mark.devices(8)
@pytest.mark.parametrize(
  "axis_type",
  [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)],
  ids=str,
)
def test_sharded_parameters_give_the_same_readings(axis_type):
  params = {k: weights()[k] for k in ("blocks", "conv", "dense")}
  tx = track_weight_tail_index(per_layer="blocks")
  alone = measured(tx, params)
  mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
  with set_mesh(mesh):
    spec = lambda x: P(*[None] * (x.ndim - 1), "model")
    sharded = jax.tree.map(
      lambda x: jax.device_put(x, NamedSharding(mesh, spec(x))), params
    )
    state = measured(tx, sharded, jax.jit(tx.init)(sharded))
  for one, other in zip(alone, state):
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.devices(8)
def test_parts_of_a_matrix_are_refused():
  mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
  params = {"w": jnp.ones([80, 60])}
  tx = track_weight_tail_index(rows=lambda name, shape: 1)
  step = jax.shard_map(
    lambda p, s: tx.update(p, s, p)[1],
    mesh=mesh,
    in_specs=(P("model"), P()),
    out_specs=P(),
  )
  with pytest.raises(ValueError, match="whole arrays, so keep it outside"):
    jax.eval_shape(step, params, tx.init(params))


def test_bad_arguments_of_the_tracker():
  with pytest.raises(
    ValueError, match="per_layer must be True or a string, got F"
  ):
    track_weight_tail_index(per_layer=False)
  with pytest.raises(TypeError, match=r"rows must be a function.*got 1"):
    track_weight_tail_index(rows=1)  # pyright: ignore
  with pytest.raises(ValueError, match="until_step must be at least 0, got -1"):
    track_weight_tail_index(until_step=-1)
  params = weights()
  tx = track_weight_tail_index()
  with pytest.raises(ValueError, match="pass params to update"):
    tx.update(params, tx.init(params))
  three = track_weight_tail_index(rows=lambda name, shape: 3)
  with pytest.raises(
    ValueError, match=r"from 1 to 2 for 'blocks/kernel' .*got 3"
  ):
    three.init(params)
  with pytest.raises(
    ValueError, match=r"put track_weight_tail_index.* before it"
  ):
    scale_by_layer(INDEX, 0.5, 1.5).update(
      params, scale_by_layer(INDEX, 0.5, 1.5).init(params)
    )


# -- the linear map -----------------------------------------------------------


@pytest.mark.parametrize(
  "readings, low, high",
  [
    ([1.0, 3.0, 2.0, 0.0, 1.5], 0.5, 1.5),
    ([1.0, 3.0, 2.0, 0.0, 1.5], 3.0, 1.0),  # reversed
    ([2.0, 2.0, 0.0, 2.0, 2.0], 0.5, 1.5),  # nothing to compare
    ([0.0, 0.0, 4.0, 0.0, 0.0], 0.5, 1.5),
    ([0.0] * 5, 0.5, 1.5),
    ([1e-6, 1e6, 1.0, 2.0, 3.0], 0.0, 2.0),
  ],
)
def test_factors_are_those_of_np_interp(readings, low, high):
  updates = [jnp.ones(2) for _ in readings]
  tx = scale_by_layer(INDEX, low, high)
  got, state = tx.update(
    updates, tx.init(updates), weight_tail_index=jnp.asarray(readings)
  )
  factors = reference.linear_map(readings, low, high)
  np.testing.assert_allclose(state.layer_factor, factors, atol=1e-6)
  np.testing.assert_allclose([u[0] for u in got], factors, atol=1e-6)


def test_fixed_ends_and_a_response():
  updates = [jnp.ones(2) for _ in range(4)]
  x = np.float32([0.5, 1.5, 9.0, 0.0])
  tx = scale_by_layer(INDEX, 1.0, 3.0, ends=(1.0, 2.0))
  _, state = tx.update(updates, tx.init(updates), weight_tail_index=x)
  np.testing.assert_allclose(state.layer_factor, [1.0, 2.0, 3.0, 1.0])
  squared = Reading("weight_tail_index", lambda x: x**2)
  tx = scale_by_layer(squared, 1.0, 3.0, ends=(1.0, 4.0))
  _, state = tx.update(updates, tx.init(updates), weight_tail_index=x)
  np.testing.assert_allclose(state.layer_factor, [1.0, 1 + 2.5 / 3, 3.0, 1.0])


def test_bad_arguments_of_the_map():
  with pytest.raises(TypeError, match=r"must be a Reading.*got 2\.0"):
    scale_by_layer(2.0, 0.5, 1.5)  # pyright: ignore
  with pytest.raises(ValueError, match=r"low must be a finite number.*got -1"):
    scale_by_layer(INDEX, -1.0, 1.5)
  with pytest.raises(ValueError, match=r"ends must be two.*\(2.0, 1.0\)"):
    scale_by_layer(INDEX, 0.5, 1.5, ends=(2.0, 1.0))
  with pytest.raises(ValueError, match="per_layer must be True or a string"):
    scale_by_layer(INDEX, 0.5, 1.5, per_layer=False)
  tx, updates = scale_by_layer(INDEX, 0.5, 1.5), [jnp.ones(2), jnp.ones(2)]
  with pytest.raises(
    ValueError, match=r"one for each of 2 layers, got shape \(3"
  ):
    tx.update(updates, tx.init(updates), weight_tail_index=jnp.ones(3))


# -- the published rules, step by step ----------------------------------------


def train(tx, params, grads):
  def step(carry, g):
    params, state = carry
    updates, state = tx.update(g, state, params)
    return (optax.apply_updates(params, updates), state), None

  run = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads))
  return run()[0][0]


def problem(steps=6):
  rng = np.random.default_rng(1)
  names = ("first", "middle", "wide", "last")
  shapes = ((60, 60), (60, 60), (60, 120), (120, 60))
  params = {
    name: {"kernel": rng.standard_t(3, s), "bias": np.zeros(s[1])}
    for name, s in zip(names, shapes)
  }
  grads = jax.tree.map(
    lambda x: 5 * rng.standard_t(3, (steps, *x.shape)), params
  )
  return jax.tree.map(jnp.float32, (params, grads))


def alphas(params, names):
  return [
    reference.pl_alpha_hill(
      np.linalg.svd(params[name]["kernel"], compute_uv=False) ** 2
    )
    for name in names
  ]


def twin(params, grads, names, every, until, rule):
  """A loop over steps and layers; `rule` makes the new value of a leaf."""
  params = jax.tree.map(lambda x: np.asarray(x, float), params)
  for t in range(len(grads["first"]["bias"])):
    if t % every == 0 and t < until:
      found = dict(zip(names, alphas(params, names)))
    for layer, leaves in params.items():
      for leaf, x in leaves.items():
        alpha = found.get(layer) if leaf == "kernel" else None
        g = np.asarray(grads[layer][leaf][t], float)
        leaves[leaf] = rule(x, g, alpha, list(found.values()))
  return params


def close(params, expected):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3),
    params,
    expected,
  )


def test_temp_balance_is_its_rule():
  """All layers except the first and the last, at the start of an epoch."""
  params, grads = problem()

  def rows(name, shape):
    if name.startswith(("first", "last")):
      return None
    return spectra.kernel_rows(name, shape)

  tx = relay(
    track_weight_tail_index(every_k_steps=3, rows=rows),
    optax.sgd(0.1),
    scale_by_layer(INDEX, low=0.5, high=1.5),
  )

  def rule(x, g, alpha, found):
    rate = 0.1
    if alpha is not None:
      rate = np.interp(alpha, [min(found), max(found)], [0.05, 0.15])
    return x - rate * g

  expected = twin(params, grads, ["middle", "wide"], 3, 99, rule)
  close(train(tx, params, grads), expected)


def test_alpha_decay_is_its_rule():
  params, grads = problem()
  tx = relay(
    track_weight_tail_index(every_k_steps=2),
    add_decayed_weights_by_layer(0.5, INDEX, low=0.67, high=3.0),
    optax.scale_by_learning_rate(0.1),
  )

  def rule(x, g, alpha, found):
    decay = 0.5
    if alpha is not None:
      ends = [min(found), max(found)]
      decay = np.interp(alpha, ends, [0.67 * 0.5, 3 * 0.5])
    return x - 0.1 * (g + decay * x)

  close(
    train(tx, params, grads), twin(params, grads, list(params), 2, 99, rule)
  )


@pytest.mark.slow
def test_weight_decay_has_a_mask():
  mask = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
  params = {"a": jnp.ones([2, 2]), "b": jnp.ones(2), "c": jnp.ones([2, 2])}
  updates = jax.tree.map(jnp.zeros_like, params)
  tx = add_decayed_weights_by_layer(0.5, INDEX, 1.0, 3.0, mask=mask)
  x = jnp.asarray([1.0, 2.0, 5.0])
  got, _ = tx.update(updates, tx.init(params), params, weight_tail_index=x)
  for name, value in {"a": 0.5, "b": 0.0, "c": 1.5}.items():
    np.testing.assert_allclose(got[name], value)


@pytest.mark.parametrize("reading", [INDEX, RATIO], ids=["raw", "ratio"])
def test_llr_is_its_rule(reading):
  """Measured in the first 20 percent; the factors stay after that."""
  params, grads = problem(steps=10)
  tx = relay(
    track_weight_tail_index(every_k_steps=1, until_step=2),
    optax.sgd(0.1),
    scale_by_layer(reading, low=1.0, high=3.0),
  )
  shapes = {n: p["kernel"].shape for n, p in params.items()}
  names = list(params)

  def rule(x, g, alpha, found):
    rate = 0.1
    if alpha is not None:
      values = np.asarray(found)
      if reading is RATIO:
        nulls = [spectra.null_alpha(*shapes[n]) - 1 for n in names]
        values = (values - 1) / nulls
      value = values[found.index(alpha)]
      rate = 0.1 * np.interp(value, [min(values), max(values)], [1.0, 3.0])
    return x - rate * g

  close(train(tx, params, grads), twin(params, grads, names, 1, 2, rule))
