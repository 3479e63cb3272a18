"""Optax gradient transformations for heavy-tailed gradients.

They measure the tail index of the gradient inside the jitted step, and act on
it::

    tx = relay(
        track_tail_index(window_size=256, k=16),
        amplify(sigmoid_exponent(target=2.0, gamma_min=0.5, gamma_max=1.5)),
        optax.sgd(0.1, momentum=0.9),
    )

The package is a ladder: each part is a thin layer on the parts listed above it.
Files with an underscore define the names that this module exports. The other
modules are namespaces::

    estimators, order_statistics, norms     sample -> tail index
    intervals                               a sample in order of time
    coordinates                             the entries of one gradient
    spectra                                 the spectrum of a weight matrix
    stable                                  noise with a heavy tail
    gradient_noise                          gradients of two batches -> noise
    curvature                               a loss -> eigenvalues, trace
    hsgd                                    the theory of linear models
    streaming                               a sample that arrives step by step
    _relay, _by_norm, _layers               the base of all transformations
    _tracking, _sharpness                   trackers, which measure
    _amplify, _by_layer, _clipping,         listeners, which readings steer
    _noise, _normalize, _truncation
    _optimizers                             complete optimizers
    diagnostics                             logs, fits, verdicts, a report
"""

from htga_optax import coordinates as coordinates
from htga_optax import curvature as curvature
from htga_optax import diagnostics as diagnostics
from htga_optax import estimators as estimators
from htga_optax import gradient_noise as gradient_noise
from htga_optax import hsgd as hsgd
from htga_optax import intervals as intervals
from htga_optax import norms as norms
from htga_optax import order_statistics as order_statistics
from htga_optax import spectra as spectra
from htga_optax import stable as stable
from htga_optax import streaming as streaming
from htga_optax._amplify import amplify
from htga_optax._amplify import AmplifyState
from htga_optax._amplify import ratio_exponent
from htga_optax._amplify import scale_by_tail_index
from htga_optax._amplify import ScaleByTailIndexState
from htga_optax._amplify import sigmoid_exponent
from htga_optax._amplify import unless_rejected
from htga_optax._by_layer import add_decayed_weights_by_layer
from htga_optax._by_layer import scale_by_layer
from htga_optax._by_layer import ScaleByLayerState
from htga_optax._by_norm import Argument
from htga_optax._by_norm import by_norm
from htga_optax._by_norm import Controller
from htga_optax._clipping import clip_by_tail_quantile
from htga_optax._clipping import ClipByTailQuantileState
from htga_optax._layers import by_layer
from htga_optax._layers import layer_names
from htga_optax._layers import PerLayer
from htga_optax._losses import with_value_fn
from htga_optax._noise import add_stable_noise
from htga_optax._noise import AddStableNoiseState
from htga_optax._noise import sharpness_alpha
from htga_optax._normalize import normalize
from htga_optax._normalize import NormalizeState
from htga_optax._optimizers import ahtsgd
from htga_optax._optimizers import htga
from htga_optax._optimizers import normalized_sgd
from htga_optax._optimizers import scale_by_htga
from htga_optax._optimizers import tail_index_sgd
from htga_optax._optimizers import truncated_heavy_tailed_sgd
from htga_optax._relay import Reading
from htga_optax._relay import readings
from htga_optax._relay import relay
from htga_optax._relay import RelayState
from htga_optax._sharpness import track_sharpness
from htga_optax._sharpness import TrackSharpnessState
from htga_optax._tell import tell
from htga_optax._tell import TellState
from htga_optax._tracking import track_coordinate_tail_index
from htga_optax._tracking import track_gradient_noise
from htga_optax._tracking import track_tail_index
from htga_optax._tracking import track_weight_tail_index
from htga_optax._tracking import TrackCoordinateTailIndexState
from htga_optax._tracking import TrackGradientNoiseState
from htga_optax._tracking import TrackTailIndexState
from htga_optax._tracking import TrackWeightTailIndexState
from htga_optax._truncation import inflate_gradient_noise
from htga_optax._truncation import InflateGradientNoiseState
from htga_optax._truncation import noise_gradient
from htga_optax._truncation import truncate
from htga_optax._truncation import TruncateState

__version__ = "0.1.0"

__all__ = [
  "AddStableNoiseState",
  "AmplifyState",
  "Argument",
  "ClipByTailQuantileState",
  "Controller",
  "InflateGradientNoiseState",
  "NormalizeState",
  "PerLayer",
  "Reading",
  "RelayState",
  "ScaleByLayerState",
  "ScaleByTailIndexState",
  "TellState",
  "TrackCoordinateTailIndexState",
  "TrackGradientNoiseState",
  "TrackSharpnessState",
  "TrackTailIndexState",
  "TrackWeightTailIndexState",
  "TruncateState",
  "add_decayed_weights_by_layer",
  "add_stable_noise",
  "ahtsgd",
  "amplify",
  "by_layer",
  "by_norm",
  "clip_by_tail_quantile",
  "coordinates",
  "curvature",
  "diagnostics",
  "estimators",
  "gradient_noise",
  "hsgd",
  "htga",
  "inflate_gradient_noise",
  "intervals",
  "layer_names",
  "noise_gradient",
  "normalize",
  "normalized_sgd",
  "norms",
  "order_statistics",
  "ratio_exponent",
  "readings",
  "relay",
  "scale_by_htga",
  "scale_by_layer",
  "scale_by_tail_index",
  "sharpness_alpha",
  "sigmoid_exponent",
  "spectra",
  "stable",
  "streaming",
  "tail_index_sgd",
  "tell",
  "track_coordinate_tail_index",
  "track_gradient_noise",
  "track_sharpness",
  "track_tail_index",
  "track_weight_tail_index",
  "truncate",
  "truncated_heavy_tailed_sgd",
  "unless_rejected",
  "with_value_fn",
]
