"""Optax gradient transformations for heavy-tailed gradients.

Measure the tail index of the gradient inside the jitted step, and act on it:

    tx = relay(
        track_tail_index(window_size=256, k=16),
        amplify(sigmoid_exponent(target=2.0, gamma_min=0.5, gamma_max=1.5)),
        optax.sgd(0.1, momentum=0.9),
    )

The folder is a ladder, and each rung a thin layer on the one below:

    estimators, order_statistics, norms     sample -> tail index
    intervals                               a sample in order of time
    coordinates                             the entries of one gradient
    stable                                  noise with a heavy tail
    gradient_noise                          two batches' gradients -> noise
    curvature                               a loss -> eigenvalues, trace
    hsgd                                    what theory says of linear models
    streaming, exponentially_weighted       a sample that arrives step by step
    tracking, sharpness                     trackers
    modulation, clipping, noise, truncation listeners, arguments by readings
    relay                                   which passes readings on
    optimizers                              ready chains
    diagnostics                             the host side: a state or a log in
                                            words and pictures
"""

from htga_optax import coordinates as coordinates
from htga_optax import curvature as curvature
from htga_optax import diagnostics as diagnostics
from htga_optax import estimators as estimators
from htga_optax import exponentially_weighted as exponentially_weighted
from htga_optax import gradient_noise as gradient_noise
from htga_optax import hsgd as hsgd
from htga_optax import intervals as intervals
from htga_optax import norms as norms
from htga_optax import order_statistics as order_statistics
from htga_optax import stable as stable
from htga_optax import streaming as streaming
from htga_optax.clipping import clip_by_tail_quantile as clip_by_tail_quantile
from htga_optax.clipping import (
  ClipByTailQuantileState as ClipByTailQuantileState,
)
from htga_optax.modulation import amplify as amplify
from htga_optax.modulation import AmplifyState as AmplifyState
from htga_optax.modulation import ratio_exponent as ratio_exponent
from htga_optax.modulation import scale_by_tail_index as scale_by_tail_index
from htga_optax.modulation import ScaleByTailIndexState as ScaleByTailIndexState
from htga_optax.modulation import sigmoid_exponent as sigmoid_exponent
from htga_optax.modulation import unless_rejected as unless_rejected
from htga_optax.noise import add_stable_noise as add_stable_noise
from htga_optax.noise import AddStableNoiseState as AddStableNoiseState
from htga_optax.noise import sharpness_alpha as sharpness_alpha
from htga_optax.optimizers import ahtsgd as ahtsgd
from htga_optax.optimizers import htga as htga
from htga_optax.optimizers import scale_by_htga as scale_by_htga
from htga_optax.optimizers import tail_index_sgd as tail_index_sgd
from htga_optax.optimizers import (
  truncated_heavy_tailed_sgd as truncated_heavy_tailed_sgd,
)
from htga_optax.readings import Reading as Reading
from htga_optax.relay import relay as relay
from htga_optax.relay import RelayState as RelayState
from htga_optax.sharpness import track_sharpness as track_sharpness
from htga_optax.sharpness import TrackSharpnessState as TrackSharpnessState
from htga_optax.tracking import (
  track_coordinate_tail_index as track_coordinate_tail_index,
)
from htga_optax.tracking import track_gradient_noise as track_gradient_noise
from htga_optax.tracking import (
  TrackGradientNoiseState as TrackGradientNoiseState,
)
from htga_optax.tracking import track_tail_index as track_tail_index
from htga_optax.tracking import TrackTailIndexState as TrackTailIndexState
from htga_optax.truncation import (
  inflate_gradient_noise as inflate_gradient_noise,
)
from htga_optax.truncation import (
  InflateGradientNoiseState as InflateGradientNoiseState,
)
from htga_optax.truncation import noise_gradient as noise_gradient
from htga_optax.truncation import truncate as truncate
from htga_optax.truncation import TruncateState as TruncateState

__version__ = "0.1.0"
