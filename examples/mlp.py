"""A multilayer perceptron of plain arrays, and images made ready for it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = list[jax.Array]


def init(key: jax.Array, sizes: tuple[int, ...], gain: Any = 1.0) -> Params:
  """A matrix [inputs + 1, outputs] a layer, in its last row the biases.

  Weights are N(0, gain/inputs), biases zero.
  """
  keys = jax.random.split(key, len(sizes))
  return [
    jnp.pad(jax.random.normal(k, (m, n)) * (gain / m) ** 0.5, [(0, 1), (0, 0)])
    for k, m, n in zip(keys, sizes, sizes[1:])
  ]


def apply(
  activation: Callable[[jax.Array], jax.Array], params: Params, x: jax.Array
) -> jax.Array:
  """Outputs [n, classes] of inputs [n, pixels]."""
  *hidden, last = params
  for w in hidden:
    x = activation(x @ w[:-1] + w[-1])
  return x @ last[:-1] + last[-1]


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
