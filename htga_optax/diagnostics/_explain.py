"""Describes an optimizer state in sentences."""

from collections.abc import Sequence
from typing import Any
import warnings

import numpy as np
import optax

from htga_optax import streaming
from htga_optax._states import typed
from htga_optax.diagnostics import fits, verdicts

_WORSE = 1.645  # a fit with a larger score is worse, at 5 %


def explain(state: Any, layers: Sequence[str] | None = None) -> str:
  """Describes the norms of a run in sentences, from an optimizer state.

  Args:
    state: an optimizer state that contains one
      :func:`htga_optax.track_tail_index` at any depth; it may be stored as
      dicts (see :func:`htga_optax.readings`). Its arrays are copied to the
      host.
    layers: the names of the layers, for a tracker per layer, as
      :func:`htga_optax.layer_names` returns them; or the names of the members
      of an ensemble (`jax.vmap`). With None they are numbered.

  Returns:
    The sentences. A tracker per layer gives a line for each layer, an ensemble
    a line for each member, and an ensemble of trackers per layer a line for
    each "member/layer".

  Raises:
    ValueError: the state has no such tracker or more than one, or the number of
      names differs from the number of layers.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import diagnostics, track_tail_index
    >>> tx = track_tail_index(window_size=256, k=25)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for r in np.random.default_rng(0).pareto(1.5, size=300) + 1:
    ...   _, state = update(jnp.asarray([r]), state)
    >>> print(diagnostics.explain(state))
    Tail index 1.3 (95 %: 0.87 to 2): heavy, the variance of the norm is
    infinite. A power law is not rejected (drift -0.7, misfit -0.9).
  """
  state = typed(state)
  try:
    tail_index = optax.tree.get(state, "tail_index")
  except KeyError as error:
    raise ValueError("explain takes a state with one tracker.") from error
  if tail_index is None:
    raise ValueError(
      "explain found no `tail_index` in this state: add track_tail_index()"
      " to the chain."
    )
  fields = [
    np.asarray(x)
    for x in (
      tail_index,
      optax.tree.get(state, "tail_index_interval"),
      optax.tree.get(state, "tail_model_statistics"),
      optax.tree.get(state, "tail_model_rejected"),
      optax.tree.get(state, "nonfinite_count"),
      _variance_inflation(state, tail_index),
    )
  ]
  # The values of the window in ascending order, if the estimator has a window.
  window = getattr(optax.tree.get(state, "estimator_state"), "window", None)
  ascending = np.zeros([*np.shape(tail_index), 0])
  fields.append(ascending if window is None else np.asarray(window.ascending))
  shape = np.shape(tail_index)
  if not shape:
    return _sentence(*fields)
  names = range(shape[-1]) if layers is None else layers
  if len(names) != shape[-1]:
    raise ValueError(
      f"the tracker has {shape[-1]} layers, got {len(names)} names."
    )
  lines = []
  for place in np.ndindex(shape):
    name = "/".join(map(str, [*place[:-1], names[place[-1]]]))
    lines.append(f"{name}: {_sentence(*(x[place] for x in fields))}")
  return "\n".join(lines)


def _variance_inflation(state: Any, tail_index: Any) -> Any:
  """How many dependent norms are worth one independent; 1 if not measured."""
  estimator_state = optax.tree.get(state, "estimator_state")
  series = getattr(estimator_state, "series", None)
  return (
    np.ones_like(tail_index) if series is None else series.variance_inflation
  )


def _sentence(
  tail_index: np.ndarray,
  interval: np.ndarray,
  statistics: np.ndarray,
  rejected: np.ndarray,
  nonfinite_count: np.ndarray,
  inflation: np.ndarray,
  ascending: np.ndarray,
) -> str:
  said = []
  filled, size = np.sum(ascending >= 0), ascending.size
  if not tail_index:
    why = "the window is not full yet, or its largest norms are 0"
    if size:
      why = f"the window has {filled} of its {size} norms"
      why = why if filled < size else "the largest norms are 0"
    said.append(f"No tail index yet: {why}.")
  elif tail_index >= streaming.LIGHTEST:
    said.append(
      "The tail is lighter than any power law: the largest norms are equal or"
      " nearly equal."
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
      if _is_exponential(ascending, float(inflation)):
        said.append(
          f"The {ascending.size} norms of the window do not reject an"
          " exponential tail either, and that is lighter than any power law."
        )
    elif abs(drift) >= abs(misfit):
      trend = verdicts.trend(drift, "norms")
      said.append(f"Do not trust this index {tests}: {trend}.")
    else:
      # A level that has risen gives the same score as a light tail.
      reach = "farther than a power law's would"
      if misfit < 0:
        reach = "less far than a power law's would, or their level has risen"
      said.append(
        f"Do not trust this index {tests}: the largest norms reach {reach}."
      )
    if inflation >= 1.5:
      said.append(
        f"Successive norms are dependent: {inflation:.1f} of them carry as much"
        " information as one independent norm."
      )
  if nonfinite_count:
    said.append(f"Number of norms that were not finite: {nonfinite_count}.")
  return " ".join(said)


def _is_exponential(ascending: np.ndarray, inflation: float) -> bool:
  """Whether an exponential tail fits the largest tenth as well as a power."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      power, other = (
        fits.fit(law, ascending) for law in ("Pareto tail", "exponential tail")
      )
  except (ValueError, UserWarning):  # no window, few values, or ties
    return False
  score = fits.vuong(ascending, power, other).statistic
  return score < _WORSE * max(inflation, 1.0) ** 0.5
