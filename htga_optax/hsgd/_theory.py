"""Computes bounds of the tail index of hSGD, and the exact index of SGD."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.hsgd._arguments import _at_least_zero, _parameters, _positive

_MOST_INDEX = 256  # streaming_tail_index returns inf beyond it


class Bounds(NamedTuple):
  """A lower and an upper bound.

  Attributes:
    lower: the lower bound, float32, in the common shape of the arguments.
    upper: the upper bound, in the same shape.
  """

  lower: jax.Array
  upper: jax.Array


def tail_index_bounds(
  eigenvalues: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Bounds:
  r"""Computes a lower and an upper bound of the tail index of hSGD.

  .. math::
    \eta_* = 2 + \frac{2B/\gamma - T}{M}, \qquad
    \eta^* = \min\Bigl(1 + \frac{2B}{\gamma M},\;
      2 + \frac{2B/\gamma - T}{m}\Bigr)
    \qquad (\gamma \le 2B/T)

  Here T is the sum of the :math:`t_i = \lambda_i^2/(\lambda_i + \delta)`, M the
  largest and m the smallest positive one. Beyond :math:`\gamma_2 = 2B/T` the
  lower bound has m in place of M, and the upper bound is :math:`2 + (2B/\gamma
  - T)/M`. At :math:`\gamma_2` both bounds are 2. In one dimension, and if all
  positive eigenvalues are equal, both bounds are the exact index. The index is
  that of the norm and of every coordinate.

  The bounds depend on gamma and B through gamma/B alone. They hold for hSGD.
  The index of SGD may be outside, mostly below, and SGD may diverge where hSGD
  does not; see :func:`streaming_tail_index`.

  Args:
    eigenvalues: the eigenvalues of the Hessian :math:`H = A'A/n`, [d], in any
      order. Zeros are directions without noise and do not count.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, positive.
    weight_decay: :math:`\delta`, at least 0. The last three arguments
      broadcast, and each may be traced.

  Returns:
    The :class:`Bounds`, in the common shape of the last three arguments. A
    lower bound of 0 is no information: there may be no stationary law. Both
    bounds are nan if there is no stationary law, and for traced values that are
    out of range.

  Raises:
    ValueError: the eigenvalues are empty or not one-dimensional; concrete
      eigenvalues are negative, not finite or all 0; a number is out of range.

  Examples:
    >>> from htga_optax import hsgd
    >>> for spectrum in ([1.0, 0.7], [1.0]):
    ...   lower, upper = hsgd.tail_index_bounds(spectrum, 0.6, 1, 0.1)
    ...   print(f"{lower:.2f} to {upper:.2f}")
    3.99 to 4.67
    4.67 to 4.67

  References:
    Jiao and Keller-Ressel (2024), Emergence of heavy tails in homogenized
    stochastic gradient descent, arXiv:2402.01382, read in a summary. The bounds
    are derived here, see :mod:`htga_optax.hsgd`. It is also derived here that
    :math:`\eta^* = 1 + 2B/(\gamma M)` is not the best upper bound.
  """
  t, rate = _parameters(eigenvalues, learning_rate, batch_size, weight_decay)
  total, most, least = _summary(t)
  excess = 2 / rate - total
  light = excess >= 0  # the second moment is finite
  lower = 2 + excess / jnp.where(light, most, least)
  upper = 2 + excess / jnp.where(light, least, most)
  upper = jnp.maximum(jnp.minimum(upper, 1 + 2 / (rate * most)), lower)
  bounds = jnp.maximum(lower, 0.0), upper
  return Bounds(*(jnp.where(upper > 0, x, jnp.nan) for x in bounds))


def critical_learning_rate(
  eigenvalues: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
  order: ArrayLike = 2.0,
) -> Bounds:
  r"""Bounds the learning rate at which a moment of hSGD becomes infinite.

  .. math:: \gamma_p = \frac{2B}{T + (p - 2) R}, \quad R \in [m, M]

  These are the bounds of :func:`tail_index_bounds`, solved for the learning
  rate. The stationary moment :math:`E \|X\|^p` is finite for every rate below
  the lower bound and infinite for every rate above the upper bound. At order 2
  both bounds are the exact rate :math:`\gamma_2 = 2B/T`. At order 0 they bound
  the rate at which hSGD ceases to have a stationary law.

  Args:
    eigenvalues: as in :func:`tail_index_bounds`.
    batch_size: B, positive; the rates are proportional to it.
    weight_decay: :math:`\delta`, at least 0.
    order: p, at least 0.

  Returns:
    The rates, as :class:`Bounds`, in the common shape of the last three
    arguments. They are inf if the moment is finite at every rate (in one
    dimension, up to order 1).

  Raises:
    ValueError: as :func:`tail_index_bounds`.

  Examples:
    >>> from htga_optax import hsgd
    >>> for order in (0, 2, 4):
    ...   rates = hsgd.critical_learning_rate([1.0, 0.7], 1, 0.1, order)
    ...   print(f"{order}: {rates.lower:.2f} to {rates.upper:.2f}")
    0: 6.74 to inf
    2: 1.31 to 1.31
    4: 0.60 to 0.73
  """
  _checks.check_number("order", order, lambda v: v >= 0, "be at least 0")
  t, rate = _parameters(eigenvalues, 1.0, batch_size, weight_decay)
  total, most, least = _summary(t)
  order = jnp.asarray(order, jnp.float32)

  def critical(total, of):
    beyond = total + (order - 2) * of
    solved = 2 / (rate * jnp.where(beyond > 0, beyond, 1.0))
    return jnp.where((beyond <= 0) & (rate > 0), jnp.inf, solved)

  light = order >= 2
  lower = critical(total, jnp.where(light, most, least))
  upper = critical(total, jnp.where(light, least, most))
  upper = jnp.maximum(jnp.minimum(upper, critical(most, most)), lower)
  return Bounds(*(jnp.where(order >= 0, x, jnp.nan) for x in (lower, upper)))


def streaming_tail_index(
  dimension: int,
  learning_rate: float,
  batch_size: int = 1,
  weight_decay: float = 0.0,
  eigenvalue: float = 1.0,
) -> float:
  r"""Computes the tail index of SGD if every row is new and N(0, lambda I).

  The index is the positive root p of

  .. math::
    E \Bigl[\bigl((1 - \gamma\delta) - g s\bigr)^2 + g^2 s q\Bigr]^{p/2} = 1,
    \quad g = \frac{\gamma\lambda}{B}, \quad s \sim \chi^2_B, \quad
    q \sim \chi^2_{d-1}

  (Kesten; textbook). A step multiplies the distance from the solution by
  :math:`\|(1 - \gamma\delta) e - \gamma A'A e/B\|`, and the law of this factor
  is the same for every direction e. The expectation is computed on the host by
  the trapezoidal rule in the logarithms of s and q. The result is within 1e-4
  (tests).

  :func:`tail_index_bounds` approximates this index. The table compares them:

  ====  ====  ======  =====  =====
  d     B     gamma   hSGD   SGD
  ====  ====  ======  =====  =====
  1     1     0.1     21.0   17.3
  5     10    0.3     63.7   43.8
  5     10    1.0     17.0   5.2
  20    2     0.19    5.2    1.4
  1000  10    0.0197  17.2   177.5
  ====  ====  ======  =====  =====

  (delta is 0.1 in the fourth row, else 0.) The formula assumes Gaussian rows
  and a single eigenvalue. SGD that draws its batches from a finite data set has
  another index, or none.

  Args:
    dimension: d, at least 1.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, at least 1.
    weight_decay: :math:`\delta`, at least 0.
    eigenvalue: :math:`\lambda`, the variance of the entries of a row, positive.

  Returns:
    The tail index, a Python float. It is nan if SGD has no stationary law, and
    inf if the index is above 256.

  Raises:
    TypeError: dimension or batch_size is not an integer.
    ValueError: a number out of range.

  Examples:
    >>> from htga_optax import hsgd
    >>> print(f"{hsgd.streaming_tail_index(20, 0.18, 2, 0.1):.2f}")
    4.09
    >>> print(f"{hsgd.tail_index_bounds([1.0] * 20, 0.18, 2, 0.1).upper:.2f}")
    6.44

  References:
    Kesten (1973), Random difference equations and renewal theory for products
    of random matrices, Acta Mathematica 131. Gurbuzbalaban, Simsekli and Zhu
    (2021), The heavy-tail phenomenon in SGD, ICML, apply it to SGD (cited from
    memory).
  """
  dimension = _checks.check_size("dimension", dimension)
  batch_size = _checks.check_size("batch_size", batch_size)
  _positive("learning_rate", learning_rate)
  _positive("eigenvalue", eigenvalue)
  _at_least_zero("weight_decay", weight_decay)
  s, log_weights = _chi_square(batch_size, 10**5 if dimension == 1 else 1000)
  g = learning_rate * eigenvalue / batch_size
  square = (1 - learning_rate * weight_decay - g * s) ** 2
  if dimension > 1:
    q, others = _chi_square(dimension - 1, 1000)
    square = square[:, None] + g**2 * s[:, None] * q
    log_weights = log_weights[:, None] + others
  half_log = np.log(np.maximum(square, 1e-300)) / 2
  if np.sum(np.exp(log_weights) * half_log) >= 0:
    return math.nan

  def grows(p):
    exponent = p * half_log + log_weights
    most = np.max(exponent)
    return most + np.log(np.sum(np.exp(exponent - most))) > 0

  upper = 1.0
  while not grows(upper):
    upper *= 2
    if upper > _MOST_INDEX:
      return math.inf
  lower = upper / 2 if upper > 1 else 0.0
  while upper - lower > 1e-6 * upper:
    middle = (lower + upper) / 2
    lower, upper = (lower, middle) if grows(middle) else (middle, upper)
  return upper


def _summary(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The sum T of the t_i, the largest M and the smallest positive m."""
  least = jnp.min(jnp.where(t > 0, t, jnp.inf), axis=-1)
  return jnp.sum(t, axis=-1), jnp.max(t, axis=-1), least


def _chi_square(degrees: int, points: int) -> tuple[np.ndarray, np.ndarray]:
  """Values and log weights for expectations of powers up to `_MOST_INDEX`."""
  spread = 12 * math.sqrt(2 / degrees)
  low = math.log(degrees) - spread - 60 / degrees
  high = math.log(degrees * (1 + spread) + 4 * _MOST_INDEX + 80)
  u = np.linspace(low, high, points)
  log_density = degrees / 2 * u - np.exp(u) / 2
  weights = np.exp(log_density - np.max(log_density))
  return np.exp(u), log_density - np.max(log_density) - np.log(weights.sum())
