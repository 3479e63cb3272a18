r"""Tail indices from exponentially weighted averages, in a few numbers.

With a decay d, the average of a stream x_1, x_2, ... and its debiased form are

    m_t = m_(t-1) + a_t (x_t - m_(t-1)),    a_t = (1 - d)/(1 - d^t),

the plain mean while t is small, and with a memory of 1/(1 - d) values later.
Its weights are worth

    n = (sum w)^2/(sum w^2) = (1 + d)/(1 - d) (1 - d^t)/(1 + d^t)

equally weighted values: 0.99 has the noise of a window of 199. A window forgets
a value all at once, an average never quite: after 1/(1 - d) values more, a
third of it is left.

What is averaged must be measured against a threshold, a location, or a scale
that is not known. Each is followed by stochastic approximation with the same
a_t: a parameter v for which E g(x, v) = 0 moves as

    v_t = v_(t-1) - a_t g(x_t, v_(t-1))/slope,    slope = d/dv E g(x, v),

which at the start is Robbins and Monro's 1/t, with the noise of the sample's
own solution if the slope is right, and with a constant d a moving one.

Each is a :class:`streaming.StreamingEstimator`, for `track_tail_index`. None
says anything before its weights (Hill's: those of its exceedances) are worth
half of what they will be, after some 1.1/(1 - d) values. No average knows the
order of its values: the intervals are those of independent ones, and too narrow
on others.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import checks, estimators, streaming

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)
_LOG_TINY, _LOG_HUGE = math.log(_TINY), 88.0  # of which exp is finite
# What the weights must be worth, as a part of what they will be.
_ENOUGH = 0.5


class HillState(NamedTuple):
  """What :func:`hill` knows, each float32 [].

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


def hill(
  decay: ArrayLike = 0.99, tail_fraction: ArrayLike = 0.1
) -> streaming.StreamingEstimator:
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
  and the noise of :func:`streaming.windowed_hill` at k = 25: medians of 1.53 on
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
    >>> from htga_optax import exponentially_weighted
    >>> init, update, estimate = exponentially_weighted.hill(decay=0.998)
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
  checks.check_number("decay", decay, check, "be in (0, 1)")
  checks.check_number("tail_fraction", tail_fraction, check, "be in (0, 1)")

  def init():
    return HillState(*(jnp.zeros([], jnp.float32) for _ in HillState._fields))

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    d, p = _strong(decay), _strong(tail_fraction)
    weight, step = _step(d, state.weight)
    positive, is_first = x >= _TINY, state.weight == 0
    log_x = jnp.log(jnp.maximum(x, _TINY))
    threshold = jnp.where(is_first, log_x, state.log_threshold)

    excess = log_x - threshold
    exceeds = (excess > 0).astype(jnp.float32)
    distance = jnp.where(positive, jnp.abs(excess), state.log_distance)
    distance = state.log_distance + step * (distance - state.log_distance)
    excess_sum = d * state.excess_sum + exceeds * excess
    exceedances = d * state.exceedances + exceeds
    mean_excess = (excess_sum + 0.5 * distance) / (exceedances + 0.5)
    threshold += step * mean_excess / p * (exceeds - p)
    new = HillState(
      weight=weight,
      # Bounded where more than 1 - p of the values are zero.
      log_threshold=jnp.clip(threshold, _LOG_TINY, _LOG_HUGE),
      log_distance=distance,
      excess_sum=excess_sum,
      exceedances=exceedances,
      squared_weights=d**2 * state.squared_weights + exceeds,
    )
    return _where(jnp.isfinite(x) & (positive | ~is_first), new, state)

  def estimate(state):
    d, p = _strong(decay), _strong(tail_fraction)
    k = state.exceedances**2 / state.squared_weights
    known = (k >= _ENOUGH * p * (1 + d) / (1 - d)) & (state.excess_sum > 0)
    tail_index = state.exceedances / state.excess_sum
    tail_index = jnp.where(known, tail_index, jnp.nan)
    share = (1 - d) * state.exceedances / state.weight
    variance = p * (1 - p) / _effective_size(d, state.weight)
    return estimators.TailEstimate(
      tail_index,
      estimators.hill_interval(tail_index, k),
      drift=(share - p) / jnp.sqrt(variance),
    )

  return streaming.StreamingEstimator(init, update, estimate)


class LogMomentState(NamedTuple):
  """What :func:`log_moment` knows, each float32 [].

  Attributes:
    weight: 1 - d^t, of t values.
    mean: the average of log|x|.
    variance: the average of its squared distance from the mean.
  """

  weight: jax.Array
  mean: jax.Array
  variance: jax.Array


def log_moment(decay: ArrayLike = 0.99) -> streaming.StreamingEstimator:
  r""":func:`estimators.log_moment` with fading weights.

  .. math::
    \hat\alpha = \Bigl(\frac{6}{\pi^2} \frac{V_t}{1 - 1/n}
      - \frac12\Bigr)^{-1/2}, \quad
    V_t = (1 - a_t) \bigl(V_{t-1} + a_t (\log|x_t| - m_{t-1})^2\bigr)

  with the average m of log|x|; no squares are subtracted (West's form, with
  weights that fade).

  It takes the signed values of a symmetric stable law. On norms, which is what
  `track_tail_index` feeds, it is wrong: they are no such law, and the norm of
  an isotropic stable vector of many entries varies less in its logarithm than
  an entry does, so that it reads light. Meaningful are one fixed coordinate, a
  fixed projection of the gradient. With the memory of 256 values, a tenfold
  change of scale, up or down, reads as 0.9 at an index of 1.5 after 64 to 128
  steps and as 1.43 after 512 (`benchmarks/estimates.py`).

  Args:
    decay: d, in (0, 1). The interval takes the error on (1 + d)/(1 - d)
      independent values, which with 0.99 is 17 percent at 1.5.

  Returns:
    The estimator, in three numbers. Zeros, which have no logarithm, leave the
    state as it is; the index is inf where V is too small for a stable law,
    and trackers then keep the last.

  Raises:
    ValueError: `decay` outside (0, 1).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import exponentially_weighted
    >>> init, update, estimate = exponentially_weighted.log_moment(decay=0.999)
    >>> x = jnp.asarray(np.random.default_rng(0).standard_cauchy(4000))
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.2f} ({low:.2f} to {high:.2f})")
    1.03 (0.96 to 1.10)

  References:
    Ma and Nikias (1995), see :func:`estimators.log_moment`. West (1979),
    Updating mean and variance estimates, Communications of the ACM 22(9).
  """
  checks.check_number("decay", decay, lambda v: 0 < v < 1, "be in (0, 1)")

  def init():
    return LogMomentState(
      *(jnp.zeros([], jnp.float32) for _ in LogMomentState._fields)
    )

  def update(state, x):
    size = jnp.abs(jnp.asarray(x, jnp.float32))
    heard = jnp.isfinite(size) & (size >= _TINY)
    weight, step = _step(_strong(decay), state.weight)
    # Older versions of XLA compare a subnormal as if it were normal.
    away = jnp.log(jnp.maximum(size, _TINY)) - state.mean
    new = LogMomentState(
      weight=weight,
      mean=state.mean + step * away,
      variance=(1 - step) * (state.variance + step * away**2),
    )
    return _where(heard, new, state)

  def estimate(state):
    n = _effective_size(_strong(decay), state.weight)
    tail_index = estimators.index_of_log_variance(state.variance / (1 - 1 / n))
    known = _is_enough(state.weight) & (state.variance > 0)
    tail_index = jnp.where(known, tail_index, jnp.nan)
    error = estimators.log_moment_standard_error(tail_index, 1) / jnp.sqrt(n)
    return estimators.TailEstimate(
      tail_index, estimators.positive_interval(tail_index, error)
    )

  return streaming.StreamingEstimator(init, update, estimate)


class CharacteristicFunctionState(NamedTuple):
  """What :func:`characteristic_function` knows.

  Attributes:
    started: whether there was a value, bool [].
    weight: 1 - d^t, of t values after the first, float32 [].
    location: where the phase at 1 is zero, float32 [].
    log_scale: the average of the log-distance from it, float32 [].
    lack: the averages of 1 - cos(tz) at t = 0.2 and 1, float32 [2].
    sine: the averages of sin(tz), float32 [2].
  """

  started: jax.Array
  weight: jax.Array
  location: jax.Array
  log_scale: jax.Array
  lack: jax.Array
  sine: jax.Array


def characteristic_function(
  decay: ArrayLike = 0.99,
) -> streaming.StreamingEstimator:
  r""":func:`estimators.characteristic_function` with fading weights.

  .. math::
    \hat\alpha = \log\frac{\log|\hat\phi(0.2)|}{\log|\hat\phi(1)|}
      \Big/ \log 0.2, \qquad
    z_t = \frac{x_t - m_{t-1}}{c_t}

  with the averages of :math:`\cos tz` and :math:`\sin tz` in
  :math:`\hat\phi(t)`. Neither location nor scale matters to first order, and
  quartiles need not be followed: the scale c is the geometric mean of the
  distances,

  .. math:: \log c_t = \log c_{t-1}
    + a_t (\log|x_t - m_{t-1}| - \log c_{t-1}),

  which for a stable law is its scale times :math:`e^{\gamma(1/\alpha-1)}`
  (:math:`\gamma = 0.577`), and the location m is where the phase at 1 is zero,
  :math:`E \sin z = 0`. The slope of that is :math:`-|\phi(1)|/c`, about
  :math:`-1/(ec)`:

  .. math:: m_t = m_{t-1} + a_t \, e c_t \sin z_t

  No value moves it by more than :math:`a_t e c`.

  With the memory of 256 values it has the noise of the batch form on 256:
  standard deviations of the logarithm of 0.101, 0.067, 0.051 at alpha = 1, 1.5,
  1.8 (batch 0.103, 0.070, 0.051), medians of 1.01, 1.51, 1.81, and intervals
  that cover 94, 96 and 91 percent (95, 94, 92). (A scale held where
  :math:`|\phi(1)|` is 1/e, by :math:`E \cos z = 1/e`, is no better in the long
  run and settles much later.) After a tenfold rise 1.5 reads 0.9 for 128 steps
  and 1.43 after 512, after a tenfold fall 1.4 and 1.5
  (`benchmarks/estimates.py`).

  It takes the signed values of a symmetric stable law; of what
  :func:`log_moment` says on norms, all holds here.

  Args:
    decay: d, in (0, 1). The interval takes the error on (1 + d)/(1 - d)
      independent values.

  Returns:
    The estimator, in eight numbers. A value that equals the location, or is
    too far from it for float32, leaves the state as it is. The interval may
    reach beyond 2, the estimate does not.

  Raises:
    ValueError: `decay` outside (0, 1).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import exponentially_weighted
    >>> init, update, estimate = (
    ...     exponentially_weighted.characteristic_function(decay=0.999))
    >>> x = jnp.asarray(np.random.default_rng(0).standard_cauchy(4000))
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.2f} ({low:.2f} to {high:.2f})")
    1.04 (0.97 to 1.11)

  References:
    Press (1972), see :func:`estimators.characteristic_function`. How location
    and scale are followed is this package's.
  """
  checks.check_number("decay", decay, lambda v: 0 < v < 1, "be in (0, 1)")
  points = jnp.asarray(estimators.POINTS, jnp.float32)

  def init():
    return CharacteristicFunctionState(
      started=jnp.zeros([], jnp.bool),
      weight=jnp.zeros([], jnp.float32),
      location=jnp.zeros([], jnp.float32),
      log_scale=jnp.zeros([], jnp.float32),
      lack=jnp.zeros([2], jnp.float32),
      sine=jnp.zeros([2], jnp.float32),
    )

  def update(state, x):
    x = jnp.asarray(x, jnp.float32)
    away = x - state.location
    distance = jnp.abs(away)
    heard = state.started & (distance >= _TINY) & (distance < jnp.inf)
    weight, step = _step(_strong(decay), state.weight)
    log_distance = jnp.log(jnp.where(heard, distance, 1.0))
    log_scale = state.log_scale + step * (log_distance - state.log_scale)
    scale = jnp.exp(jnp.clip(log_scale, _LOG_TINY, _LOG_HUGE))
    z = jnp.clip(away / scale, -1e6, 1e6)  # beyond, a phase is rounding
    location = state.location + step * math.e * jnp.sin(z) * scale
    lack = 2 * jnp.sin(points / 2 * z) ** 2
    new = CharacteristicFunctionState(
      started=state.started,
      weight=weight,
      location=jnp.clip(location, -_HUGE, _HUGE),
      log_scale=log_scale,
      lack=state.lack + step * (lack - state.lack),
      sine=state.sine + step * (jnp.sin(points * z) - state.sine),
    )
    begun = state._replace(started=state.started | True, location=x)
    state = _where(~state.started & jnp.isfinite(x), begun, state)
    return _where(heard, new, state)

  def estimate(state):
    tail_index = estimators.index_of_characteristic_function(
      state.lack, state.sine
    )
    tail_index = jnp.where(_is_enough(state.weight), tail_index, jnp.nan)
    n = _effective_size(_strong(decay), state.weight)
    error = estimators.characteristic_function_standard_error(tail_index, 1)
    return estimators.TailEstimate(
      tail_index,
      estimators.positive_interval(tail_index, error / jnp.sqrt(n)),
    )

  return streaming.StreamingEstimator(init, update, estimate)


def _strong(x: ArrayLike) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


def _step(decay: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The next weight 1 - d^t, and the step a_t = (1 - d)/(1 - d^t)."""
  weight = decay * weight + (1 - decay)
  return weight, (1 - decay) / weight


def _effective_size(decay: jax.Array, weight: jax.Array) -> jax.Array:
  """How many equally weighted values the weights are worth."""
  return (1 + decay) / (1 - decay) * weight / (2 - weight)


def _is_enough(weight: jax.Array) -> jax.Array:
  return weight / (2 - weight) >= _ENOUGH


def _where(condition, new, old):
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
