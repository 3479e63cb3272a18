"""What rules that people run do with the spikes of a run."""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import spike_rules
from htga_optax.diagnostics.verdicts import _examine

MEMORY = 4096  # norms before a spike that the rules see, in a longer run
_SAME = 1e-5  # relative, of norms in float32


class Outcome(NamedTuple):
  """What a rule does.

  Attributes:
    after: for each spike the norm after the rule: the norm itself if it leaves
      that as it is, 0 if it skips the step.
    share: of all norms that it was run over, how many it changes.
  """

  after: list[float]
  share: float


def under_rules(found: _examine.Verdict) -> dict[str, Outcome]:
  """Runs every rule of `spike_rules` over the norms of a log.

  The norms are those that were logged. Had a rule acted, the training might
  have gone another way, and later norms be others.

  Args:
    found: what :func:`verdicts.examine` returned.

  Returns:
    By rule, what it does with each spike of `found.spikes.listed`; an empty
    mapping if there is none. In a run of more than `MEMORY` norms the rules
    see, of each spike, that many of the last norms up to it.
  """
  places = [spike.row for spike in found.spikes.listed]
  listed = np.searchsorted(found.rows.places, places)
  if not listed.size:
    return {}
  norms = np.abs(found.rows.values)
  size = min(norms.size, MEMORY)
  starts = np.maximum(listed - size + 1, 0)
  after: dict[str, np.ndarray] = {}
  for start in np.unique(starts)[::-1]:  # what was before a spike counts last
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
  """Whether a rule has left a norm as it was."""
  return abs(after - norm) <= _SAME * norm
