"""Makes random words by threefry2x32, counted by the place in the array."""

import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax.stable._arguments import _one_key


def _words(
  key: jax.Array, counters: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """The two words of threefry2x32, 20 rounds, for each 64-bit counter."""
  keys = key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
  x, y = counters[0] + keys[0], counters[1] + keys[1]
  for i in range(5):
    for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      x = x + y
      y = x ^ (y << np.uint32(turn) | y >> np.uint32(32 - turn))
    x = x + keys[(i + 1) % 3]
    y = y + keys[(i + 2) % 3] + np.uint32(i + 1)
  return x, y


def _counters(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """High and low word of each element's place in the array, row-major."""
  high = low = jnp.zeros(shape, jnp.uint32)
  for axis, size in enumerate(shape):
    if math.prod(shape) > 2**32:
      high = high * np.uint32(size) + _high_product(low, size)
    i = lax.broadcasted_iota(jnp.uint32, shape, axis)
    low = low * np.uint32(size) + i
    if math.prod(shape) > 2**32:
      high = high + (low < i)
  return high, low


def _high_product(x: jax.Array, size: int) -> jax.Array:
  """The upper word of x * size, computed from halves of words."""
  top, bottom = np.uint32(size >> 16), np.uint32(size & 0xFFFF)
  half, mask = np.uint32(16), np.uint32(0xFFFF)
  a = (x >> half) * bottom + ((x & mask) * bottom >> half)
  b = (x & mask) * top + (a & mask)
  return (x >> half) * top + (a >> half) + (b >> half)


def _key_words(key: ArrayLike) -> jax.Array:
  """The key of threefry2x32, uint32 [2]."""
  one = _one_key(key)
  data = jax.random.key_data(one)
  return data if data.shape == (2,) else jax.random.bits(one, (2,))
