"""What the norms of a run are like: numbers from a log, and sentences.

The last values give the verdict:

    tail index     Hill's, of the largest tenth, with the interval for dependent
                   values of :mod:`htga_optax.intervals`; drift of the same
    laws           fitted to values so far apart that they hardly depend on one
                   another, and tested by a parametric bootstrap
                   (:mod:`htga_optax.fits`)
    clip           what one norm in a thousand exceeds, from a generalized
                   Pareto tail

It reports what is not rejected, which is not what is right: two thousand norms
cannot tell a power law from a lognormal law with a wide tail.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from htga_optax import checks, estimators, fits, intervals, order_statistics

NORMS = (
  "update_norm",
  "gradient_norm",
  "grad_norm",
  "norm",
  "noise_norm",
)
WINDOW = 2048  # values that the verdict rests on
FEWEST = 100
CLIPPED = 1e-3  # the share of steps beyond the norm that is named for clipping
_DRIFT = 2.5  # standard scores, as `track_tail_index` rejects
_LEVEL = 0.05
_BLOCKS = 40
REPLICATIONS = 99


class Verdict(NamedTuple):
  """What :func:`examine` finds in a column of a log.

  Attributes:
    column: its name.
    values: absolute values of the last window, [W].
    steps: of these.
    left_out: of the whole column, values that are not finite, or 0.
    tail_index: Hill's estimate of the window.
    interval: of nominally 95 %, for dependent values.
    series: dependence, bias and drift of the window.
    blocks: steps, tail indices, lower and upper ends, and medians of windows
      over the run, [5, blocks].
    thinned: every `stride`-th value, with its sign, which laws of tails are
      fitted to.
    stride: 1 if large values are as good as independent.
    k: values of `thinned` in the tail.
    apart: the last of the values, `lag` apart, which other laws are fitted to.
    lag: the first at which ranks have a correlation below 0.1.
    tests: of the laws.
    clip: what a share `CLIPPED` of the norms exceeds; nan if it cannot be said.
  """

  column: str
  values: np.ndarray
  steps: np.ndarray
  left_out: int
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
  clip: float


def examine(
  columns: Mapping[str, np.ndarray],
  column: str | None = None,
  window: int = WINDOW,
) -> Verdict:
  """Examines a column of norms.

  Args:
    columns: by name, of equal lengths, as :func:`htga_optax.logs.read` gives;
      "step" is used where it is there.
    column: the one to look at; the first of `NORMS` that is there, if None.
      Where it has negative values, laws with two tails are fitted to it, and
      the rest is about absolute values.
    window: how many of the last values the verdict rests on, at most.

  Returns:
    The :class:`Verdict`.

  Raises:
    ImportError: scipy is missing.
    ValueError: no such column, or fewer than `FEWEST` values in it that are
      finite and not 0; most of them are equal.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import verdicts
    >>> log = {"norm": np.random.default_rng(0).pareto(1.5, 1000) + 1}
    >>> found = verdicts.examine(log)
    >>> print(verdicts.sentences(found, log)[0])
    Tail index 1.5 (95 %: 1.2 to 1.8) of norm, from the 100 largest of the last
    1000 values: heavy, the variance of the norm is infinite.
  """
  checks.check_number(
    "window", window, lambda v: v >= FEWEST, f"be at least {FEWEST}"
  )
  name = _column(columns, column)
  x = np.asarray(columns[name], float)
  steps = np.asarray(columns.get("step", np.arange(1, x.size + 1)), float)
  usable = np.isfinite(x) & (x != 0) & (np.abs(x) < 1e37) & np.isfinite(steps)
  left_out = int(x.size - np.sum(usable))
  x, steps = x[usable], steps[usable]
  if x.size < FEWEST:
    raise ValueError(
      f"{name} has {x.size} values that are finite and not 0; a verdict takes"
      f" {FEWEST}."
    )
  size = min(window, x.size)
  k = size // 10
  ends = np.unique(np.linspace(size, x.size, _BLOCKS).astype(int))
  windows = np.stack([np.abs(x[end - size : end]) for end in ends])
  # In units of the median, so that float32 holds them.
  medians = np.median(windows, axis=1)
  scaled = np.asarray(windows / medians[:, None], np.float32)
  examiner = jax.jit(_examiner(k))
  found = [jax.tree.map(np.asarray, examiner(one)) for one in scaled]
  alphas, limits, series = jax.tree.map(lambda *v: np.stack(v), *found)
  if not math.isfinite(alphas[-1]):
    raise ValueError(
      f"{name} has no tail to speak of: its {k + 1} largest values of the last"
      f" {size} are equal."
    )
  last = jax.tree.map(lambda v: float(v[-1]), series)
  stride = math.ceil(last.inflation - 0.5)
  lag = _lag(x[-size:])
  thinned, apart = (x[-size:][::-step][::-1] for step in (stride, lag))
  tail = max(2, thinned.size // 10)
  return Verdict(
    column=name,
    values=np.abs(x[-size:]),
    steps=steps[-size:],
    left_out=left_out,
    tail_index=float(alphas[-1]),
    interval=(float(limits[-1, 0]), float(limits[-1, 1])),
    series=last,
    blocks=np.stack([steps[ends - 1], alphas, *limits.T, medians]),
    thinned=thinned,
    stride=stride,
    k=tail,
    apart=apart,
    lag=lag,
    tests=_tests(thinned, tail, apart),
    clip=float(medians[-1])
    * float(jax.jit(_quantile, static_argnums=1)(scaled[-1], k)),
  )


def _column(columns: Mapping[str, np.ndarray], column: str | None) -> str:
  there = ", ".join(columns)
  if column is not None and column not in columns:
    raise ValueError(f"no column {column}; there are: {there}.")
  for name in (column, *NORMS):
    if name in columns:
      return str(name)
  raise ValueError(
    f"no column of norms ({', '.join(NORMS)}); name one with --column, of:"
    f" {there}."
  )


def _examiner(k: int) -> Callable[[jax.Array], Any]:
  def examined(values):
    series = intervals.examine(order_statistics.sorted_window(values), k)
    alpha = estimators.hill(values, k)
    return alpha, intervals.interval(alpha, k, series), series

  return examined


def _lag(x: np.ndarray) -> int:
  ranks = np.argsort(np.argsort(x)) - (x.size - 1) / 2
  power = np.abs(np.fft.rfft(ranks, 2 * x.size)) ** 2
  correlation = np.fft.irfft(power)[: x.size // 4] / np.sum(ranks**2)
  below = np.flatnonzero(correlation < 0.1)
  return int(below[0]) if below.size else x.size // 4


def _tests(thinned: np.ndarray, k: int, apart: np.ndarray):
  """Of all laws that can be fitted to so many values of these signs."""
  tests = []
  for name, law in fits.LAWS.items():
    if law.support == "tail":
      x, enough = np.abs(thinned), k >= 20
    else:
      x, enough = apart, apart.size >= 50
    is_real = law.support == "real"
    if not enough or (law.support != "tail" and is_real != (np.min(x) < 0)):
      continue
    try:
      tests.append(fits.goodness(name, x, k, REPLICATIONS))
    except ValueError:  # ties: this law says nothing of such values
      continue
  return tests


def _quantile(x: np.ndarray, k: int) -> jax.Array:
  largest = jnp.sort(x)[-(k + 1) :]
  threshold = largest[0]
  xi, sigma = estimators.generalized_pareto_fit(largest[1:] - threshold)
  share = min(CLIPPED * x.size / k, 1.0)
  return threshold + estimators.generalized_pareto_isf(share, xi, sigma)


def sentences(found: Verdict, columns: Mapping[str, np.ndarray]) -> list[str]:
  """The verdict in words.

  Args:
    found: what :func:`examine` returned.
    columns: the log, for readings beside the norms.

  Returns:
    Sentences in paragraphs: tail, drift, dependence, laws, clip, batch, rest.
  """
  low, high = found.interval
  size, k = found.values.size, found.values.size // 10
  said = [
    f"Tail index {found.tail_index:.2g} (95 %: {low:.2g} to {high:.2g}) of"
    f" {found.column}, from the {k} largest of the last {size} values:"
    f" {meaning(low, high)}."
  ]
  drift, medians = found.series.drift, found.blocks[4]
  if abs(drift) > _DRIFT:
    place, change = ("late", "risen") if drift > 0 else ("early", "fallen")
    said.append(
      f"Do not trust that index: the largest values came {place} in the window"
      f" (drift {drift:.1f}), so their level has {change}, and a trend reads as"
      " a tail. What follows stands under the same doubt."
    )
  else:
    said.append(
      f"No drift is found within the window (score {drift:.1f}, rejected"
      f" beyond {_DRIFT})."
    )
  if medians.size > 1:
    alphas = found.blocks[1]
    said[-1] += (
      f" Over the run the median went from {medians[0]:.3g} to"
      f" {medians[-1]:.3g}, the tail index of {medians.size} windows from"
      f" {np.nanmin(alphas):.2g} to {np.nanmax(alphas):.2g}."
    )
  inflation = found.series.inflation
  if max(found.stride, found.lag) > 1:
    said.append(
      f"The values depend on those before: in the tail {inflation:.1f} of them"
      " tell as much as one, and ranks are correlated by more than 0.1 over"
      f" {found.lag - 1} steps. The interval allows for that; laws of the tail"
      f" are fitted to {found.thinned.size} values {found.stride} apart, others"
      f" to {found.apart.size} values {found.lag} apart."
    )
  else:
    said.append(
      "No dependence that matters is found"
      f" ({inflation:.1f} values of the tail tell as much as one)."
    )
  said.append(_on_laws(found))
  if math.isfinite(found.clip):
    beyond = float(np.mean(found.values > found.clip))
    said.append(
      f"Clip: a norm of {found.clip:.3g} is exceeded by about one step in"
      f" {round(1 / CLIPPED)}, if the run goes on as in the window (there:"
      f" {1000 * beyond:.1f} in 1000). clip_by_tail_quantile(p={CLIPPED:g})"
      " keeps to such a norm by itself."
    )
  said.append(_on_batches(found, columns))
  if found.left_out:
    said.append(
      f"Left out of {found.column}: {found.left_out} values that are not"
      " finite, or 0."
    )
  return said


def _on_laws(found: Verdict) -> str:
  if not found.tests:
    return (
      f"No law is tested: {found.apart.size} values are too few, or too many"
      " of them are equal."
    )
  kept = [t.fit.law for t in found.tests if not rejected(t)]
  lost = [t.fit.law for t in found.tests if rejected(t)]
  said = []
  if kept:
    said.append(f"Not rejected at 5 %: {', '.join(kept)}.")
  if lost:
    said.append(f"Rejected: {', '.join(lost)}.")
  if all(fits.LAWS[t.fit.law].support == "tail" for t in found.tests):
    said.append(
      f"Laws of all values are not tested: of {found.apart.size} that hardly"
      " depend on one another they would say nothing."
    )
  said.append(
    "A law that is not rejected is not thereby right: more values may reject"
    " it."
  )
  by = {t.fit.law: t.fit for t in found.tests}
  pairs = [
    ("Pareto tail", "lognormal tail"),
    ("Pareto tail", "exponential tail"),
    ("Student t", "stable"),
  ]
  for one, other in pairs:
    if one in by and other in by:
      real = fits.LAWS[one].support == "real"
      values = found.apart if real else np.abs(found.thinned)
      said.append(
        _comparison(fits.vuong(values, by[one], by[other]), one, other)
      )
  return " ".join(said)


def _comparison(found: fits.Comparison, one: str, other: str) -> str:
  p = f"p = {found.pvalue:.2g}"
  if found.pvalue >= _LEVEL:
    return f"The likelihoods of {one} and {other} do not differ ({p})."
  nearer, farther = (one, other) if found.log_ratio > 0 else (other, one)
  return f"The likelihood is for the {nearer} against the {farther} ({p})."


def _on_batches(found: Verdict, columns: Mapping[str, np.ndarray]) -> str:
  alpha, scale = found.tail_index, columns.get("gradient_noise_scale")
  if scale is not None and np.any(np.isfinite(scale) & (scale > 0)):
    usable = scale[np.isfinite(scale) & (scale > 0)]
    middle = float(np.median(usable[-found.values.size :]))
    return (
      f"Batch: the gradient noise scale is {middle:.3g} examples (median of the"
      " window). Batches well below it are mostly noise, well above it mostly"
      " repetition, if the noise has a variance."
    )
  if alpha <= 1:
    return (
      "Batch: with an index of at most 1 a mean has no expectation, and larger"
      " batches do not help; clip, or use a median."
    )
  if alpha < 2:
    factor = 2 ** (alpha / (alpha - 1))
    many = f"{factor:.2g}" if factor < 1000 else "over 1000"
    return (
      f"Batch: if this tail is that of single examples' noise, a batch {many}"
      " times as large halves the noise (4 times with a finite variance);"
      " clipping may be the cheaper cure."
    )
  return (
    "Batch: nothing in this tail speaks against averaging; four times the batch"
    " halves the noise, as usual."
  )


def rejected(test: fits.Goodness) -> bool:
  """Whether a test rejects its law at 5 %."""
  # Two tests at half the level each.
  smaller = min(test.ks_pvalue, test.anderson_darling_pvalue)
  return smaller < _LEVEL / 2


def meaning(low: float, high: float) -> str:
  """What an interval of a tail index says about moments."""
  if high < 1:
    return "very heavy, even the mean of the norm is infinite"
  if high < 2:
    return "heavy, the variance of the norm is infinite"
  if low < 2:
    return "perhaps heavy, an infinite variance is within the interval"
  if low < 10:
    return "a finite variance"
  return "a light tail, with no power law to speak of"
