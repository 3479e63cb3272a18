"""Norms of trees in float32 that neither overflow nor vanish.

    ||g|| = sqrt(sum_i |g_i|^2)

is summed in float32 whatever the leaves are (a float16 norm overflows at
65504, a bfloat16 norm cannot tell neighbours apart). Squares leave the range
of float32 beyond 1e19 and below 1e-23; only then is the sum taken again,

    ||g|| = sqrt(sum_i |c g_i|^2) / c,    c = 2^-70 or 2^70,

under `lax.cond`, so that the common case reads the gradient once. Leaves are
reduced to numbers where they are: nothing is raveled, concatenated or
gathered, and there is no collective of our own. (The second sum adds squares
of leaves of one shape first, which compiles sooner; where an Auto mesh shards
them differently, XLA moves them.)

A tree is measured in groups: all leaves together (one group), or leaf by leaf
(`per_layer`: a group a leaf). Measured values are one vector [groups] inside a
transformation; `spread` gives them the shape that users see, a number or a
tree of numbers.
"""

import collections
from collections.abc import Callable, Iterable
import functools
import operator
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

# A smaller norm is taken again. An entry that vanishes when squared (below
# 1e-23) is then at most 1e-13 of the norm.
_SMALLEST = 1e-10
_TINY = 1e-30


def norms(tree: Any, per_layer: bool = False) -> jax.Array:
  """Euclidean norms of the groups of a tree.

  Args:
    tree: real or complex floating-point leaves; None leaves are left out.
    per_layer: a group a leaf instead of one for all leaves.

  Returns:
    The norms, float32 [groups]; inf or nan where entries are, or where the
    norm itself is beyond float32. Entries below 1e-38 count as zero, as they
    do everywhere in XLA. The gradient at a zero group is zero.

  Raises:
    TypeError: a leaf is not floating point.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import norms
    >>> tree = {"b": jnp.float16([3e4, 4e4]), "w": jnp.float32([0.0])}
    >>> print(norms.norms(tree), norms.norms(tree, per_layer=True))
    [50000.] [50000.     0.]
  """
  for path, x in jax.tree.leaves_with_path(tree):
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
      raise TypeError(
        f"updates must be floating point, got {jnp.result_type(x)} at"
        f" {jax.tree_util.keystr(path) or 'the root'}."
      )
  leaves = jax.tree.leaves(tree)
  if per_layer:
    return _norms([[x] for x in leaves]) if leaves else jnp.zeros([0])
  return _norms([leaves]) if leaves else jnp.zeros([1])


@jax.jit  # traced once where a tracker and a listener measure the same tree
def _norms(groups: list[list[jax.Array]]) -> jax.Array:
  sums = jnp.stack([_add(map(_sum_of_squares, group)) for group in groups])
  # All below reads the root, which XLA takes once: sums it would take again.
  r = jnp.sqrt(jnp.maximum(sums, _TINY))  # with a finite derivative
  usual = jnp.all((r >= _SMALLEST) & (r < jnp.inf))

  def again():
    c = jnp.where(r < _SMALLEST, 2.0**70, jnp.where(r < jnp.inf, 1.0, 2.0**-70))
    sums = [_sum_by_shape(group, scale) for group, scale in zip(groups, c)]
    return _sqrt(jnp.stack(sums)) / c

  return lax.cond(usual, lambda: r, again)


def _squares(x: jax.Array, c: ArrayLike = 1.0) -> jax.Array:
  """|c x|^2 in float32."""
  if jnp.iscomplexobj(x):
    return _squares(x.real, c) + _squares(x.imag, c)
  return lax.square(c * x.astype(jnp.float32))


def _sum_of_squares(x: jax.Array) -> jax.Array:
  return jnp.sum(_squares(x))


def _sum_by_shape(leaves: list[jax.Array], c: jax.Array) -> jax.Array:
  """The sum of |c x|^2, slower than leaf by leaf, compiled sooner."""
  alike = collections.defaultdict(list)
  for x in leaves:
    alike[jax.typeof(x)].append(_squares(x, c))
  return _add(jnp.sum(_add(squares)) for squares in alike.values())


def _add(terms: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(operator.add, terms)


def _sqrt(x: jax.Array) -> jax.Array:
  """The square root, with derivative zero at zero."""
  return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def spread(values: jax.Array, tree: Any, per_layer: bool = False) -> Any:
  """Gives values of groups the shape that users see.

  Args:
    values: one value a group, [groups, ...].
    tree: the tree that was measured.
    per_layer: as in :func:`norms`.

  Returns:
    The only value [...], or a tree like `tree` with a value [...] per leaf.
  """
  if not per_layer:
    return values[0]
  each = list(values)
  return jax.tree.unflatten(jax.tree.structure(tree), each)


def gather(values: Any, tree: Any, per_layer: bool, name: str) -> jax.Array:
  """The inverse of :func:`spread`: one value a group from what users pass.

  Args:
    values: a number (every group's), or a tree like `tree` if `per_layer`.
    tree: the tree that the values steer.
    per_layer: as in :func:`norms`.
    name: what the values are, for the error.

  Returns:
    The values, float32 [groups].

  Raises:
    ValueError: the structure of `values` fits neither.
  """
  groups = len(jax.tree.leaves(tree)) if per_layer else 1
  leaves, structure = jax.tree.flatten(values)
  if jax.tree_util.treedef_is_leaf(structure):
    leaves = leaves * groups
  elif not per_layer or structure != jax.tree.structure(tree):
    raise ValueError(
      f"{name} must be a number, or with per_layer=True a tree like the"
      f" updates (track with per_layer=True too), got {structure}."
    )
  if not leaves:
    return jnp.zeros([0], jnp.float32)
  return jnp.stack([jnp.asarray(leaf, jnp.float32) for leaf in leaves])


def scale(tree: Any, factors: jax.Array, per_layer: bool = False) -> Any:
  """Multiplies the groups of a tree; every leaf keeps its dtype.

  Args:
    tree: the updates.
    factors: float32 [groups]; 0 gives zeros, whatever the leaf holds.
    per_layer: as in :func:`norms`.

  Returns:
    The scaled tree. A leaf of less than 32 bits is multiplied in float32 and
    saturates at its dtype's largest value instead of turning into inf.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import norms
    >>> print(norms.scale(jnp.float16([1.0, 6e4]), jnp.float32([2.0])))
    [2.00e+00 6.55e+04]
    >>> print(norms.scale(jnp.float32([1.0, jnp.nan]), jnp.float32([0.0])))
    [0. 0.]
  """
  leaves, structure = jax.tree.flatten(tree)
  each = list(factors) if per_layer else [factors[0]] * len(leaves)
  return jax.tree.unflatten(structure, map(_scale_leaf, leaves, each))


def _scale_leaf(x: jax.Array, factor: jax.Array) -> jax.Array:
  wide = jnp.promote_types(x.dtype, jnp.float32)
  y = jnp.where(factor == 0, 0, x.astype(wide) * factor)
  if wide != x.dtype:
    largest = jnp.finfo(x.dtype).max.astype(wide)
    y = jnp.clip(y, -largest, largest)
  return y.astype(x.dtype)


def add(x: jax.Array, y: jax.Array, keep: jax.Array) -> jax.Array:
  """The sum of two leaves in x's dtype, at most its largest number.

  Args:
    x: the leaf whose dtype counts.
    y: what to add.
    keep: bool []; zero where it is false.
  """
  if jnp.iscomplexobj(x):
    return lax.complex(add(x.real, y.real, keep), add(x.imag, y.imag, keep))
  wide = jnp.promote_types(x.dtype, jnp.float32)
  largest = jnp.finfo(x.dtype).max.astype(wide)
  total = jnp.clip(x.astype(wide) + y.astype(wide), -largest, largest)
  return jnp.where(keep, total, 0).astype(x.dtype)


def each(function: Callable[..., Any], per_layer: bool, *args: Any) -> Any:
  """Maps a function over groups, the leading axis of every array in `args`.

  A single group is not mapped: `jax.vmap` would turn a `lax.cond` in the
  function, which is there to save time, into both of its branches.

  Args:
    function: of arrays without that axis.
    per_layer: whether there is a group a leaf, or one.
    *args: trees of arrays [groups, ...].

  Returns:
    What the function returns, arrays [groups, ...].
  """
  if per_layer:
    return jax.vmap(function)(*args)
  one = function(*jax.tree.map(lambda x: x[0], args))
  return jax.tree.map(lambda x: jnp.asarray(x)[None], one)
