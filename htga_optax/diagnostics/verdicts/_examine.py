"""Computes the numbers of a verdict from a log."""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from htga_optax import _checks, estimators, intervals, order_statistics
from htga_optax.diagnostics import fits, logs
from htga_optax.diagnostics.verdicts import _clip, _divergence, _rows, _spikes

WINDOW = 2048  # how many of the last values a verdict uses by default
FEWEST = 100  # how many values a verdict needs
UNTIED = 0.9  # ties do not matter if a larger share of the values is distinct
REPLICATIONS = 99  # the number of samples of each bootstrap
LEVEL = 0.05  # the level of the tests
_BLOCKS = 40  # the largest number of windows over the run


class Verdict(NamedTuple):
  """The result of :func:`examine` for a column of a log.

  Attributes:
    rows: the column over the whole run, and the values that are left out.
    values: the absolute values of the last window, [W].
    steps: the steps of these values, [W].
    window: the requested number of values; W is smaller in a short run.
    divergence: where the run diverged; None if it did not. After a divergence
      no tail is examined: the index is nan, and the fields that depend on it
      are empty or None.
    spikes: the largest norms of the run over the level around them.
    distinct: how many different values the window has.
    resolution: the number of which all values of the window are multiples, if
      they are rounded; else 0.
    tail_index: Hill's estimate from the window.
    interval: the interval of the tail index, nominally of 95 %, for dependent
      values.
    series: dependence, bias and drift of the window.
    blocks: for windows over the run, [4, blocks]: steps, tail indices, and the
      lower and the upper ends of their intervals.
    thinned: every `stride`-th value of the window, with its sign. The laws of
      tails are fitted to these.
    stride: 1 if large values are nearly independent.
    k: how many values of `thinned` form the tail.
    apart: values of the window that are `lag` rows apart, with their signs. The
      laws of all values are fitted to these.
    lag: the first lag at which the correlation of the ranks is below 0.1.
    tests: one test for each law that can be fitted.
    clip: what :func:`htga_optax.clip_by_tail_quantile` does on the last norms,
      at a rate of `CLIPPED`; None if the run diverged.
  """

  rows: _rows.Rows
  values: np.ndarray
  steps: np.ndarray
  window: int
  divergence: _divergence.Divergence | None
  spikes: _spikes.Spikes
  distinct: int
  resolution: float
  tail_index: float
  interval: tuple[float, float]
  series: intervals.Series
  blocks: np.ndarray
  thinned: np.ndarray
  stride: int
  k: int
  apart: np.ndarray
  lag: int
  tests: list[fits.Goodness]
  clip: _clip.Clip | None


def examine(
  columns: Any,
  column: str | None = None,
  window: int = WINDOW,
) -> Verdict:
  """Examines a column of norms in a log.

  Args:
    columns: the log: the result of :func:`htga_optax.diagnostics.logs.read`, or
      anything that :func:`htga_optax.diagnostics.logs.columns` takes. A column
      of steps is optional; :func:`take` finds it.
    column: the name of the column; if None, :func:`take` finds one. If it has
      negative values, laws with two tails are fitted to it; everything else is
      computed from the absolute values.
    window: the verdict rests on at most this many of the last values.

  Returns:
    The :class:`Verdict`.

  Raises:
    ImportError: scipy is missing.
    ValueError: there is no such column; or the run did not diverge, and it has
      fewer than `FEWEST` values that are finite and not 0, or its largest
      values are equal.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import verdicts
    >>> log = {"norm": np.random.default_rng(0).pareto(1.5, 1000) + 1}
    >>> found = verdicts.examine(log)
    >>> print(verdicts.sentences(found, log)[0])
    Tail index 1.5 (95 %: 1.2 to 1.8) of norm, from the 100 largest of the last
    1000 values: heavy, the variance of the norm is infinite.
  """
  _checks.check_number(
    "window", window, lambda v: v >= FEWEST, f"be at least {FEWEST}"
  )
  log = logs.columns(columns)
  rows = _rows.take(log, column)
  name, x = rows.column, rows.values
  diverged = _divergence.divergence(rows, window)
  if x.size < FEWEST and not diverged:
    raise ValueError(
      f"{name} has {x.size} values that are finite and not 0; a verdict needs"
      f" {FEWEST}."
      + f" {_rows.on_what_is_left_out(rows)}"
      * bool(rows.left_out)
    )
  size = min(window, x.size)
  values = np.abs(x[-size:])
  distinct, resolution = _rounding(values)
  return Verdict(
    rows=rows,
    values=values,
    steps=rows.steps[-size:],
    window=window,
    divergence=diverged,
    spikes=_spikes.find(rows, _layers(log, rows)),
    distinct=distinct,
    resolution=resolution,
    **(_no_tail() if diverged else _tail(rows, size)),
  )


def _no_tail() -> dict[str, Any]:
  """The fields of a verdict that describe the tail, for a run that diverged."""
  nan, none = math.nan, np.zeros(0)
  return {
    "tail_index": nan,
    "interval": (nan, nan),
    "series": intervals.Series(*np.full(3, nan)),
    "blocks": np.zeros([4, 0]),
    "thinned": none,
    "stride": 1,
    "k": 0,
    "apart": none,
    "lag": 1,
    "tests": [],
    "clip": None,
  }


def _tail(rows: _rows.Rows, size: int) -> dict[str, Any]:
  """The fields of a verdict that describe the tail of the last values."""
  x, k = rows.values, size // 10
  ends = np.unique(np.linspace(size, x.size, _BLOCKS).astype(int))
  windows = np.stack([np.abs(x[end - size : end]) for end in ends])
  # Divided by the median, so that float32 holds the values.
  medians = np.median(windows, axis=1)
  scaled = np.asarray(windows / medians[:, None], np.float32)
  examiner = _examiner(k)
  found = [jax.tree.map(np.asarray, examiner(one)) for one in scaled]
  alphas, limits, series = jax.tree.map(lambda *v: np.stack(v), *found)
  if not math.isfinite(alphas[-1]):
    raise ValueError(
      f"{rows.column} has no tail: the {k + 1} largest of its last {size}"
      " values are equal. If these norms are clipped, log the norms before the"
      " clip."
    )
  last = jax.tree.map(lambda v: float(v[-1]), series)
  stride = math.ceil(last.variance_inflation - 0.5)
  lag = _lag(x[-size:])
  thinned, apart = (x[-size:][::-step][::-1] for step in (stride, lag))
  tail = max(2, thinned.size // 10)
  return {
    "tail_index": float(alphas[-1]),
    "interval": (float(limits[-1, 0]), float(limits[-1, 1])),
    "series": last,
    "blocks": np.stack([rows.steps[ends - 1], alphas, *limits.T]),
    "thinned": thinned,
    "stride": stride,
    "k": tail,
    "apart": apart,
    "lag": lag,
    "tests": _tests(thinned, tail, apart),
    "clip": _clip.clip_at_the_end(np.abs(x), float(medians[-1])),
  }


@functools.lru_cache
def _examiner(k: int) -> Callable[[jax.Array], Any]:
  """A jitted function of a window: tail index, interval and `Series`."""

  def examined(values):
    series = intervals.examine(order_statistics.sorted_window(values), k)
    alpha = estimators.hill(values, k)
    return alpha, intervals.series_interval(alpha, k, series), series

  return jax.jit(examined)


def _layers(
  columns: Mapping[str, np.ndarray], rows: _rows.Rows
) -> dict[str, np.ndarray]:
  """The norms per layer, for the first column of norms that has them."""
  for prefix in (rows.column, *_rows.NORMS):
    found = {
      name.removeprefix(f"{prefix}/"): np.abs(np.asarray(x, float)[rows.places])
      for name, x in columns.items()
      if name.startswith(f"{prefix}/")
    }
    if found:
      return found
  return {}


def _rounding(values: np.ndarray) -> tuple[int, float]:
  """How many values differ; the number of which all are multiples, or 0."""
  different = np.unique(values)
  if different.size > UNTIED * values.size or different.size < 3:
    return different.size, 0.0
  step = float(np.min(np.diff(different)))
  multiples = (different - different[0]) / step
  is_grid = np.max(np.abs(multiples - np.round(multiples))) < 0.01
  return different.size, step if is_grid else 0.0


def _lag(x: np.ndarray) -> int:
  """The first lag at which the ranks have a correlation below 0.1."""
  ranks = np.argsort(np.argsort(x)) - (x.size - 1) / 2
  power = np.abs(np.fft.rfft(ranks, 2 * x.size)) ** 2
  correlation = np.fft.irfft(power)[: x.size // 4] / np.sum(ranks**2)
  below = np.flatnonzero(correlation < 0.1)
  return int(below[0]) if below.size else x.size // 4


def _tests(
  thinned: np.ndarray, k: int, apart: np.ndarray
) -> list[fits.Goodness]:
  """Tests each law that suits the number and the signs of the values."""
  tests, sizes = [], np.abs(thinned)
  above = int(np.sum(sizes > np.sort(sizes)[-(k + 1)]))
  for name, law in fits.LAWS.items():
    if law.support == "tail":
      x, enough = sizes, k >= 20 and above >= fits.FEW
    else:
      x, enough = apart, apart.size >= 50
    is_real = law.support == "real"
    if not enough or (law.support != "tail" and is_real != (np.min(x) < 0)):
      continue
    try:
      tests.append(fits.goodness(name, x, k, REPLICATIONS))
    except ValueError:  # ties: this law has no fit
      continue
  return tests


def rejected(test: fits.Goodness) -> bool:
  """Whether a test rejects its law at 5 %."""
  # Two tests, each at half the level.
  smaller = min(test.ks_pvalue, test.anderson_darling_pvalue)
  return smaller < LEVEL / 2
