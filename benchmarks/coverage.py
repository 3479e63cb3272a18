"""Measures how often an interval holds and how often a tail model is rejected.

`python benchmarks/coverage.py` writes its tables into benchmarks/README.md. The
data are drawn by NumPy and SciPy with fixed seeds.
"""

import jax
from jax import lax
import jax.numpy as jnp
from laws import autoregressive, copula, magnitude, normal, slow_and_noise
import numpy as np
from scipy import stats
import tables

import htga_optax
from htga_optax import estimators, intervals, order_statistics

SIZES = ((256, 25), (1024, 64))
REPLICATIONS = 2000
STEPS = 1_000_000
LEVEL = 0.95


# -- laws -------------------------------------------------------------------


PARETO, HALF_NORMAL = stats.pareto(1.5).isf, stats.halfnorm().isf
PARETO_SERIES = {
  "independent Pareto(1.5)": copula(normal, PARETO),
  "Pareto(1.5), AR(0.5)": copula(autoregressive(0.5), PARETO),
  "Pareto(1.5), AR(0.9)": copula(autoregressive(0.9), PARETO),
  "Pareto(1.5), AR(0.97)": copula(autoregressive(0.97), PARETO),
  "Pareto(1.5), 0.3 AR(0.98) + 0.7 noise": copula(slow_and_noise, PARETO),
}
OTHER_TAILS = {
  r"\|Student-t(3)\|": (magnitude(stats.t(3)), 3.0),
  r"\|Student-t(2)\|": (magnitude(stats.t(2)), 2.0),
  r"\|stable(1.5)\|": (magnitude(stats.levy_stable(1.5, 0)), 1.5),
  r"\|stable(1.8)\|": (magnitude(stats.levy_stable(1.8, 0)), 1.8),
}
TAILS = {name: (law, 1.5) for name, law in PARETO_SERIES.items()} | OTHER_TAILS
LIGHT = {
  "half-normal": copula(normal, HALF_NORMAL),
  "half-normal, AR(0.9)": copula(autoregressive(0.9), HALF_NORMAL),
  "exponential": magnitude(stats.expon()),
  "lognormal": magnitude(stats.lognorm(1)),
  "chi(1000)": magnitude(stats.chi(1000)),
}
# A law, and the level by which it is multiplied, over the window's time in
# [0, 1).
CHI = magnitude(stats.chi(1000))
TRENDS = {
  "chi(1000), independent": (CHI, lambda t: 1 + 0 * t),
  "chi(1000), falls by 2 after 5 percent": (CHI, lambda t: 1 + (t < 0.05)),
  "chi(1000), falls by 2 after 20 percent": (CHI, lambda t: 1 + (t < 0.2)),
  "chi(1000), falls by 2 after 50 percent": (CHI, lambda t: 1 + (t < 0.5)),
  "chi(1000), rises by 2 after 95 percent": (CHI, lambda t: 1 + (t >= 0.95)),
  "chi(1000), falls as exp(-t)": (CHI, lambda t: np.exp(-t)),
  "chi(1000), falls as t^-1/2": (CHI, lambda t: (t + 1 / t.size) ** -0.5),
  "half-normal, falls as exp(-t)": (LIGHT["half-normal"], lambda t: np.exp(-t)),
  "Pareto(1.5), falls as exp(-t)": (
    PARETO_SERIES["independent Pareto(1.5)"],
    lambda t: np.exp(-t),
  ),
}


# -- coverage ---------------------------------------------------------------


def rows_of(function, x):
  """Applies a function to many windows; returns NumPy arrays."""
  x = jnp.asarray(x, jnp.float32)
  one_by_one = jax.jit(lambda x: lax.map(function, x, batch_size=100))
  return jax.tree.map(np.asarray, one_by_one(x))


def nominal(x, k):
  def one(x):
    return estimators.hill_interval(estimators.hill(x, k), k, LEVEL)

  return rows_of(one, x).T


def ours(x, k):
  return rows_of(lambda x: intervals.hill_interval(x, k, LEVEL), x).T


def newey_west(x, k):
  """The interval from the variance of mean psi, with Bartlett's weights."""
  n = x.shape[1]
  lags = int(4 * (n / 100) ** (2 / 9))
  threshold = np.sort(x, axis=1)[:, -k - 1, None]
  y = np.maximum(np.log(x / threshold), 0)
  tail_index = k / y.sum(axis=1)
  psi = (tail_index[:, None] * y - 1) * (y > 0)
  variance = np.sum(psi**2, axis=1)
  for h in range(1, lags + 1):
    covariance = np.sum(psi[:, h:] * psi[:, : n - h], axis=1)
    variance += 2 * (1 - h / (lags + 1)) * covariance
  size = k**2 / np.maximum(variance, 1e-6)
  return np.asarray(estimators.hill_interval(tail_index, size, LEVEL)).T


def bootstrap(x, k, resamples=999):
  """The interval from percentiles of the estimates of resampled values.

  The largest values of a resample are at the ranks n U_(i). Uniform order
  statistics U_(i) are partial sums of exponentials divided by their total.
  """
  n = x.shape[1]
  rng = np.random.default_rng(1)
  sums = np.cumsum(rng.exponential(size=(resamples, k + 1)), axis=1)
  total = sums[:, -1:] + rng.gamma(n - k, size=(resamples, 1))
  places = (n * sums / total).astype(int)
  logs = np.log(np.sort(x, axis=1)[:, ::-1])
  xi = [np.mean(row[places[:, :k]], axis=1) - row[places[:, k]] for row in logs]
  ends = np.quantile(xi, [(1 + LEVEL) / 2, (1 - LEVEL) / 2], axis=1)
  return 1 / np.maximum(ends, 1e-6)


METHODS = {
  "`estimators.hill_interval`": nominal,
  "`intervals.hill_interval`": ours,
  "Newey-West": newey_west,
  "bootstrap": bootstrap,
}


def coverage(law, tail_index, window_size, k, methods=METHODS):
  """The share of intervals that hold, and the median of upper/lower end."""
  x = law(np.random.default_rng(0), (REPLICATIONS, window_size))
  found = {}
  for name, method in methods.items():
    low, high = method(x, k)
    held = np.mean((low <= tail_index) & (tail_index <= high))
    found[name] = held, np.median(high / np.maximum(low, 1e-6))
  return found


def coverage_table(window_size, k):
  rows = []
  for name, (law, tail_index) in TAILS.items():
    found = coverage(law, tail_index, window_size, k)
    cells = [f"{100 * c:.1f} ({ratio:.3g})" for c, ratio in found.values()]
    rows.append([name, *cells])
  return tables.table([f"W = {window_size}, k = {k}", *METHODS], rows)


# -- verdicts ---------------------------------------------------------------


def readings(norms, window_size, k, level_decay):
  """The readings of track_tail_index at each step, after the first 3W norms."""
  tx = htga_optax.track_tail_index(window_size, k, level_decay=level_decay)

  def step(state, r):
    _, state = tx.update(r[None], state)
    statistics = jnp.abs(state.tail_model_statistics) > 2.5
    return state, (state.tail_index, state.tail_index_interval, statistics)

  scan = jax.jit(lambda x: lax.scan(step, tx.init(jnp.zeros([1])), x)[1])
  found = scan(jnp.asarray(norms, jnp.float32))
  return [np.asarray(x)[3 * window_size :] for x in found]


def verdicts(law, window_size, k):
  """The shares of steps of one long series that are flagged."""
  norms = law(np.random.default_rng(0), (STEPS,))
  *_, flags = readings(norms, window_size, k, 0.97)
  return [*np.mean(flags, axis=0), np.mean(np.any(flags, axis=1))]


def verdict_table():
  head = ["flagged, percent of steps"]
  for sizes in SIZES:
    head += [f"{what} {sizes}" for what in ("drift", "misfit", "either")]
  laws = PARETO_SERIES | {name: law for name, (law, _) in OTHER_TAILS.items()}
  rows = []
  for name, law in (laws | LIGHT).items():
    shares = [share for sizes in SIZES for share in verdicts(law, *sizes)]
    rows.append([name, *(f"{100 * share:.1f}" for share in shares)])
  return tables.table(head, rows)


def trend_table():
  head = ["flagged for drift, percent of windows"]
  for window_size, k in SIZES:
    head += [f"({window_size}, {k})", "median of Hill's estimate"]
  rows = []
  for name, (law, level) in TRENDS.items():
    cells = []
    for window_size, k in SIZES:
      x = law(np.random.default_rng(0), (REPLICATIONS, window_size))
      x = x * level(np.arange(window_size) / window_size)

      def both(x, k=k):
        window = order_statistics.sorted_window(x)
        return estimators.hill(x, k), intervals.examine(window, k).drift

      tail_index, drift = rows_of(both, x)
      flagged = np.mean(np.abs(drift) > 2.5)
      cells += [f"{100 * flagged:.1f}", f"{np.median(tail_index):.3g}"]
    rows.append([name, *cells])
  return tables.table(head, rows)


TIME = np.arange(60_000)
LEVELS = {
  "": np.ones(TIME.size),
  ", falls by e in 500 steps": np.exp(-(TIME % 2000) / 500),
  ", jumps tenfold every 1,000": 10.0 ** (TIME // 1000 % 2),
  ", random walk": np.exp(
    0.03 * np.cumsum(np.random.default_rng(5).standard_normal(TIME.size))
  ),
}


def level_cell(norms, tail_index, level_decay):
  found, interval, flags = readings(norms, 256, 16, level_decay)
  low, high = interval.T
  held = "-"
  if tail_index is not None:
    held = f"{100 * np.mean((low <= tail_index) & (tail_index <= high)):.0f}"
  ratio = np.median(high / np.maximum(low, 1e-6))
  flagged = 100 * np.mean(np.any(flags, axis=1))
  return f"{np.median(found):.3g} ({ratio:.3g}), {held}, {flagged:.0f}"


def level_table():
  """Compares trackers of norms over their level and of norms themselves.

  They have W = 256 and k = 16.
  """
  head = ["median (upper over lower end), percent that hold, percent flagged"]
  head += ["norms over their level", "norms themselves"]
  laws = TAILS | {name: (law, None) for name, law in LIGHT.items()}
  rows = []
  for name, (law, tail_index) in laws.items():
    moves = name in ("independent Pareto(1.5)", "half-normal", "chi(1000)")
    for change, level in LEVELS.items():
      if moves or not change:
        norms = law(np.random.default_rng(0), (TIME.size,)) * level
        cells = [level_cell(norms, tail_index, d) for d in (0.97, None)]
        rows.append([name + change, *cells])
  return tables.table(head, rows)


if __name__ == "__main__":
  lines = [tables.machine("make tables")]
  for sizes in SIZES:
    lines += ["", *coverage_table(*sizes)]
  lines += ["", *verdict_table(), "", *level_table(), "", *trend_table()]
  tables.write("coverage", lines)
