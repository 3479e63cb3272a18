"""Computes norms of trees in float32 that neither overflow nor vanish.

The sum in

    ||g|| = sqrt(sum_i |g_i|^2)

is float32 for leaves of every dtype. A float16 norm would overflow at 65504,
and a bfloat16 norm has too few digits to distinguish norms that are close.
Squares leave the range of float32 for entries above 1e19 and below 1e-23. Only
in this case a second sum is computed,

    ||g|| = sqrt(sum_i |c g_i|^2) / c,    c = 2^-70 or 2^63,

under `lax.cond`, so that the common case reads the gradient once. Each leaf is
reduced to a number where it is stored. No leaf is raveled, concatenated or
gathered, and there is no collective without `shard_axis_name`. (:func:`norm`
first adds the squares of small leaves of one shape, and the second sum those of
all leaves of one shape, which makes fewer kernels. Where an Auto mesh shards
these leaves differently, XLA moves them.)
"""

import collections
from collections.abc import Iterable, Sequence
import functools
import math
import operator
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax._layers import PerLayer, is_floating, layers_of, leaf_name

AxisName = str | tuple[str, ...] | None

# A smaller norm is computed again. In other norms, an entry whose square
# vanishes (below 1e-23) is at most 1e-13 of the norm.
_SMALLEST = 1e-10
_TINY = 1e-30
# Up to this size, a kernel or a conditional costs more than a second read.
_SMALL_LEAF = 2**14


def norm(tree: Any, shard_axis_name: AxisName = None) -> jax.Array:
  """The Euclidean norm of all leaves together.

  Args:
    tree: a tree of real or complex floating-point leaves. None leaves are left
      out.
    shard_axis_name: the mapped axes of `jax.shard_map` or `jax.pmap` over which
      the leaves are split. None under jit, and where every device has whole
      leaves.

  Returns:
    The norm, float32 []. It is inf or nan where an entry is, and inf where the
    norm itself is beyond float32. Entries below 1e-38 count as zero, as
    everywhere in XLA. The gradient at a zero tree is zero.

  Raises:
    TypeError: a leaf is not floating point.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import norms
    >>> print(norms.norm({"b": jnp.float16([3e4, 4e4]), "w": jnp.zeros(2)}))
    50000.0
  """
  leaves = _floating(tree)
  if not leaves:
    return jnp.zeros([], jnp.float32)
  return over_shards(_norm(leaves), shard_axis_name)


def layer_norms(
  tree: Any, per_layer: PerLayer = True, shard_axis_name: AxisName = None
) -> jax.Array:
  """The Euclidean norm of every layer.

  Args:
    tree: as in :func:`norm`.
    per_layer: True if every leaf is a layer, or a regular expression that
      matches the paths of leaves with stacked layers; see
      :func:`htga_optax.layer_names`.
    shard_axis_name: as in :func:`norm`.

  Returns:
    The norms, float32 [layers], in the order of the leaves.

  Raises:
    TypeError: a leaf is not floating point.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import norms
    >>> tree = {"blocks": jnp.ones([2, 4]), "head": jnp.float32([3.0, 4.0])}
    >>> print(norms.layer_norms(tree), norms.layer_norms(tree, "blocks"))
    [2.828427 5.      ] [2. 2. 5.]
  """
  leaves = _floating(tree)
  if not leaves:
    return jnp.zeros([0], jnp.float32)
  stacked = tuple(bool(size) for _, size in layers_of(tree, per_layer))
  return over_shards(_layer_norms(leaves, stacked), shard_axis_name)


def over_shards(
  shard_norms: jax.Array, shard_axis_name: AxisName, mean: bool = False
) -> jax.Array:
  """Combines the norms of the shards of a tree, without overflow.

  Args:
    shard_norms: the norms of this device's shard, float32 [...].
    shard_axis_name: as in :func:`norm`. None returns the norms unchanged.
    mean: whether to return the root mean square over shards instead.
  """
  if shard_axis_name is None:
    return shard_norms
  largest = lax.stop_gradient(lax.pmax(shard_norms, shard_axis_name))
  unit = jnp.where(largest > 0, largest, 1.0)
  combine = lax.pmean if mean else lax.psum
  square = combine(lax.square(shard_norms / unit), shard_axis_name)
  return unit * _sqrt(square)


def scale(tree: Any, factor: jax.Array, per_layer: PerLayer = False) -> Any:
  """Multiplies a tree by one number, or every layer by its own.

  Args:
    tree: the updates.
    factor: float32 [], or [layers] if `per_layer`. A factor of 0 gives zeros,
      also for entries that are not finite.
    per_layer: as in :func:`layer_norms`; False for one factor.

  Returns:
    The scaled tree. Every leaf keeps its dtype. A leaf of less than 32 bits is
    multiplied in float32 and clipped to the range of its dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import norms
    >>> print(norms.scale(jnp.float16([1.0, 6e4]), jnp.float32(2.0)))
    [2.00e+00 6.55e+04]
    >>> print(norms.scale(jnp.float32([1.0, jnp.nan]), jnp.float32(0.0)))
    [0. 0.]
  """
  leaves, structure = jax.tree.flatten(tree)
  factors = [factor] * len(leaves)
  if per_layer:
    factors, start = [], 0
    for x, (_, size) in zip(leaves, layers_of(tree, per_layer)):
      of_leaf = factor[start]
      if size:
        of_leaf = factor[start : start + size].reshape(-1, *[1] * (x.ndim - 1))
      factors.append(of_leaf)
      start += max(size, 1)
  return jax.tree.unflatten(
    structure, map(_scale_leaf, map(jnp.asarray, leaves), factors)
  )


def add(x: ArrayLike, y: ArrayLike, keep: jax.Array) -> jax.Array:
  """Adds two leaves in the dtype of x, and clips the sum to its range.

  Args:
    x: the leaf that sets the dtype.
    y: the leaf to add.
    keep: bool []; where it is false, the result is zero.
  """
  x, y = jnp.asarray(x), jnp.asarray(y)
  if jnp.iscomplexobj(x):
    return lax.complex(add(x.real, y.real, keep), add(x.imag, y.imag, keep))
  wide = wide_dtype(x)
  largest = jnp.finfo(x.dtype).max.astype(wide)
  total = jnp.clip(x.astype(wide) + y.astype(wide), -largest, largest)
  return jnp.where(keep, total, 0).astype(x.dtype)


def wide_dtype(x: ArrayLike) -> Any:
  """The dtype to compute in: that of x, or float32 for less than 32 bits."""
  with jax.numpy_dtype_promotion("standard"):
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


def _floating(tree: Any) -> list[jax.Array]:
  """Returns the leaves; raises for the first that is not floating point."""
  for path, x in jax.tree.leaves_with_path(tree):
    if not is_floating(x):
      raise TypeError(
        f"updates must be floating point, got {_kind(x)} at"
        f" {leaf_name(path) or 'the root'!r}: put None there, or exclude it"
        " with optax.masked."
      )
  return [jnp.asarray(x) for x in jax.tree.leaves(tree)]


def _kind(x: Any) -> str:
  return str(x.dtype) if hasattr(x, "dtype") else type(x).__name__


@jax.jit  # traced once if a tracker and a listener measure the same tree
def _norm(leaves: list[jax.Array]) -> jax.Array:
  total = _sum_by_shape(leaves, largest=_SMALL_LEAF)
  # The code below uses the root, which XLA computes once. If it used the sums,
  # XLA would compute them again.
  r = jnp.sqrt(jnp.maximum(total, _TINY))  # has a finite derivative

  def again():
    c = _unit(r)
    return _sqrt(_sum_by_shape(leaves, c)) / c

  return lax.cond(_is_usual(r), lambda: r, again)


@functools.partial(jax.jit, static_argnums=1)
def _layer_norms(
  leaves: list[jax.Array], stacked: tuple[bool, ...]
) -> jax.Array:
  sums = _sums(leaves, stacked=stacked)
  each = [jnp.sqrt(jnp.maximum(s, _TINY)) for s in sums]

  def joined(each):
    return jnp.concatenate([jnp.atleast_1d(r) for r in each])

  def again(r, x, is_stacked):
    read = functools.partial(_rescaled_norm, x, r, is_stacked)
    if x.size <= _SMALL_LEAF:
      return read()
    return lax.cond(jnp.all(_is_usual(r)), lambda: r, read)

  r = joined(each)
  # Of the large leaves, only those that need it are read again, since a layer
  # of zeros is common.
  return lax.cond(
    jnp.all(_is_usual(r)),
    lambda: r,
    lambda: joined(map(again, each, leaves, stacked)),
  )


def _rescaled_norm(x: jax.Array, r: jax.Array, is_stacked: bool) -> jax.Array:
  c = _unit(r)
  return _sqrt(_sum_of_squares(x, c, is_stacked)) / c


def _is_usual(r: jax.Array) -> jax.Array:
  return (r >= _SMALLEST) & (r < jnp.inf)


def _unit(r: jax.Array) -> jax.Array:
  """The factor that brings the squares into the range of float32."""
  # XLA computes (c x)^2 as c^2 x^2 if x is a constant, and c^2 must be finite.
  return jnp.where(
    r < _SMALLEST, 2.0**63, jnp.where(r < jnp.inf, 1.0, 2.0**-70)
  )


def _sums(
  leaves: Sequence[jax.Array],
  c: ArrayLike = 1.0,
  stacked: Iterable[bool] | None = None,
) -> list[jax.Array]:
  stacked = [False] * len(leaves) if stacked is None else stacked
  return [_sum_of_squares(x, c, by_row) for x, by_row in zip(leaves, stacked)]


def _sum_of_squares(x: jax.Array, c: ArrayLike, is_stacked: bool) -> jax.Array:
  """The sum of |c x|^2 in float32, []; or [layers] for stacked layers."""
  if is_stacked:
    c = jnp.reshape(jnp.asarray(c), (-1, *[1] * (x.ndim - 1)))
  return jnp.sum(_squares(x, c), axis=range(int(is_stacked), x.ndim))


def _sum_by_shape(
  leaves: list[jax.Array], c: ArrayLike = 1.0, largest: float = math.inf
) -> jax.Array:
  """The sum of |c x|^2, where leaves of one shape are added before the sum.

  This makes fewer kernels. A leaf of more than `largest` entries is summed
  alone, which is faster for large leaves.
  """
  alike = collections.defaultdict(list)
  for i, x in enumerate(leaves):
    alike[jax.typeof(x) if x.size <= largest else i].append(_squares(x, c))
  added = [functools.reduce(operator.add, xs) for xs in alike.values()]
  return functools.reduce(operator.add, map(jnp.sum, added))


def _squares(x: jax.Array, c: ArrayLike) -> jax.Array:
  """|c x|^2 in float32."""
  if jnp.iscomplexobj(x):
    return _squares(x.real, c) + _squares(x.imag, c)
  return lax.square(c * x.astype(jnp.float32))


def _sqrt(x: jax.Array) -> jax.Array:
  """The square root, with a derivative of zero at zero."""
  return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def _scale_leaf(x: jax.Array, factor: jax.Array) -> jax.Array:
  wide = wide_dtype(x)
  y = jnp.where(factor == 0, 0, x.astype(wide) * factor.astype(wide))
  if wide != x.dtype:
    largest = jnp.finfo(x.dtype).max.astype(wide)
    y = jnp.clip(y, -largest, largest)
  return y.astype(x.dtype)
