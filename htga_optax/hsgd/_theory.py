"""Bounds of the tail index of hSGD, and the exact index of SGD."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.hsgd._arguments import _at_least_zero, _parameters, _positive

_MOST_INDEX = 256  # beyond which streaming_tail_index says inf


class Bounds(NamedTuple):
  """What is known of a number.

  Attributes:
    lower: float32, of the shape of what it was asked for.
    upper: the same.
  """

  lower: jax.Array
  upper: jax.Array


def tail_index_bounds(
  eigenvalues: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Bounds:
  r"""Between which numbers the tail index of hSGD is.

  .. math::
    \eta_* = 2 + \frac{2B/\gamma - T}{M}, \qquad
    \eta^* = \min\Bigl(1 + \frac{2B}{\gamma M},\;
      2 + \frac{2B/\gamma - T}{m}\Bigr)
    \qquad (\gamma \le 2B/T)

  with :math:`t_i = \lambda_i^2/(\lambda_i + \delta)`, their sum T, largest M
  and smallest positive m; beyond :math:`\gamma_2 = 2B/T` the lower bound has m
  for M and the upper one is the line with M. At :math:`\gamma_2` both are 2; in
  one dimension, and if all positive eigenvalues are one, they are the same
  number, the exact index. It is the index of the norm and of every coordinate.

  Only gamma/B enters. The bounds are for hSGD: SGD leaves them, mostly below,
  and may diverge where hSGD does not, see :func:`streaming_tail_index`.

  Args:
    eigenvalues: of the Hessian :math:`H = A'A/n`, [d], in any order; zeros are
      directions without noise and do not count.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, positive.
    weight_decay: :math:`\delta`, at least 0. The three broadcast; each may be
      traced.

  Returns:
    The bounds, as :class:`Bounds`, of the common shape of the last three
    arguments. The lower is 0 where it says nothing, so that there may be no
    stationary law; both are nan where there is none. nan also comes of traced
    values out of range.

  Raises:
    ValueError: eigenvalues that are not one-dimensional or empty; concrete ones
      that are negative, not finite or all 0; numbers out of range.

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
    are derived here, see the module; that :math:`\eta^* = 1 + 2B/(\gamma M)`
    is not the best upper one is, too.
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
  r"""Below and beyond which learning rate hSGD has a moment of some order.

  .. math:: \gamma_p = \frac{2B}{T + (p - 2) R}, \quad R \in [m, M]

  The bounds of :func:`tail_index_bounds`, solved for the learning rate: the
  stationary moment E ||X||^p is finite for every rate below the lower one and
  infinite for every rate above the upper one. At order 2 both are
  :math:`\gamma_2 = 2B/T`, exact. Order 0 asks for a stationary law at all.

  Args:
    eigenvalues: as for :func:`tail_index_bounds`.
    batch_size: B, positive; the rates are proportional to it.
    weight_decay: :math:`\delta`, at least 0.
    order: p, at least 0.

  Returns:
    The rates, as :class:`Bounds`, of the common shape of the last three
    arguments; inf where every rate will do (in one dimension up to order 1).

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
  r"""The tail index of SGD itself, if every row is new and N(0, lambda I).

  The positive root p of

  .. math::
    E \Bigl[\bigl((1 - \gamma\delta) - g s\bigr)^2 + g^2 s q\Bigr]^{p/2} = 1,
    \quad g = \frac{\gamma\lambda}{B}, \quad s \sim \chi^2_B, \quad
    q \sim \chi^2_{d-1}

  (Kesten; textbook): a step multiplies the distance from the solution by
  :math:`\|(1 - \gamma\delta) e - \gamma A'A e/B\|`, whose law is the same for
  every direction e. By the trapezoidal rule in the logarithms of s and q, on
  the host; within 1e-4 (tests).

  This is what :func:`tail_index_bounds` stands for, and is off by:

  ====  ====  ======  =====  =====
  d     B     gamma   hSGD   SGD
  ====  ====  ======  =====  =====
  1     1     0.1     21.0   17.3
  5     10    0.3     63.7   43.8
  5     10    1.0     17.0   5.2
  20    2     0.19    5.2    1.4
  1000  10    0.0197  17.2   177.5
  ====  ====  ======  =====  =====

  (delta = 0.1 in the fourth row, else 0.) It needs Gaussian rows and one
  eigenvalue; SGD that draws its batches from a finite data set has another
  index, or none.

  Args:
    dimension: d, at least 1.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, at least 1.
    weight_decay: :math:`\delta`, at least 0.
    eigenvalue: :math:`\lambda`, the variance of the entries of a row, positive.

  Returns:
    The tail index, a Python float; nan where SGD has no stationary law, inf
    beyond 256.

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
    (2021), The heavy-tail phenomenon in SGD, ICML, have it for SGD (from
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
  """T, M and m."""
  least = jnp.min(jnp.where(t > 0, t, jnp.inf), axis=-1)
  return jnp.sum(t, axis=-1), jnp.max(t, axis=-1), least


def _chi_square(degrees: int, points: int) -> tuple[np.ndarray, np.ndarray]:
  """Values and log weights of an expectation, of powers up to _MOST_INDEX."""
  spread = 12 * math.sqrt(2 / degrees)
  low = math.log(degrees) - spread - 60 / degrees
  high = math.log(degrees * (1 + spread) + 4 * _MOST_INDEX + 80)
  u = np.linspace(low, high, points)
  log_density = degrees / 2 * u - np.exp(u) / 2
  weights = np.exp(log_density - np.max(log_density))
  return np.exp(u), log_density - np.max(log_density) - np.log(weights.sum())
