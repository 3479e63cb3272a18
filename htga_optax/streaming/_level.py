r"""Follows the level of the norms, which changes slowly during a run.

The norms of a run slowly fall and rise by powers of ten. In a window of norms,
such a change looks like a tail or hides one. A window therefore takes the norms
divided by their level,

    x_t = r_t / L_(t-1),
    log L_t = log L_(t-1) + a_t clip(log r_t - log L_(t-1), -1, 1),

an average of logarithms with the steps a_t of :mod:`_fading`. L_(t-1) does not
depend on r_t, and a norm changes log L by at most a_t. A spike of any size
therefore hardly moves the level, and a power law keeps its index.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax.streaming import _fading

# The default of trackers and clips.
LEVEL_DECAY = 0.97


class Level(NamedTuple):
  """Three functions that follow the level of norms.

  Attributes:
    init: () -> state.
    scale: (state, r) -> the level, by which the norm r is divided, float32 [].
      It is r itself while there is no level.
    update: (state, r) -> the next state, for a finite norm r of at least 0.
  """

  init: Callable[[], Any]
  scale: Callable[[Any, ArrayLike], jax.Array]
  update: Callable[[Any, ArrayLike], Any]


def level(decay: ArrayLike | None = LEVEL_DECAY) -> Level:
  """Returns a level with the decay d in (0, 1); for None, it is always 1.

  Its state is one array, float32 [2]. It holds the logarithm of the level and
  the weight of the average, which is 0 before the first norm. A norm of 0 does
  not change the state.
  """
  if decay is None:
    return Level(tuple, lambda state, r: jnp.float32(1), lambda state, r: state)
  _checks.check_number(
    "level_decay", decay, lambda v: 0 < v < 1, "be in (0, 1)"
  )

  def log_of(r):
    return jnp.log(jnp.maximum(jnp.asarray(r, jnp.float32), _fading.TINY))

  def scale(state, r):
    log_level, weight = state
    # The exponential does not wait for r.
    old = jnp.exp(jnp.clip(log_level, _fading.LOG_TINY, _fading.LOG_HUGE))
    first = jnp.clip(r, _fading.TINY, _fading.HUGE)
    return jnp.where(weight > 0, old, first)

  def update(state, r):
    log_level, weight = state
    before = jnp.where(weight > 0, log_level, log_of(r))
    weight, step = _fading.step(_fading.strong(decay), weight)
    after = before + step * jnp.clip(log_of(r) - before, -1.0, 1.0)
    return jnp.where(r > 0, jnp.stack([after, weight]), state)

  return Level(lambda: jnp.zeros([2], jnp.float32), scale, update)
