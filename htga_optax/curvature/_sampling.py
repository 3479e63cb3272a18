"""Estimates the trace and the expected sharpness, as means of random draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks, norms
from htga_optax.curvature._products import AxisName, Matvec, average
from htga_optax.curvature._vectors import dot, sample_like


class Estimate(NamedTuple):
  """A mean over random draws.

  Attributes:
    value: the mean.
    standard_error: its standard error, estimated from the draws; infinite for
      one draw, which does not show how draws vary.
  """

  value: jax.Array
  standard_error: jax.Array


def hutchinson_trace(
  matvec: Matvec, like: Any, num_matvecs: int, *, key: ArrayLike
) -> Estimate:
  r"""Estimates the trace, by random signs.

  .. math:: \operatorname{tr} H \approx \frac1m \sum_{i=1}^m z_i' H z_i,
    \qquad \operatorname{Var} = \frac2m \Bigl(\|H\|_F^2 - \sum_i H_{ii}^2\Bigr)

  The entries of z are :math:`\pm1` and independent. The error does not depend
  on the diagonal. Half the error costs four times the products. Where few
  eigenvalues are large, Hutch++ needs fewer products: see matfree.

  Args:
    matvec: the product, see :func:`hessian`.
    like: a tree like its vectors.
    num_matvecs: m, the number of products, computed one after the other
      (static).
    key: a key of `jax.random`.

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
    ...     matvec, w, num_matvecs=1000, key=jax.random.key(0))
    >>> bool(abs(trace - exact) < 3 * error)
    True

  References:
    Hutchinson (1989), A stochastic estimator of the trace of the influence
    matrix for Laplacian smoothing splines.
  """
  _checks.check_size("num_matvecs", num_matvecs)

  def draw(key):
    z = sample_like(jax.random.rademacher, like, key=key)
    return dot(z, matvec(z))

  return _mean(draw, key, num_matvecs)


def expected_sharpness(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  perturbation_scale: ArrayLike = 0.01,
  num_samples: int = 100,
  axis_name: AxisName = None,
  *,
  key: ArrayLike,
) -> Estimate:
  r"""Estimates how much the loss changes under noise in the parameters.

  .. math:: E |L(\theta + \nu) - L(\theta)|, \qquad \nu \sim N(0, \delta^2 1)

  For many parameters and little noise this tends to :math:`\frac{\delta^2}2
  |\operatorname{tr} H|`.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    perturbation_scale: :math:`\delta`, in units of the parameters.
    num_samples: the number of losses, computed one after the other (static).
    axis_name: as for :func:`hessian`.
    key: a key of `jax.random`.

  Returns:
    An :class:`Estimate` of numbers in units of the loss.

  Raises:
    TypeError: `num_samples` is not a static integer.
    ValueError: an invalid argument; the message contains its value.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> sharpness, error = curvature.expected_sharpness(
    ...     lambda w: 50 * jnp.sum(w**2), jnp.zeros(1000),
    ...     key=jax.random.key(0))
    >>> print(f"{sharpness:.1f}")  # 0.01^2/2 * 100 * 1000
    5.0

  References:
    Zhu et al. (2019), The anisotropic noise in stochastic gradient descent,
    arXiv:1803.00195; the constants are those of arXiv:2102.04297.
  """
  _checks.check_number(
    "perturbation_scale",
    perturbation_scale,
    lambda v: 0 < v < float("inf"),
    "be positive and finite",
  )
  _checks.check_size("num_samples", num_samples)
  start = average(loss_fn(params), axis_name)

  def draw(key):
    moved = jax.tree.map(
      lambda x, z: x + jnp.asarray(perturbation_scale, z.dtype) * z,
      params,
      sample_like(jax.random.normal, params, key=key),
    )
    change = average(loss_fn(moved), axis_name) - start
    return jnp.abs(change.astype(norms.wide_dtype(change)))

  return _mean(draw, key, num_samples)


def _mean(
  draw: Callable[[jax.Array], jax.Array], key: ArrayLike, count: int
) -> Estimate:
  """The mean of `count` numbers that are drawn one after the other."""
  draws = lax.map(draw, jax.random.split(key, count))
  if count == 1:
    return Estimate(draws[0], jnp.full_like(draws[0], jnp.inf))
  return Estimate(jnp.mean(draws), jnp.std(draws, ddof=1) / count**0.5)
