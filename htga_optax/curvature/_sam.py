"""Measures the rise of the loss along its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax.curvature._products import AxisName, average
from htga_optax.curvature._vectors import norm, over


def sam_sharpness(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  rho: ArrayLike = 0.05,
  axis_name: AxisName = None,
) -> jax.Array:
  r"""Measures how much the loss rises along the gradient.

  .. math:: L\Bigl(\theta + \rho \frac{\nabla L}{\|\nabla L\|}\Bigr) -
    L(\theta)

  It approximates :math:`\max_{\|\epsilon\| \le \rho} L(\theta + \epsilon) -
  L(\theta)` of sharpness-aware minimisation to first order. Far from a minimum
  it is :math:`\rho\|\nabla L\|`, which is not a curvature. Where the gradient
  is zero, it is zero.

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    rho: the radius, in units of the parameters.
    axis_name: as for :func:`hessian`.

  Returns:
    The difference, in units of the loss.

  Raises:
    ValueError: rho is not positive and finite.

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
  _checks.check_number(
    "rho", rho, lambda v: 0 < v < float("inf"), "be positive and finite"
  )
  loss = lambda p: average(loss_fn(p), axis_name)
  value, gradient = jax.value_and_grad(loss)(params)
  gradient = jax.tree.map(jnp.conj, average(gradient, axis_name))
  step = over(gradient, norm(gradient) / rho)
  return loss(jax.tree.map(jnp.add, params, step)) - value
