r"""Measures the tails of series of norms, and what it reads of known laws.

A series is the norms r_t of a run in order of time. Its tail index is Hill's
estimate from its k = n/20 largest values, with the interval for dependent
values (:mod:`htga_optax.intervals`). This is computed for the norms themselves
(raw), and for the norms over their level,

    x_t = r_t / L_(t-1),
    log L_t = log L_(t-1) + 0.03 clip(log r_t - log L_(t-1), -1, 1).

L is the level of `track_tail_index`, except at the start: log L_0 is the median
of the first 33 logarithms. (The tracker begins with its first norm. If that is
near 0, the next ones are spikes over it.) A running median of 51 norms centred
at r_t, the usual alternative, is itself noisy. It removes more of the
dependence, and its intervals then hold less often: on Pareto(1.5), AR(0.9),
n = 500 in 85 percent of the series, those over L in 93 percent. It reads 4.7
for independent half-normal norms, L 5.7, and the raw norms 5.9. L lags by 33
norms. Therefore a narrow law reads heavier, although still light, if its level
moves tenfold within n = 500.

A generalized Pareto law with the shape xi is fitted to the same k values over
the level. The standard error of xi is (1 + xi) sqrt(D/k), that of maximum
likelihood, with the variance inflation D of Hill's estimate. xi is 1/alpha for
a power law and 0 for an exponential tail.

Two tests reject the tail model, as in `track_tail_index`: the drift of the
whole series, and the misfit of the held-out values of a window of 256 norms
with k = 16, at the end of the series. Few exceedances cannot tell a light tail
from a power law: for most light series of less than several thousand norms,
neither test rejects. What a light law reads at this length is the better guide
(:func:`simulate`).
"""

import functools
from typing import NamedTuple

import paths  # noqa: F401  # isort: skip
import jax
from jax import lax
import jax.numpy as jnp
import laws
import numpy as np
from scipy import stats

from htga_optax import estimators, intervals, order_statistics, streaming
from htga_optax.estimators import _pareto
from htga_optax.streaming import _level

FEWEST = 100  # a series with fewer values has no estimate
SHARE = 20  # one value in 20 belongs to the tail
WINDOW, WINDOW_K = 256, 16  # the sizes of `track_tail_index`
REJECTION = 2.5
_START = 33  # 1/(1 - LEVEL_DECAY), the memory of the level
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


def over_level(x: jax.Array) -> jax.Array:
  """Divides the norms of a series by the level before each of them, [n]."""
  follow = _level.level()
  start = jnp.stack([jnp.log(jnp.median(x[:_START])), 1.0])
  step = lambda state, r: (follow.update(state, r), r / follow.scale(state, r))
  return lax.scan(step, start.astype(jnp.float32), x)[1]


def _hill(
  x: jax.Array, k: int
) -> tuple[jax.Array, jax.Array, intervals.Series]:
  window = order_statistics.sorted_window(x)
  index, series = estimators.hill(x, k), intervals.examine(window, k)
  return index, intervals.series_interval(index, k, series), series


def _correlation(x: jax.Array) -> jax.Array:
  """The correlation of the normal scores of neighbours: rho of an AR(1)."""
  n = x.size
  ranks = jnp.argsort(jnp.argsort(x)).astype(jnp.float32)
  scores = jax.scipy.special.ndtri((ranks + 0.5) / n)
  return jnp.sum(scores[1:] * scores[:-1]) / jnp.sum(scores**2)


def _tail(x: jax.Array, k: int) -> _Tail:
  raw_index, (raw_low, raw_high), raw_series = _hill(x, k)
  x = over_level(x)
  index, (low, high), series = _hill(x, k)
  tail = _pareto.pareto_tail(order_statistics.sorted_window(x)[1][-(k + 1) :])
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
    rho=_correlation(x),
  )


def _windows(x: jax.Array) -> estimators.TailEstimate:
  """The estimate after each norm, from a window of the norms over the level."""
  init, update, estimate = streaming.windowed_hill(WINDOW, WINDOW_K)

  def step(state, x):
    state = update(state, x)
    return state, estimate(state)

  return lax.scan(step, init(), over_level(x))[1]


@functools.cache
def _program(function, *sizes):
  return jax.jit(jax.vmap(lambda x: function(x, *sizes)))


def _run(function, x: np.ndarray, *sizes):
  """Applies a function to each series [m, n]; one program for each n."""
  x = np.float32(x / np.median(x, axis=1, keepdims=True))
  found = []
  for i in range(0, len(x), _BATCH):
    part = x[i : i + _BATCH]
    full = np.resize(part, (_BATCH, x.shape[1]))
    result = _program(function, *sizes)(full)
    found.append(jax.tree.map(np.asarray, result))
  return jax.tree.map(lambda *v: np.concatenate(v)[: len(x)], *found)


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
  found = _run(_windows, np.asarray(series, float))
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
    rho: the correlation of neighbours, of an AR(1) Gaussian copula.
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
  median = np.array(
    [np.median(x[g]) if g.any() else 1 for x, g in zip(series, good)]
  )
  good &= series <= _TOO_LARGE * median[:, None]
  counts = np.sum(good, axis=1)
  used = np.array([n if c == n else round_length(c) for c in counts], int)
  found = {name: np.full(m, np.nan) for name in (*_Tail._fields, "misfit")}
  for length in {int(c) for c in used if c >= FEWEST}:
    rows = np.flatnonzero(used == length)
    x = np.stack([series[i][good[i]][-length:] for i in rows])
    tail = _run(_tail, x, max(k * length // n, 5))
    for name, values in tail._asdict().items():
      found[name][rows] = values
    found["misfit"][rows] = _run(_windows, x).misfit[:, -1]
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


def simulate(
  n: int,
  rho: float,
  rng: np.random.Generator,
  replications: int = REPLICATIONS,
) -> dict[str, dict[str, np.ndarray]]:
  """Applies :func:`examine` to series of known laws.

  Args:
    n: the length of the series.
    rho: the correlation of an AR(1) Gaussian copula, in (-1, 1).
    rng: the generator.
    replications: m, the number of series of each law.

  Returns:
    The result for each of `LAWS`.
  """
  gaussian = laws.autoregressive(rho)
  return {
    law: examine(laws.copula(gaussian, isf)(rng, (replications, n)))
    for law, isf in LAWS.items()
  }


def light_bands(
  n: int, rho: float, rng: np.random.Generator, of: str = "index"
) -> dict[str, tuple[float, float, float]]:
  """Returns what :func:`examine` reads for series of known laws.

  Args:
    n: the length of the series.
    rho: the correlation of an AR(1) Gaussian copula, in (-1, 1).
    rng: the generator.
    of: the name of the number.

  Returns:
    The 5, 50 and 95 percent quantiles of the number, for each of `LAWS`.
  """
  return {
    law: tuple(map(float, np.quantile(found[of], [0.05, 0.5, 0.95])))
    for law, found in simulate(n, rho, rng).items()
  }
