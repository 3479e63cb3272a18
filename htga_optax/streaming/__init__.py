"""Estimates a tail index from a stream of values, one value per step.

A gradient transformation is a pair of pure functions. A streaming estimator is
three of them:

    state = init()
    state = update(state, x)      adds one value
    tail_index, interval, drift, misfit = estimate(state)

Values that are not finite are ignored. An estimate is never nan: it is 0 while
there are too few values, and `LIGHTEST` (1e6) where the tail is lighter than
any power law. A state is a pytree of arrays of fixed shape, so that
`jax.lax.scan` can carry it and `jax.vmap` can run one estimator per layer.

    windowed_hill       Hill's estimator over the last W values
    windowed            any estimator over the last W values
    ew_hill, ew_log_moment, ew_characteristic_function
                        exponentially fading weights, a state of a few numbers
"""

from htga_optax.streaming._base import LIGHTEST as LIGHTEST
from htga_optax.streaming._base import StreamingEstimator as StreamingEstimator
from htga_optax.streaming._ew_hill import EwHillState as EwHillState
from htga_optax.streaming._ew_hill import ew_hill as ew_hill
from htga_optax.streaming._ew_stable_law import (
  EwCharacteristicFunctionState as EwCharacteristicFunctionState,
)
from htga_optax.streaming._ew_stable_law import (
  EwLogMomentState as EwLogMomentState,
)
from htga_optax.streaming._ew_stable_law import (
  ew_characteristic_function as ew_characteristic_function,
)
from htga_optax.streaming._ew_stable_law import ew_log_moment as ew_log_moment
from htga_optax.streaming._level import LEVEL_DECAY as LEVEL_DECAY
from htga_optax.streaming._windowed import WindowedState as WindowedState
from htga_optax.streaming._windowed import windowed as windowed
from htga_optax.streaming._windowed_hill import (
  WindowedHillState as WindowedHillState,
)
from htga_optax.streaming._windowed_hill import windowed_hill as windowed_hill
