"""Applies the rules that people use against spikes to the norms of a log."""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import spike_rules
from htga_optax.diagnostics.verdicts import _examine

MEMORY = 4096  # in a longer run, how many norms up to a spike the rules get
_SAME = 1e-5  # relative difference below which float32 norms count as equal


class Outcome(NamedTuple):
  """What a rule does with the norms of a log.

  Attributes:
    after: for each spike, the norm after the rule. It is the norm itself if the
      rule does not change it, and 0 if the rule skips the step.
    share: the share of norms that the rule changes, among those that it was
      applied to.
  """

  after: list[float]
  share: float


def under_rules(found: _examine.Verdict) -> dict[str, Outcome]:
  """Applies every rule of `spike_rules` to the norms of a log.

  The norms are those that were logged. If a rule had acted in the run, the
  training might have taken another course, with other norms afterwards.

  Args:
    found: the result of :func:`examine`.

  Returns:
    The :class:`Outcome` of each rule on the spikes of `found.spikes.listed`, by
    the name of the rule; an empty mapping if there are no spikes. In a run of
    more than `MEMORY` norms the rules get, for each spike, the last `MEMORY`
    norms up to it.
  """
  places = [spike.row for spike in found.spikes.listed]
  listed = np.searchsorted(found.rows.places, places)
  if not listed.size:
    return {}
  norms = np.abs(found.rows.values)
  size = min(norms.size, MEMORY)
  starts = np.maximum(listed - size + 1, 0)
  after: dict[str, np.ndarray] = {}
  for start in np.unique(starts)[::-1]:  # the earliest stretch is written last
    stretch = slice(start, start + size)
    for rule, result in spike_rules.apply(norms[stretch]).items():
      after.setdefault(rule, np.full(norms.size, np.nan))[stretch] = result
  outcomes = {}
  for rule, result in after.items():
    seen = ~np.isnan(result)
    changed = np.abs(result - norms) > _SAME * norms
    at = np.where(changed, result, norms)[listed]
    outcomes[rule] = Outcome(at.tolist(), float(np.mean(changed[seen])))
  return outcomes


def is_same(norm: float, after: float) -> bool:
  """Whether a rule leaves a norm unchanged."""
  return abs(after - norm) <= _SAME * norm
