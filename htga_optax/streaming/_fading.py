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

Each is a :class:`StreamingEstimator`, for `track_tail_index`. None
says anything before its weights (Hill's: those of its exceedances) are worth
half of what they will be, after some 1.1/(1 - d) values. No average knows the
order of its values: the intervals are those of independent ones, and too narrow
on others.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

TINY = float(np.finfo(np.float32).tiny)
HUGE = float(np.finfo(np.float32).max)
# Of which exp is a finite number that XLA does not take for 0.
LOG_TINY, LOG_HUGE = -87.0, 88.0
# What the weights must be worth, as a part of what they will be.
ENOUGH = 0.5


def strong(x: ArrayLike) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


def step(decay: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The next weight 1 - d^t, and the step a_t = (1 - d)/(1 - d^t)."""
  weight = decay * weight + (1 - decay)
  return weight, (1 - decay) / weight


def effective_size(decay: jax.Array, weight: jax.Array) -> jax.Array:
  """How many equally weighted values the weights are worth."""
  return (1 + decay) / (1 - decay) * weight / (2 - weight)


def is_enough(weight: jax.Array) -> jax.Array:
  return weight / (2 - weight) >= ENOUGH
