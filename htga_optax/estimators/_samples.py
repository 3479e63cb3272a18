"""Prepares samples for all estimators: checks, largest values, logarithms."""

import math
import statistics

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks

_LIMITS = np.finfo(np.float32)
_EPSILON = float(_LIMITS.eps)
_TOP = 100  # a sample out of range is scaled to a maximum near 2^100


def check_tail_size(k: int, n: int, of: str) -> None:
  """Raises ValueError unless n values contain k and a threshold below them."""
  if not 1 <= _checks.check_size("k", k) < n:
    raise ValueError(
      "k must be below n, to leave one value as the threshold, got"
      f" k={k} for {of} {n}."
    )


def _normal_score(level: float) -> float:
  """The z for which a standard normal is in [-z, z] at probability `level`."""
  _checks.check_number("level", level, lambda v: 0 < v < 1, "be in (0, 1)")
  return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _sample(x: ArrayLike, name: str = "x") -> jax.Array:
  """Converts a sample to float32, [n]."""
  x = jnp.asarray(_checks.check_sample(name, x), jnp.float32)
  if x.ndim != 1:
    raise ValueError(
      f"{name} must be one-dimensional, got shape {x.shape}; use jax.vmap."
    )
  return x


def in_range(x: ArrayLike, name: str = "x") -> jax.Array:
  """Converts a sample to float32, scaled by a power of two if necessary, [n].

  A sample on the host may have values outside the range of float32. It is then
  scaled so that its largest absolute value is near 2^100. Only estimators that
  do not depend on the scale may use this function.
  """
  found = _checks.check_sample(name, x)
  if isinstance(found, np.ndarray) and np.issubdtype(found.dtype, np.floating):
    sizes = np.abs(found[np.isfinite(found) & (found != 0)])
    if sizes.size and not (
      np.min(sizes) >= _LIMITS.tiny and np.max(sizes) <= _LIMITS.max
    ):
      found = np.ldexp(found, _TOP - np.frexp(np.max(sizes))[1])
  return _sample(found, name)


def _largest(x: jax.Array, count: int) -> jax.Array:
  """The `count` largest values in descending order, where nan is first."""
  # Without the barrier, XLA on CPU sorts all of x for a slice of top_k.
  return lax.optimization_barrier(lax.top_k(x, count)[0])


def log_excesses(
  tail: jax.Array, threshold: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """log(tail/threshold), and whether all are finite and one is not zero.

  They are 1 where they are not usable, so that gradients stay finite.
  """
  largest = jnp.maximum(tail[0], tail[-1])
  usable = (largest > threshold) & (largest < 1e38 * threshold)
  threshold = jnp.where(usable, threshold, 1.0)
  # (XLA would put `where(usable, tail, ...)` into a kernel of its own.)
  tail = jnp.where(tail > threshold, tail, threshold)
  logs = jnp.log(jnp.minimum(tail, float(_LIMITS.max)) / threshold)
  return jnp.where(usable, logs, 1.0), usable


def _excess_moments(descending: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and mean square of the k log-excesses, k = 1, ..., n - 1: [n - 1]."""
  k = np.arange(1, descending.size, dtype=np.float32)
  usable = (descending > 0) & (descending[0] < jnp.inf)
  logs = _log(descending, usable)
  # If the threshold falls by a spacing, all excesses above it grow by it.
  spacings = jnp.where(usable[1:], logs[:-1] - logs[1:], jnp.nan)
  sums = jnp.cumsum(k * spacings)
  before = jnp.concatenate([jnp.zeros([1]), sums[:-1]])
  squares = jnp.cumsum(2 * spacings * before + k * spacings**2)
  return sums / k, squares / k


def _regular(n: int) -> jax.Array:
  """Values that replace a degenerate sample, to keep gradients finite."""
  return jnp.asarray(np.linspace(2.0, 1.0, n), jnp.float32)


def _log(x: jax.Array, usable: jax.Array) -> jax.Array:
  return jnp.log(jnp.where(usable, x, 1.0))


def _inverse(xi: jax.Array, usable: jax.Array) -> jax.Array:
  """1/xi; inf if xi <= 0 (at float32's resolution), nan if not usable."""
  return jnp.where(usable, _inverse_or_inf(xi), jnp.nan)


def _inverse_or_inf(xi: jax.Array) -> jax.Array:
  heavy = xi > _EPSILON
  return jnp.where(heavy, 1 / jnp.where(heavy, xi, 1.0), jnp.inf)


def _over_root(sd: ArrayLike, size: int, name: str) -> jax.Array:
  return jnp.asarray(sd, jnp.float32) / math.sqrt(
    _checks.check_size(name, size)
  )
