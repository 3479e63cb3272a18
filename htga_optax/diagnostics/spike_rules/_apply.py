"""Applies rules against spikes, with their defaults, to the norms of a log."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax._by_norm import Controller
from htga_optax._clipping import clip_by_tail_quantile
from htga_optax.diagnostics.spike_rules._laws import (
  adagc,
  autoclip,
  law_of,
  mean_and_deviations,
  moving_mean,
  zclip,
)

_CHUNK = 256  # how many norms one call of a compiled rule takes

RULES: dict[str, Callable[[], Controller]] = {
  "clip_by_tail_quantile(1e-3)": lambda: law_of(clip_by_tail_quantile(1e-3)),
  "mean + 6 sd of 128": mean_and_deviations,
  "mean + 3 sd of 128": lambda: mean_and_deviations(3.0, skip=False),
  "ZClip": zclip,
  "AdaGC": adagc,
  "AutoClip": autoclip,
  "20 times the mean": moving_mean,
}
"""The rules with their defaults, as functions that make them, by name."""


def apply(
  norms: ArrayLike, rules: Mapping[str, Callable[[], Controller]] = RULES
) -> dict[str, np.ndarray]:
  """Applies rules to the norms of a log.

  The norms are given and do not react. In a run, a step that is clipped or
  skipped changes the norms that follow.

  Args:
    norms: one norm for each step, [n]. Norms that are not finite in float32 are
      dropped, as in :func:`htga_optax.by_norm`: the result is 0, and no rule
      gets them.
    rules: functions that make a law, by name. They are compiled together. The
      compiled program is reused for the same functions.

  Returns:
    The norms after each rule, as a dict from its name to float64 [n]. Such a
    norm is the norm itself where the rule does not change the step, and 0 where
    it skips the step.

  Raises:
    ValueError: the norms are negative or not one-dimensional.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import spike_rules
    >>> norms = np.ones(200) + 0.1 * np.arange(200) % 0.3
    >>> norms[150] = 100.0
    >>> for name, after in spike_rules.apply(norms).items():
    ...   print(f"{name}: {after[150]:.0f}")
    clip_by_tail_quantile(1e-3): 2
    mean + 6 sd of 128: 0
    mean + 3 sd of 128: 1
    ZClip: 1
    AdaGC: 1
    AutoClip: 1
    20 times the mean: 0
  """
  x = np.ma.filled(np.ma.asarray(norms, np.float64), np.nan)
  if x.ndim != 1:
    raise ValueError(f"norms must be one-dimensional, got shape {x.shape}.")
  if np.any(x < 0):
    raise ValueError(f"norms must not be negative, got {np.min(x)}.")
  with np.errstate(over="ignore"):
    r = x.astype(np.float32)
  good = np.isfinite(r)
  chunks = np.pad(r[good], (0, -np.sum(good) % _CHUNK), constant_values=1.0)
  states, run = _compiled(tuple(rules.values()))
  factors = [np.zeros([0, len(rules)])]
  for chunk in chunks.reshape(-1, _CHUNK):
    states, factor = run(states, chunk)
    factors.append(np.asarray(factor))
  after = np.zeros([x.size, len(rules)])
  after[good] = np.concatenate(factors)[: np.sum(good)] * x[good, None]
  return dict(zip(rules, after.T))


@functools.lru_cache(maxsize=64)
def _compiled(makes: tuple[Callable[[], Controller], ...]) -> tuple[Any, Any]:
  """The initial states of rules, and (states, norms) -> (states, factors)."""
  controllers = [make() for make in makes]

  def step(states, r):
    pairs = [c.update(r, state) for c, state in zip(controllers, states)]
    factors = jnp.stack([jnp.float32(factor) for factor, _ in pairs])
    factors = jnp.where(jnp.isfinite(factors), factors, 0.0)
    return [state for _, state in pairs], factors

  run = jax.jit(lambda states, r: lax.scan(step, states, r))
  return jax.jit(lambda: [c.init() for c in controllers])(), run
