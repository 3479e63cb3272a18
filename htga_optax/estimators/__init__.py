"""Estimates the tail index of a sample: the exponent of its tail.

The tail index alpha of a positive random variable X is the exponent of its
complementary distribution function,

    P(X > x) ~ x^-alpha,    small alpha = heavy tail.

E X^p is finite for p < alpha only. (Extreme-value texts, heavytails and SciPy's
genpareto use xi = 1/alpha. The alpha of powerlaw is the exponent of the
density, which is alpha + 1 here.)

`hill` uses the order statistics X_(1) >= X_(2) >= ... It takes the k largest
values, above the threshold X_(k+1), and assumes that they follow a Pareto law:
the excesses log(X_(i)/X_(k+1)) are then exponential with mean 1/alpha.

`pickands`, `moment` and `generalized_pareto` fit the law of extremes, in which
xi <= 0 is a tail that is lighter than any power law. Their index is +inf for
such a tail; the reading of a tracker is 1e6 instead.

`log_moment`, `block_log_moment` and `characteristic_function` estimate alpha in
(0, 2] from all values of a signed sample of a symmetric stable law.

Every estimator is a pure function of a sample `x` of shape [n] and static
sizes. It runs in float32 and works under jit, vmap and grad. It returns nan if
the sample has no information about a tail. A sample on the host may be a masked
array; masked values are left out. Its values may be outside the range of
float32 if the estimator does not depend on the scale. A complex sample is an
error.

Each estimator has a standard error, such as `hill_standard_error`: a function
of the tail index, positive, [...], and of static sizes that returns float32
[...]. All standard errors are asymptotic and hold for independent values. They
are converted from xi to alpha by sd(alpha) = alpha^2 sd(xi), which is accurate
if sd(alpha) is small compared with alpha: within 10 percent up to an eighth of
alpha (measured on the estimator's own law).
"""

from htga_optax.estimators._extremes import moment as moment
from htga_optax.estimators._extremes import (
  moment_standard_error as moment_standard_error,
)
from htga_optax.estimators._extremes import pickands as pickands
from htga_optax.estimators._extremes import (
  pickands_standard_error as pickands_standard_error,
)
from htga_optax.estimators._hill import TailEstimate as TailEstimate
from htga_optax.estimators._hill import automatic_k as automatic_k
from htga_optax.estimators._hill import hill as hill
from htga_optax.estimators._hill import hill_all as hill_all
from htga_optax.estimators._hill import hill_interval as hill_interval
from htga_optax.estimators._hill import (
  hill_standard_error as hill_standard_error,
)
from htga_optax.estimators._hill import positive_interval as positive_interval
from htga_optax.estimators._pareto import (
  generalized_pareto as generalized_pareto,
)
from htga_optax.estimators._pareto import (
  generalized_pareto_fit as generalized_pareto_fit,
)
from htga_optax.estimators._pareto import (
  generalized_pareto_isf as generalized_pareto_isf,
)
from htga_optax.estimators._pareto import (
  generalized_pareto_standard_error as generalized_pareto_standard_error,
)
from htga_optax.estimators._pareto import tail_quantile as tail_quantile
from htga_optax.estimators._stable_law import POINTS as POINTS
from htga_optax.estimators._stable_law import (
  block_log_moment as block_log_moment,
)
from htga_optax.estimators._stable_law import (
  block_log_moment_standard_error as block_log_moment_standard_error,
)
from htga_optax.estimators._stable_law import (
  characteristic_function as characteristic_function,
)
from htga_optax.estimators._stable_law import (
  characteristic_function_standard_error as characteristic_function_standard_error,  # noqa: E501
)
from htga_optax.estimators._stable_law import (
  index_of_characteristic_function as index_of_characteristic_function,
)
from htga_optax.estimators._stable_law import (
  index_of_log_variance as index_of_log_variance,
)
from htga_optax.estimators._stable_law import log_moment as log_moment
from htga_optax.estimators._stable_law import (
  log_moment_standard_error as log_moment_standard_error,
)
