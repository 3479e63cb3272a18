"""Estimates the extreme-value index: Pickands' and the moment estimator."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax.estimators._samples import (
  _EPSILON,
  _inverse,
  _largest,
  _log,
  _over_root,
  check_tail_size,
  in_range,
  log_excesses,
)


def pickands(x: ArrayLike, k: int) -> jax.Array:
  r"""Estimates the tail index from three order statistics (Pickands).

  .. math::
    \hat\xi = \log_2 \frac{X_{(k)} - X_{(2k)}}{X_{(2k)} - X_{(4k)}}, \qquad
    \hat\alpha = 1/\hat\xi

  The estimate does not depend on the location or the scale of the sample, and
  it recognises a light tail. In return its noise is three times that of
  :func:`hill` at :math:`\alpha=1.5` and equal k, and it needs the 4k largest
  values. With n = 4096 and k = 200 its median is 4.6 on :math:`|t_3|`. On a
  stable law with :math:`\alpha=1.8` the median is 16, and a third of the
  estimates are inf.

  Args:
    x: the sample, [n], of any sign; the 4k largest values must be finite.
    k: the rank of the largest of the three order statistics (static); 4k must
      be at most n.

  Returns:
    The tail index, float32 []; inf if xi <= 0, nan if two of the three order
    statistics are equal or one of the 4k values is not finite.

  Raises:
    TypeError: k is not a static integer.
    ValueError: `x` is not one-dimensional, k < 1 or 4k > n.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators
    >>> x = ((np.arange(1000) + 0.5) / 1000) ** (-1 / 1.5)
    >>> tail_index = estimators.pickands(x, k=100)
    >>> error = estimators.pickands_standard_error(tail_index, k=100)
    >>> print(f"{tail_index:.2f} +- {error:.2f}")
    1.49 +- 0.45

  References:
    Pickands (1975), Statistical inference using extreme order statistics,
    Annals of Statistics 3(1).
  """
  x = in_range(x)
  if 4 * _checks.check_size("k", k) > x.size:
    raise ValueError(
      "k must be at most a quarter of n (4k <= n), got"
      f" k={k} for a sample of {x.size}."
    )
  tail = _largest(x, 4 * k)
  outer, inner = tail[k - 1] - tail[2 * k - 1], tail[2 * k - 1] - tail[-1]
  ratio = outer / inner
  usable = (tail[0] < jnp.inf) & (ratio > 0) & (ratio < jnp.inf)
  log_ratio = _log(outer, usable) - _log(inner, usable)
  return _inverse(log_ratio / math.log(2), usable)


def pickands_standard_error(tail_index: ArrayLike, k: int) -> jax.Array:
  r"""Computes the standard error of :func:`pickands`.

  It is the textbook formula, by the delta method:

  .. math::
    \alpha \, \frac{\sqrt{2^{2\xi+1} + 1}}{2 (2^\xi - 1) \log 2 \, \sqrt{k}},
    \qquad \xi = 1/\alpha
  """
  a = jnp.asarray(tail_index, jnp.float32)
  log_power = math.log(2) / a
  root = jnp.sqrt(2 * jnp.exp(2 * log_power) + 1)
  factor = root / (2 * math.log(2) * jnp.expm1(log_power))
  return _over_root(a * factor, k, "k")


def moment(x: ArrayLike, k: int) -> jax.Array:
  r"""Estimates the tail index from two moments of the log-excesses.

  This is the moment estimator of Dekkers, Einmahl and de Haan:

  .. math::
    \hat\xi = M_1 + 1 - \frac12\Bigl(1 - \frac{M_1^2}{M_2}\Bigr)^{-1}, \quad
    M_j = \frac1k \sum_{i=1}^k \Bigl(\log\frac{X_{(i)}}{X_{(k+1)}}\Bigr)^j,
    \quad \hat\alpha = 1/\hat\xi

  The estimate of :math:`\xi` is Hill's, :math:`M_1`, plus a second term, which
  is zero on a Pareto tail and negative on a light tail. Its bias is smaller
  than Hill's if the tail is a power law only far out: with n = 4096 and k = 200
  its median is 3.2 on :math:`|t_3|` (Hill: 2.6) and 2.0 on a stable law with
  :math:`\alpha=1.8` (Hill: 2.7). Its noise is larger than Hill's by a factor of
  :math:`\sqrt{\alpha^2+1}`. It also has a bias of its own: with n = 256 and
  k = 25 its median on Pareto(1.5) is 1.7. For :math:`|t_3|` and the same sizes,
  19 percent of the estimates are inf.

  Args:
    x: the sample, [n]; the k + 1 largest values must be positive and finite.
    k: how many order statistics lie above the threshold (static); a larger k
      has less noise and more bias.

  Returns:
    The tail index, float32 []; inf if xi <= 0, nan as in :func:`hill`.

  Raises:
    TypeError: k is not a static integer.
    ValueError: `x` is not one-dimensional, or k is not in [2, n - 1].

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators
    >>> x = ((np.arange(1000) + 0.5) / 1000) ** (-1 / 1.5)
    >>> tail_index = estimators.moment(x, k=100)
    >>> error = estimators.moment_standard_error(tail_index, k=100)
    >>> print(f"{tail_index:.2f} +- {error:.2f}")
    1.55 +- 0.29

  References:
    Dekkers, Einmahl and de Haan (1989), A moment estimator for the index of an
    extreme-value distribution, Annals of Statistics 17(4).
  """
  x = in_range(x)
  check_tail_size(k, x.size, "a sample of")
  _checks.check_number("k", k, lambda v: v >= 2, "be at least 2")
  tail = _largest(x, k + 1)
  excesses, usable = log_excesses(tail, tail[k])
  m1, variance = jnp.mean(excesses[:k]), jnp.var(excesses[:k])
  # 1/(1 - m1^2/m2) = 1 + m1^2/variance. If the values above the threshold are
  # equal, the variance is 0, and the estimate is that of the lightest tail.
  variance = jnp.maximum(variance, _EPSILON * m1**2)
  return _inverse(m1 + 0.5 - 0.5 * m1**2 / variance, usable)


def moment_standard_error(tail_index: ArrayLike, k: int) -> jax.Array:
  r"""Computes the standard error of :func:`moment`.

  It is the textbook formula, by the delta method:

  .. math::
    \alpha^2 \sqrt{(1 + \xi^2)/k} = \alpha \sqrt{(\alpha^2 + 1)/k}
  """
  a = jnp.asarray(tail_index, jnp.float32)
  return _over_root(a * jnp.sqrt(a**2 + 1), k, "k")
