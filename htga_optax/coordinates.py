r"""Estimates the tail index of the entries of a gradient, a million and more.

The norms of the steps are one sample, with one value a step. The entries of one
gradient are another sample, which is complete in one step:

    alpha = k / sum_(|g_i| > u) log(|g_i|/u),    u = |g|_(k+1).

This is Hill's estimator. It finds the threshold u by counting and moves no
entry. The tree may therefore be large, in half precision, and sharded.
"""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from htga_optax import _checks, order_statistics

# The index of a smaller tail is not estimated.
_SMALLEST_TAIL = 8


def tail_size(n: int, tail_fraction: float) -> int:
  """Computes k, the size of the tail of n entries: ceil(tail_fraction n).

  Args:
    n: how many entries there are.
    tail_fraction: the share of the entries that form the tail, in (0, 1).

  Returns:
    k, less than n; 0 if it would be below eight.

  Raises:
    TypeError: `tail_fraction` is an array.
    ValueError: `tail_fraction` is outside (0, 1).
  """
  if isinstance(tail_fraction, jax.Array):
    raise TypeError(
      f"tail_fraction must be a static number, got {tail_fraction!r}; under"
      " optax.inject_hyperparams pass static_args=('tail_fraction', ...)."
    )
  _checks.check_number(
    "tail_fraction", tail_fraction, lambda v: 0 < v < 1, "be in (0, 1)"
  )
  k = min(math.ceil(tail_fraction * n), n - 1)
  return k if k >= _SMALLEST_TAIL else 0


def hill(
  tree: Any,
  tail_fraction: float = 0.01,
  shard_axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
  r"""Estimates the tail index of all entries of a tree, by Hill's estimator.

  .. math::
    \hat\alpha = k \Big/ \sum_{i:\,|g_i| > u} \log\frac{|g_i|}{u},
    \qquad u = |g|_{(k+1)}, \quad k = \lceil f n \rceil

  The estimate has no interval. The entries of one gradient are not independent
  and do not follow one law (a layer with larger entries than the others forms a
  tail of its own). Compare layers, steps and tail fractions instead. With a
  million entries and k = 1 percent of them, the bias is larger than the noise:
  the estimate is 8.9 for Gaussian entries, 5.5 for Laplace's and 2.9 for
  Student's :math:`t_3` (measured; the index of :math:`t_3` is 3, the other two
  laws have no index).

  Args:
    tree: an array or a tree of arrays, floating-point, with n entries in total.
      A complex entry counts as two entries, its real and imaginary parts. None
      leaves are left out.
    tail_fraction: f, the share of the entries that form the tail (static).
    shard_axis_name: the mapped axes over which the entries are split under
      `jax.shard_map` and `jax.pmap`; None under jit, also for a sharded tree.
      See :func:`order_statistics.kth_largest`, which finds u.

  Returns:
    The tail index, float32 []. It is nan if k is below eight, an entry is nan
    or infinite, u is zero (at least n - k entries are zero), or the k + 1
    largest entries are equal.

  Raises:
    TypeError: a leaf is not floating-point.
    TypeError: `tail_fraction` is an array.
    ValueError: `tail_fraction` is outside (0, 1).

  Examples:
    >>> import numpy as np
    >>> from htga_optax import coordinates
    >>> rng = np.random.default_rng(0)
    >>> gradient = {"w": rng.standard_t(2, size=(500, 1000)).astype("float32"),
    ...             "b": rng.standard_t(2, size=500).astype("float16")}
    >>> print(f"{coordinates.hill(gradient):.1f}")
    2.0
  """
  leaves = []
  for leaf in map(jnp.asarray, jax.tree.leaves(tree)):
    is_complex = jnp.iscomplexobj(leaf)
    leaves += [leaf.real, leaf.imag] if is_complex else [leaf]
  n = sum(leaf.size for leaf in leaves)
  if shard_axis_name is not None:
    n *= lax.psum(1, shard_axis_name)
  k = tail_size(n, tail_fraction)
  if not k:
    return jnp.full([], jnp.nan, jnp.float32)
  u = order_statistics.kth_largest(
    leaves, k + 1, shard_axis_name, of_magnitudes=True
  ).astype(jnp.float32)

  def excess(leaf):
    ratio = jnp.abs(leaf.astype(jnp.float32)) / u
    return jnp.sum(jnp.where(ratio > 1, jnp.log(ratio), 0.0))

  total = sum(excess(leaf) for leaf in leaves)
  if shard_axis_name is not None:
    total = lax.psum(total, shard_axis_name)
  usable = (u > 0) & (total > 0) & (total < jnp.inf)
  return jnp.where(usable, k / jnp.where(usable, total, 1.0), jnp.nan)
