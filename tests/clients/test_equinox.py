"""Equinox: parameters are modules with integers, functions and a frozen layer.

A frozen layer is None in the gradient. With `per_layer`, `init` must get None
there too; `optax.adam` needs the same.
"""

import client
import jax
import jax.numpy as jnp
import optax
import pytest

import htga_optax

eqx = client.module("equinox")
pytestmark = [client.quiet, pytest.mark.slow]


class Model(eqx.Module):
  mlp: eqx.nn.MLP
  shift: jax.Array

  def __init__(self):
    key = jax.random.key(0)
    self.mlp = eqx.nn.MLP(2, "scalar", 8, 1, activation=jnp.tanh, key=key)
    self.shift = jnp.arange(2)

  def __call__(self, x):
    return self.mlp(x + self.shift)


def loss_fn(model, x, y):
  return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@pytest.mark.parametrize("seen", ["inexact", "arrays"])
@pytest.mark.parametrize("name", ["htga", "ahtsgd"])
def test_training(name, seen):
  x, y = map(jnp.asarray, client.line())
  model = Model()
  tx = {
    "htga": htga_optax.htga(0.05, window_size=8, k=2, per_layer=True),
    "ahtsgd": htga_optax.ahtsgd(0.05, scale=1e-3, key=0),
  }[name]
  kinds = {"inexact": eqx.is_inexact_array, "arrays": eqx.is_array}
  state = tx.init(eqx.filter(model, kinds[seen]))

  @eqx.filter_jit
  def step(model, state):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
    updates, state = tx.update(
      grads, state, model, value_fn=lambda m: loss_fn(m, x, y)
    )
    return eqx.apply_updates(model, updates), state, loss

  losses = []
  for _ in range(client.STEPS):
    model, state, loss = step(model, state)
    losses.append(loss)
  assert losses[-1] < losses[0] / 2
  if name == "htga":
    indices = htga_optax.by_layer(client.tail_index_of(state), model)
    assert set(indices) == {
      f"mlp/layers/{i}/{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
  else:
    assert optax.tree.get(state, "sharpness") > 0


def test_saved_and_loaded(tmp_path):
  tx = htga_optax.htga(0.1, window_size=8, k=2)
  w = jnp.ones(3)
  state = tx.init(w)
  for _ in range(10):
    _, state = tx.update(w, state, w)
  eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
  loaded = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", tx.init(w))
  assert eqx.tree_equal(loaded, state)
