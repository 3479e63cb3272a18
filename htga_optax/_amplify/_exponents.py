"""Exponents of HTGA, as functions of the tail index."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax._relay import Reading


def sigmoid_exponent(
  target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
) -> Reading:
  r"""Makes the exponent of HTGA: a sigmoid of the tail index.

  .. math::
    \gamma(\alpha) = \gamma_{max} s + \gamma_{min} (1 - s), \qquad
    s = \sigma(\beta (\alpha_{target} - \alpha))

  The proposal of HTGA contradicts itself. By its formula (:math:`\beta > 0`,
  the default here) tails heavier than the target get :math:`\gamma_{max}`.
  Heavy tails are amplified, for exploration: a positive feedback. The sentence
  under the formula gives :math:`\gamma_{max}` to tails lighter than the target,
  which drives the output towards the target: a negative feedback. That is
  :math:`\beta < 0`.

  Args:
    target: :math:`\alpha_{target}`, the tail index at which s = 1/2.
    beta: steepness; > 0 for the positive feedback, < 0 for the negative one.
    gamma_min: the lower exponent, at least 0.
    gamma_max: the upper exponent.

  Returns:
    The exponent as a :class:`Reading` of `tail_index`, for :func:`amplify`.

  Raises:
    ValueError: target is not positive, gamma_min is negative or above
      gamma_max.

  Examples:
    >>> from htga_optax import sigmoid_exponent
    >>> for beta in (2.0, -2.0):
    ...   gamma = sigmoid_exponent(target=2.0, beta=beta).response
    ...   print(f"{gamma(1.0):.2f} {gamma(2.0):.2f} {gamma(9.0):.2f}")
    1.38 1.00 0.50
    0.62 1.00 1.50

  References:
    Formula as stated in the HTGA proposal, sections 3.2 and 3.3.
  """
  _check_exponents(target, gamma_min, gamma_max)

  def exponent(tail_index):
    s = jax.nn.sigmoid(beta * (target - tail_index))
    return jnp.asarray(gamma_max * s + gamma_min * (1 - s))

  return Reading("tail_index", exponent)


def ratio_exponent(
  target: ArrayLike = 2.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
) -> Reading:
  r"""Makes the exponent that puts the tail index on the target.

  .. math:: \gamma(\alpha) = \mathrm{clip}(\alpha/\alpha_{target},
    \gamma_{min}, \gamma_{max})

  Within the bounds, the tail index of the amplified norms is
  :math:`\alpha/\gamma = \alpha_{target}`. This was derived for this package
  (:ref:`derivation-ratio-exponent`); it is exact for a power law with frozen
  scale. It is not a formula of the HTGA proposal.

  Args:
    target: :math:`\alpha_{target}`, the tail index that the amplified norms
      should have.
    gamma_min: lower bound of the exponent, at least 0.
    gamma_max: upper bound of the exponent.

  Returns:
    The exponent as a :class:`Reading` of `tail_index`, for :func:`amplify`.

  Raises:
    ValueError: target is not positive, gamma_min is negative or above
      gamma_max.

  Examples:
    >>> from htga_optax import ratio_exponent
    >>> gamma = ratio_exponent(target=2.0).response
    >>> print(gamma(1.5), gamma(9.0))
    0.75 1.5
  """
  _check_exponents(target, gamma_min, gamma_max)

  def exponent(tail_index):
    return jnp.clip(tail_index / target, gamma_min, gamma_max)

  return Reading("tail_index", exponent)


def _check_exponents(target, gamma_min, gamma_max) -> None:
  _checks.check_number("target", target, lambda v: v > 0, "be positive")
  _checks.check_number(
    "gamma_min", gamma_min, lambda v: v >= 0, "be at least 0"
  )
  _checks.check_order("gamma_min", gamma_min, "gamma_max", gamma_max)
