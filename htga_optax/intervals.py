r"""Computes the interval of a tail index from a series in order of time.

Hill's estimate is k divided by the sum of the log-excesses y_i. To first order,
its error is a mean over time,

    alpha/alpha_hat - 1 = (1/k) sum_t psi_t,    psi = (alpha y - 1) 1{y > 0}.

On a stationary series the variance of this mean is D/k, with the inflation

    D = 1 + 2 sum_h (1 - h/W) corr(psi_0, psi_h).

A window with only k values above the threshold is too short to estimate the
correlations of psi. It is long enough for the correlations of the normal scores
g, the standard normal quantiles at the ranks, which use all W values. Assume a
Gaussian copula with correlation rho_h between g_0 and g_h. Mehler's formula
with the Hermite polynomials He_j then gives

    corr(psi_0, psi_h) = C(rho_h) = sum_(j>=1) c_j^2 rho_h^j,
    c_j^2 = E[psi He_j(g)]^2 / (j! E[psi^2]).

C is convex, since the dependence of the tail ends sooner than that of the
series: C(0.5) is 0.10 at k/W = 10 percent. Noise in the estimated rho_h of an
independent series therefore hardly widens its interval, and W = 256 values are
enough to estimate D. The method is derived for this package
(:ref:`derivation-series-interval`); `benchmarks/README.md` has its coverage.

The same sums tell a tail from a trend. If the k largest values lie earlier or
later in the window than their dependence allows, the level of the values has
changed.
"""

import functools
import math
import statistics
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import estimators, order_statistics
from htga_optax.estimators._samples import in_range

_CLASSES = 32  # at most; all ranks of a class have one score
_LAGS = 12  # lags with a computed correlation; the others are interpolated
_POINTS = 65  # points in the table of C
_NORMAL = statistics.NormalDist()


class Series(NamedTuple):
  """The dependence, bias and drift that `examine` finds in a window.

  Attributes:
    variance_inflation: D, the variance of log(tail_index) divided by its
      variance for independent values, float32 [], at least 1; k/D is the
      effective k.
    bias: the factor that removes the bias of second order, float32 [].
    drift: the mean distance of the k largest values from the middle of the
      window, in standard deviations, float32 []; negative if they are early.
  """

  variance_inflation: jax.Array
  bias: jax.Array
  drift: jax.Array


def examine(window: order_statistics.SortedWindow, k: int) -> Series:
  r"""Measures the dependence, bias and drift of a full window.

  The inflation D is the sum in the module's docstring. The sum ends before the
  first lag with an autocorrelation of the normal scores that is not positive,
  and at W/4 at the latest (in the manner of Geyer's initial monotone sequence).

  The bias assumes that the tail is :math:`a x^{-\alpha}(1 + b x^{-\alpha})`,
  Hall's class with :math:`\rho=-1`. The estimate of :math:`\beta` uses the
  m = W/2 largest values and their spacings
  :math:`U_i = i \log(X_{(i)}/X_{(i+1)})`:

  .. math::
    \hat\alpha' = \hat\alpha
      \Bigl(1 - \tfrac12\hat\beta\,\tfrac kW\Bigr)^{-1}, \qquad
    \hat\beta = \frac Wm \, \frac{\bar w\,\overline{U} - \overline{wU}}
      {\bar w\,\overline{wU} - \overline{w^2 U}}, \quad w_i = \tfrac im

  :math:`\hat\beta` is clipped to [-2, 2]. It has the right sign on Student's
  laws and the wrong sign on stable laws. The interval is therefore widened by
  the bias, and not moved.

  The drift is the mean time of the k largest values, measured from the middle
  of the window and divided by its standard deviation:

  .. math::
    z = \frac{\sum_{t: x_t > X_{(k+1)}} (t - \bar t)}
      {\sqrt{D_1\, k (1 - k/W)\,\operatorname{var} t}}

  :math:`D_1` is the inflation of the indicator :math:`1\{x_t > X_{(k+1)}\}`. It
  is computed from scores without their trend, linear in t or in the normal
  scores of t: a trend makes the scores dependent, and that dependence would
  hide the trend.

  Args:
    window: the values, with all slots filled.
    k: how many of the largest values form the tail (static).

  Returns:
    The three numbers; 1, 1 and 0 if all values are equal.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import intervals, order_statistics
    >>> x = np.random.default_rng(0).chisquare(1000, size=256) ** 0.5
    >>> x[:13] *= 2  # a warm-up; hill(x, k=25) is 2.9, but the tail is light
    >>> series = intervals.examine(order_statistics.sorted_window(x), k=25)
    >>> print(f"drift {series.drift:.1f}")
    drift -3.8

  References:
    Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7(4).
    Caeiro, Gomes and Pestana (2005), Direct reduction of bias of the classical
    Hill estimator, REVSTAT 3(2): the bias, with an estimate of :math:`\rho`.
  """
  arrivals, ascending = window
  n = arrivals.size
  scores = _normal_scores(arrivals, ascending)
  trends = jnp.float32(_trends(n))
  moments = order_statistics.sums(scores, *(scores * t for t in trends))
  mean, *slopes = (v / n for v in moments)
  # The second row is without the trends.
  trend = slopes[0] * trends[0] + slopes[1] * trends[1]
  scores = (scores - mean)[None] - jnp.float32([[0], [1]]) * trend[None]
  inflation, spread = _inflations(scores, k)

  above = (arrivals > ascending[-(k + 1)]).astype(jnp.float32)
  count, drift = order_statistics.sums(above, above * trends[0])
  variance = spread * count * (1 - count / n)
  return Series(
    variance_inflation=inflation,
    bias=_bias(ascending, k),
    drift=drift * lax.rsqrt(jnp.maximum(variance, 1e-6)),
  )


def series_interval(
  tail_index: ArrayLike, k: ArrayLike, series: Series, level: float = 0.95
) -> jax.Array:
  r"""Computes the interval of :func:`estimators.hill` on a series.

  .. math::
    \Bigl[\hat\alpha \min(1, b)\, f_-, \; \hat\alpha \max(1, b)\, f_+\Bigr],
    \qquad f_\pm = \Bigl(1 - \frac{D}{9k}
      \pm \frac z3 \sqrt{\tfrac Dk}\Bigr)^3

  This is the interval of independent values (:func:`estimators.hill_interval`)
  with the effective size k/D. It contains the estimate, and also the estimate
  without its bias of second order; b is the bias in :class:`Series`.

  With W = 256 and k = 25, the nominal 95 percent interval contains the index in
  95 percent of the windows of a Pareto(1.5) series with AR(0.9) dependence, but
  in 47 percent of the windows of a stable law with :math:`\alpha=1.8`
  (`benchmarks/README.md` has more laws). Coverage is too low in two cases. A
  window that is much shorter than the dependence, such as that of an AR(0.97),
  shows too little of the dependence. And no window of 256 values shows where a
  law becomes a power law: stable laws with :math:`\alpha` near 2 appear lighter
  than they are.

  Args:
    tail_index: Hill's estimate, [].
    k: how many order statistics the estimate used.
    series: the result of :func:`examine` for the window.
    level: the nominal coverage (static), in (0, 1).

  Returns:
    Lower and upper end, float32 [2].

  Raises:
    ValueError: level outside (0, 1).
  """
  # Below 0.12 the ends of the Wilson-Hilferty form approach each other again.
  size = jnp.maximum(k / series.variance_inflation, 0.12)
  ends = estimators.hill_interval(tail_index, size, level)
  with_bias = [jnp.minimum(series.bias, 1.0), jnp.maximum(series.bias, 1.0)]
  return ends * jnp.stack(with_bias)


def hill_interval(x: ArrayLike, k: int, level: float = 0.95) -> jax.Array:
  """Computes the interval of `estimators.hill(x, k)` for values in time order.

  Args:
    x: the series, [n], positive, in order of time.
    k: how many order statistics lie above the threshold (static).
    level: the nominal coverage (static), in (0, 1).

  Returns:
    Lower and upper end, float32 [2]; nan if the estimate is nan.

  Raises:
    ValueError: `x` is not one-dimensional, k is not in [1, n - 1], or level is
      outside (0, 1).

  Examples:
    >>> import numpy as np
    >>> from htga_optax import estimators, intervals
    >>> x = np.random.default_rng(0).pareto(1.5, size=256) + 1
    >>> print(intervals.hill_interval(x, k=25).round(1))
    [1.  2.2]
    >>> clustered = np.repeat(x[:64], 4)  # each value four times in a row
    >>> print(intervals.hill_interval(clustered, k=25).round(1))
    [0.6 1.9]
  """
  window = order_statistics.sorted_window(in_range(x))
  tail_index = estimators.hill(window.arrivals, k)
  return series_interval(tail_index, k, examine(window, k), level)


def _normal_scores(arrivals: jax.Array, ascending: jax.Array) -> jax.Array:
  """Standard normal quantiles at the ranks, one for each class: [W]."""
  size, levels = _classes(arrivals.size)
  steps = jnp.float32(np.diff(levels))[:, None]
  reached = arrivals[None] >= ascending[size::size][:, None]
  return float(levels[0]) + jnp.sum(jnp.where(reached, steps, 0.0), axis=0)


def _inflations(scores: jax.Array, k: int) -> jax.Array:
  """1 + 2 sum_h (1 - h/W) C(rho_h) of two series of scores [2, W]: [2].

  C is that of the excess psi for the first, that of the indicator for the
  second.
  """
  n = scores.shape[1]
  lags, weights = _lags(n)
  later = np.arange(n) + np.append(0, lags)[:, None]
  padded = jnp.pad(scores, [(0, 0), (0, int(lags[-1]))])
  rho = jnp.sum(scores[:, None] * padded[:, later], axis=2)
  # Scores that are all equal are zero up to rounding.
  rho = jnp.clip(rho[:, 1:] / jnp.maximum(rho[:, :1], 1e-3), 0.0, 1.0)
  # The running minimum, which stays zero after the first zero.
  so_far = np.tri(len(lags), dtype=bool)[None]
  rho = jnp.min(jnp.where(so_far, rho[:, None], 1.0), axis=2)
  # C is interpolated in its table, whose points are equidistant in
  # sqrt(1 - rho).
  place = (_POINTS - 1) * (1 - jnp.sqrt(1 - rho))
  points = np.arange(_POINTS, dtype=np.float32)[None, None]
  hats = jnp.maximum(1 - jnp.abs(place[..., None] - points), 0.0)
  tables = np.stack([_table(k / n, True), _table(k / n, False)])
  factors = jnp.float32(tables[:, None] * weights[:, None])
  return 1 + 2 * jnp.stack(order_statistics.sums(*(hats * factors)))


def _bias(ascending: jax.Array, k: int) -> jax.Array:
  """1/(1 - beta k/(2W)), with beta from the W/2 largest values."""
  n = ascending.size
  size = n // 2
  if size <= k:
    return jnp.ones([], jnp.float32)
  weights = np.arange(size, 0, -1) / size
  slopes = weights * (np.mean(weights) - weights)
  largest = jnp.maximum(ascending[-(size + 1) :], 1e-37)
  # A larger ratio counts as 1e38; it would be inf if the smaller value is 0.
  logs = jnp.log(jnp.minimum(largest[1:] / largest[:-1], 1e38))
  above, below = order_statistics.sums(
    jnp.float32(slopes) * logs, jnp.float32(weights * slopes) * logs
  )
  usable = below != 0
  beta = n / size * above / jnp.where(usable, below, 1.0)
  beta = jnp.where(usable, jnp.clip(beta, -2.0, 2.0), 0.0)
  return 1 / (1 - beta * k / (2 * n))


@functools.lru_cache
def _classes(n: int) -> tuple[int, np.ndarray]:
  """The number of ranks in a class, and the mean normal quantile of a class."""
  size = -(-n // _CLASSES)
  quantiles = [_NORMAL.inv_cdf((i + 0.5) / n) for i in range(n)]
  first = np.arange(0, n, size)
  return size, np.add.reduceat(quantiles, first) / np.diff(first, append=n)


@functools.lru_cache
def _trends(n: int) -> np.ndarray:
  """Time and the residual of its normal scores, standardised: [2, n]."""
  size, levels = _classes(n)
  time = np.arange(n) - (n - 1) / 2
  normal = np.repeat(levels, size)[:n]
  normal = normal - np.mean(normal)
  normal -= np.sum(normal * time) / np.sum(time**2) * time
  return np.stack([v / max(np.std(v), 1e-6) for v in (time, normal)])


@functools.lru_cache
def _lags(n: int) -> tuple[np.ndarray, np.ndarray]:
  """Lags up to n/4, and their weights in a sum of C (1 - h/n) over all lags."""
  longest = max(n // 4, 1)
  lags = np.unique(np.geomspace(1, longest, min(_LAGS, longest)).round())
  # C is interpolated linearly in h between two lags.
  every = np.arange(1, longest + 1)
  hats = np.stack([np.interp(every, lags, one) for one in np.eye(len(lags))])
  return lags.astype(int), hats @ (1 - every / n)


@functools.lru_cache
def _table(p: float, is_excess: bool) -> np.ndarray:
  """C of the excess or of the indicator, with a share p as the tail: [points].

  The integrals are computed over the tail by Gauss-Legendre, up to 9 standard
  deviations, since psi is smooth there. (Hermite polynomials integrate to 0, so
  that only the part of the indicator above the threshold counts.)
  """
  threshold = _NORMAL.inv_cdf(1 - p)
  nodes, weights = np.polynomial.legendre.leggauss(40)
  half = (9 - threshold) / 20  # ten panels, as 400 nodes take a second
  g = threshold + half * (nodes + 1 + 2 * np.arange(10)[:, None]).ravel()
  weights = np.tile(weights, 10) * half * np.exp(-(g**2) / 2)
  weights /= math.sqrt(2 * math.pi)
  psi, variance = np.ones_like(g), p * (1 - p)
  if is_excess:
    survival = np.array([math.erfc(v / math.sqrt(2)) / 2 for v in g])
    psi, variance = np.log(p / survival) - 1, p
  squares = []
  before, hermite = np.ones_like(g), g  # He_j/sqrt(j!)
  for j in range(1, 200):
    squares.append(np.sum(weights * psi * hermite) ** 2 / variance)
    root = math.sqrt(j + 1)
    before, hermite = hermite, (g * hermite - math.sqrt(j) * before) / root
  squares[-1] += max(1 - sum(squares), 0.0)  # so that C(1) = 1
  rho = 1 - np.linspace(1, 0, _POINTS) ** 2
  return np.polynomial.Polynomial([0.0, *squares])(rho)
