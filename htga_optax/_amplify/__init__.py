r"""Listeners that change the size of an update, steered by the tail index.

HTGA changes the law of the norm r = ||g|| by a power around a scale tau::

    g' = tau (r/tau)^gamma g/r = exp((gamma - 1)(log r - log tau)) g,

where the exponent gamma(alpha) is a function of the tail index alpha. With
gamma and tau frozen::

    P(||g'|| > x) = P(r > tau (x/tau)^(1/gamma)) ~ x^(-alpha/gamma),

so the tail index of ||g'|| is alpha/gamma. gamma > 1 makes the tail heavier:
norms above tau grow, those below shrink. gamma < 1 makes it lighter: norms are
pulled towards tau. gamma = 1 is the identity, and gamma = 0 is normalised SGD.
The exponent gamma = alpha/target therefore puts the index on the target.

The tail-index learning rate scales small and large updates alike::

    g' = (alpha/target)^beta g.
"""

from htga_optax._amplify._amplify import AmplifyState as AmplifyState
from htga_optax._amplify._amplify import amplify as amplify
from htga_optax._amplify._exponents import ratio_exponent as ratio_exponent
from htga_optax._amplify._exponents import sigmoid_exponent as sigmoid_exponent
from htga_optax._amplify._learning_rate import (
  ScaleByTailIndexState as ScaleByTailIndexState,
)
from htga_optax._amplify._learning_rate import (
  scale_by_tail_index as scale_by_tail_index,
)
from htga_optax._amplify._unless_rejected import (
  unless_rejected as unless_rejected,
)
