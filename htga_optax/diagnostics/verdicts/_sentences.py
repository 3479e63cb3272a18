"""A verdict in sentences."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from htga_optax.diagnostics import fits, logs
from htga_optax.diagnostics.verdicts import _examine, _rows, _run

_DRIFT = 2.5  # standard scores; `track_tail_index` rejects beyond the same


def sentences(found: _examine.Verdict, columns: Any) -> list[str]:
  """Puts a verdict into words.

  Args:
    found: what :func:`examine` returned.
    columns: the log, as :func:`examine` takes it; its `gradient_noise_scale`
      is used if it is there.

  Returns:
    A list of paragraphs: tail, drift, dependence, laws, clip, batch size, the
    whole run, its rows, and what was left out.
  """
  columns = logs.columns(columns)
  low, high = found.interval
  size, k = found.values.size, found.values.size // 10
  said = [
    f"Tail index {found.tail_index:.2g} (95 %: {low:.2g} to {high:.2g}) of"
    f" {found.rows.column}, from the {k} largest of the last {size} values:"
    f" {meaning(low, high)}."
  ]
  drift = float(found.series.drift)
  if abs(drift) > _DRIFT:
    said.append(
      f"Do not trust that index: {trend(drift, 'values')} (drift {drift:.1f})."
      " What follows stands under the same doubt."
    )
  else:
    said.append(
      f"No drift is found within the window (score {drift:.1f}, rejected"
      f" beyond {_DRIFT})."
    )
  inflation = found.series.variance_inflation
  if max(found.stride, found.lag) > 1:
    said.append(
      f"The values depend on those before: in the tail {inflation:.1f} of them"
      " tell as much as one, and ranks are correlated by more than 0.1 over"
      f" {found.lag - 1} rows. The interval allows for that; laws of the tail"
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
    share = _examine.CLIPPED
    said.append(
      f"Clip: a norm of {found.clip:.3g} is exceeded by about"
      f" {_run.rate(found.rows, share)}, if the run goes on as in the window"
      f" (there: {1000 * beyond:.1f} in 1000)."
      f" clip_by_tail_quantile(exceedance_rate={share:g}) keeps to such a norm"
      " by itself."
    )
  said.append(_on_batches(found, columns))
  said += [_run.on_run(found), *_run.on_rows(found.rows)]
  if found.rows.left_out:
    said.append(_rows.on_what_is_left_out(found.rows))
  return said


def _on_laws(found: _examine.Verdict) -> str:
  if not found.tests:
    return (
      f"No law is tested: {found.apart.size} values are too few, or too many"
      " of them are equal."
    )
  kept = [t.fit.law for t in found.tests if not _examine.rejected(t)]
  lost = [t.fit.law for t in found.tests if _examine.rejected(t)]
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
  if found.pvalue >= _examine.LEVEL:
    return f"The likelihoods of {one} and {other} do not differ ({p})."
  nearer, farther = (one, other) if found.log_ratio > 0 else (other, one)
  return f"The likelihood is for the {nearer} against the {farther} ({p})."


def _on_batches(
  found: _examine.Verdict, columns: Mapping[str, np.ndarray]
) -> str:
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


def trend(drift: float, noun: str) -> str:
  """What a drift beyond its limit says, as a clause for a sentence.

  Args:
    drift: as :class:`htga_optax.intervals.Series` has it; positive if the
      largest values are late in the window.
    noun: what the values are, in the plural.

  Returns:
    The clause, without a full stop.

  Examples:
    >>> from htga_optax.diagnostics import verdicts
    >>> print(verdicts.trend(-3.1, "norms"))
    the largest norms came early in the window, so their level has fallen, and a
    trend reads as a tail
  """
  place, change = ("late", "risen") if drift > 0 else ("early", "fallen")
  return (
    f"the largest {noun} came {place} in the window, so their level has"
    f" {change}, and a trend reads as a tail"
  )


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
