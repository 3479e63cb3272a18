"""Writes a verdict in sentences."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from htga_optax.diagnostics import fits, logs
from htga_optax.diagnostics.verdicts import (
  _clip,
  _divergence,
  _examine,
  _rows,
  _run,
  _spikes,
)

_DRIFT = 2.5  # a standard score; `track_tail_index` has the same limit
_TOLD = 3  # how many spikes are described in sentences
_EXCESSIVE = 5  # more clips in 1024 values are too many; 1 or 2 are expected
_TOO_WIDE = 5.0  # intervals whose ends differ by a larger factor are too wide


def sentences(found: _examine.Verdict, columns: Any) -> list[str]:
  """Describes a verdict in sentences.

  Args:
    found: the result of :func:`examine`.
    columns: the log, as in :func:`examine`. Its column `gradient_noise_scale`
      is used if there is one.

  Returns:
    A list of paragraphs. If the run diverged, the first says so. Otherwise the
    first paragraphs describe the tail: index, drift, dependence, laws, clip,
    batch size, ties if there are any, and the whole run. Then follow spikes,
    rows, and the values that were left out.
  """
  if found.divergence:
    said = [_on_divergence(found, found.divergence)]
  else:
    said = [_on_tail(found), _on_drift(found), _on_dependence(found)]
    said += [_on_laws(found), _on_clip(found)]
    said.append(_on_batches(found, logs.columns(columns)))
    if found.distinct <= _examine.UNTIED * found.values.size:
      said.append(_on_ties(found))
    said.append(_run.on_run(found))
  said += [_on_spikes(found), *_run.on_rows(found.rows)]
  if found.rows.left_out:
    said.append(_rows.on_what_is_left_out(found.rows))
  return said


def _on_divergence(
  found: _examine.Verdict, divergence: _divergence.Divergence
) -> str:
  step, before, largest, nonfinite = divergence
  what = f"{nonfinite} values from there on are not finite or too large"
  if largest > _divergence.GROWTH * before:
    what = (
      f"its values grew from a level of {before:.3g} to {largest:.3g}, by"
      f" {math.log10(largest / before):.0f} decades"
    )
  rows = found.rows
  return (
    f"The run diverged near {_run.unit(rows)} {step:.0f}: {what}. Therefore"
    f" {rows.column} has no tail index, no law is tested, and no clip is"
    " suggested. The rows before the divergence can be examined separately."
  )


def _on_tail(found: _examine.Verdict) -> str:
  low, high = found.interval
  size, k = found.values.size, found.values.size // 10
  said = (
    f"Tail index {found.tail_index:.2g} (95 %: {low:.2g} to {high:.2g}) of"
    f" {found.rows.column}, from the {k} largest of the last {size} values:"
    f" {meaning(low, high)}."
  )
  if too_few(low, high):
    telling = size / found.series.variance_inflation
    said += (
      f" The {size} values carry as much information as {telling:.0f}"
      " independent ones."
    )
  return said


def _on_drift(found: _examine.Verdict) -> str:
  drift = float(found.series.drift)
  if abs(drift) > _DRIFT:
    return (
      f"Do not trust this index: {trend(drift, 'values')} (drift {drift:.1f})."
      " The statements on laws and batches below are doubtful for the same"
      " reason."
    )
  return f"No drift is found in the window (score {drift:.1f}, limit {_DRIFT})."


def _on_dependence(found: _examine.Verdict) -> str:
  inflation = found.series.variance_inflation
  if max(found.stride, found.lag) > 1:
    return (
      f"Successive values are dependent: in the tail, {inflation:.1f} of them"
      " carry as much information as one independent value, and the correlation"
      f" of the ranks is above 0.1 over {found.lag - 1} rows. The interval"
      " accounts for this. Tests of laws need nearly independent values:"
      f" {found.thinned.size} values {found.stride} apart are used for laws of"
      f" the tail, and {found.apart.size} values {found.lag} apart for laws of"
      " all values."
    )
  return (
    f"No dependence that matters is found ({inflation:.1f} values of the tail"
    " carry as much information as one independent value)."
  )


def _on_ties(found: _examine.Verdict) -> str:
  size, ties, more = found.values.size, "Ties: ", ""
  if found.resolution:
    ties = f"Rounded: values are multiples of {found.resolution:.2g}, and "
    more = " Log more digits."
  return (
    f"{ties}only {found.distinct} of the last {size} values differ. A test can"
    f" reject a law that is right because values are equal.{more}"
  )


def _on_clip(found: _examine.Verdict) -> str:
  clip, name = found.clip, "clip_by_tail_quantile"
  if clip is None or not math.isfinite(clip.norm):
    return (
      f"Clip: none. The last {_clip.CLIP_WINDOW} values are equal or too few;"
      f" in this case {name} clips nothing."
    )
  said = (
    f"Clip: {name}(exceedance_rate={_clip.CLIPPED:g}) clips the next step if"
    f" its norm is above {clip.norm:.3g}. It clips about"
    f" {_run.rate(found.rows, _clip.CLIPPED)}, if the run continues as before;"
    f" of the last {clip.counted} values it clips {clip.clipped}."
  )
  if clip.counted < _clip.CLIP_WINDOW:
    said += (
      f" Its window of {_clip.CLIP_WINDOW} norms is not full yet. With few"
      " norms it clips up to three in 1000; before it has"
      f" {_clip.CLIP_FEWEST} norms it clips nothing."
    )
  elif clip.clipped > _EXCESSIVE:
    said += (
      " This is more than its stated rate: the norms have changed faster than"
      " the clip follows."
    )
  return said


def _on_spikes(found: _examine.Verdict) -> str:
  spikes, unit = found.spikes, _run.unit(found.rows)
  where = f"the median of the {_spikes.LEVEL_ROWS} values around it"
  if not spikes.total:
    largest = spikes.largest[0]
    return (
      f"Spikes: none. No value is above {_spikes.SPIKE:g} times its local"
      f" level, {where}. The largest is {largest.ratio:.3g} times its level, at"
      f" {unit} {largest.step:.0f}."
    )
  many = f"{spikes.total} values are"
  if spikes.total == 1:
    many = "one value is"
  said = [
    f"Spikes: {many} above {_spikes.SPIKE:g} times the local level, {where}."
  ]
  for spike in spikes.listed[:_TOLD]:
    text = (
      f"{unit.capitalize()} {spike.step:.0f}: {spike.norm:.3g},"
      f" {spike.ratio:.3g} times the level"
    )
    if math.isfinite(spike.loss_before) and math.isfinite(spike.loss_after):
      text += f", loss {spike.loss_before:.3g} before it and"
      text += f" {spike.loss_after:.3g} after it"
    if spike.layer:
      text += f", mostly in {spike.layer}"
      text += f" ({spike.layer_ratio:.3g} times its level)"
    said.append(f"{text}.")
  return " ".join(said)


_NO_EVIDENCE = (
  "An exponential tail, which is lighter than any power law, is not rejected"
  " either: these values are no evidence of a power law."
)


def _on_laws(found: _examine.Verdict) -> str:
  if not found.tests:
    return (
      "No law is tested: there are too few values for a test, or too many of"
      " them are equal."
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
      f"Laws of all values are not tested: {found.apart.size} nearly"
      " independent values are too few."
    )
  said.append(
    "A law that is not rejected need not be right: more values may reject it."
  )
  by = {t.fit.law: t.fit for t in found.tests}
  if {"Pareto tail", "exponential tail"} <= set(kept):
    said.append(_NO_EVIDENCE)
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
  return f"The likelihood favours the {nearer} over the {farther} ({p})."


def _on_batches(
  found: _examine.Verdict, columns: Mapping[str, np.ndarray]
) -> str:
  alpha, (low, high) = found.tail_index, found.interval
  scale = columns.get("gradient_noise_scale")
  if scale is not None and np.any(np.isfinite(scale) & (scale > 0)):
    usable = scale[np.isfinite(scale) & (scale > 0)]
    middle = float(np.median(usable[-found.values.size :]))
    return (
      f"Batch: the gradient noise scale is {middle:.3g} examples (median of the"
      " window). Batches well below this size are mostly noise, and batches"
      " well above it mostly repetition, if the noise has a finite variance."
    )
  if too_few(low, high):
    return "Batch: too few independent values to tell what a larger batch does."
  if alpha <= 1:
    return (
      "Batch: with an index of at most 1 a mean has no expectation, and larger"
      " batches do not help. Clip, or use a median."
    )
  if alpha < 2:
    factor = 2 ** (alpha / (alpha - 1))
    many = f"{factor:.2g}" if factor < 1000 else "over 1000"
    return (
      f"Batch: if the noise of single examples has this tail, a batch {many}"
      " times as large halves the noise (4 times with a finite variance)."
      " Clipping may be cheaper."
    )
  if low < 2:
    return (
      "Batch: a batch four times as large halves the noise if its variance is"
      " finite. The interval does not tell whether it is."
    )
  return (
    "Batch: this tail is no obstacle to averaging. A batch four times as large"
    " halves the noise, as usual."
  )


def trend(drift: float, noun: str) -> str:
  """Explains a drift beyond its limit, as a clause for a sentence.

  Args:
    drift: the drift of :class:`htga_optax.intervals.Series`; positive if the
      largest values are late in the window.
    noun: the word for the values, in the plural.

  Returns:
    The clause, without a full stop.

  Examples:
    >>> from htga_optax.diagnostics import verdicts
    >>> print(verdicts.trend(-3.1, "norms"))
    the largest norms came early in the window, so their level has fallen, and a
    trend can be mistaken for a tail
  """
  place, change = ("late", "risen") if drift > 0 else ("early", "fallen")
  return (
    f"the largest {noun} came {place} in the window, so their level has"
    f" {change}, and a trend can be mistaken for a tail"
  )


def too_few(low: float, high: float) -> bool:
  """Whether an interval of a tail index is too wide to tell heavy from light.

  Such an interval contains 2, and its upper end is more than five times its
  lower end. This happens with fewer than seven independent values of a tail.
  """
  return low < 2 < high and high > _TOO_WIDE * low


def meaning(low: float, high: float) -> str:
  """Describes which moments are finite, from an interval of a tail index."""
  if too_few(low, high):
    return "too few independent values to tell"
  if high < 1:
    return "very heavy, even the mean of the norm is infinite"
  if high < 2:
    return "heavy, the variance of the norm is infinite"
  if low < 2:
    return "perhaps heavy, the interval includes an infinite variance"
  if low < 10:
    return "a finite variance"
  return "a light tail, practically no power law"
