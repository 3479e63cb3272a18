"""What a streaming estimator is, and what it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import estimators

# What an estimate reads where the tail is lighter than any power law.
LIGHTEST = 1e6


class StreamingEstimator(NamedTuple):
  """A tail index that follows a stream.

  Attributes:
    init: () -> state; the state is finite and has fixed shapes.
    update: (state, x) -> state, for a value x of shape []; a value that is not
      finite must leave the state as it is.
    estimate: state -> :class:`estimators.TailEstimate`, finite; its index is 0
      while there is no estimate.
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
  """The estimate, with zeros while it is not known, and without infinities.

  Args:
    tail_index: the estimate, float32 []; inf or above `LIGHTEST` for a tail
      that is lighter than any power law.
    interval: its ends, float32 [2], finite.
    known: bool []; where it is false, index and interval are 0.
    drift: see :class:`estimators.TailEstimate`, finite.
    misfit: likewise.
  """
  zero_or = lambda x: jnp.where(known & ~jnp.isnan(x), x, 0.0)
  return estimators.TailEstimate(
    jnp.minimum(zero_or(tail_index), LIGHTEST),
    zero_or(interval),
    jnp.asarray(drift, jnp.float32),
    jnp.asarray(misfit, jnp.float32),
  )
