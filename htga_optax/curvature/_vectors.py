"""Treats trees of arrays as vectors: random vectors, inner products, norms."""

from collections.abc import Callable
import functools
import operator
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import norms


def sample_like(
  sampler: Callable[..., jax.Array], like: Any, *, key: ArrayLike
) -> Any:
  """Samples a random vector in the shapes and dtypes of a tree.

  Args:
    sampler: (key, shape, dtype) -> array of independent entries, as
      `jax.random.normal`.
    like: floating-point leaves, or `jax.ShapeDtypeStruct`.
    key: a key of `jax.random`; every leaf gets its own key from it.

  Returns:
    The tree. Its leaves are sharded like those of `like`. The real and
    imaginary parts of complex leaves are independent.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> tree = {"w": jnp.zeros(1000), "b": None}
    >>> v = curvature.sample_like(
    ...     jax.random.normal, tree, key=jax.random.key(0))
    >>> print(f"{v['w'].std():.2f}", v["b"])
    1.00 None
  """

  def draw(key, x):
    if jnp.iscomplexobj(x):
      keys = jax.random.split(key)
      return lax.complex(draw(keys[0], x.real), draw(keys[1], x.imag))
    return x + sampler(key, x.shape, x.dtype)

  leaves, structure = jax.tree.flatten(jax.tree.map(jnp.zeros_like, like))
  keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
  return jax.tree.unflatten(structure, map(draw, keys, leaves))


def dimension(tree: Any) -> int:
  """Counts the real numbers in a tree.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> print(curvature.dimension({"w": jnp.zeros([2, 3]), "z": 1j}))
    8
  """
  return sum(
    jnp.size(x) * (1 + jnp.iscomplexobj(x)) for x in jax.tree.leaves(tree)
  )


def dot(u: Any, v: Any, lead: int = 0) -> jax.Array:
  """The inner product; if `u` has a leading axis, of every vector in `u`.

  It is computed in float32 at least. Real and imaginary parts of complex leaves
  count as separate real entries.
  """

  def product(x, y):
    if jnp.iscomplexobj(x):
      return product(x.real, y.real) + product(x.imag, y.imag)
    wide = norms.wide_dtype(x)
    if lead == 0:
      return jnp.sum(x.astype(wide) * y.astype(wide))
    return jnp.tensordot(
      x.astype(wide), y.astype(wide), y.ndim, precision=lax.Precision.HIGHEST
    )

  return functools.reduce(
    operator.add,
    jax.tree.leaves(jax.tree.map(product, u, v)),
    jnp.zeros([], jnp.float32),
  )


def norm(v: Any) -> jax.Array:
  """The length of a vector."""
  return jnp.sqrt(dot(v, v))


def unit(v: Any) -> Any:
  """v/||v||, and zero for zero."""
  return over(v, norm(v))


def over(v: Any, length: jax.Array) -> Any:
  """v/length, and zero for a length of zero."""
  zero = length == 0
  factor = jnp.where(zero, 0.0, 1 / jnp.where(zero, 1.0, length))
  return norms.scale(v, factor)


def combination(basis: Any, coefficients: jax.Array, like: Any) -> Any:
  """Qc for a basis Q of m vectors, [m, ...], in the dtypes of `like`."""

  def combined(b, x):
    precision = lax.Precision.HIGHEST
    return jnp.tensordot(coefficients, b, 1, precision=precision).astype(
      x.dtype
    )

  return jax.tree.map(combined, basis, like)


def without(basis: Any, v: Any) -> Any:
  """(1 - QQ')v."""
  along = combination(basis, dot(basis, v, lead=1), like=v)
  return jax.tree.map(jnp.subtract, v, along)
