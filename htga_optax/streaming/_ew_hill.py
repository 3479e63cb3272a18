"""Estimates a tail index by Hill's formula with fading weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, estimators
from htga_optax.streaming import _fading
from htga_optax.streaming._base import StreamingEstimator, finite_estimate


class EwHillState(NamedTuple):
  """The state of :func:`ew_hill`; each field is float32 [].

  Attributes:
    weight: 1 - d^t after t values.
    log_threshold: the logarithm of the threshold.
    log_distance: the average distance of the values' logarithms from it.
    excess_sum: the fading sum of the log-excesses.
    exceedances: the fading count of the values above the threshold.
    squared_weights: the sum of their squared weights.
  """

  weight: jax.Array
  log_threshold: jax.Array
  log_distance: jax.Array
  excess_sum: jax.Array
  exceedances: jax.Array
  squared_weights: jax.Array


def ew_hill(
  decay: ArrayLike = 0.99, tail_fraction: ArrayLike = 0.1
) -> StreamingEstimator:
  r"""Hill's estimator with fading weights and a moving threshold.

  .. math::
    \hat\alpha = \frac{\sum_i d^{t-i} 1\{e_i > 0\}}
      {\sum_i d^{t-i} \max(e_i, 0)}, \quad
    e_i = \log x_i - q_{i-1}, \quad
    q_i = q_{i-1} + a_i \frac{\hat\xi_i}{p} (1\{e_i > 0\} - p)

  The logarithm q of the threshold follows the quantile 1 - p of the logarithms.
  Its step is divided by their density at the threshold, which is
  :math:`p/\xi` for a Pareto tail; the mean excess :math:`\hat\xi` estimates
  :math:`\xi`. The step therefore has the scale of the logarithms. Values below
  the threshold, zeros included, are only counted.

  :math:`\hat\xi` includes half an exceedance more, of the size of the average
  :math:`|e|`. This starts the threshold while there are no exceedances, and
  brings it back when there are no new ones. Each excess is measured from the
  threshold before the value arrived. Independent Pareto values exceed any
  threshold by exponential excesses, so that a moving threshold causes no bias
  on them.

  With the memory of a window of 256 (d = 0.9922) and p = 25/256, bias and noise
  are those of :func:`windowed_hill` with k = 25. The noise is somewhat larger
  right after the first 256 values. The intervals do not account for the bias:
  83 percent of them contain the index of :math:`|t_3|`, against 90 percent of
  those of the window.

  The estimate recovers from a change more slowly than the window. After a
  tenfold rise of the level, values without a tail look heavy-tailed for
  hundreds of steps. A single huge value also lowers the estimate for hundreds
  of steps. After a tenfold fall, the estimate repeats its last value or is 0
  for about 500 steps. The figures are in `benchmarks/README.md` ("How far off
  an estimate is, and how quickly it follows").

  The drift is the share of exceedances minus p, divided by its standard
  deviation on independent values at a fixed threshold. (With a moving threshold
  the variance is half as large.) A large drift shows that the threshold is far
  from its quantile. It is beyond 2.5 for hundreds of steps after such a rise or
  fall. Without a change, it is beyond 2.5 in less than 1 percent of independent
  series, but in a quarter of those with the dependence of an AR(0.9). Misfit is
  not tested.

  Args:
    decay: d, in (0, 1). The estimate uses p(1 + d)/(1 - d) exceedances.
    tail_fraction: p, the share of the values in the tail, in (0, 1). A larger
      share gives less noise and more bias.

  Returns:
    The estimator, with a state of six numbers. Its values must not be negative.
    The interval is :func:`estimators.hill_interval` at the effective number of
    exceedances.

  Raises:
    ValueError: `decay` or `tail_fraction` outside (0, 1).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import streaming
    >>> init, update, estimate = streaming.ew_hill(decay=0.998)
    >>> x = jnp.asarray(np.random.default_rng(0).pareto(1.5, size=2000) + 1)
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.1f} ({low:.1f} to {high:.1f})")
    1.3 (1.1 to 1.6)

  References:
    Tierney (1983), A space-efficient recursive procedure for estimating a
    quantile of an unknown distribution, SIAM J. Sci. Stat. Comput. 4(4), which
    also divides the step by the density; Robbins and Monro (1951), A stochastic
    approximation method, Annals of Mathematical Statistics 22(3). Their use for
    a moving threshold of Hill's estimator is this package's own.
  """
  check = lambda v: 0 < v < 1
  _checks.check_number("decay", decay, check, "be in (0, 1)")
  _checks.check_number("tail_fraction", tail_fraction, check, "be in (0, 1)")

  def init():
    return EwHillState(
      *(jnp.zeros([], jnp.float32) for _ in EwHillState._fields)
    )

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    d, p = _fading.strong(decay), _fading.strong(tail_fraction)
    weight, step = _fading.step(d, state.weight)
    positive, is_first = x >= _fading.TINY, state.weight == 0
    log_x = jnp.log(jnp.maximum(x, _fading.TINY))
    threshold = jnp.where(is_first, log_x, state.log_threshold)

    excess = log_x - threshold
    exceeds = (excess > 0).astype(jnp.float32)
    distance = jnp.where(positive, jnp.abs(excess), state.log_distance)
    distance = state.log_distance + step * (distance - state.log_distance)
    excess_sum = d * state.excess_sum + exceeds * excess
    exceedances = d * state.exceedances + exceeds
    mean_excess = (excess_sum + 0.5 * distance) / (exceedances + 0.5)
    threshold += step * mean_excess / p * (exceeds - p)
    new = EwHillState(
      weight=weight,
      # The bounds matter where more than 1 - p of the values are zero.
      log_threshold=jnp.clip(threshold, _fading.LOG_TINY, _fading.LOG_HUGE),
      log_distance=distance,
      excess_sum=excess_sum,
      exceedances=exceedances,
      squared_weights=d**2 * state.squared_weights + exceeds,
    )
    return optax.tree.where(
      jnp.isfinite(x) & (positive | ~is_first), new, state
    )

  def estimate(state):
    d, p = _fading.strong(decay), _fading.strong(tail_fraction)
    squares = state.squared_weights
    k = state.exceedances**2 / jnp.where(squares > 0, squares, 1.0)
    known = (k >= _fading.ENOUGH * p * (1 + d) / (1 - d)) & (
      state.excess_sum > 0
    )
    excess_sum = jnp.where(known, state.excess_sum, 1.0)
    tail_index = state.exceedances / excess_sum
    weight = jnp.where(state.weight > 0, state.weight, 1.0)
    share = (1 - d) * state.exceedances / weight
    variance = p * (1 - p) / _fading.effective_size(d, weight)
    drift = (share - p) / jnp.sqrt(variance)
    return finite_estimate(
      tail_index,
      estimators.hill_interval(tail_index, jnp.where(known, k, 1.0)),
      known,
      # The drift is 0 while all values are zero or equal, since none exceeds
      # the threshold. After a fall, there may be a drift without an index.
      drift=jnp.where(squares > 0, drift, 0.0),
    )

  return StreamingEstimator(init, update, estimate)
