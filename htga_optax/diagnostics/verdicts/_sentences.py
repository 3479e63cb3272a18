"""A verdict in sentences."""

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

_DRIFT = 2.5  # standard scores; `track_tail_index` rejects beyond the same
_TOLD = 3  # spikes, in sentences
_EXCESSIVE = 5  # of 1024 clipped values, where one or two are stated
_TOO_WIDE = 5.0  # the factor between the ends of an interval that says nothing


def sentences(found: _examine.Verdict, columns: Any) -> list[str]:
  """Puts a verdict into words.

  Args:
    found: what :func:`examine` returned.
    columns: the log, as :func:`examine` takes it; its `gradient_noise_scale`
      is used if it is there.

  Returns:
    A list of paragraphs. On the tail: index, drift, dependence, laws, clip,
    batch size, ties if there are any, and the whole run; or that the run
    diverged. Then spikes, rows, and what was left out.
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
  what = f"from there on {nonfinite} values are not finite, or too large"
  if largest > _divergence.GROWTH * before:
    what = (
      f"from a level of {before:.3g} its values grew to {largest:.3g}, which is"
      f" {math.log10(largest / before):.0f} decades"
    )
  rows = found.rows
  return (
    f"The run diverged near {_run.unit(rows)} {step:.0f}: {what}. So"
    f" {rows.column} has no tail index, no law is tested, and no clip is named."
    " The rows before can be examined alone."
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
      f" The {size} values tell as much as {telling:.0f} independent ones."
    )
  return said


def _on_drift(found: _examine.Verdict) -> str:
  drift = float(found.series.drift)
  if abs(drift) > _DRIFT:
    return (
      f"Do not trust that index: {trend(drift, 'values')} (drift {drift:.1f})."
      " What follows on laws and batches stands under the same doubt."
    )
  return (
    f"No drift is found within the window (score {drift:.1f}, rejected beyond"
    f" {_DRIFT})."
  )


def _on_dependence(found: _examine.Verdict) -> str:
  inflation = found.series.variance_inflation
  if max(found.stride, found.lag) > 1:
    return (
      f"The values depend on those before: in the tail {inflation:.1f} of them"
      " tell as much as one, and ranks are correlated by more than 0.1 over"
      f" {found.lag - 1} rows. The interval allows for that. Tests of laws need"
      f" values that hardly depend on one another: {found.thinned.size} values"
      f" {found.stride} apart are left for the tail, {found.apart.size} values"
      f" {found.lag} apart for all values."
    )
  return (
    "No dependence that matters is found"
    f" ({inflation:.1f} values of the tail tell as much as one)."
  )


def _on_ties(found: _examine.Verdict) -> str:
  size, ties, more = found.values.size, "Ties: ", ""
  if found.resolution:
    ties = f"Rounded: values are multiples of {found.resolution:.2g}, and "
    more = ", so keep more digits"
  return (
    f"{ties}only {found.distinct} of the last {size} values differ. Equal"
    f" values can reject a law that is right{more}."
  )


def _on_clip(found: _examine.Verdict) -> str:
  clip, name = found.clip, "clip_by_tail_quantile"
  if clip is None or not math.isfinite(clip.norm):
    return (
      f"Clip: none. The last {_clip.CLIP_WINDOW} values are equal, or too few,"
      f" and {name} clips nothing then."
    )
  said = (
    f"Clip: {name}(exceedance_rate={_clip.CLIPPED:g}) clips the next step"
    f" beyond a norm of {clip.norm:.3g}. It clips about"
    f" {_run.rate(found.rows, _clip.CLIPPED)}, if the run goes on as it is; of"
    f" the last {clip.counted} values it clips {clip.clipped}."
  )
  if clip.counted < _clip.CLIP_WINDOW:
    said += (
      f" Its window of {_clip.CLIP_WINDOW} norms is not full: with few norms it"
      f" clips up to three in 1000, before {_clip.CLIP_FEWEST} norms nothing."
    )
  elif clip.clipped > _EXCESSIVE:
    said += (
      " That is more than it states: the norms have changed faster than it"
      " follows."
    )
  return said


def _on_spikes(found: _examine.Verdict) -> str:
  spikes, unit = found.spikes, _run.unit(found.rows)
  where = f"the median of the {_spikes.LEVEL_ROWS} values around it"
  if not spikes.total:
    largest = spikes.largest[0]
    return (
      f"Spikes: none. No value is above {_spikes.SPIKE:g} times its local"
      f" level, {where}; the largest is {largest.ratio:.3g} times its own, at"
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
      text += f", most in {spike.layer} ({spike.layer_ratio:.3g} times)"
    said.append(f"{text}.")
  return " ".join(said)


_NO_EVIDENCE = (
  "An exponential tail, which is lighter than any power law, is not rejected"
  " either: these values are no evidence of a power law."
)


def _on_laws(found: _examine.Verdict) -> str:
  if not found.tests:
    return (
      "No law is tested: the values for a test are too few, or too many of them"
      " are equal."
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
  return f"The likelihood is for the {nearer} against the {farther} ({p})."


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
      " window). Batches well below it are mostly noise, well above it mostly"
      " repetition, if the noise has a variance."
    )
  if too_few(low, high):
    return "Batch: too few independent values to tell what a larger one does."
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
  if low < 2:
    return (
      "Batch: four times the batch halves the noise if its variance is finite,"
      " which the interval leaves open."
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


def too_few(low: float, high: float) -> bool:
  """Whether an interval of a tail index is too wide to tell heavy from light.

  It has a 2 within, and ends that are more than five times apart, as those of
  fewer than seven independent values of a tail.
  """
  return low < 2 < high and high > _TOO_WIDE * low


def meaning(low: float, high: float) -> str:
  """What an interval of a tail index says about moments."""
  if too_few(low, high):
    return "too few independent values to tell"
  if high < 1:
    return "very heavy, even the mean of the norm is infinite"
  if high < 2:
    return "heavy, the variance of the norm is infinite"
  if low < 2:
    return "perhaps heavy, an infinite variance is within the interval"
  if low < 10:
    return "a finite variance"
  return "a light tail, with no power law to speak of"
