"""Defines the type of streaming estimators, and builds their results."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import estimators

# The estimate where the tail is lighter than any power law.
LIGHTEST = 1e6


class StreamingEstimator(NamedTuple):
  """Three functions that estimate a tail index from a stream of values.

  Attributes:
    init: () -> state. The state is finite and has fixed shapes.
    update: (state, x) -> state, for a value x of shape []. A value that is not
      finite must not change the state.
    estimate: state -> :class:`estimators.TailEstimate`, which is finite. Its
      index is 0 while there is no estimate.
  """

  init: Callable[[], Any]
  update: Callable[[Any, ArrayLike], Any]
  estimate: Callable[[Any], estimators.TailEstimate]


def finite_estimate(
  tail_index: jax.Array,
  interval: jax.Array,
  known: jax.Array,
  drift: ArrayLike = 0.0,
  misfit: ArrayLike = 0.0,
) -> estimators.TailEstimate:
  """Builds a finite estimate: 0 while it is unknown, at most `LIGHTEST`.

  Args:
    tail_index: the estimate, float32 []. For a tail that is lighter than any
      power law, it is inf or above `LIGHTEST`.
    interval: the ends of its interval, float32 [2], finite.
    known: bool []; where it is false, index and interval become 0.
    drift: as in :class:`estimators.TailEstimate`, finite.
    misfit: as in :class:`estimators.TailEstimate`, finite.
  """
  zero_or = lambda x: jnp.where(known & ~jnp.isnan(x), x, 0.0)
  return estimators.TailEstimate(
    jnp.minimum(zero_or(tail_index), LIGHTEST),
    zero_or(interval),
    jnp.asarray(drift, jnp.float32),
    jnp.asarray(misfit, jnp.float32),
  )
