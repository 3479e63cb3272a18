"""Streaming estimators: a sample that arrives one value a step.

A streaming estimator is three pure functions, as a gradient transformation is
two:

    state = init()
    state = update(state, x)      one more value
    tail_index, interval = estimate(state)

It ignores values that are not finite, and estimates nan as long as it has seen
too few. States are pytrees of arrays of fixed shape, so that a scan carries
them and `jax.vmap` runs one estimator per layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import checks, estimators, order_statistics


class StreamingEstimator(NamedTuple):
  """A tail index that follows a stream.

  Attributes:
    init: () -> state; the state is finite and has fixed shapes.
    update: (state, x) -> state, for a value x of shape []; a value that is not
      finite must leave the state as it is.
    estimate: state -> :class:`estimators.TailEstimate`; nan while there is
      nothing to say.
  """

  init: Callable[[], Any]
  update: Callable[[Any, ArrayLike], Any]
  estimate: Callable[[Any], estimators.TailEstimate]


def windowed_hill(window_size: int = 256, k: int = 16) -> StreamingEstimator:
  """Hill's estimator over the last `window_size` values.

  There is no estimate before the window is full. A part of a window would have
  either a larger fraction k/n above the threshold, which reads the body of the
  law as a heavy tail, or a smaller k, which is mostly noise; waiting, every
  estimate rests on the same W and k. (heavytails reads from k + 1 values on.)

  Args:
    window_size: W, how many values the estimate rests on (static). A short
      window follows faster; a trend within the window reads as a tail.
    k: how many of them are the tail (static), below `window_size`. The
      relative standard error is 1/sqrt(k) on independent values, and larger
      on dependent ones; the bias grows with k.

  Returns:
    The estimator; a value costs O(W), without a sort.

  Raises:
    TypeError: a size is not a static integer.
    ValueError: a size is below one, or k is not below `window_size`.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import streaming
    >>> init, update, estimate = streaming.windowed_hill(window_size=256, k=25)
    >>> x = jnp.asarray(np.random.default_rng(0).pareto(1.5, size=300) + 1)
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high) = estimate(state)
    >>> print(f"{tail_index:.1f} ({low:.1f} to {high:.1f})")
    1.4 (0.9 to 2.0)
  """
  checks.check_size("window_size", window_size)
  estimators.check_tail_size(k, window_size, "a window of")

  def estimate(window: order_statistics.SortedWindow):
    is_full = window.ascending[0] >= 0
    tail = window.ascending[-(k + 1) :]
    tail_index = jnp.where(
      is_full, estimators.hill_of_tail(tail, threshold=tail[0]), jnp.nan
    )
    return estimators.TailEstimate(
      tail_index, estimators.hill_interval(tail_index, k)
    )

  return StreamingEstimator(
    init=lambda: order_statistics.empty_window(window_size),
    update=order_statistics.push,
    estimate=estimate,
  )
