"""Estimators of a symmetric stable law with fading weights."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, estimators
from htga_optax.streaming import _fading
from htga_optax.streaming._base import (
  LIGHTEST,
  StreamingEstimator,
  finite_estimate,
)


class EwLogMomentState(NamedTuple):
  """What :func:`ew_log_moment` knows, each float32 [].

  Attributes:
    weight: 1 - d^t, of t values.
    mean: the average of log|x|.
    variance: the average of its squared distance from the mean.
  """

  weight: jax.Array
  mean: jax.Array
  variance: jax.Array


def ew_log_moment(decay: ArrayLike = 0.99) -> StreamingEstimator:
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
    state as it is; the index is 1e6 where V is too small for a stable law.

  Raises:
    ValueError: `decay` outside (0, 1).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax import streaming
    >>> init, update, estimate = streaming.ew_log_moment(decay=0.999)
    >>> x = jnp.asarray(np.random.default_rng(0).standard_cauchy(4000))
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.2f} ({low:.2f} to {high:.2f})")
    1.03 (0.96 to 1.10)

  References:
    Ma and Nikias (1995), see :func:`estimators.log_moment`. West (1979),
    Updating mean and variance estimates, Communications of the ACM 22(9).
  """
  _checks.check_number("decay", decay, lambda v: 0 < v < 1, "be in (0, 1)")

  def init():
    return EwLogMomentState(
      *(jnp.zeros([], jnp.float32) for _ in EwLogMomentState._fields)
    )

  def update(state, x):
    size = jnp.abs(jnp.asarray(x, jnp.float32))
    heard = jnp.isfinite(size) & (size >= _fading.TINY)
    weight, step = _fading.step(_fading.strong(decay), state.weight)
    # Older versions of XLA compare a subnormal as if it were normal.
    away = jnp.log(jnp.maximum(size, _fading.TINY)) - state.mean
    new = EwLogMomentState(
      weight=weight,
      mean=state.mean + step * away,
      variance=(1 - step) * (state.variance + step * away**2),
    )
    return optax.tree.where(heard, new, state)

  def estimate(state):
    known = _fading.is_enough(state.weight) & (state.variance > 0)
    weight = jnp.where(known, state.weight, 1.0)
    n = _fading.effective_size(_fading.strong(decay), weight)
    variance = jnp.where(known, state.variance, 1.0)
    tail_index = estimators.index_of_log_variance(variance / (1 - 1 / n))
    tail_index = jnp.minimum(tail_index, LIGHTEST)
    error = estimators.log_moment_standard_error(tail_index, 1) / jnp.sqrt(n)
    interval = estimators.positive_interval(tail_index, error)
    return finite_estimate(tail_index, interval, known)

  return StreamingEstimator(init, update, estimate)


class EwCharacteristicFunctionState(NamedTuple):
  """What :func:`ew_characteristic_function` knows.

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


def ew_characteristic_function(
  decay: ArrayLike = 0.99,
) -> StreamingEstimator:
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
  :func:`ew_log_moment` says on norms, all holds here.

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
    >>> from htga_optax import streaming
    >>> init, update, estimate = (
    ...     streaming.ew_characteristic_function(decay=0.999))
    >>> x = jnp.asarray(np.random.default_rng(0).standard_cauchy(4000))
    >>> state, _ = jax.lax.scan(lambda s, x: (update(s, x), None), init(), x)
    >>> tail_index, (low, high), *_ = estimate(state)
    >>> print(f"{tail_index:.2f} ({low:.2f} to {high:.2f})")
    1.04 (0.97 to 1.11)

  References:
    Press (1972), see :func:`estimators.characteristic_function`. How location
    and scale are followed is this package's.
  """
  _checks.check_number("decay", decay, lambda v: 0 < v < 1, "be in (0, 1)")
  points = jnp.asarray(estimators.POINTS, jnp.float32)

  def init():
    return EwCharacteristicFunctionState(
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
    heard = state.started & (distance >= _fading.TINY) & (distance < jnp.inf)
    weight, step = _fading.step(_fading.strong(decay), state.weight)
    log_distance = jnp.log(jnp.where(heard, distance, 1.0))
    log_scale = state.log_scale + step * (log_distance - state.log_scale)
    scale = jnp.exp(jnp.clip(log_scale, _fading.LOG_TINY, _fading.LOG_HUGE))
    z = jnp.clip(away / scale, -1e6, 1e6)  # beyond, a phase is rounding
    location = state.location + step * math.e * jnp.sin(z) * scale
    lack = 2 * jnp.sin(points / 2 * z) ** 2
    new = EwCharacteristicFunctionState(
      started=state.started,
      weight=weight,
      location=jnp.clip(location, -_fading.HUGE, _fading.HUGE),
      log_scale=log_scale,
      lack=state.lack + step * (lack - state.lack),
      sine=state.sine + step * (jnp.sin(points * z) - state.sine),
    )
    begun = state._replace(started=state.started | True, location=x)
    state = optax.tree.where(~state.started & jnp.isfinite(x), begun, state)
    return optax.tree.where(heard, new, state)

  def estimate(state):
    enough = _fading.is_enough(state.weight)
    # Those of a Cauchy law, near enough, while there are too few values.
    tail_index = estimators.index_of_characteristic_function(
      jnp.where(enough, state.lack, jnp.float32([0.18, 0.63])),
      jnp.where(enough, state.sine, 0.0),
    )
    known = enough & (tail_index > 0)
    tail_index = jnp.where(known, tail_index, 1.0)
    weight = jnp.where(enough, state.weight, 1.0)
    n = _fading.effective_size(_fading.strong(decay), weight)
    error = estimators.characteristic_function_standard_error(tail_index, 1)
    interval = estimators.positive_interval(tail_index, error / jnp.sqrt(n))
    return finite_estimate(tail_index, interval, known)

  return StreamingEstimator(init, update, estimate)
