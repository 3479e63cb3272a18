"""Computes Hill's estimate over the last values, without a sort."""

from typing import NamedTuple

import jax
from jax import custom_batching, lax
import jax.numpy as jnp

from htga_optax import _checks, intervals, order_statistics
from htga_optax._states import known_state
from htga_optax.estimators._samples import check_tail_size, log_excesses
from htga_optax.streaming._base import (
  LIGHTEST,
  StreamingEstimator,
  finite_estimate,
)


@known_state
class WindowedHillState(NamedTuple):
  """The state of :func:`windowed_hill`.

  Attributes:
    window: the last values.
    numbers: the rest of the state in one array, float32 [9], since each array
      of a state adds a microsecond or two to a step. It holds Hill's estimate
      from the k largest values (0 while there is none), the number of values
      since the last refresh, `misfit`, and, from that refresh, `series` and the
      interval divided by the estimate.
  """

  window: order_statistics.SortedWindow
  numbers: jax.Array

  @property
  def misfit(self) -> jax.Array:
    """The fading sums of held-out scores and of squared weights, [2]."""
    return self.numbers[..., 2:4]

  @property
  def series(self) -> intervals.Series:
    """Dependence, bias and drift at the last refresh."""
    return intervals.Series(*(self.numbers[..., i] for i in (4, 5, 6)))


def windowed_hill(window_size: int = 256, k: int = 16) -> StreamingEstimator:
  r"""Hill's estimator over the last `window_size` values.

  There is no estimate before the window is full. In a partly filled window,
  the same k would be a larger fraction k/n, and the body of the law would look
  like a heavy tail. With a smaller k, the estimate would be mostly noise. All
  estimates therefore use the same W and k. (heavytails estimates from k + 1
  values on.)

  The interval is :func:`intervals.series_interval`, for dependent values.
  Interval and drift are updated every W/8 values, because the dependence
  changes slowly and takes ten times as long to compute as the estimate.

  The misfit tests the Pareto tail on held-out values. A value x above the
  threshold gets a score before it enters the window: the probability, under the
  tail fitted to the window, that a value exceeds x, minus one half,

  .. math::
    s = \Bigl(1 + \frac{\hat\alpha}{k}
      \log\frac{x}{X_{(k+1)}}\Bigr)^{-k} - \frac12.

  For independent Pareto values, the score is exactly uniform
  (:math:`1/\hat\alpha` has a Gamma law). For dependent values, k/D replaces k
  here, with the variance inflation D of :class:`intervals.Series`. The scores
  of a tail lighter than a power law stay in the middle and have a negative
  mean, -0.034 for half-normal values with k/W at 10 percent.

  The misfit is the fading sum of the scores divided by its standard deviation.
  Its memory is 16k exceedances (16 windows), so that it detects in long runs
  what no single window shows. The variance of a single score is 1/12. A score
  among many contributes 1/48, since fits and scores share their values (derived
  here, by the delta method: :ref:`derivation-misfit`).

  Args:
    window_size: W, the number of values in the window (static). A short window
      follows changes faster. A trend within the window looks like a tail.
    k: the number of values in the tail (static), below `window_size`. The
      relative standard error is 1/sqrt(k) on independent values, and larger on
      dependent ones. The bias grows with k.

  Returns:
    The estimator. An update takes O(W) operations, without a sort.

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
  _checks.check_size("window_size", window_size)
  check_tail_size(k, window_size, "a window of")
  refresh_every = max(window_size // 8, 1)
  fade = 1 - 1 / (8 * k)

  def init():
    due = refresh_every - 1  # once the window is full
    return WindowedHillState(
      window=order_statistics.empty_window(window_size),
      numbers=jnp.float32([0, due, 0, 0, 1, 1, 0, 1, 1]),
    )

  def refreshed(window):
    series = intervals.examine(window, k)
    return jnp.stack([*series, *intervals.series_interval(1.0, k, series)])

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    hill, age, score, weight, inflation, *_ = state.numbers
    window = order_statistics.push(state.window, x)
    is_full = window.ascending[0] >= 0
    age = jnp.where(jnp.isfinite(x) & is_full, age + 1, age)
    due = age >= refresh_every
    # No gradient here: its zeros would be multiplied by infinities.
    seen, order = lax.stop_gradient((window, state.numbers[4:]))
    order = lax.cond(
      _any_mapped(due),
      lambda: jnp.where(due, refreshed(seen), order),
      lambda: order,
    )

    # The score uses the window before this value enters it.
    threshold = state.window.ascending[-(k + 1)]
    # (With equal values there is no Pareto tail, and no score.)
    fitted = (hill > 0) & (hill < LIGHTEST)
    held_out = fitted & (x > threshold) & (x < 1e38 * threshold)
    excess = jnp.log(
      jnp.where(held_out, x, 1.0) / jnp.where(held_out, threshold, 1.0)
    )
    size = k / inflation
    survival = jnp.exp(-size * jnp.log1p(hill / size * excess))

    tail = window.ascending[-(k + 1) :]
    tail_index = _hill(tail)
    numbers = [
      jnp.where(is_full, tail_index, 0.0),
      jnp.where(due, 0.0, age),
      jnp.where(held_out, fade * score + survival - 0.5, score),
      jnp.where(held_out, fade**2 * weight + 1.0, weight),
      *order,
    ]
    return WindowedHillState(window, jnp.stack(numbers))

  def estimate(state):
    hill, _, score, weight, inflation, _, drift, *ends = state.numbers
    variance = weight / 48 + jnp.minimum(weight, k) / 16
    variance = jnp.maximum(variance * inflation, 1 / 12)
    known = hill > 0
    return finite_estimate(
      hill,
      hill * jnp.stack(ends),
      known,
      drift=jnp.where(known, drift, 0.0),
      misfit=jnp.where(known, score * lax.rsqrt(variance), 0.0),
    )

  return StreamingEstimator(init, update, estimate)


def _hill(tail: jax.Array) -> jax.Array:
  """Hill's estimate from the k + 1 largest, ascending; 0 where it fails."""
  threshold, largest = tail[0], tail[-1]
  excesses, usable = log_excesses(tail, threshold)
  is_flat = (threshold > 0) & (largest == threshold)
  estimate = jnp.where(usable, (tail.size - 1) / jnp.sum(excesses), 0.0)
  return jnp.where(is_flat, LIGHTEST, jnp.minimum(estimate, LIGHTEST))


@custom_batching.custom_vmap
def _any_mapped(condition: jax.Array) -> jax.Array:
  """Whether the condition holds anywhere on the axes of `jax.vmap`.

  With a mapped condition, `lax.cond` would evaluate both branches.
  """
  return condition


@_any_mapped.def_vmap
def _any_mapped_rule(axis_size, in_batched, condition):
  del axis_size, in_batched
  return _any_mapped(jnp.any(condition, axis=0)), False
