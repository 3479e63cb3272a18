"""Streaming estimators: a sample that arrives one value a step.

A streaming estimator is three pure functions, as a gradient transformation is
two:

    state = init()
    state = update(state, x)      one more value
    tail_index, interval, drift, misfit = estimate(state)

It ignores values that are not finite. An estimate is never nan: it is 0 while
there are too few values, and `LIGHTEST` (1e6) where the tail is lighter than
any power law. States are pytrees of arrays of fixed shape, so that a scan
carries them and `jax.vmap` runs one estimator per layer.

    windowed_hill       Hill's estimator over the last W values
    windowed            any estimator over the last W values
    ew_hill, ew_log_moment, ew_characteristic_function
                        with exponentially fading weights, in a few numbers
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
from htga_optax.streaming._windowed import WindowState as WindowState
from htga_optax.streaming._windowed import windowed as windowed
from htga_optax.streaming._windowed_hill import HillState as HillState
from htga_optax.streaming._windowed_hill import windowed_hill as windowed_hill
