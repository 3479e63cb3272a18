"""Checks the arguments of the hSGD functions."""

import math
from typing import Any

import jax
from jax.core import Tracer
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks


def _parameters(
  eigenvalues: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: ArrayLike,
  weight_decay: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
  """The t_i [..., d] and gamma/B [...]; gamma/B is nan for invalid values."""
  _positive("learning_rate", learning_rate)
  _positive("batch_size", batch_size)
  share = _share(eigenvalues, weight_decay)
  values = jnp.asarray(eigenvalues, jnp.float32)
  learning_rate = jnp.asarray(learning_rate, jnp.float32)
  batch_size = jnp.asarray(batch_size, jnp.float32)
  valid = (
    (learning_rate > 0)
    & (batch_size > 0)
    & (jnp.asarray(weight_decay) >= 0)
    & _are_eigenvalues(values)
  )
  return values * share, jnp.where(valid, learning_rate / batch_size, jnp.nan)


def _share(eigenvalues: ArrayLike, weight_decay: ArrayLike) -> jax.Array:
  """lambda/(lambda + delta) [..., d], 0 where lambda is 0."""
  _at_least_zero("weight_decay", weight_decay)
  shape = np.shape(eigenvalues)
  if len(shape) != 1 or not shape[0]:
    raise ValueError(
      f"eigenvalues must be a non-empty vector, got shape {shape}."
    )
  if not isinstance(eigenvalues, Tracer) and not _are_eigenvalues(
    np.asarray(eigenvalues, np.float32)
  ):
    raise ValueError(
      "eigenvalues must be finite, at least 0 and not all 0, got"
      f" {np.asarray(eigenvalues).tolist()}."
    )
  values = jnp.asarray(eigenvalues, jnp.float32)
  total = values + jnp.asarray(weight_decay, jnp.float32)[..., None]
  return jnp.where(values > 0, values / jnp.where(total > 0, total, 1.0), 0.0)


def _are_eigenvalues(x: Any) -> Any:
  return ((x >= 0) & (x < math.inf)).all() & (x > 0).any()


def _excess(eigenvalues: jax.Array, y: jax.Array) -> jax.Array:
  """The loss above its minimum, L(s + y) - L(s)."""
  return jnp.asarray(eigenvalues) @ y**2 / 2


def _positive(name: str, value: object) -> None:
  _checks.check_number(
    name, value, lambda v: 0 < v < math.inf, "be positive and finite"
  )


def _at_least_zero(name: str, value: object) -> None:
  _checks.check_number(
    name, value, lambda v: 0 <= v < math.inf, "be at least 0 and finite"
  )


def _rates(learning_rate, batch_size, weight_decay):
  """Checks the arguments; returns learning rate and weight decay as arrays."""
  _positive("learning_rate", learning_rate)
  _positive("batch_size", batch_size)
  _at_least_zero("weight_decay", weight_decay)
  return jnp.float32(learning_rate), jnp.float32(weight_decay)
