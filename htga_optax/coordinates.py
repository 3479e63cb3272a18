r"""The tail index of the coordinates of a gradient, of a million and more.

The norms of the steps are one sample, a value a step; the entries of one
gradient are another, which is there at once:

    alpha = k / sum_(|g_i| > u) log(|g_i|/u),    u = |g|_(k+1),

Hill's estimator with a threshold that is found by counting, so that no entry
is moved: the tree may be large, in half precision, and sharded.
"""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from htga_optax import checks, order_statistics

# A tail of fewer entries has no index here.
_SMALLEST_TAIL = 8


def tail_size(n: int, fraction: float) -> int:
  """The k of n coordinates, ceil(fraction n); 0 where that is below eight.

  Args:
    n: how many coordinates there are.
    fraction: the part of them that is the tail, in (0, 1).

  Returns:
    k, less than n.

  Raises:
    ValueError: fraction outside (0, 1).
  """
  checks.check_number("fraction", fraction, lambda v: 0 < v < 1, "be in (0, 1)")
  k = min(math.ceil(fraction * n), n - 1)
  return k if k >= _SMALLEST_TAIL else 0


def hill(
  tree: Any,
  fraction: float = 0.01,
  axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
  r"""Hill's estimator on the absolute values of all entries of a tree.

  .. math::
    \hat\alpha = k \Big/ \sum_{i:\,|g_i| > u} \log\frac{|g_i|}{u},
    \qquad u = |g|_{(k+1)}, \quad k = \lceil f n \rceil

  What it does not do: give an interval. Coordinates of one gradient are not
  independent, nor of one law (a layer with larger entries than the others
  makes a tail of its own): compare layers, steps and fractions. At n of a
  million the bias of k = 1 percent outweighs the noise anyway: Gaussian
  entries read 8.9, Laplace's 5.5, Student's :math:`t_3` 2.9 (measured; the
  index of the last is 3, the others have none).

  Args:
    tree: an array or a tree of them, floating-point, [n] entries in all; a
      complex entry counts as its two parts, None leaves are left out.
    fraction: f, the part of the entries that is the tail (static).
    axis_name: mapped axes over which the entries are split, under
      `jax.shard_map` and `jax.pmap`; under jit a sharded tree needs none. See
      :func:`order_statistics.kth_largest`, which finds u.

  Returns:
    The tail index, float32 []; nan where k is below eight, where an entry is
    nan or infinite, or u is zero (so many entries are), or the k + 1 largest
    are equal.

  Raises:
    TypeError: a leaf is not floating-point.
    ValueError: fraction outside (0, 1).

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
  if axis_name is not None:
    n *= lax.psum(1, axis_name)
  k = tail_size(n, fraction)
  if not k:
    return jnp.full([], jnp.nan, jnp.float32)
  u = order_statistics.kth_largest(
    leaves, k + 1, axis_name, of_magnitudes=True
  ).astype(jnp.float32)

  def excess(leaf):
    ratio = jnp.abs(leaf.astype(jnp.float32)) / u
    return jnp.sum(jnp.where(ratio > 1, jnp.log(ratio), 0.0))

  total = sum(excess(leaf) for leaf in leaves)
  if axis_name is not None:
    total = lax.psum(total, axis_name)
  usable = (u > 0) & (total > 0) & (total < jnp.inf)
  return jnp.where(usable, k / jnp.where(usable, total, 1.0), jnp.nan)
