"""Estimates the tail index by Hill's estimator, and chooses its k."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.estimators._samples import (
  _excess_moments,
  _largest,
  _normal_score,
  _over_root,
  check_tail_size,
  in_range,
  log_excesses,
)


class TailEstimate(NamedTuple):
  """A tail index, its interval, and two tests of its assumptions.

  Attributes:
    tail_index: the estimate, float32 []; 0 if there is no estimate.
    interval: lower and upper end, float32 [2].
    drift: tests whether the level of the values has changed, a standard normal
      score, float32 []; 0 if not tested.
    misfit: tests whether values exceed the threshold as the tail model
      predicts, a standard normal score, float32 []; negative if the tail is
      lighter, 0 if not tested.
  """

  tail_index: jax.Array
  interval: jax.Array
  drift: ArrayLike = 0.0
  misfit: ArrayLike = 0.0


def hill(x: ArrayLike, k: int) -> jax.Array:
  r"""Estimates the tail index by Hill's estimator.

  .. math::
    \hat\alpha = \Bigl(\frac1k \sum_{i=1}^{k}
      \log\frac{X_{(i)}}{X_{(k+1)}}\Bigr)^{-1}

  Its asymptotic variance is :math:`\alpha^2/k`; on an exact Pareto sample its
  mean is :math:`k\alpha/(k-1)`. If the tail is a power law only far out, the
  bias grows with k: with n = 256 and k = 25 the estimate is 2.5 on
  :math:`|t_3|`, a bias as large as the standard error. On a stable law with
  :math:`\alpha=1.8` it is 2.4 to 2.7 for k/n from 2.5 to 5 percent.

  An estimate does not prove a power law. A light tail has no index, but its
  estimate is a large number. A trend in the sample has an estimate, too, as if
  it were a tail.

  heavytails returns the inverse of this estimate. ``scipy.stats.pareto.fit`` on
  the values above the threshold returns the same estimate. powerlaw counts the
  threshold as one of the values, and its alpha - 1 is larger by a factor of
  (k + 1)/k. Values equal to the threshold count here, with an excess of 0.
  `fits.fit("Pareto tail", x, k)` leaves them out; its result is this estimate
  times the share of the k values that exceed the threshold.

  Args:
    x: the sample, [n]; the k + 1 largest values must be positive and finite.
    k: how many order statistics lie above the threshold (static). 2.5 to 10
      percent of n is usual. A smaller k has more noise, a larger k more bias.

  Returns:
    The tail index, float32 []; nan if X_(k+1) <= 0, if the k + 1 largest values
    are equal, or if one of them is not finite.

  Raises:
    ValueError: `x` is not one-dimensional, or k is not in [1, n - 1].

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators
    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> x = u ** (-1 / 1.5)  # the quantiles of a Pareto law, alpha = 1.5
    >>> print(f"{estimators.hill(x, k=100):.2f}")
    1.50

  References:
    Hill (1975), A simple general approach to inference about the tail of a
    distribution, Annals of Statistics 3(5).
  """
  x = in_range(x)
  check_tail_size(k, x.size, "a sample of")
  tail = _largest(x, k + 1)
  return hill_of_tail(tail, threshold=tail[k])


def hill_of_tail(tail: jax.Array, threshold: jax.Array) -> jax.Array:
  r"""Computes Hill's estimate from the k + 1 largest values, sorted either way.

  The excess of the threshold is zero. The sum can therefore include it:

  .. math::
    \hat\alpha = k \Big/ \sum_{i=1}^{k+1} \log\frac{X_{(i)}}{X_{(k+1)}}

  Args:
    tail: the k + 1 largest values of a sample, [k + 1].
    threshold: the smallest of them, X_(k+1), [].

  Returns:
    The tail index, float32 []; nan as in :func:`hill`, and also if the largest
    value is more than 1e38 times the threshold.
  """
  excesses, usable = log_excesses(tail, threshold)
  return jnp.where(usable, (tail.size - 1) / jnp.sum(excesses), jnp.nan)


def hill_all(x: ArrayLike) -> jax.Array:
  r"""Computes Hill's estimates for every k, by one sort and one cumulative sum.

  .. math::
    \hat\alpha_k = k \Big/ \sum_{i=1}^{k} i \log\frac{X_{(i)}}{X_{(i+1)}}

  This is Renyi's form of :func:`hill`, without cancellation. A plot of the
  estimates over k is the Hill plot.

  Args:
    x: the sample, [n]; values that are not positive have no estimate.

  Returns:
    The tail index at k = 1, ..., n - 1, float32 [n - 1]. It is nan from the
    first k with X_(k+1) <= 0 on, nan at each k whose k + 1 largest values are
    equal, and nan at every k if a value is not finite.

  Raises:
    ValueError: `x` is not one-dimensional, or has fewer than two values.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators
    >>> x = ((np.arange(1000) + 0.5) / 1000) ** (-1 / 1.5)
    >>> print(*[f"{estimators.hill_all(x)[k - 1]:.2f}" for k in (25, 99, 400)])
    1.49 1.50 1.50
  """
  x = in_range(x)
  _checks.check_number("n", x.size, lambda v: v >= 2, "be at least 2")
  xi, _ = _excess_moments(jnp.sort(x)[::-1])
  return jnp.where(xi > 0, 1 / jnp.where(xi > 0, xi, 1.0), jnp.nan)


def automatic_k(
  x: ArrayLike, max_k: int, min_k: int | None = None
) -> jax.Array:
  r"""Chooses the k at which Hill's estimate has the smallest estimated error.

  .. math::
    \hat k = \arg\min_k \frac{1 + 4 \max(z_k^2 - 1, 0)}{k}, \qquad
    z_k = \sqrt k \Bigl(\frac{M_2}{2 M_1^2} - 1\Bigr)

  :math:`M_1` and :math:`M_2` are the moments of :func:`moment`. On a Pareto
  tail :math:`z_k` is standard normal. In Hall's class with :math:`\rho=-1` the
  tail is :math:`C x^{-\alpha}(1 + D x^{-\alpha})`, and :math:`z_k/\sqrt k` is
  half the relative bias of Hill's estimate. The criterion is therefore the
  relative mean squared error of the estimate, up to noise (derived here:
  :ref:`derivation-automatic-k`; in the manner of Hall and Welsh, and of Guillou
  and Hall). Each moment takes one cumulative sum.

  Over eight laws the choice is as good as a fixed tenth of the sample: with
  n = 256 and `max_k` = n/4 the root mean square of
  :math:`\log(\hat\alpha/\alpha)` is 0.27 for both (`benchmarks/README.md`). The
  choice is better if the tail is a power law from the start (Pareto). It is
  worse if the tail is a power law only far out (:math:`|t_3|`), since a sample
  of this size does not show the difference.

  Args:
    x: the sample, [n]; the `max_k` + 1 largest values must be positive.
    max_k: the largest k to try (static), below n; take a quarter of n.
    min_k: the smallest k to try (static); None for a tenth of `max_k`, and at
      least 2.

  Returns:
    k, int32 [], in [`min_k`, `max_k`]; `min_k` if no k has an estimate.

  Raises:
    TypeError: a size is not a static integer.
    ValueError: `x` is not one-dimensional, or min_k <= max_k < n does not hold.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators
    >>> x = 1 / ((np.arange(1000) + 0.5) / 1000)
    >>> print(estimators.automatic_k(x, max_k=250))
    250
    >>> print(estimators.automatic_k(x + 10, max_k=250))
    72

  References:
    Hall and Welsh (1985), Adaptive estimates of parameters of regular
    variation, Annals of Statistics 13(1). Guillou and Hall (2001), A diagnostic
    for selecting the threshold in extreme value analysis, JRSS B 63(2).
  """
  x = in_range(x)
  check_tail_size(max_k, x.size, "a sample of")
  min_k = max(max_k // 10, min(2, max_k)) if min_k is None else min_k
  if _checks.check_size("min_k", min_k) > max_k:
    raise ValueError(f"min_k must be at most max_k={max_k}, got {min_k}.")
  k = np.arange(min_k, max_k + 1, dtype=np.float32)
  m1, m2 = (m[min_k - 1 :] for m in _excess_moments(_largest(x, max_k + 1)))
  z2 = k * (m2 / (2 * m1**2) - 1) ** 2
  error = (1 + 4 * jnp.maximum(z2 - 1, 0.0)) / k
  error = jnp.where(jnp.isfinite(error), error, jnp.inf)
  return min_k + jnp.argmin(error).astype(jnp.int32)


def hill_standard_error(tail_index: ArrayLike, k: int) -> jax.Array:
  r"""Computes the standard error of :func:`hill`.

  It is the textbook formula :math:`\alpha/\sqrt{k}`. On a Pareto sample the
  standard deviation is larger by a factor of
  :math:`k\sqrt{k}/((k-1)\sqrt{k-2})`, 9 percent at k = 25 (derived here:
  :ref:`derivation-hill-standard-error`).
  """
  return _over_root(tail_index, k, "k")


def hill_interval(
  tail_index: ArrayLike, k: ArrayLike, level: float = 0.95
) -> jax.Array:
  r"""Computes the interval of :func:`hill` for independent values.

  On an iid Pareto tail :math:`k\alpha/\hat\alpha` follows a Gamma(k) law
  exactly. The interval takes its quantiles in the Wilson-Hilferty form, which
  is within 1 percent for k of 5 or more and stays positive at every k:

  .. math::
    \hat\alpha\,\bigl(1 - \tfrac{1}{9k} \pm \tfrac{z}{3\sqrt{k}}\bigr)^3

  It accounts for neither bias nor dependence. With n = 256 and k = 25, the
  nominal 95 percent interval contains the index for 95 percent of iid
  Pareto(1.5) samples, for 81 percent of samples of :math:`|t_3|`, and for 63
  percent of autocorrelated Pareto(1.5) series (AR(0.9), Gaussian copula).
  Gradient norms are autocorrelated. For values in order of time use
  :func:`intervals.hill_interval`, as the trackers do: it reaches 95 percent on
  those series.

  Args:
    tail_index: Hill's estimate, [...].
    k: how many order statistics the estimate used, or an effective size,
      positive.
    level: the nominal coverage (static), in (0, 1).

  Returns:
    Lower and upper end, float32 [..., 2].

  Raises:
    ValueError: level outside (0, 1).

  Examples:
    >>> from htga_optax import estimators
    >>> print(estimators.hill_interval(2.0, k=16).round(2))
    [1.14 3.09]

  References:
    Wilson and Hilferty (1931), The distribution of chi-square, PNAS 17(12).
  """
  z = _normal_score(level)
  _checks.check_number("k", k, lambda v: v > 0, "be positive")
  k = jnp.asarray(k, jnp.float32)[..., None]
  ends = 1 - 1 / (9 * k) + z / (3 * jnp.sqrt(k)) * jnp.float32([-1, 1])
  tail_index = jnp.asarray(tail_index, jnp.float32)
  return tail_index[..., None] * jnp.maximum(ends, 0.0) ** 3


def positive_interval(
  tail_index: ArrayLike, standard_error: ArrayLike, level: float = 0.95
) -> jax.Array:
  r"""Computes an interval from a standard error, on the scale of the logarithm.

  .. math:: \hat\alpha \exp(\pm z \, \mathrm{se}/\hat\alpha)

  The interval stays positive. It agrees with
  :math:`\hat\alpha \pm z\,\mathrm{se}` if the error is small (textbook). For
  Hill's estimate use :func:`hill_interval`, which uses the law of the estimate.

  Args:
    tail_index: the estimate, [...], positive.
    standard_error: its standard error, [...].
    level: the nominal coverage (static), in (0, 1).

  Returns:
    Lower and upper end, float32 [..., 2], each within a factor of e^60 of the
    estimate; nan if the estimate is not finite.

  Raises:
    ValueError: level outside (0, 1).

  Examples:
    >>> from htga_optax import estimators
    >>> low, high = estimators.positive_interval(1.5, 0.2)
    >>> print(f"{low:.2f} to {high:.2f}")
    1.16 to 1.95
  """
  z = _normal_score(level)
  tail_index = jnp.asarray(tail_index, jnp.float32)[..., None]
  error = jnp.asarray(standard_error, jnp.float32)[..., None] / tail_index
  width = jnp.minimum(z * error, 60.0) * jnp.float32([-1, 1])
  return tail_index * jnp.exp(width)
