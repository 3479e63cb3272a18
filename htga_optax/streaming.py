"""Streaming estimators: a sample that arrives one value a step.

A streaming estimator is three pure functions, as a gradient transformation is
two:

    state = init()
    state = update(state, x)      one more value
    tail_index, interval, drift, misfit = estimate(state)

It ignores values that are not finite, and estimates nan as long as it has seen
too few. States are pytrees of arrays of fixed shape, so that a scan carries
them and `jax.vmap` runs one estimator per layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import custom_batching, lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import checks, estimators, intervals, order_statistics


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


class HillState(NamedTuple):
  """What :func:`windowed_hill` knows.

  Attributes:
    window: the last values.
    numbers: all else in one array, float32 [9], since each array of a state
      costs a step a microsecond or two: Hill's estimate from the k largest (0
      while there is none), the values since the last refresh, `misfit`, and as
      of that refresh `series` and the interval in units of the estimate.
  """

  window: order_statistics.SortedWindow
  numbers: jax.Array

  @property
  def misfit(self) -> jax.Array:
    """Fading sums over held-out values: scores and squared weights, [2]."""
    return self.numbers[..., 2:4]

  @property
  def series(self) -> intervals.Series:
    """What the order of the values tells."""
    return intervals.Series(*(self.numbers[..., i] for i in (4, 5, 6)))


def windowed_hill(
  window_size: int = 256, k: int = 16, *, automatic: bool = False
) -> StreamingEstimator:
  r"""Hill's estimator over the last `window_size` values.

  There is no estimate before the window is full. A part of a window would have
  either a larger fraction k/n above the threshold, which reads the body of the
  law as a heavy tail, or a smaller k, which is mostly noise; waiting, every
  estimate rests on the same W and k. (heavytails reads from k + 1 values on.)

  The interval is that of :func:`intervals.interval`, for dependent values; what
  the order of the values tells is looked at every W/8 values, since it changes
  slowly and costs ten times as much as the estimate. So is the drift.

  The misfit is a held-out test of the Pareto tail. Each value that exceeds the
  threshold is scored, before it enters the window, by the probability to exceed
  even that value under the tail fitted to the window,

  .. math::
    s = \Bigl(1 + \frac{\hat\alpha}{k}
      \log\frac{x}{X_{(k+1)}}\Bigr)^{-k} - \frac12,

  which is exactly uniform on independent Pareto values (:math:`\hat\alpha` has
  a Gamma law); for dependent ones k is k/D here. Tails lighter than a power law
  stay in the middle, and have a negative mean: -0.034 for half-normal values,
  at k/W of 10 percent. The misfit is the fading sum of the scores over its
  standard deviation, with the memory of 16k exceedances (16 windows): it finds
  in long runs what no window shows. The variance of a score is 1/12, and 1/48
  of one among many, since fits and scores share their values (derived here, by
  the delta method).

  Args:
    window_size: W, how many values the estimate rests on (static). A short
      window follows faster; a trend within the window reads as a tail.
    k: how many of them are the tail (static), below `window_size`. The
      relative standard error is 1/sqrt(k) on independent values, and larger
      on dependent ones; the bias grows with k.
    automatic: k is the largest that :func:`estimators.automatic_k` looks at,
      and the estimate rests on its choice, which mostly does no better than a
      fixed k (figures there). Drift and misfit are still those of `k`. The
      interval is at the chosen k and knows nothing of the choice: with W = 256
      and k = 64 it covers 94 percent on Pareto(1.5) and 77 percent on
      :math:`|t_3|` (fixed, k = 64: 95 and 59; k = 25: 96 and 91).

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
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.1f} ({low:.1f} to {high:.1f})")
    1.4 (0.9 to 2.1)
  """
  checks.check_size("window_size", window_size)
  estimators.check_tail_size(k, window_size, "a window of")
  refresh_every = max(window_size // 8, 1)
  fade = 1 - 1 / (8 * k)

  def init():
    due = refresh_every - 1  # once the window is full
    return HillState(
      window=order_statistics.empty_window(window_size),
      numbers=jnp.float32([0, due, 0, 0, 1, 1, 0, 1, 1]),
    )

  def refreshed(window):
    series = intervals.examine(window, k)
    return jnp.stack([*series, *intervals.interval(1.0, k, series)])

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    hill, age, score, weight, inflation, *_ = state.numbers
    window = order_statistics.push(state.window, x)
    is_full = window.ascending[0] >= 0
    age = jnp.where(jnp.isfinite(x) & is_full, age + 1, age)
    due = age >= refresh_every
    # No gradient: zeros from behind would meet what is infinite in there.
    seen, order = lax.stop_gradient((window, state.numbers[4:]))
    order = lax.cond(
      _any_mapped(due),
      lambda: jnp.where(due, refreshed(seen), order),
      lambda: order,
    )

    # The value is scored by the window that it is not in yet.
    threshold = state.window.ascending[-(k + 1)]
    held_out = (hill > 0) & (x > threshold) & (x < 1e38 * threshold)
    excess = jnp.log(
      jnp.where(held_out, x, 1.0) / jnp.where(held_out, threshold, 1.0)
    )
    size = k / inflation
    survival = jnp.exp(-size * jnp.log1p(hill / size * excess))

    tail = window.ascending[-(k + 1) :]
    tail_index = estimators.hill_of_tail(tail, threshold=tail[0])
    known = is_full & jnp.isfinite(tail_index)
    numbers = [
      jnp.where(known, tail_index, 0.0),
      jnp.where(due, 0.0, age),
      jnp.where(held_out, fade * score + survival - 0.5, score),
      jnp.where(held_out, fade**2 * weight + 1.0, weight),
      *order,
    ]
    return HillState(window, jnp.stack(numbers))

  def estimate(state):
    hill, _, score, weight, inflation, bias, drift, *ends = state.numbers
    known = hill > 0
    tail_index = jnp.where(known, hill, jnp.nan)
    interval = tail_index * jnp.stack(ends)
    if automatic:
      tail = state.window.ascending[-(k + 1) :]
      size = estimators.automatic_k(tail, most=k)
      chosen = estimators.hill_all(tail)[size - 1]
      tail_index = jnp.where(known, chosen, jnp.nan)
      # The bias grows with k.
      bias = 1 / (1 - (1 - 1 / bias) * size / k)
      interval = intervals.interval(
        tail_index, size, state.series._replace(bias=bias)
      )
    variance = weight / 48 + jnp.minimum(weight, k) / 16
    variance = jnp.maximum(variance * inflation, 1 / 12)
    return estimators.TailEstimate(
      tail_index, interval, drift, misfit=score * lax.rsqrt(variance)
    )

  return StreamingEstimator(init, update, estimate)


@custom_batching.custom_vmap
def _any_mapped(condition: jax.Array) -> jax.Array:
  """Whether it holds anywhere on the axes of `jax.vmap`.

  On a condition that is mapped, `lax.cond` would take both branches.
  """
  return condition


@_any_mapped.def_vmap
def _any_mapped_rule(axis_size, in_batched, condition):
  del axis_size, in_batched
  return _any_mapped(jnp.any(condition, axis=0)), False


class WindowState(NamedTuple):
  """What :func:`windowed` knows.

  Attributes:
    values: the last values, oldest first, float32 [W]; 0 where there is none.
    filled: how many there are, int32 [].
  """

  values: jax.Array
  filled: jax.Array


def windowed(
  estimator: Callable[[jax.Array], jax.Array],
  window_size: int,
  standard_error: Callable[[jax.Array], jax.Array] | None = None,
) -> StreamingEstimator:
  r"""Any estimator over the last `window_size` values.

  It is computed anew for every estimate, so that a step costs what the
  estimator costs on W values; :func:`windowed_hill` is Hill's without a sort.
  There is no estimate before the window is full. Neither drift nor misfit is
  tested, and the interval is that of independent values.

  Values keep their sign. The norms that `track_tail_index` feeds have none:
  estimators of a tail (pickands, moment, generalized_pareto) are for them,
  those of a symmetric stable law (log_moment, block_log_moment,
  characteristic_function) are for signed values.

  Args:
    estimator: from a sample [W] to a tail index [], as all of
      :mod:`estimators` are once their sizes are given.
    window_size: W, how many values the estimate rests on (static).
    standard_error: from the tail index to its standard error, for the interval
      :func:`estimators.positive_interval`. Without it the ends are zeros, as a
      tracker's are while there is no interval.

  Returns:
    The estimator.

  Raises:
    TypeError: `window_size` is not a static integer.
    ValueError: it is below one, or the estimator gives no number [] for W
      values, or raises one itself (a k that does not fit into W).

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
  checks.check_size("window_size", window_size)
  sample = jax.ShapeDtypeStruct((window_size,), jnp.float32)
  shape = jnp.shape(jax.eval_shape(estimator, sample))
  if shape:
    raise ValueError(f"estimator must return one number, got shape {shape}.")

  def init():
    return WindowState(
      values=jnp.zeros([window_size], jnp.float32),
      filled=jnp.zeros([], jnp.int32),
    )

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    new = WindowState(
      values=lax.pad(state.values, x, [(-1, 1, 0)]),
      filled=jnp.minimum(state.filled + 1, window_size),
    )
    finite = jnp.isfinite(x)
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)

  def estimate(state):
    tail_index = estimator(state.values)
    tail_index = jnp.where(state.filled == window_size, tail_index, jnp.nan)
    interval = jnp.zeros([2], jnp.float32)
    if standard_error is not None:
      interval = estimators.positive_interval(
        tail_index, standard_error(tail_index)
      )
    return estimators.TailEstimate(tail_index, interval)

  return StreamingEstimator(init, update, estimate)
