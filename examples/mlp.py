"""A multilayer perceptron of plain arrays, and images made ready for it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Params = list[tuple[jax.Array, jax.Array]]


def init(key: jax.Array, sizes: tuple[int, ...], gain: float = 1.0) -> Params:
  """Weights N(0, gain/inputs) and biases of zero, a pair a layer."""
  keys = jax.random.split(key, len(sizes))
  return [
    (jax.random.normal(k, (m, n)) * (gain / m) ** 0.5, jnp.zeros(n))
    for k, m, n in zip(keys, sizes, sizes[1:])
  ]


def apply(
  activation: Callable[[jax.Array], jax.Array], params: Params, x: jax.Array
) -> jax.Array:
  """Outputs [n, classes] of inputs [n, pixels]."""
  *hidden, (w, b) = params
  for v, a in hidden:
    x = activation(x @ v + a)
  return x @ w + b


def standardise(
  train: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Rows of pixels, each of mean 0 and variance 1 over the first images.

  Of images [n, height, width, channels] every other row and column, for speed.
  A pixel that is always the same is 0, and none is more than 5 in size: at the
  rim of a picture are pixels that few images use.
  """
  flat = [
    x[:, ::2, ::2].reshape(len(x), -1).astype(np.float32)
    for x in (train, *others)
  ]
  mean, sd = flat[0].mean(axis=0), flat[0].std(axis=0)
  unit = np.where(sd > 0, sd, 1)
  return tuple(np.clip((x - mean) / unit, -5, 5) for x in flat)
