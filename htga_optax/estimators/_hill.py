"""Hill's estimator, its interval, and the choice of k."""

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
  """A tail index, the interval around it, and two tests of what it assumes.

  Attributes:
    tail_index: the estimate, float32 []; 0 where there is none.
    interval: lower and upper end, float32 [2].
    drift: whether the level of the values has changed, a standard normal
      score, float32 []; 0 where it is not tested.
    misfit: whether values exceed the threshold otherwise than the tail model
      says, a standard normal score, float32 []; negative where the tail is
      lighter, 0 where it is not tested.
  """

  tail_index: jax.Array
  interval: jax.Array
  drift: ArrayLike = 0.0
  misfit: ArrayLike = 0.0


def hill(x: ArrayLike, k: int) -> jax.Array:
  r"""Hill's estimator of the tail index.

  .. math::
    \hat\alpha = \Bigl(\frac1k \sum_{i=1}^{k}
      \log\frac{X_{(i)}}{X_{(k+1)}}\Bigr)^{-1}

  Its asymptotic variance is :math:`\alpha^2/k`; on an exact Pareto sample its
  mean is :math:`k\alpha/(k-1)`. The bias grows with k where the tail is a
  power law only far out: with n = 256 and k = 25 it reads 2.5 on
  :math:`|t_3|`, a bias as large as the standard error, and on a stable law
  with :math:`\alpha=1.8`, at k/n of 2.5 to 5 percent, 2.4 to 2.7. A light tail
  has no index and reads large, a trend in the sample reads as a tail: an
  estimate is no proof of a power law.

  heavytails gives its inverse, and ``scipy.stats.pareto.fit`` over the
  threshold the same. powerlaw counts the threshold too, and its alpha - 1 is
  larger by (k + 1)/k. Values that are equal to the threshold count here, with
  an excess of 0. `fits.fit("Pareto tail", x, k)` leaves them out, and is this
  estimate times the share of the k that exceed the threshold.

  Args:
    x: the sample, [n]; the k + 1 largest values must be positive and finite.
    k: how many order statistics lie above the threshold (static). 2.5 to 10
      percent of n is usual; fewer is noisier, more is more biased.

  Returns:
    The tail index, float32 []; nan where X_(k+1) <= 0, where the k + 1 largest
    values are equal, or where one of them is not finite.

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
  r"""Hill's estimator from the k + 1 largest values, sorted either way.

  The threshold's own excess is zero, so the sum may run over all k + 1 values:

  .. math::
    \hat\alpha = k \Big/ \sum_{i=1}^{k+1} \log\frac{X_{(i)}}{X_{(k+1)}}

  Args:
    tail: the k + 1 largest values of a sample, [k + 1].
    threshold: the smallest of them, X_(k+1), [].

  Returns:
    The tail index, float32 []; nan as in :func:`hill`, and where the largest
    value is more than 1e38 times the threshold.
  """
  excesses, usable = log_excesses(tail, threshold)
  return jnp.where(usable, (tail.size - 1) / jnp.sum(excesses), jnp.nan)


def hill_all(x: ArrayLike) -> jax.Array:
  r"""Hill's estimates for every k, from one sort and one cumulative sum.

  .. math::
    \hat\alpha_k = k \Big/ \sum_{i=1}^{k} i \log\frac{X_{(i)}}{X_{(i+1)}}

  The same as :func:`hill` (Renyi's form), and nothing cancels in it. Drawn
  over k this is the Hill plot.

  Args:
    x: the sample, [n]; values that are not positive end what can be said.

  Returns:
    The tail index at k = 1, ..., n - 1, float32 [n - 1]; nan from the first
    X_(k+1) <= 0 on, where the k + 1 largest values are equal, and everywhere
    if a value is not finite.

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
  r"""The k at which Hill's estimate has the smallest estimated error.

  .. math::
    \hat k = \arg\min_k \frac{1 + 4 \max(z_k^2 - 1, 0)}{k}, \qquad
    z_k = \sqrt k \Bigl(\frac{M_2}{2 M_1^2} - 1\Bigr)

  with the moments of :func:`moment`. On a Pareto tail z is standard normal.
  Where the tail is :math:`C x^{-\alpha}(1 + D x^{-\alpha})`, as Hall has it
  with :math:`\rho=-1`, :math:`z_k/\sqrt k` is minus half the relative bias of
  Hill's estimate, so that the criterion is its relative mean squared error, up
  to noise (derived here, in the manner of Hall and Welsh, and of Guillou and
  Hall). It takes one cumulative sum for each moment.

  Over eight laws it is as good as a fixed tenth: with `max_k` = n/4 the root
  mean square of :math:`\log(\hat\alpha/\alpha)` is 0.27 on the whole at n = 256
  (0.33, 0.27 and 0.26 at 5, 10 and 25 percent) and 0.20 at 1024 (0.20, 0.20,
  0.23; `benchmarks/estimates.py`). It gains where the tail is a power law from
  the start (Pareto, n = 256: 0.16, a tenth 0.20), and loses where it is one far
  out only (:math:`|t_3|`: 0.33, 0.27), since a sample of this size does not
  show the difference.

  Args:
    x: the sample, [n]; the `max_k` + 1 largest values must be positive.
    max_k: the largest k that is tried (static), below n; a quarter of n.
    min_k: the smallest (static); a tenth of `max_k`, and at least 2, if None.

  Returns:
    k, int32 [], in [`min_k`, `max_k`]; `min_k` where no k gives an estimate.

  Raises:
    TypeError: a size is not a static integer.
    ValueError: `x` is not one-dimensional, or not min_k <= max_k < n.

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
  r"""Standard error of :func:`hill`, :math:`\alpha/\sqrt{k}` (textbook).

  On a Pareto sample the standard deviation is larger by
  :math:`k\sqrt{k}/((k-1)\sqrt{k-2})`, 9 percent at k = 25 (derived here).
  """
  return _over_root(tail_index, k, "k")


def hill_interval(
  tail_index: ArrayLike, k: ArrayLike, level: float = 0.95
) -> jax.Array:
  r"""Confidence interval that belongs to :func:`hill`.

  On an iid Pareto tail :math:`k\alpha/\hat\alpha` follows a Gamma(k) law
  exactly. Its quantiles are taken in the Wilson-Hilferty form (within 1
  percent from k = 5 on), which stays positive at every k:

  .. math::
    \hat\alpha\,\bigl(1 - \tfrac{1}{9k} \pm \tfrac{z}{3\sqrt{k}}\bigr)^3

  It knows nothing of bias and dependence. With W = 256 and k = 25, the nominal
  95 percent interval covers 95 percent of iid Pareto(1.5) samples, 81 percent
  on :math:`|t_3|`, and 63 percent on an autocorrelated Pareto(1.5) series
  (AR(0.9), Gaussian copula; figures of `tests/test_estimators.py`). Gradient
  norms are autocorrelated: :func:`intervals.hill_interval` is for values in
  order of time (95 percent on that series), and trackers read that one.

  Args:
    tail_index: Hill's estimate, [...].
    k: the order statistics it came from, or an effective size, positive.
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
  r"""Confidence interval from a standard error, on the scale of the logarithm.

  .. math:: \hat\alpha \exp(\pm z \, \mathrm{se}/\hat\alpha)

  It stays positive, and agrees with :math:`\hat\alpha \pm z\,\mathrm{se}`
  where the error is small (textbook). Of Hill's estimate
  :func:`hill_interval` knows the law.

  Args:
    tail_index: the estimate, [...], positive.
    standard_error: its standard error, [...].
    level: the nominal coverage (static), in (0, 1).

  Returns:
    Lower and upper end, float32 [..., 2], at most a factor e^60 away; nan where
    the estimate is not finite.

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
