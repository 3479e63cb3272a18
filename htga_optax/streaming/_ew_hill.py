"""Hill's estimator with fading weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, estimators
from htga_optax.streaming import _fading
from htga_optax.streaming._base import StreamingEstimator, finite_estimate


class EwHillState(NamedTuple):
  """What :func:`ew_hill` knows, each float32 [].

  Attributes:
    weight: 1 - d^t, of t values.
    log_threshold: the logarithm of the threshold.
    log_distance: the average distance of the logarithms from it.
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
  r"""Hill's estimator with fading weights over a threshold that follows.

  .. math::
    \hat\alpha = \frac{\sum_i d^{t-i} 1\{e_i > 0\}}
      {\sum_i d^{t-i} \max(e_i, 0)}, \quad
    e_i = \log x_i - q_{i-1}, \quad
    q_i = q_{i-1} + a_i \frac{\hat\xi_i}{p} (1\{e_i > 0\} - p)

  The threshold's logarithm q follows the quantile 1 - p. The slope that its
  step needs is the density there, and a Pareto tail has :math:`p/\xi`: the
  mean excess :math:`\hat\xi` gives it, so that the step has the scale of the
  logarithms, and what lies below the threshold, zeros included, counts only as
  being there. (The mean is taken with half an exceedance more, of the size of
  the average :math:`|e|`: until there are others, and to find back when there
  are no more.) An excess is measured from the threshold before it, and
  independent Pareto values exceed any threshold by exponential excesses: what
  the threshold does costs no bias on them.

  With the memory of a window of 256 (d = 0.9922), p = 25/256, it has the bias
  and the noise of :func:`windowed_hill` at k = 25: medians of 1.53 on
  Pareto(1.5), 2.47 on :math:`|t_3|`, 4.8 on half-normal values (window: 1.52,
  2.48, 4.8), standard deviations of the logarithm of 0.20, 0.19, 0.17 (0.20,
  0.19, 0.18); 96 and 83 percent of the intervals hold the index of the first
  two (95 and 90, of intervals that span some bias). After the first 256 values
  the noise is 15 percent larger. It takes longer to get over things: when the
  level rises tenfold, chi-distributed norms of 1,000 entries, which have no
  tail, read 1 to 3 for 256 steps and again above 50 after 800, and a single
  value of 1e30 still lowers 1.5 to 1.1 after 400 steps; the window is clear of
  either after 256. After a tenfold fall it repeats what it said or says nothing
  for some 500 steps (figures of `benchmarks/estimates.py`, here and below).

  The drift is the share of exceedances less p, over its standard deviation on
  independent values at a fixed threshold. (Following halves the variance.) It
  says when the threshold has lost its quantile: it is beyond 2.5 for some 250
  steps after that rise, and from 100 to 500 or so after that fall; otherwise in
  less than 1 percent of independent series, but in a quarter of those with the
  dependence of an AR(0.9). There is no test of misfit.

  Args:
    decay: d, in (0, 1). The estimate rests on p(1 + d)/(1 - d) exceedances.
    tail_fraction: p, the part of the values that is the tail, in (0, 1); more
      is less noisy, more biased.

  Returns:
    The estimator, for values that are not negative, in six numbers. The
    interval is :func:`estimators.hill_interval` at the effective number of
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
    quantile of an unknown distribution, SIAM J. Sci. Stat. Comput. 4(4), whose
    step is the density's too; Robbins and Monro (1951), A stochastic
    approximation method, Annals of Mathematical Statistics 22(3). Their use
    for a moving threshold of Hill's estimate is this package's.
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
      # Bounded where more than 1 - p of the values are zero.
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
      # No value has exceeded the threshold while zero or equal values alone
      # came. After a fall of the level the drift is there without an index.
      drift=jnp.where(squares > 0, drift, 0.0),
    )

  return StreamingEstimator(init, update, estimate)
