r"""The tail index of the entries of a gradient, for a million and more.

The norms of the steps are one sample, with one value a step. The entries of one
gradient are another sample, and one step has all of it:

    alpha = k / sum_(|g_i| > u) log(|g_i|/u),    u = |g|_(k+1),

This is Hill's estimator. Its threshold u is found by counting, so no entry is
moved: the tree may be large, in half precision, and sharded.
"""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from htga_optax import _checks, order_statistics

# A tail of fewer entries has no index.
_SMALLEST_TAIL = 8


def tail_size(n: int, tail_fraction: float) -> int:
  """Computes k, the size of the tail of n entries: ceil(tail_fraction n).

  Args:
    n: how many entries there are.
    tail_fraction: the share of them that is the tail, in (0, 1).

  Returns:
    k, less than n; 0 where it is below eight.

  Raises:
    TypeError: `tail_fraction` is an array.
    ValueError: it is outside (0, 1).
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

  What it does not do: give an interval. The entries of one gradient are not
  independent and do not have one law (a layer with larger entries than the
  others makes a tail of its own): compare layers, steps and tail fractions.
  With a million entries and k = 1 percent of them, the bias is larger than the
  noise anyway: the estimate is 8.9 for Gaussian entries, 5.5 for Laplace's and
  2.9 for Student's :math:`t_3` (measured; the index of the last is 3, the
  others have none).

  Args:
    tree: an array or a tree of them, floating-point, [n] entries in all; a
      complex entry counts as its two parts, None leaves are left out.
    tail_fraction: f, the share of the entries that is the tail (static).
    shard_axis_name: the mapped axes over which the entries are split, under
      `jax.shard_map` and `jax.pmap`; under jit a sharded tree needs none. See
      :func:`order_statistics.kth_largest`, which finds u.

  Returns:
    The tail index, float32 []. It is nan where k is below eight, an entry is
    nan or infinite, u is zero (more than n - k entries are zero), or the k + 1
    largest are equal.

  Raises:
    TypeError: a leaf is not floating-point.
    TypeError: `tail_fraction` is an array.
    ValueError: it is outside (0, 1).

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
