"""Applies any estimator to the last values of a stream."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks, estimators, order_statistics
from htga_optax.streaming._base import (
  LIGHTEST,
  StreamingEstimator,
  finite_estimate,
)


class WindowedState(NamedTuple):
  """The state of :func:`windowed`.

  Attributes:
    values: the last values, oldest first, float32 [W]; 0 in unfilled places.
    filled: the number of values, int32 [].
  """

  values: jax.Array
  filled: jax.Array


def windowed(
  estimator: Callable[[jax.Array], jax.Array],
  window_size: int,
  standard_error: Callable[[jax.Array], jax.Array] | None = None,
) -> StreamingEstimator:
  r"""Any estimator over the last `window_size` values.

  Each estimate applies `estimator` to all W values, and costs as much as that.
  For Hill's estimator, :func:`windowed_hill` avoids the sort. There is no
  estimate before the window is full. Neither drift nor misfit is tested, and
  the interval is that of independent values.

  The values keep their signs. `track_tail_index` passes norms, which have no
  sign. The estimators of a tail (pickands, moment, generalized_pareto) are for
  norms. Those of a symmetric stable law (log_moment, block_log_moment,
  characteristic_function) are for signed values.

  Args:
    estimator: a function of a sample [W] that returns a tail index []. All
      estimators of :mod:`estimators` are such functions once their sizes are
      set.
    window_size: W, the number of values in the window (static).
    standard_error: a function of the tail index that returns its standard
      error, for the interval :func:`estimators.positive_interval`. Without it,
      the ends are 0, as in a tracker that has no interval yet.

  Returns:
    The estimator.

  Raises:
    TypeError: `window_size` is not a static integer.
    ValueError: `window_size` is below one, or the estimator does not return one
      number [] for W values, or it raises ValueError (k is too large for W).

  Examples:
    >>> import functools, jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import estimators, streaming
    >>> init, update, estimate = streaming.windowed(
    ...     functools.partial(estimators.moment, k=25), window_size=256,
    ...     standard_error=lambda a: estimators.moment_standard_error(a, k=25))
    >>> x = jnp.asarray(np.random.default_rng(0).pareto(1.5, size=300) + 1)
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.1f} ({low:.1f} to {high:.1f})")
    1.2 (0.6 to 2.1)
  """
  _checks.check_size("window_size", window_size)
  sample = jax.ShapeDtypeStruct((window_size,), jnp.float32)
  shape = jnp.shape(jax.eval_shape(estimator, sample))
  if shape:
    raise ValueError(f"estimator must return one number, got shape {shape}.")

  def init():
    return WindowedState(
      values=jnp.zeros([window_size], jnp.float32),
      filled=jnp.zeros([], jnp.int32),
    )

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    new = WindowedState(
      values=order_statistics.shift_in(state.values, x),
      filled=jnp.minimum(state.filled + 1, window_size),
    )
    finite = jnp.isfinite(x)
    return optax.tree.where(finite, new, state)

  def estimate(state):
    is_full = state.filled == window_size
    # A fixed sample until the window is full: estimators never get zeros.
    ramp = jnp.linspace(2.0, 1.0, window_size, dtype=jnp.float32)
    tail_index = estimator(jnp.where(is_full, state.values, ramp))
    known = is_full & (tail_index > 0)
    interval = jnp.zeros([2], jnp.float32)
    if standard_error is not None:
      safe = jnp.minimum(jnp.where(known, tail_index, 1.0), LIGHTEST)
      interval = estimators.positive_interval(safe, standard_error(safe))
    return finite_estimate(tail_index, interval, known)

  return StreamingEstimator(init, update, estimate)
