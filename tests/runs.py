"""A small training loop, and every optimizer of the package to run in it.

The model is linear, so the result of a run is known: the parameters converge to
WEIGHTS, and the Hessian is near the identity.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import htga_optax

WINDOW_SIZE, K = 32, 4
_SIZES = {"window_size": WINDOW_SIZE, "k": K}

OPTIMIZERS = {
  "scale_by_htga": lambda: optax.chain(
    htga_optax.scale_by_htga(**_SIZES), optax.sgd(0.1)
  ),
  "htga": lambda: htga_optax.htga(0.1, momentum=0.5, **_SIZES),
  "tail_index_sgd": lambda: htga_optax.tail_index_sgd(
    0.1, momentum=0.5, nesterov=True, **_SIZES
  ),
  "truncated_heavy_tailed_sgd": lambda: htga_optax.truncated_heavy_tailed_sgd(
    0.1, threshold=0.5, key=3
  ),
  "ahtsgd": lambda: htga_optax.ahtsgd(
    0.1,
    scale=1e-3,
    key=3,
    momentum=0.5,
    max_jump=100.0,
    every_k_steps=2,
    decay=0.5,
  ),
}
# The optimizers that read the tail index of the gradient's norm.
WITH_A_WINDOW = ("scale_by_htga", "htga", "tail_index_sgd")

WEIGHTS = np.linspace(-2, 3, 6).astype(np.float32)


def params():
  return {"w": jnp.zeros(6), "b": jnp.float32(1.0)}


def batch(t, size=32):
  """The batch of step t: features [size, 6] and labels with noise of 0.1."""
  key, other = jax.random.split(jax.random.fold_in(jax.random.key(0), t))
  x = jax.random.normal(key, (size, 6))
  return x, x @ WEIGHTS + 0.1 * jax.random.normal(other, (size,))


@functools.partial(jax.jit, static_argnums=0)
def batches(steps):
  """The batches of many steps, stacked."""
  return jax.vmap(batch)(jnp.arange(steps))


def loss(params, batch):
  """Half the mean squared error; products are in the parameters' dtype."""
  x, y = batch
  prediction = x.astype(params["w"].dtype) @ params["w"] + params["b"]
  return jnp.mean(jnp.square(prediction.astype(jnp.float32) - y)) / 2


def excess(params):
  """The expected loss above that of the best parameters, 8.4 at the start."""
  error = jnp.append(params["w"] - WEIGHTS, params["b"])
  return jnp.sum(error.astype(jnp.float32) ** 2) / 2


def gradient(params, batch, scale=1.0):
  """The arguments of an update, from both halves of a batch, times a scale."""
  first, second = (tuple(a[i::2] for a in batch) for i in (0, 1))
  scaled = jax.grad(lambda p, batch: scale * loss(p, batch))
  grads = scaled(params, first)
  return grads, {
    "noise_updates": jax.tree.map(jnp.subtract, scaled(params, second), grads),
    "value_fn": lambda p: loss(p, first),
  }
