"""Flax: layers stacked by `nn.scan` count as layers; nnx with LoRA trains only
the adapters, by `wrt`. (Both APIs' usual ways are in docs/use/flax.md.)"""

import client
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import pytest

import htga_optax

pytestmark = client.quiet


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return x + nn.tanh(nn.Dense(x.shape[-1])(x)), None


class Stack(nn.Module):
  @nn.compact
  def __call__(self, x):
    blocks = nn.scan(
      Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )
    x, _ = blocks(name="blocks")(x, None)
    return nn.Dense(1, name="head")(x)[:, 0]


def test_scanned_layers():
  x, y = client.line()
  model = Stack()
  params = model.init(jax.random.key(0), x)["params"]
  tx = htga_optax.htga(0.05, window_size=8, k=2, per_layer="^blocks/")
  loss = lambda p: jnp.mean((model.apply({"params": p}, x) - y) ** 2)
  params, state = client.train(loss, params, tx)
  names = htga_optax.by_layer(client.tail_index_of(state), params, "^blocks/")
  assert {f"blocks/Dense_0/kernel/{i}" for i in range(3)} < set(names)


@pytest.mark.slow
def test_lora():
  x, y = map(jnp.asarray, client.line())
  base = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
  model = nnx.LoRA(2, 2, 1, base_module=base, rngs=nnx.Rngs(1))
  tx = htga_optax.htga(0.05, window_size=8, k=2)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
  frozen = jnp.copy(base.kernel[...])

  @nnx.jit
  def step(model, optimizer):
    loss = lambda m: jnp.mean((m(x)[:, 0] - y) ** 2)
    grad = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))
    value, grads = grad(model)
    optimizer.update(model, grads)
    return value

  losses = [step(model, optimizer) for _ in range(client.STEPS)]
  assert losses[-1] < losses[0] / 2
  assert jnp.array_equal(base.kernel[...], frozen)
  client.tail_index_of(optimizer.opt_state)
