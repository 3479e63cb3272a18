r"""Curvature of a loss over a tree of parameters, by products with its Hessian.

No matrix is formed. A product costs a few gradients,

    H v = d/dt grad L(theta + t v) at t = 0,

forward over reverse, and all else is made of products. Random signs z give the
trace and the diagonal,

    E z'Hz = tr H,    E z * Hz = diag H;

a basis Q of where H is large leaves less to chance (Hutch++),

    tr H = tr Q'HQ + tr (1 - QQ')H(1 - QQ');

and the largest eigenvalue is what the largest Ritz value theta of the Krylov
space of a vector v tends to,

    K_m(v) = span(v, Hv, ..., H^(m-1) v),    Q'HQ = T tridiagonal,
    lambda_max >= theta,    |theta - some eigenvalue| <= ||Hy - theta y||.

With m = 2 the Ritz vector is (H + c)v for the best of all c: that is power
iteration with the shift chosen anew each time, so that it is the largest
eigenvalue that is found, not the largest in modulus. A large m is Lanczos'
method.

A product is a function `matvec` from trees to trees, linear and symmetric, of
:func:`hessian`, :func:`gauss_newton` or of anybody; its cost is `num_matvecs`.
Complex leaves count as pairs of real parameters.
"""

from collections.abc import Callable
import functools
import operator
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import checks

# What is left of a vector within a space, relatively, is rounding below this,
# and no new direction.
_ROUNDING = 1e-5

Matvec = Callable[[Any], Any]
AxisName = str | tuple[str, ...] | None


def hvp(loss_fn: Callable[[Any], jax.Array], params: Any, v: Any) -> Any:
  r"""A product of the Hessian of a loss with a vector.

  .. math:: H v = \frac{d}{dt} \nabla L(\theta + t v) \Big|_{t=0}

  Of a ReLU network, a gradient takes two products of matrices for the first
  layer and three for each other one; this takes three and seven, which run
  beside each other where there is room. So it costs 1.5 gradients where the
  first layer is the largest, up to 7/3 where others are (`make bench`).

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    v: a tree like `params`, of the same shapes.

  Returns:
    :math:`Hv`, a tree like `params`, in its dtypes.

  Raises:
    TypeError, ValueError: of JAX, for trees that differ.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> loss = lambda w: w["a"] ** 2 * w["b"]
    >>> w = {"a": jnp.float32(3.0), "b": jnp.float32(5.0)}
    >>> v = {"a": jnp.float32(1.0), "b": jnp.float32(0.0)}
    >>> print({k: float(x) for k, x in curvature.hvp(loss, w, v).items()})
    {'a': 10.0, 'b': 6.0}
  """
  return hessian(loss_fn, params)(v)


def hessian(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  axis_name: AxisName = None,
) -> Matvec:
  """The Hessian of a loss as a function of vectors, see :func:`hvp`.

  What does not depend on the vector is computed once, for all products, and
  kept as long as they are needed: the activations of one gradient and their
  derivatives.

  Args:
    loss_fn: params -> loss, a real number.
    params: where, floating-point leaves. Products have their dtypes, and those
      of bfloat16 few digits.
    axis_name: mapped axes (`jax.pmap`, `jax.shard_map`, `jax.vmap`) over whose
      members the loss is averaged; None under jit, however arrays are sharded.

  Returns:
    The product, a function of trees like `params`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> matvec = curvature.hessian(lambda w: jnp.sum(w**4), jnp.arange(3.0))
    >>> print(matvec(jnp.ones(3)))
    [ 0. 12. 48.]
  """

  def gradient(params):
    return _average(
      jax.grad(lambda p: _average(loss_fn(p), axis_name))(params), axis_name
    )

  _, tangent = jax.linearize(gradient, params)
  return _on_real_vectors(tangent, params)


def gauss_newton(
  model_fn: Callable[[Any], Any],
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  axis_name: AxisName = None,
) -> Matvec:
  r"""The generalised Gauss-Newton matrix as a function of vectors.

  .. math:: G = J' H_\ell J, \qquad J = \frac{\partial f}{\partial\theta},
    \quad H_\ell = \nabla^2 \ell(f)

  for a loss :math:`L = \ell(f(\theta))`. It is the Hessian without the
  curvature of the model, and positive semidefinite where the loss is convex in
  the outputs (squares, cross-entropy of logits).

  Args:
    model_fn: params -> outputs, any tree of floating-point arrays.
    loss_fn: outputs -> loss, a real number.
    params: where, floating-point leaves.
    axis_name: as for :func:`hessian`.

  Returns:
    The product, a function of trees like `params`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> square = lambda y: jnp.sum(y**2) / 2
    >>> matvec = curvature.gauss_newton(jnp.square, square, jnp.arange(3.0))
    >>> print(matvec(jnp.ones(3)))  # (2w)^2, and not 6w^2
    [ 0.  4. 16.]

  References:
    Schraudolph (2002), Fast curvature matrix-vector products for second-order
    gradient descent.
  """
  outputs, forward = jax.linearize(model_fn, params)
  backward = jax.linear_transpose(forward, params)
  loss_gradient = jax.grad(lambda y: _average(loss_fn(y), axis_name))
  _, inner = jax.linearize(loss_gradient, outputs)

  def product(v):
    (w,) = backward(inner(forward(v)))
    return _average(w, axis_name)

  return _on_real_vectors(product, params)


class Estimate(NamedTuple):
  """A mean over random draws.

  Attributes:
    value: the mean.
    standard_error: its standard error, estimated from the draws; nan for one.
  """

  value: Any
  standard_error: Any


def hutchinson_trace(
  matvec: Matvec, like: Any, key: ArrayLike, num_matvecs: int
) -> Estimate:
  r"""The trace, by random signs.

  .. math:: \operatorname{tr} H \approx \frac1m \sum_{i=1}^m z_i' H z_i,
    \qquad \operatorname{Var} = \frac2m \Bigl(\|H\|_F^2 - \sum_i H_{ii}^2\Bigr)

  with independent entries :math:`\pm1` in :math:`z`. The error does not depend
  on the diagonal. To halve it costs four times the products; where few
  eigenvalues are large, :func:`hutchpp_trace` does it for less.

  Args:
    matvec: the product, see :func:`hessian`.
    like: a tree like its vectors.
    key: of `jax.random`.
    num_matvecs: m, how many products to take, one after the other (static).

  Returns:
    An :class:`Estimate` of float32 numbers.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> w = jnp.arange(100.0)
    >>> matvec = curvature.hessian(lambda w: jnp.sum(jnp.tanh(w)) ** 2, w)
    >>> exact = jnp.trace(jax.vmap(matvec)(jnp.eye(100)))
    >>> trace, error = curvature.hutchinson_trace(
    ...     matvec, w, jax.random.key(0), num_matvecs=1000)
    >>> bool(abs(trace - exact) < 3 * error)
    True

  References:
    Hutchinson (1989), A stochastic estimator of the trace of the influence
    matrix for Laplacian smoothing splines.
  """

  def draw(key):
    z = _signs(key, like)
    return _dot(z, matvec(z))

  return _mean(draw, key, checks.check_size("num_matvecs", num_matvecs))


def hutchinson_diagonal(
  matvec: Matvec, like: Any, key: ArrayLike, num_matvecs: int
) -> Estimate:
  r"""The diagonal, by random signs.

  .. math:: \operatorname{diag} H \approx \frac1m \sum_{i=1}^m z_i * H z_i,
    \qquad \operatorname{Var}_j = \frac1m \sum_{i \ne j} H_{ij}^2

  Args:
    matvec: the product, see :func:`hessian`.
    like: a tree like its vectors.
    key: of `jax.random`.
    num_matvecs: m (static).

  Returns:
    An :class:`Estimate` of two trees like `like`, in float32. It keeps two
    trees while it runs.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> w = jnp.arange(3.0)
    >>> diagonal, error = curvature.hutchinson_diagonal(
    ...     curvature.hessian(lambda w: jnp.sum(w**3), w), w,
    ...     jax.random.key(0), num_matvecs=2)
    >>> print(diagonal, error)  # exact, as H has no other entries
    [ 0.  6. 12.] [0. 0. 0.]

  References:
    Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a
    matrix.
  """

  def draw(key):
    z = _signs(key, like)
    return jax.tree.map(_products, z, matvec(z))

  return _mean(draw, key, checks.check_size("num_matvecs", num_matvecs))


def hutchpp_trace(
  matvec: Matvec, like: Any, key: ArrayLike, num_matvecs: int
) -> Estimate:
  r"""The trace, exact where H is large and by random signs elsewhere.

  .. math:: \operatorname{tr} H \approx \operatorname{tr} Q'HQ + \frac1r
    \sum_{i=1}^r z_i' (1 - QQ') H (1 - QQ') z_i

  with Q an orthonormal basis of HS for m/3 vectors S of random signs. For a
  positive semidefinite H the error falls as 1/m, and not as
  :math:`1/\sqrt m`.

  Args:
    matvec: the product, see :func:`hessian`.
    like: a tree like its vectors.
    key: of `jax.random`.
    num_matvecs: m, at least 3 (static). It keeps a third as many vectors.

  Returns:
    An :class:`Estimate` of float32 numbers. The standard error is that of the
    second part given the basis, nan for m < 6.

  Raises:
    TypeError, ValueError: `num_matvecs` is not a static integer of at least 3.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> w = jnp.ones(50)
    >>> matvec = lambda v: w * jnp.vdot(w, v)  # rank one, trace 50
    >>> trace, error = curvature.hutchpp_trace(
    ...     matvec, w, jax.random.key(0), num_matvecs=6)
    >>> print(f"{trace:.3f}")
    50.000

  References:
    Meyer, Musco, Musco and Woodruff (2021), Hutch++: optimal stochastic trace
    estimation, arXiv:2010.09649.
  """
  checks.check_size("num_matvecs", num_matvecs)
  checks.check_number(
    "num_matvecs", num_matvecs, lambda v: v >= 3, "be at least 3"
  )
  if not jax.tree.leaves(like):
    return Estimate(jnp.zeros([]), jnp.zeros([]))
  rank = num_matvecs // 3
  sketch_key, rest_key = jax.random.split(key)
  sketch = lax.map(
    lambda key: matvec(_signs(key, like)), jax.random.split(sketch_key, rank)
  )
  basis = _orthonormal(_orthonormal(sketch))
  within = lax.map(lambda q: _dot(q, matvec(q)), basis)

  def draw(key):
    z = _without(basis, _signs(key, like))
    return _dot(z, matvec(z))

  rest = _mean(draw, rest_key, num_matvecs - 2 * rank)
  return Estimate(jnp.sum(within) + rest.value, rest.standard_error)


class Tridiagonal(NamedTuple):
  """An orthonormal basis of a Krylov space, and H in it.

  Attributes:
    diagonal: float32 [m].
    off_diagonal: float32 [m]; the last one is the norm of what H adds to the
      space, and no part of the matrix.
    basis: a tree of [m, ...], in the dtypes of the vector.
  """

  diagonal: jax.Array
  off_diagonal: jax.Array
  basis: Any


def lanczos(matvec: Matvec, vector: Any, num_matvecs: int) -> Tridiagonal:
  r"""An orthonormal basis Q of a Krylov space, in which H is tridiagonal.

  .. math:: H Q = Q T + \beta_m q_{m+1} e_m', \qquad Q'Q = 1

  orthogonalised twice against all that came before, so that no eigenvalue
  appears twice. Eigenvalues of T approximate the outer ones of H.

  Args:
    matvec: the product, see :func:`hessian`.
    vector: the first one, of any length but zero.
    num_matvecs: m (static); as many vectors are kept.

  Returns:
    A :class:`Tridiagonal`. Where the space is complete before m vectors, as it
    is in m dimensions, the remaining ones are zero; the diagonal is there
    below every eigenvalue of what has been found, and decoupled from it.

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
  checks.check_size("num_matvecs", num_matvecs)
  first = _unit(vector)
  basis = jax.tree.map(
    lambda x: jnp.zeros_like(x, shape=(num_matvecs, *x.shape)).at[0].set(x),
    first,
  )

  def step(carry, i):
    basis, v, largest = carry
    w = matvec(v)
    alive = _norm(v) > 0
    below = jnp.where(i > 0, -2 * largest - 1e-30, 0.0)
    alpha = jnp.where(alive, _dot(v, w), below)
    largest = jnp.maximum(largest, _norm(w))
    w = _without(basis, _without(basis, w))
    beta = _norm(w)
    beta = jnp.where(alive & (beta > _ROUNDING * largest), beta, 0.0)
    v = _over(w, beta)
    # After the basis was read, so that it is written in place.
    basis = jax.tree.map(lambda b, x: b.at[i + 1].set(x, mode="drop"), basis, v)
    return (basis, v, largest), (alpha, beta)

  (basis, *_), (diagonal, off_diagonal) = lax.scan(
    step,
    (basis, first, jnp.zeros_like(_norm(vector))),
    jnp.arange(num_matvecs),
  )
  return Tridiagonal(diagonal, off_diagonal, basis)


class Eigenpair(NamedTuple):
  """An approximate eigenvalue and its vector.

  Attributes:
    value: the Ritz value, float32 [].
    vector: the Ritz vector of length 1, a tree.
    residual_norm: an eigenvalue is within this of the value, float32 [].
  """

  value: jax.Array
  vector: Any
  residual_norm: jax.Array


def top_eigenvalue(
  matvec: Matvec, vector: Any, num_matvecs: int = 20, basis_size: int = 2
) -> Eigenpair:
  r"""The largest eigenvalue, not the largest in modulus.

  .. math:: y_{i+1} = \arg\max_{y \in K_m(y_i)} \frac{y'Hy}{y'y}, \qquad
    \theta = \frac{y'Hy}{y'y} \le \lambda_{max}

  With m = 2 that is power iteration :math:`y_{i+1} \propto (H + c_i) y_i` with
  the best of all shifts, of two products and little memory; with m =
  `num_matvecs` it is the method of Lanczos, which needs fewer products for more
  digits. A vector from a step before, when H was another, is a good one to
  start from.

  What it does not do: find an eigenvalue whose vectors are orthogonal to the
  start, which no random start is. Its estimate is a lower bound; how far below
  :math:`\lambda_{max}` it is, nobody knows, `residual_norm` only says how far
  from some eigenvalue.

  Args:
    matvec: the product, see :func:`hessian`.
    vector: where to start, of any length; zero gives zero.
    num_matvecs: a multiple of `basis_size` (static).
    basis_size: m, at least 2: as many vectors are kept, and one more (static).

  Returns:
    An :class:`Eigenpair`.

  Raises:
    TypeError, ValueError: sizes that cannot be.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> eigenvalues = jnp.linspace(-3.0, 2.0, 20)
    >>> start = jax.random.normal(jax.random.key(0), (20,))
    >>> for m in (2, 20):
    ...   pair = curvature.top_eigenvalue(
    ...       lambda v: eigenvalues * v, start, num_matvecs=20, basis_size=m)
    ...   print(f"{pair.value:.4f} {pair.residual_norm:.4f}")
    1.9985 0.0461
    2.0000 0.0000

  References:
    Saad (2011), Numerical Methods for Large Eigenvalue Problems, chapter 6,
    of Lanczos' method and the residual.
  """
  checks.check_size("num_matvecs", num_matvecs)
  checks.check_size("basis_size", basis_size)
  checks.check_number(
    "basis_size", basis_size, lambda v: v >= 2, "be at least 2"
  )
  checks.check_number(
    "num_matvecs",
    num_matvecs,
    lambda v: v % basis_size == 0,
    f"be a multiple of basis_size={basis_size}",
  )

  restart = _shifted if basis_size == 2 else _restarted
  zero = jnp.zeros_like(_norm(vector))
  pair, _ = lax.scan(
    lambda pair, _: (restart(matvec, pair.vector, basis_size), None),
    Eigenpair(zero, vector, zero),
    length=num_matvecs // basis_size,
  )
  return pair


def power_iteration(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  vector: Any,
  num_matvecs: int = 1,
  axis_name: AxisName = None,
) -> tuple[jax.Array, Any]:
  r"""The largest eigenvalue of a Hessian, at the least cost.

  The steps of :func:`top_eigenvalue` with two vectors, v and the part q of Hv
  across it, of which the second product is only needed along q, and that is a
  second derivative,

  .. math:: q'Hq = \frac{d^2}{dt^2} L(\theta + tq) \Big|_{t=0}

  which costs half as much as a product.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    vector: where to start, of any length, in the dtypes of the parameters.
    num_matvecs: how many steps, with a product in each (static).
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
  checks.check_size("num_matvecs", num_matvecs)
  matvec = hessian(loss_fn, params, axis_name)

  def slope(p, v):
    loss = lambda p: _average(loss_fn(p), axis_name)
    return jax.jvp(loss, (p,), (v,))[1]

  def step(carry, _):
    v, a, b, q = _next_vector(matvec, carry[1])
    c = jax.jvp(lambda p: slope(p, q), (params,), (q,))[1]
    value, y = _ritz(a, b, c.astype(a.dtype))
    return (value, _mixture(y, v, q)), None

  carry, _ = lax.scan(
    step, (jnp.zeros_like(_norm(vector)), vector), length=num_matvecs
  )
  return carry


def _shifted(matvec: Matvec, vector: Any, basis_size: int) -> Eigenpair:
  """The Ritz pair of two vectors, which keeps no more than two."""
  del basis_size
  v, a, b, q = _next_vector(matvec, vector)
  p = matvec(q)
  c = _dot(q, p)
  value, y = _ritz(a, b, c)
  rest = jnp.sqrt(jnp.maximum(_dot(p, p) - c**2 - b**2, 0.0))
  return Eigenpair(value, _mixture(y, v, q), rest * jnp.abs(y[1]))


def _next_vector(
  matvec: Matvec, vector: Any
) -> tuple[Any, jax.Array, jax.Array, Any]:
  """Of Hv = a v + b q with orthonormal v and q: v, a, b, q."""
  v = _unit(vector)
  w = matvec(v)
  a = _dot(v, w)
  w = jax.tree.map(lambda w, v: w - a.astype(w.dtype) * v, w, v)
  b = _norm(w)
  b = jnp.where(b > _ROUNDING * jnp.abs(a), b, 0.0)
  return v, a, b, _over(w, b)


def _ritz(
  a: jax.Array, b: jax.Array, c: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The largest eigenvalue of [[a, b], [b, c]], b >= 0, and its vector [2].

  With b = 0 there is no second vector, and no c.
  """
  d = jnp.where(b > 0, (c - a) / 2, 0.0)
  radius = jnp.sqrt(d**2 + b**2)
  y = jnp.where(d > 0, jnp.stack([b, radius + d]), jnp.stack([radius - d, b]))
  y = y / jnp.where(radius > 0, jnp.sqrt(jnp.sum(y**2)), 1.0)
  return a + d + radius, jnp.where(radius > 0, y, jnp.asarray([1.0, 0.0]))


def _mixture(y: jax.Array, v: Any, q: Any) -> Any:
  return jax.tree.map(lambda v, q: (y[0] * v + y[1] * q).astype(v.dtype), v, q)


def _restarted(matvec: Matvec, vector: Any, basis_size: int) -> Eigenpair:
  """The Ritz pair of a Krylov space."""
  t = lanczos(matvec, vector, basis_size)
  off = t.off_diagonal[:-1]
  values, vectors = jnp.linalg.eigh(
    jnp.diag(t.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
  )
  y = vectors[:, -1]
  return Eigenpair(
    values[-1],
    _combination(t.basis, y, like=vector),
    t.off_diagonal[-1] * jnp.abs(y[-1]),
  )


def expected_sharpness(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  key: ArrayLike,
  scale: ArrayLike = 0.01,
  num_samples: int = 100,
  axis_name: AxisName = None,
) -> Estimate:
  r"""How much the loss changes under Gaussian noise in the parameters.

  .. math:: E |L(\theta + \nu) - L(\theta)|, \qquad \nu \sim N(0, \delta^2 1)

  which is :math:`\frac{\delta^2}2 |\operatorname{tr} H|` in the limit of many
  parameters and little noise.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    key: of `jax.random`.
    scale: :math:`\delta`, in units of the parameters.
    num_samples: how many losses to take, one after the other (static).
    axis_name: as for :func:`hessian`.

  Returns:
    An :class:`Estimate` of numbers in units of the loss.

  Raises:
    TypeError, ValueError: a scale or a number of samples that cannot be.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> sharpness, error = curvature.expected_sharpness(
    ...     lambda w: 50 * jnp.sum(w**2), jnp.zeros(1000), jax.random.key(0))
    >>> print(f"{sharpness:.1f}")  # 0.01^2/2 * 100 * 1000
    5.0

  References:
    Zhu et al. (2019), The anisotropic noise in stochastic gradient descent,
    arXiv:1803.00195; the constants are those of arXiv:2102.04297.
  """
  checks.check_number(
    "scale", scale, lambda v: 0 < v < float("inf"), "be positive and finite"
  )
  count = checks.check_size("num_samples", num_samples)
  start = _average(loss_fn(params), axis_name)

  def draw(key):
    moved = jax.tree.map(
      lambda x, z: x + jnp.asarray(scale, z.dtype) * z,
      params,
      sample_like(jax.random.normal, key, params),
    )
    change = _average(loss_fn(moved), axis_name) - start
    return jnp.abs(change.astype(jnp.promote_types(change, jnp.float32)))

  return _mean(draw, key, count)


def sam_sharpness(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  rho: ArrayLike = 0.05,
  axis_name: AxisName = None,
) -> jax.Array:
  r"""How much the loss rises along the gradient.

  .. math:: L\Bigl(\theta + \rho \frac{\nabla L}{\|\nabla L\|}\Bigr) -
    L(\theta)

  the first-order answer to :math:`\max_{\|\epsilon\| \le \rho} L(\theta +
  \epsilon) - L(\theta)`, of sharpness-aware minimisation. Far from a minimum it
  is :math:`\rho\|\nabla L\|`, no curvature; without a gradient it is zero.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    rho: the radius, in units of the parameters.
    axis_name: as for :func:`hessian`.

  Returns:
    The difference, in units of the loss.

  Raises:
    ValueError: rho is not positive.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> w = jnp.asarray([3.0, 4.0])
    >>> rise = curvature.sam_sharpness(lambda w: jnp.sum(w**2), w, rho=0.1)
    >>> print(f"{rise:.2f}")  # 5.1^2 - 5^2
    1.01

  References:
    Foret et al. (2021), Sharpness-aware minimization for efficiently improving
    generalization, arXiv:2010.01412.
  """
  checks.check_number(
    "rho", rho, lambda v: 0 < v < float("inf"), "be positive and finite"
  )
  loss = lambda p: _average(loss_fn(p), axis_name)
  value, gradient = jax.value_and_grad(loss)(params)
  gradient = jax.tree.map(jnp.conj, _average(gradient, axis_name))
  step = _over(gradient, _norm(gradient) / rho)
  return loss(jax.tree.map(jnp.add, params, step)) - value


def sample_like(
  sampler: Callable[..., jax.Array], key: ArrayLike, like: Any
) -> Any:
  """A random vector: independent entries in the shapes and dtypes of a tree.

  Args:
    sampler: (key, shape, dtype) -> array, as `jax.random.normal`.
    key: of `jax.random`; every leaf has its own.
    like: floating-point leaves, or `jax.ShapeDtypeStruct`.

  Returns:
    The tree. Leaves are sharded as those of `like`; of complex ones real and
    imaginary parts are independent.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> tree = {"w": jnp.zeros(1000), "b": None}
    >>> v = curvature.sample_like(jax.random.normal, jax.random.key(0), tree)
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
  """How many real numbers a tree has.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> print(curvature.dimension({"w": jnp.zeros([2, 3]), "z": 1j}))
    8
  """
  return sum(
    jnp.size(x) * (1 + jnp.iscomplexobj(x)) for x in jax.tree.leaves(tree)
  )


def _average(tree: Any, axis_name: AxisName) -> Any:
  return tree if axis_name is None else lax.pmean(tree, axis_name)


def _on_real_vectors(product: Matvec, params: Any) -> Matvec:
  """Of JAX's derivative for complex leaves, that of real and imaginary parts.

  JAX's gradient of a real function is the conjugate of the direction of
  steepest ascent. Vectors are given the dtypes of the parameters.
  """

  def matvec(v):
    v = jax.tree.map(lambda p, x: jnp.asarray(x, jnp.result_type(p)), params, v)
    return jax.tree.map(jnp.conj, product(v))

  return matvec


_signs = functools.partial(sample_like, jax.random.rademacher)


def _mean(
  draw: Callable[[jax.Array], Any], key: ArrayLike, count: int
) -> Estimate:
  """The mean of `count` trees of numbers that are drawn one after the other."""
  keys = jax.random.split(key, count)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(draw, keys[0])
  )

  def step(carry, arrival):  # Welford's recursion
    key, n = arrival
    mean, squares = carry
    x = draw(key)
    new = jax.tree.map(lambda m, x: m + (x - m) / n, mean, x)
    squares = jax.tree.map(
      lambda s, x, m, new: s + (x - m) * (x - new), squares, x, mean, new
    )
    return (new, squares), None

  (mean, squares), _ = lax.scan(
    step, (zeros, zeros), (keys, 1 + jnp.arange(count, dtype=jnp.float32))
  )
  return Estimate(
    mean,
    jax.tree.map(
      lambda s: jnp.sqrt(s / count / (count - 1 if count > 1 else jnp.nan)),
      squares,
    ),
  )


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Of real numbers, or of real and imaginary parts; at least float32."""
  if jnp.iscomplexobj(x):
    return _products(x.real, y.real) + _products(x.imag, y.imag)
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return x.astype(wide) * y.astype(wide)


def _dot(u: Any, v: Any, lead: int = 0) -> jax.Array:
  """The inner product, of every vector in `u` if it has a leading axis."""

  def dot(x, y):
    if jnp.iscomplexobj(x):
      return dot(x.real, y.real) + dot(x.imag, y.imag)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if lead == 0:
      return jnp.sum(x.astype(wide) * y.astype(wide))
    return jnp.tensordot(
      x.astype(wide), y.astype(wide), y.ndim, precision=lax.Precision.HIGHEST
    )

  return functools.reduce(
    operator.add,
    jax.tree.leaves(jax.tree.map(dot, u, v)),
    jnp.zeros([], jnp.float32),
  )


def _norm(v: Any) -> jax.Array:
  return jnp.sqrt(_dot(v, v))


def _unit(v: Any) -> Any:
  """v/||v||, and zero for zero."""
  return _over(v, _norm(v))


def _over(v: Any, length: jax.Array) -> Any:
  """v/length, and zero for a length of zero."""
  zero = length == 0
  factor = jnp.where(zero, 0.0, 1 / jnp.where(zero, 1.0, length))
  return jax.tree.map(lambda x: (x * factor).astype(x.dtype), v)


def _combination(basis: Any, coefficients: jax.Array, like: Any) -> Any:
  """Qc, in the dtypes of `like`."""
  return jax.tree.map(
    lambda b, x: _times(coefficients, b).astype(x.dtype), basis, like
  )


def _without(basis: Any, v: Any) -> Any:
  """(1 - QQ')v."""
  along = _combination(basis, _dot(basis, v, lead=1), like=v)
  return jax.tree.map(jnp.subtract, v, along)


def _orthonormal(vectors: Any) -> Any:
  """An orthonormal basis of the span, with zeros where it has fewer.

  By the eigenvectors of the Gram matrix; directions that rounding may have made
  are left out. Twice is enough for orthogonality.
  """
  gram = lax.map(lambda v: _dot(vectors, v, lead=1), vectors)
  values, rotation = jnp.linalg.eigh(gram)
  kept = values > _ROUNDING * values[-1]
  rotation = rotation * jnp.where(
    kept, lax.rsqrt(jnp.where(kept, values, 1.0)), 0.0
  )
  return jax.tree.map(lambda x: _times(rotation.T, x).astype(x.dtype), vectors)


def _times(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
  return jnp.tensordot(matrix, vectors, 1, precision=lax.Precision.HIGHEST)
