"""Estimates the index of a symmetric stable law with fading weights."""

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
  """The state of :func:`ew_log_moment`; each field is float32 [].

  Attributes:
    weight: 1 - d^t after t values.
    mean: the average of log|x|.
    variance: the average squared distance of log|x| from the mean.
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

  Here n is the effective number of values and m the average of :math:`\log|x|`.
  This is West's form with fading weights, which subtracts no squares.

  It is for signed values of a symmetric stable law, such as one fixed
  coordinate or one fixed projection of the gradient. The estimate is wrong for
  norms, which `track_tail_index` passes: norms do not follow such a law. The
  logarithm of the norm of an isotropic stable vector with many entries varies
  less than that of one entry, so that the estimate is too large. With the
  memory of 256 values, a tenfold change of scale, up or down, still lowers the
  estimate after 512 steps, from 1.5 to 1.43. More figures are in
  `benchmarks/README.md`.

  Args:
    decay: d, in (0, 1). The interval uses the error of (1 + d)/(1 - d)
      independent values. With d = 0.99, it is 17 percent at an index of 1.5.

  Returns:
    The estimator, with a state of three numbers. Zeros have no logarithm and do
    not change the state. The index is 1e6 where V is too small for a stable
    law.

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
    usable = jnp.isfinite(size) & (size >= _fading.TINY)
    weight, step = _fading.step(_fading.strong(decay), state.weight)
    # Older versions of XLA compare a subnormal like a normal number.
    away = jnp.log(jnp.maximum(size, _fading.TINY)) - state.mean
    new = EwLogMomentState(
      weight=weight,
      mean=state.mean + step * away,
      variance=(1 - step) * (state.variance + step * away**2),
    )
    return optax.tree.where(usable, new, state)

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
  """The state of :func:`ew_characteristic_function`.

  Attributes:
    started: whether there was a value, bool [].
    weight: 1 - d^t after t values that follow the first, float32 [].
    location: the location, at which the phase at 1 is zero, float32 [].
    log_scale: the average logarithm of the distance from it, float32 [].
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

  :math:`\hat\phi(t)` consists of the averages of :math:`\cos tz` and
  :math:`\sin tz`. Neither location nor scale matters to first order, so that
  quartiles are not needed. The scale c is the geometric mean of the distances,

  .. math:: \log c_t = \log c_{t-1}
    + a_t (\log|x_t - m_{t-1}| - \log c_{t-1}).

  For a stable law, this is its scale times :math:`e^{\gamma(1/\alpha-1)}`
  (:math:`\gamma = 0.577`). At the location m, the phase at 1 is zero,
  :math:`E \sin z = 0`. The slope of this equation is :math:`-|\phi(1)|/c`,
  about :math:`-1/(ec)`:

  .. math:: m_t = m_{t-1} + a_t \, e c_t \sin z_t

  A value moves the location by at most :math:`a_t e c`.

  With the memory of 256 values, it has the noise of the batch form on 256
  values: at an index of 1.5, the standard deviation of the logarithm is 0.067,
  against 0.070. More figures are in `benchmarks/README.md`. (A scale that keeps
  :math:`|\phi(1)|` at 1/e, by :math:`E \cos z = 1/e`, is not better in the long
  run and settles much later.) After a tenfold rise of the scale, the
  estimate is too low for hundreds of steps; after a tenfold fall, the error is
  smaller.

  It is for signed values of a symmetric stable law. The estimate is wrong for
  norms, as explained in :func:`ew_log_moment`.

  Args:
    decay: d, in (0, 1). The interval uses the error of (1 + d)/(1 - d)
      independent values.

  Returns:
    The estimator, with a state of eight numbers. A value does not change the
    state if it equals the location or is too far from it for float32. The
    interval may extend beyond 2; the estimate does not.

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
    Press (1972), see :func:`estimators.characteristic_function`. The updates of
    location and scale are this package's own.
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
    usable = state.started & (distance >= _fading.TINY) & (distance < jnp.inf)
    weight, step = _fading.step(_fading.strong(decay), state.weight)
    log_distance = jnp.log(jnp.where(usable, distance, 1.0))
    log_scale = state.log_scale + step * (log_distance - state.log_scale)
    scale = jnp.exp(jnp.clip(log_scale, _fading.LOG_TINY, _fading.LOG_HUGE))
    z = jnp.clip(away / scale, -1e6, 1e6)  # beyond, phases are rounding
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
    return optax.tree.where(usable, new, state)

  def estimate(state):
    enough = _fading.is_enough(state.weight)
    # About those of a Cauchy law while there are too few values.
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
