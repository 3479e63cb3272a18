"""Trackers: transformations that measure the updates and pass them on.

    r_t = ||u_t||,    alpha_t = estimate(r_1, ..., r_t),    u'_t = u_t

The reading of a tracker is a field of its state with a unique name. Therefore
`optax.tree.get(opt_state, "tail_index")` logs it without a callback. The later
members of a `relay` get the dict of its `readings()`. The place of a tracker in
the chain determines what it measures: the raw gradient, the clipped gradient or
the step. `track_weight_tail_index` measures the parameters, at every place.
"""

from htga_optax._tracking._coordinates import (
  TrackCoordinateTailIndexState as TrackCoordinateTailIndexState,
)
from htga_optax._tracking._coordinates import (
  track_coordinate_tail_index as track_coordinate_tail_index,
)
from htga_optax._tracking._gradient_noise import (
  TrackGradientNoiseState as TrackGradientNoiseState,
)
from htga_optax._tracking._gradient_noise import (
  track_gradient_noise as track_gradient_noise,
)
from htga_optax._tracking._tail_index import (
  TrackTailIndexState as TrackTailIndexState,
)
from htga_optax._tracking._tail_index import (
  track_tail_index as track_tail_index,
)
from htga_optax._tracking._weights import (
  TrackWeightTailIndexState as TrackWeightTailIndexState,
)
from htga_optax._tracking._weights import (
  track_weight_tail_index as track_weight_tail_index,
)
