r"""Computes the weights of exponentially weighted estimators.

The debiased, exponentially weighted average of a stream x_1, x_2, ... with
decay d is

    m_t = m_(t-1) + a_t (x_t - m_(t-1)),    a_t = (1 - d)/(1 - d^t).

It is the plain mean while t is small, and has a memory of 1/(1 - d) values
later. Its weights w are worth

    n = (sum w)^2/(sum w^2) = (1 + d)/(1 - d) (1 - d^t)/(1 + d^t)

equally weighted values. With d = 0.99, the noise is that of a window of 199
values. A window forgets a value in one step, but an average never forgets it
completely. After 1/(1 - d) more values, a third of its weight is left.

The averages depend on an unknown threshold, location or scale. Stochastic
approximation with the same a_t follows it. A parameter v for which
E g(x, v) = 0 moves as

    v_t = v_(t-1) - a_t g(x_t, v_(t-1))/slope,    slope = d/dv E g(x, v).

At the start, a_t is the step 1/t of Robbins and Monro. If the slope is right, v
then has the noise of the solution on the sample itself. Later, a constant d
lets v follow a parameter that moves.

Each estimator is a :class:`StreamingEstimator`, for `track_tail_index`. It has
no estimate before n reaches half of its limit, after about 1.1/(1 - d) values;
`ew_hill` counts the weights of its exceedances only. The averages do not
account for the order of the values. The intervals assume independent values,
and are too narrow for dependent ones.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

TINY = float(np.finfo(np.float32).tiny)
HUGE = float(np.finfo(np.float32).max)
# Their exponentials are finite, and XLA does not round them to 0.
LOG_TINY, LOG_HUGE = -87.0, 88.0
# An estimate needs this fraction of the limit of the effective size.
ENOUGH = 0.5


def strong(x: ArrayLike) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


def step(decay: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the next weight 1 - d^t and the step (1 - d)/(1 - d^t)."""
  weight = decay * weight + (1 - decay)
  return weight, (1 - decay) / weight


def effective_size(decay: jax.Array, weight: jax.Array) -> jax.Array:
  """The number n of equally weighted values that the weights are worth."""
  return (1 + decay) / (1 - decay) * weight / (2 - weight)


def is_enough(weight: jax.Array) -> jax.Array:
  return weight / (2 - weight) >= ENOUGH
