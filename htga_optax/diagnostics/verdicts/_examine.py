"""The numbers of a verdict."""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from htga_optax import _checks, estimators, intervals, order_statistics
from htga_optax.diagnostics import fits, logs
from htga_optax.diagnostics.verdicts import _clip, _divergence, _rows, _spikes

WINDOW = 2048  # how many values a verdict rests on, unless the user says
FEWEST = 100  # values that a verdict needs
UNTIED = 0.9  # the share of different values beyond which ties do not matter
REPLICATIONS = 99  # of each bootstrap
LEVEL = 0.05  # of the tests
_BLOCKS = 40  # windows over the run, at most


class Verdict(NamedTuple):
  """What :func:`examine` finds in a column of a log.

  Attributes:
    rows: the column over the whole run, and what is left out of it.
    values: the absolute values of the last window, [W].
    steps: the steps of these values, [W].
    window: how many values were asked for; W is smaller in a short run.
    divergence: where the run diverged; None if it did not. A run that diverged
      has no tail: the index is nan, all that rests on it is empty or None.
    spikes: the largest norms of the run over the level around them.
    distinct: how many different values the window has.
    resolution: the step of which all values of the window are multiples, if
      they are rounded; 0 if not.
    tail_index: Hill's estimate from the window.
    interval: its interval of nominally 95 %, for dependent values.
    series: dependence, bias and drift of the window.
    blocks: for windows over the run, [4, blocks]: steps, tail indices, the
      lower and the upper ends of their intervals.
    thinned: every `stride`-th value of the window, with its sign; the laws of
      tails are fitted to these.
    stride: 1 if large values are as good as independent.
    k: how many values of `thinned` are the tail.
    apart: values of the window, `lag` steps apart, with their signs; the laws
      of all values are fitted to these.
    lag: the first lag at which the ranks have a correlation below 0.1.
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
  """Examines a column of norms.

  Args:
    columns: a log: what :func:`htga_optax.diagnostics.logs.read` returns, or
      what :func:`htga_optax.diagnostics.logs.columns` takes. A column of steps
      is optional; :func:`take` finds it.
    column: the name of the column; if None, :func:`take` finds one. If it has
      negative values, laws with two tails are fitted to it, and everything else
      is about absolute values.
    window: the verdict rests on at most so many of the last values.

  Returns:
    The :class:`Verdict`.

  Raises:
    ImportError: scipy is missing.
    ValueError: there is no such column; the run did not diverge, and has fewer
      than `FEWEST` values that are finite and not 0, or the largest are equal.

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
      f"{name} has {x.size} values that are finite and not 0; a verdict takes"
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
  """The fields of a verdict on a tail, for a run that diverged."""
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
  """The fields of a verdict on the tail of the last values."""
  x, k = rows.values, size // 10
  ends = np.unique(np.linspace(size, x.size, _BLOCKS).astype(int))
  windows = np.stack([np.abs(x[end - size : end]) for end in ends])
  # In units of the median, so that float32 holds them.
  medians = np.median(windows, axis=1)
  scaled = np.asarray(windows / medians[:, None], np.float32)
  examiner = _examiner(k)
  found = [jax.tree.map(np.asarray, examiner(one)) for one in scaled]
  alphas, limits, series = jax.tree.map(lambda *v: np.stack(v), *found)
  if not math.isfinite(alphas[-1]):
    raise ValueError(
      f"{rows.column} has no tail to speak of: its {k + 1} largest values of"
      f" the last {size} are equal. If they are norms behind a clip, log those"
      " before it."
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
  """A function of a window: tail index, interval and :class:`Series`."""

  def examined(values):
    series = intervals.examine(order_statistics.sorted_window(values), k)
    alpha = estimators.hill(values, k)
    return alpha, intervals.series_interval(alpha, k, series), series

  return jax.jit(examined)


def _layers(
  columns: Mapping[str, np.ndarray], rows: _rows.Rows
) -> dict[str, np.ndarray]:
  """The norms per layer, of the first column of norms that has some."""
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
  """How many values differ, and the step of which all are multiples, or 0."""
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
  """Tests each law that can be fitted to so many values of these signs."""
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
  # Two tests at half the level each.
  smaller = min(test.ks_pvalue, test.anderson_darling_pvalue)
  return smaller < LEVEL / 2
