r"""The level of the norms: what they are around, as it moves.

A run's norms fall and rise by decades, slowly. A window of them shows that as a
tail, or hides a tail behind it. So it takes the norms over their level,

    x_t = r_t / L_(t-1),
    log L_t = log L_(t-1) + a_t clip(log r_t - log L_(t-1), -1, 1),

an average of logarithms with the steps a_t of :mod:`_fading`. It knows nothing
of r_t itself, and no norm moves it by more than one e-fold of a step: a spike,
however large, hardly does, and a power law keeps its index.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax.streaming import _fading

# As used by trackers and clips, unless the user says otherwise.
LEVEL_DECAY = 0.97


class Level(NamedTuple):
  """A level that follows norms.

  Attributes:
    init: () -> state.
    scale: (state, r) -> the level that the norm r is measured by, float32 [];
      r itself while there is none.
    update: (state, r) -> the state after a norm r, finite, not negative.
  """

  init: Callable[[], Any]
  scale: Callable[[Any, ArrayLike], jax.Array]
  update: Callable[[Any, ArrayLike], Any]


def level(decay: ArrayLike | None = LEVEL_DECAY) -> Level:
  """The level with a decay d in (0, 1), or 1 at all times for None.

  Its state is one array, float32 [2]: the logarithm, and the weight of the
  average, 0 before the first norm. Norms of 0 leave it as it is.
  """
  if decay is None:
    return Level(tuple, lambda state, r: jnp.float32(1), lambda state, r: state)
  _checks.check_number(
    "level_decay", decay, lambda v: 0 < v < 1, "be in (0, 1)"
  )

  def log_of(r):
    return jnp.log(jnp.maximum(jnp.asarray(r, jnp.float32), _fading.TINY))

  def known(state, r):
    log_level, weight = state
    return jnp.where(weight > 0, log_level, log_of(r))

  def scale(state, r):
    log_level = known(state, r)
    return jnp.exp(jnp.clip(log_level, _fading.LOG_TINY, _fading.LOG_HUGE))

  def update(state, r):
    before = known(state, r)
    weight, step = _fading.step(_fading.strong(decay), state[1])
    after = before + step * jnp.clip(log_of(r) - before, -1.0, 1.0)
    return jnp.where(r > 0, jnp.stack([after, weight]), state)

  return Level(lambda: jnp.zeros([2], jnp.float32), scale, update)
