r"""Homogenized SGD (hSGD): noise that grows with the loss, and its heavy tails.

A ridge regression on n rows a_k, with the loss and its Hessian

    L(x) = ||Ax - b||^2/(2n),  f = L + (delta/2)||x||^2,
    H = A'A/n, with eigenvalues lambda_1 >= ... >= lambda_d >= 0.

SGD with batches of B rows and the learning rate gamma has noise that grows with
the loss. hSGD is a diffusion with such noise, one step a unit of time:

    dX = -gamma grad f dt + gamma sqrt((2/B) L(X) H) dW.

Far out L is quadratic, so the noise grows with the distance, and the stationary
law has a power tail, P(||X|| > x) ~ x^-eta, though every increment is Gaussian.
In the eigenbasis, y away from the ridge solution and with t_i = lambda_i^2/
(lambda_i + delta), T, M and m the sum, the largest and the smallest positive of
them, and Q = sum y_i^2 lambda_i/(lambda_i + delta), the generator of hSGD takes
Q^(p/2), far out, to a number of the sign of

    (p - 2) R - (2B/gamma - T),    R a mean of the t_i, in [m, M],

and |y_1|^p, for p > 1, to at least one of the sign of p - 1 - 2B/(gamma M). Of
the stationary law moments that decrease are finite and those that increase are
not, so that for gamma <= gamma_2 = 2B/T

    2 + (2B/gamma - T)/M <= eta <= min(1 + 2B/(gamma M), 2 + (2B/gamma - T)/m)

and beyond gamma_2, where eta is at most 2,

    2 + (2B/gamma - T)/m <= eta <= 2 + (2B/gamma - T)/M.

All of this is derived here; it agrees with what a summary of Jiao and
Keller-Ressel says, whose own proof and constants could not be read.

These are facts of hSGD, and not of SGD. Far out hSGD gives the gradient of a
step the covariance (y'Hy) H/B; on Gaussian rows it has Hyy'H/B as well, as much
again along y, and steps are not small. `streaming_tail_index` has the index of
that SGD: below hSGD's, by tens of percent even if gamma is small and by any
factor if not, but above it near the end of stationarity if d is much larger
than B. On n rows with gamma (||a_k||^2 + delta) < 2 for all of them there is no
tail at all.
"""

from htga_optax.hsgd._regression import Moments as Moments
from htga_optax.hsgd._regression import Proxy as Proxy
from htga_optax.hsgd._regression import Regression as Regression
from htga_optax.hsgd._regression import proxy as proxy
from htga_optax.hsgd._regression import regression as regression
from htga_optax.hsgd._regression import ridge_solution as ridge_solution
from htga_optax.hsgd._regression import stationary_moments as stationary_moments
from htga_optax.hsgd._simulators import minibatch_sgd as minibatch_sgd
from htga_optax.hsgd._simulators import simulate as simulate
from htga_optax.hsgd._simulators import streaming_sgd as streaming_sgd
from htga_optax.hsgd._theory import Bounds as Bounds
from htga_optax.hsgd._theory import (
  critical_learning_rate as critical_learning_rate,
)
from htga_optax.hsgd._theory import streaming_tail_index as streaming_tail_index
from htga_optax.hsgd._theory import tail_index_bounds as tail_index_bounds
