"""Complete optimizers: relays of other transformations.

They are::

    scale_by_htga = relay(track_tail_index, amplify)
    htga = relay(track_tail_index, amplify, sgd)
    tail_index_sgd = relay(track_tail_index, scale_by_tail_index, sgd)
    truncated_heavy_tailed_sgd = relay(inflate_gradient_noise, sgd, truncate)
    ahtsgd = relay(track_sharpness, sgd, add_stable_noise, truncate)
    normalized_sgd = relay(ema, normalize, learning rate)

`readings(opt_state)` gives their measurements. Each optimizer drops a gradient
that is not finite: the gradient counts as zero, and the momentum survives.
"""

from htga_optax._optimizers._ahtsgd import ahtsgd as ahtsgd
from htga_optax._optimizers._htga import htga as htga
from htga_optax._optimizers._htga import scale_by_htga as scale_by_htga
from htga_optax._optimizers._normalized import normalized_sgd as normalized_sgd
from htga_optax._optimizers._tail_index_sgd import (
  tail_index_sgd as tail_index_sgd,
)
from htga_optax._optimizers._truncated import (
  truncated_heavy_tailed_sgd as truncated_heavy_tailed_sgd,
)
