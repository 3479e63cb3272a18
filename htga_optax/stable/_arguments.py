"""Checks the arguments of the samplers."""

from collections.abc import Callable
from typing import Any

import jax
from jax import dtypes
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks


def _one_key(key: ArrayLike) -> jax.Array:
  """One typed key, from a typed key or from key data."""
  one = jnp.asarray(key)
  if not jnp.issubdtype(one.dtype, dtypes.prng_key):
    one = jax.random.wrap_key_data(one)
  if one.shape:
    raise ValueError(
      f"key must be one key, got shape {one.shape}; use jax.vmap."
    )
  return one


def _number(
  name: str, value: ArrayLike, holds: Callable[..., Any], must: str
) -> jax.Array:
  """A parameter in float32; nan where it is out of range."""
  _checks.check_number(name, value, holds, must)
  value = jnp.asarray(value, jnp.float32)
  return jnp.where(holds(value), value, jnp.nan)


def _parameters(
  alpha: ArrayLike, beta: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  return (
    _number("alpha", alpha, lambda v: (v > 0) & (v <= 2), "be in (0, 2]"),
    _number("beta", beta, lambda v: abs(v) <= 1, "be in [-1, 1]"),
  )


def _shape(
  shape: tuple[int, ...] | None, *parameters: jax.Array
) -> tuple[int, ...]:
  """The shape of the result; the parameters must broadcast to it."""
  common = jnp.broadcast_shapes(*(x.shape for x in parameters))
  if shape is None:
    return common
  shape = tuple(shape)
  if jnp.broadcast_shapes(common, shape) != shape:
    raise ValueError(
      f"alpha and beta must broadcast to {shape}, got shape {common}."
    )
  for size in shape:
    _checks.check_number(
      "an axis of shape", size, lambda v: v < 2**32, "be shorter than 2^32"
    )
  return shape


def _dtype(dtype: Any) -> Any:
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(f"dtype must be floating point, got {jnp.dtype(dtype)}.")
  return jnp.dtype(dtype)
