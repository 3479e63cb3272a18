r"""Measures the tails of series of norms, and what it reads of known laws.

A series is the norms r_t of a run in order of time. Its tail index is Hill's
estimate from its k = n/20 largest values, with the interval for dependent
values (:mod:`htga_optax.intervals`). This is computed for the norms themselves
(raw), and for the norms over their level, the median of the 51 norms around
each norm.

The level that `track_tail_index` uses is causal: it depends on earlier norms
only, and follows a change within 33 norms. Therefore a level that rises
abruptly looks like a tail until it has been followed: narrow norms, chi(1000),
with a tenfold jump up and down every 128 norms, have an index of 5 over it, 100
over the median, and 110 without jumps. The median has three costs. It uses
later norms. It is noisy: the index of independent half-normal norms is 5.3 over
it and 5.9 without a level. And it removes dependence that the interval needs.
On Pareto laws with a correlation of 0.9, intervals therefore hold less often
than they should; with a correlation of 0.6, they hold (algoperf.md has the
table).

A generalized Pareto law with the shape xi is fitted to the same k values over
the level. The standard error of xi is (1 + xi) sqrt(D/k), that of maximum
likelihood, with the variance inflation D of Hill's estimate. xi is 1/alpha for
a power law and 0 for an exponential tail.

Two tests reject the tail model, as in `track_tail_index`: the drift of the
whole series, and the misfit of held-out values in windows of 256 norms with
k = 16, at the end of the series. The misfit is sound but weak: an exceedance of
a half-normal law has a mean score of -0.03 and a standard deviation of 0.29, so
that several thousand norms are needed. A bootstrap of the distance of
Kolmogorov and Smirnov fits thousands of laws and is not stronger. The best
guide to a light tail is the index that light laws of that length have
(:func:`light_bands`).
"""

from collections.abc import Iterable
import functools
from typing import NamedTuple

import paths  # noqa: F401  # isort: skip
import jax
from jax import lax
import jax.numpy as jnp
import laws
import numpy as np
from scipy import ndimage, stats

from htga_optax import estimators, intervals, order_statistics, streaming
from htga_optax.estimators import _pareto

FEWEST = 100  # a series with fewer values has no estimate
SHARE = 20  # one value in 20 belongs to the tail
WINDOW, WINDOW_K = 256, 16  # the sizes of `track_tail_index`
REJECTION = 2.5
LEVEL_ROWS = 51  # norms in a median
_BATCH = 16  # series in one call of a compiled program
_TOO_LARGE = 1e30  # times the median; a larger norm counts as infinite
_Z = 1.96

# Functions of q: the value that a norm exceeds with probability q.
LAWS = {
  "half-normal": stats.halfnorm().isf,
  "lognormal(0.2)": stats.lognorm(0.2).isf,
  "chi(1000)": stats.chi(1000).isf,
  "|t_3|": lambda q: stats.t.isf(q / 2, 3),
  "Pareto(2)": stats.pareto(2).isf,
  "Pareto(1.5)": stats.pareto(1.5).isf,
}
# The index of the laws that have one.
INDICES = {"|t_3|": 3.0, "Pareto(2)": 2.0, "Pareto(1.5)": 1.5}
REPLICATIONS = 200

# The median removes correlation. For an AR(1) Gaussian copula with each of
# these correlations, the norms over the median have the second one (simulated).
CORRELATIONS = np.float32([0, 0.3, 0.6, 0.8, 0.9, 0.95])
OVER_LEVEL = np.float32([-0.01, 0.275, 0.56, 0.745, 0.82, 0.845])

# Verdicts; see :func:`verdict`.
INFINITE, HEAVY, LIGHT, OPEN = (
  "infinite variance",
  "heavy",
  "light",
  "cannot be told",
)


class _Tail(NamedTuple):
  """The numbers of a series, [] each; see :func:`examine`."""

  raw_index: jax.Array
  raw_low: jax.Array
  raw_high: jax.Array
  raw_drift: jax.Array
  index: jax.Array
  low: jax.Array
  high: jax.Array
  xi: jax.Array
  xi_low: jax.Array
  xi_high: jax.Array
  drift: jax.Array
  inflation: jax.Array
  rho: jax.Array


def over_level(series: np.ndarray) -> np.ndarray:
  """Divides each norm by the median of 51 norms around it, [m, n].

  The first and the last 25 norms are divided by the first and the last median.
  """
  half = LEVEL_ROWS // 2
  level = ndimage.median_filter(series, (1, LEVEL_ROWS))
  level[:, :half] = level[:, half, None]
  level[:, -half:] = level[:, -half - 1, None]
  return series / level


def _hill(
  x: jax.Array, k: int
) -> tuple[jax.Array, jax.Array, intervals.Series]:
  """The tail index of a series, its interval, dependence and drift."""
  window = order_statistics.sorted_window(x)
  index, series = estimators.hill(x, k), intervals.examine(window, k)
  return index, intervals.series_interval(index, k, series), series


def _correlation(x: jax.Array) -> jax.Array:
  """The correlation of the normal scores of neighbours."""
  ranks = jnp.argsort(jnp.argsort(x)).astype(jnp.float32)
  scores = jax.scipy.special.ndtri((ranks + 0.5) / x.size)
  return jnp.sum(scores[1:] * scores[:-1]) / jnp.sum(scores**2)


def _tail(norms: jax.Array, x: jax.Array, k: int) -> _Tail:
  """Measures the tail of the norms and of x, the norms over their level."""
  raw_index, (raw_low, raw_high), raw_series = _hill(norms, k)
  index, (low, high), series = _hill(x, k)
  tail = _pareto.pareto_tail(jnp.sort(x)[-(k + 1) :])
  xi = jnp.where(tail.usable, tail.xi, jnp.nan)
  # The formula of the standard error holds for xi > -1/2.
  error = jnp.maximum(1 + xi, 0.5) * jnp.sqrt(series.variance_inflation / k)
  return _Tail(
    raw_index=raw_index,
    raw_low=raw_low,
    raw_high=raw_high,
    raw_drift=raw_series.drift,
    index=index,
    low=low,
    high=high,
    xi=xi,
    xi_low=xi - _Z * error,
    xi_high=xi + _Z * error,
    drift=series.drift,
    inflation=series.variance_inflation,
    rho=jnp.interp(_correlation(x), OVER_LEVEL, CORRELATIONS),
  )


def _windows(x: jax.Array) -> estimators.TailEstimate:
  """The estimate after each norm, from a window of the norms over the level."""
  init, update, estimate = streaming.windowed_hill(WINDOW, WINDOW_K)

  def step(state, x):
    state = update(state, x)
    return state, estimate(state)

  return lax.scan(step, init(), x)[1]


@functools.cache
def _program(function, *sizes):
  return jax.jit(jax.vmap(lambda *x: function(*x, *sizes)))


def _run(function, series: list[np.ndarray], *sizes):
  """Applies a function to each row of [m, n] arrays; one program for each n."""
  m, found = len(series[0]), []
  for i in range(0, m, _BATCH):
    rows = np.resize(np.arange(i, min(i + _BATCH, m)), _BATCH)
    parts = [np.float32(x[rows]) for x in series]
    found.append(jax.device_get(_program(function, *sizes)(*parts)))
  return jax.tree.map(lambda *v: np.concatenate(v)[:m], *found)


def round_length(n: int) -> int:
  """Returns the largest number of the form (8 to 15) 2^j that is at most n.

  Every length needs a program of its own. Series of many lengths are therefore
  shortened to these lengths, by at most 11 percent.
  """
  step = 2 ** max(int(n).bit_length() - 4, 0)
  return n // step * step


def windows(series: np.ndarray) -> dict[str, np.ndarray]:
  """Estimates from windows of 256 norms over their level, as a tracker does.

  Args:
    series: positive, finite norms in order of time, [m, n].

  Returns:
    `index`, `low`, `high` and `rejected` after each norm, [m, n]. The index and
    its interval are 0 before the window is full.
  """
  found = _run(_windows, [over_level(np.asarray(series, float))])
  statistics = np.maximum(np.abs(found.drift), np.abs(found.misfit))
  return {
    "index": found.tail_index,
    "low": found.interval[..., 0],
    "high": found.interval[..., 1],
    "rejected": statistics > REJECTION,
  }


def examine(series: np.ndarray, k: int | None = None) -> dict[str, np.ndarray]:
  """Measures the tails of many series of one length.

  Norms that are 0, not finite, or above 1e30 times the median of their series
  are counted and left out. Such a series is also shortened at its beginning, to
  the length :func:`round_length`, and k by the same share.

  Args:
    series: norms in order of time, [m, n].
    k: how many norms form the tail; None for n // 20.

  Returns:
    A dictionary of arrays [m].

    raw_index, raw_low, raw_high: the tail index of the norms, its interval.
    raw_drift: the drift of the norms.
    index, low, high: the same index and interval, of the norms over their
      level, as everything that follows.
    xi, xi_low, xi_high: the shape of the generalized Pareto law, its interval.
    drift: of the whole series, standard normal if the level does not change.
    misfit: of the last windows, standard normal if the tail is a power law,
      negative if it is lighter; 0 if there is no full window.
    rejected: whether drift or misfit is beyond 2.5.
    inflation: D, the variance of log(index) over that of independent norms.
    rho: the correlation of neighbours of the AR(1) Gaussian copula whose norms
      over the level are as dependent as these; in [0, 0.95].
    used, left_out: how many norms the numbers are from; how many are left out.
    known: whether there is an estimate. Without one (fewer than 100 norms, or
      the largest ones are equal) all numbers are nan.

  Raises:
    ValueError: `series` does not have two dimensions, n is below 100, or k is
      not in [5, n - 1].
  """
  series = np.asarray(series, float)
  if series.ndim != 2 or series.shape[1] < FEWEST:
    raise ValueError(
      f"series must be [m, n] with n of at least {FEWEST}, got shape"
      f" {series.shape}."
    )
  m, n = series.shape
  k = n // SHARE if k is None else k
  if not 5 <= k < n:
    raise ValueError(f"k must be in [5, n - 1], got k={k} for n={n}.")
  good = np.isfinite(series) & (series > 0)
  medians = [np.median(x[g]) if g.any() else 1.0 for x, g in zip(series, good)]
  good &= series <= _TOO_LARGE * np.array(medians)[:, None]
  counts = np.sum(good, axis=1)
  used = np.array([n if c == n else round_length(c) for c in counts], int)
  found = {name: np.full(m, np.nan) for name in (*_Tail._fields, "misfit")}
  for length in {int(c) for c in used if c >= FEWEST}:
    rows = np.flatnonzero(used == length)
    x = np.stack([series[i][good[i]][-length:] for i in rows])
    pair = [x / np.median(x, axis=1, keepdims=True), over_level(x)]
    tail = _run(_tail, pair, max(k * length // n, 5))
    for name, values in tail._asdict().items():
      found[name][rows] = values
    found["misfit"][rows] = _run(_windows, pair[1:]).misfit[:, -1]
  known = np.all([np.isfinite(x) for x in found.values()], axis=0)
  for values in found.values():
    values[~known] = np.nan
  statistics = np.maximum(np.abs(found["drift"]), np.abs(found["misfit"]))
  return found | {
    "rejected": known & (statistics > REJECTION),
    "used": used,
    "left_out": n - counts,
    "known": known,
  }


def verdict(
  index: np.ndarray, low: np.ndarray, high: np.ndarray, ground: np.ndarray
) -> np.ndarray:
  """Decides for each tail index whether the tail is heavy.

  The variance is infinite if the whole interval is below 2. The tail is heavy
  if the whole interval is below the ground, and light if the index is not.

  Args:
    index: tail indices, [m].
    low: the lower ends of their intervals, [m].
    high: the upper ends, [m].
    ground: the 5 percent quantile of the index for half-normal norms of the
      same length and dependence, [m].

  Returns:
    One of `INFINITE`, `HEAVY`, `LIGHT` and `OPEN` for each, [m].
  """
  known = np.isfinite(index) & np.isfinite(low) & np.isfinite(high)
  return np.select(
    [~known, high < np.minimum(ground, 2.0), high < ground, index >= ground],
    [OPEN, INFINITE, HEAVY, LIGHT],
    OPEN,
  )


def simulate(
  n: int,
  rho: float,
  rng: np.random.Generator,
  names: Iterable[str] = tuple(LAWS),
  replications: int = REPLICATIONS,
) -> dict[str, dict[str, np.ndarray]]:
  """Applies :func:`examine` to series of known laws.

  Args:
    n: the length of the series.
    rho: the correlation of neighbours of an AR(1) Gaussian copula, in (-1, 1).
    rng: the generator.
    names: which of the `LAWS`.
    replications: m, the number of series of each law.

  Returns:
    The result for each law.
  """
  gaussian = laws.autoregressive(rho)
  return {
    name: examine(laws.copula(gaussian, LAWS[name])(rng, (replications, n)))
    for name in names
  }


def light_bands(
  n: int,
  rho: float,
  rng: np.random.Generator,
  of: str = "index",
  names: Iterable[str] = tuple(LAWS),
) -> dict[str, tuple[float, float, float]]:
  """Computes the results of :func:`examine` for series of known laws.

  Args:
    n: the length of the series.
    rho: the correlation of neighbours of an AR(1) Gaussian copula, in (-1, 1).
    rng: the generator.
    of: the name of a number of the result.
    names: which of the `LAWS`.

  Returns:
    The 5, 50 and 95 percent quantiles of the number, for each law.
  """
  return {
    name: tuple(map(float, np.quantile(found[of], [0.05, 0.5, 0.95])))
    for name, found in simulate(n, rho, rng, names).items()
  }
