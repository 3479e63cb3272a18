"""A multilayer perceptron of plain arrays, and the images that it takes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = list[jax.Array]


def init(key: jax.Array, sizes: tuple[int, ...], gain: Any = 1.0) -> Params:
  """Initial parameters: a matrix [inputs + 1, outputs] for each layer.

  The last row of a matrix holds the biases. Weights are drawn from
  N(0, gain/inputs). Biases are zero.
  """
  keys = jax.random.split(key, len(sizes))
  return [
    jnp.pad(jax.random.normal(k, (m, n)) * (gain / m) ** 0.5, [(0, 1), (0, 0)])
    for k, m, n in zip(keys, sizes, sizes[1:])
  ]


def apply(
  activation: Callable[[jax.Array], jax.Array], params: Params, x: jax.Array
) -> jax.Array:
  """The outputs [n, classes] for inputs [n, pixels]."""
  *hidden, last = params
  for w in hidden:
    x = activation(x @ w[:-1] + w[-1])
  return x @ last[:-1] + last[-1]


def standardise(
  train: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Flattens images, and scales each pixel to mean 0 and variance 1.

  The means and variances are those of the images in `train`. For speed, only
  every other row and column of the images [n, height, width, channels] is kept.
  A constant pixel becomes 0. Values are clipped to [-5, 5], because few images
  use the pixels at the border.
  """
  flat = [
    x[:, ::2, ::2].reshape(len(x), -1).astype(np.float32)
    for x in (train, *others)
  ]
  mean, sd = flat[0].mean(axis=0), flat[0].std(axis=0)
  unit = np.where(sd > 0, sd, 1)
  return tuple(np.clip((x - mean) / unit, -5, 5) for x in flat)
