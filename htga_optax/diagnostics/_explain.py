"""A state after the step, in sentences."""

from typing import Any

import jax
import numpy as np
import optax

from htga_optax.diagnostics import verdicts


def explain(state: Any) -> str:
  """Says in sentences what the norms of a run are like.

  Args:
    state: an optimizer state with one :func:`htga_optax.track_tail_index` in
      it, however deep. Its arrays are copied to the host.

  Returns:
    The sentences; per layer, a line for each leaf.

  Raises:
    ValueError: there is no such tracker in the state, or more than one.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import diagnostics, track_tail_index
    >>> tx = track_tail_index(window_size=256, k=25)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for r in np.random.default_rng(0).pareto(1.5, size=300) + 1:
    ...   _, state = update(jnp.asarray([r]), state)
    >>> print(diagnostics.explain(state))
    Tail index 1.4 (95 %: 0.92 to 2.1): perhaps heavy, an infinite variance is
    within the interval. A power law is not rejected (drift -0.3, misfit -0.3).
  """
  try:
    tail_index = optax.tree.get(state, "tail_index")
  except KeyError as error:
    raise ValueError("explain takes a state with one tracker.") from error
  if tail_index is None:
    raise ValueError(
      "explain found no `tail_index` in this state: put track_tail_index()"
      " into the chain."
    )
  names = (
    "tail_index_interval",
    "tail_model_statistics",
    "tail_model_rejected",
    "nonfinite_count",
  )
  fields = [jax.tree.leaves(optax.tree.get(state, name)) for name in names]
  estimator_state = optax.tree.get(state, "estimator_state")
  groups = jax.tree.leaves_with_path(tail_index)
  series = getattr(estimator_state, "series", None)
  inflations = np.ones(len(groups)) if series is None else series.inflation
  lines = []
  for (path, alpha), *rest in zip(groups, *fields, inflations):
    name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)
    sentence = _sentence(float(alpha), *map(np.asarray, rest))
    lines.append(f"{name}: {sentence}" if name else sentence)
  return "\n".join(lines)


def _sentence(
  tail_index: float,
  interval: np.ndarray,
  statistics: np.ndarray,
  rejected: np.ndarray,
  nonfinite_count: np.ndarray,
  inflation: np.ndarray,
) -> str:
  said = []
  if not tail_index:
    said.append(
      "No tail index yet: the window is not full, or its largest norms are"
      " equal."
    )
  else:
    low, high = map(float, interval)
    drift, misfit = map(float, statistics)
    said.append(
      f"Tail index {tail_index:.2g} (95 %: {low:.2g} to {high:.2g}):"
      f" {verdicts.meaning(low, high)}."
    )
    tests = f"(drift {drift:.1f}, misfit {misfit:.1f})"
    if not rejected:
      said.append(f"A power law is not rejected {tests}.")
    elif abs(drift) >= abs(misfit):
      trend = verdicts.trend(drift, "norms")
      said.append(f"Do not trust it {tests}: {trend}.")
    else:
      # A level that has risen scores like a light tail.
      reach = "farther than a power law's would"
      if misfit < 0:
        reach = "less far than a power law's would, or their level has risen"
      said.append(f"Do not trust it {tests}: the largest norms reach {reach}.")
    if inflation >= 1.5:
      said.append(
        f"The norms depend on those before, so that {inflation:.1f} of them"
        " tell as much as one."
      )
  if nonfinite_count:
    said.append(f"Norms that were not finite: {nonfinite_count}.")
  return " ".join(said)
