"""Approximates the largest eigenvalue: Lanczos' method and power iteration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from htga_optax import _checks, norms
from htga_optax.curvature._products import AxisName, Matvec, average, hessian
from htga_optax.curvature._vectors import (
  combination,
  dot,
  norm,
  over,
  unit,
  without,
)

# A remainder that is smaller than this, relative to the vector, is a rounding
# error and not a new direction.
_ROUNDING = 1e-5


class Tridiagonal(NamedTuple):
  """An orthonormal basis of a Krylov space, and H in this basis.

  Attributes:
    diagonal: float32 [m].
    off_diagonal: float32 [m]. The last entry does not belong to the matrix: it
      is beta_m, the norm of the part of H q_m outside the space.
    basis: a tree of [m, ...], in the dtypes of the vector.
  """

  diagonal: jax.Array
  off_diagonal: jax.Array
  basis: Any


def lanczos(matvec: Matvec, vector: Any, num_matvecs: int) -> Tridiagonal:
  r"""Builds an orthonormal basis Q of a Krylov space; H is tridiagonal in it.

  .. math:: H Q = Q T + \beta_m q_{m+1} e_m', \qquad Q'Q = 1

  Each vector is orthogonalised twice against all earlier ones, so that no
  eigenvalue appears twice. Eigenvalues of T approximate the outer ones of H.

  Args:
    matvec: the product, see :func:`hessian`.
    vector: the first vector, of any length except zero.
    num_matvecs: m (static); m vectors are kept in memory.

  Returns:
    A :class:`Tridiagonal`. The space may be complete before m vectors, as it is
    in fewer than m dimensions. Then the remaining vectors are zero. Their
    entries on the diagonal are below all other eigenvalues, and are decoupled
    from the rest.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> eigenvalues = jnp.asarray([-2.0, 0.5, 1.0])
    >>> t = curvature.lanczos(lambda v: eigenvalues * v, jnp.ones(3), 3)
    >>> off = t.off_diagonal[:-1]
    >>> matrix = jnp.diag(t.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
    >>> print(jnp.linalg.eigvalsh(matrix).round(4))
    [-2.   0.5  1. ]
  """
  _checks.check_size("num_matvecs", num_matvecs)
  first = unit(vector)
  basis = jax.tree.map(
    lambda x: jnp.zeros_like(x, shape=(num_matvecs, *x.shape)).at[0].set(x),
    first,
  )

  def step(carry, i):
    basis, v, largest = carry
    w = matvec(v)
    alive = norm(v) > 0
    below = jnp.where(i > 0, -2 * largest - 1e-30, 0.0)
    alpha = jnp.where(alive, dot(v, w), below)
    largest = jnp.maximum(largest, norm(w))
    w = without(basis, without(basis, w))
    beta = norm(w)
    beta = jnp.where(alive & (beta > _ROUNDING * largest), beta, 0.0)
    v = over(w, beta)
    # The basis is updated after it was read, so that it is written in place.
    basis = jax.tree.map(lambda b, x: b.at[i + 1].set(x, mode="drop"), basis, v)
    return (basis, v, largest), (alpha, beta)

  (basis, *_), (diagonal, off_diagonal) = lax.scan(
    step,
    (basis, first, jnp.zeros_like(norm(vector))),
    jnp.arange(num_matvecs),
  )
  return Tridiagonal(diagonal, off_diagonal, basis)


class Eigenpair(NamedTuple):
  """An approximate eigenvalue and its vector.

  Attributes:
    value: the Ritz value, float32 [].
    vector: the Ritz vector of length 1, a tree.
    residual_norm: some eigenvalue is at most this far from the value, float32
      [].
  """

  value: jax.Array
  vector: Any
  residual_norm: jax.Array


def top_eigenvalue(
  matvec: Matvec, vector: Any, num_matvecs: int = 20
) -> Eigenpair:
  r"""Approximates the largest eigenvalue of a product, by Lanczos' method.

  .. math:: y = \arg\max_{y \in K_m(v)} \frac{y'Hy}{y'y}, \qquad
    \theta = \frac{y'Hy}{y'y} \le \lambda_{max}

  It is the largest eigenvalue, not the largest in modulus. A vector of an
  earlier step, when H was another matrix, is a good start. If m vectors need
  too much memory, call it repeatedly with a small m, each time from the vector
  of the call before; for a loss, :func:`power_iteration` does this with two
  vectors.

  What it does not do: it does not find an eigenvalue whose vectors are all
  orthogonal to the start; a random start is never orthogonal. The estimate is a
  lower bound. Its distance to :math:`\lambda_{max}` is not known:
  `residual_norm` bounds the distance to some eigenvalue.

  Args:
    matvec: the product, see :func:`hessian`.
    vector: v, the start, of any length; zero gives zero.
    num_matvecs: m (static); m vectors are kept in memory.

  Returns:
    An :class:`Eigenpair`.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> eigenvalues = jnp.linspace(-3.0, 2.0, 20)
    >>> start = jax.random.normal(jax.random.key(0), (20,))
    >>> pair = curvature.top_eigenvalue(
    ...     lambda v: eigenvalues * v, start, num_matvecs=20)
    >>> print(f"{pair.value:.4f} {pair.residual_norm:.4f}")
    2.0000 0.0000

  References:
    Saad (2011), Numerical Methods for Large Eigenvalue Problems, chapter 6,
    for Lanczos' method and the residual.
  """
  t = lanczos(matvec, vector, num_matvecs)
  off = t.off_diagonal[:-1]
  values, vectors = jnp.linalg.eigh(
    jnp.diag(t.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
  )
  y = vectors[:, -1]
  return Eigenpair(
    values[-1],
    combination(t.basis, y, like=vector),
    t.off_diagonal[-1] * jnp.abs(y[-1]),
  )


def power_iteration(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  vector: Any,
  num_matvecs: int = 1,
  axis_name: AxisName = None,
) -> tuple[jax.Array, Any]:
  r"""Approximates the largest eigenvalue of a Hessian at the least cost.

  .. math:: y_{i+1} = \arg\max_{y \in K_2(y_i)} \frac{y'Hy}{y'y}
    \propto (H + c_i) y_i

  It is power iteration with the best of all shifts, so it finds the largest
  eigenvalue, not the largest in modulus. Each step is that of
  :func:`top_eigenvalue` with two vectors, v and q, where q is the part of Hv
  orthogonal to v. The second product is only needed along q, where it is a
  second derivative,

  .. math:: q'Hq = \frac{d^2}{dt^2} L(\theta + tq) \Big|_{t=0}

  which costs half as much as a product. It keeps two vectors in memory.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    vector: the start, of any length, in the dtypes of the parameters; zero
      gives zero.
    num_matvecs: the number of steps, with one product in each (static).
    axis_name: as for :func:`hessian`.

  Returns:
    The Ritz value, float32 [], and the Ritz vector of length 1.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> loss = lambda w: jnp.sum(jnp.linspace(-3.0, 2.0, 20) * w**2) / 2
    >>> start = jax.random.normal(jax.random.key(0), (20,))
    >>> value, _ = curvature.power_iteration(loss, jnp.ones(20), start, 10)
    >>> print(f"{value:.4f}")
    1.9985
  """
  _checks.check_size("num_matvecs", num_matvecs)
  matvec = hessian(loss_fn, params, axis_name)

  def slope(p, v):
    loss = lambda p: average(loss_fn(p), axis_name)
    return jax.jvp(loss, (p,), (v,))[1]

  def step(carry, _):
    v, a, b, q = _next_vector(matvec, carry[1])
    c = jax.jvp(lambda p: slope(p, q), (params,), (q,))[1]
    value, y = _ritz(a, b, c.astype(a.dtype))

    def mixed(v, q):
      wide = norms.wide_dtype(v)
      along = y.astype(wide)
      return (along[0] * v.astype(wide) + along[1] * q.astype(wide)).astype(
        v.dtype
      )

    return (value, jax.tree.map(mixed, v, q)), None

  carry, _ = lax.scan(
    step, (jnp.zeros_like(norm(vector)), vector), length=num_matvecs
  )
  return carry


def _next_vector(
  matvec: Matvec, vector: Any
) -> tuple[Any, jax.Array, jax.Array, Any]:
  """v, a, b and q of Hv = a v + b q, where v and q are orthonormal."""
  v = unit(vector)
  w = matvec(v)
  a = dot(v, w)
  w = jax.tree.map(lambda w, v: w - a.astype(w.dtype) * v, w, v)
  b = norm(w)
  b = jnp.where(b > _ROUNDING * jnp.abs(a), b, 0.0)
  return v, a, b, over(w, b)


def _ritz(
  a: jax.Array, b: jax.Array, c: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The largest eigenvalue of [[a, b], [b, c]], b >= 0, and its vector [2].

  If b = 0 there is no second vector, and c is not used.
  """
  d = jnp.where(b > 0, (c - a) / 2, 0.0)
  radius = jnp.sqrt(d**2 + b**2)
  y = jnp.where(d > 0, jnp.stack([b, radius + d]), jnp.stack([radius - d, b]))
  y = y / jnp.where(radius > 0, jnp.sqrt(jnp.sum(y**2)), 1.0)
  return a + d + radius, jnp.where(radius > 0, y, jnp.asarray([1.0, 0.0]))
