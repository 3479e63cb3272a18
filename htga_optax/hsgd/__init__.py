r"""Tail indices, exact moments and simulators of homogenized SGD (hSGD).

The problem is a ridge regression on n rows a_k. The loss and its Hessian are::

    L(x) = ||Ax - b||^2/(2n),  f = L + (delta/2)||x||^2,
    H = A'A/n, with eigenvalues lambda_1 >= ... >= lambda_d >= 0.

The noise of SGD with batches of B rows and the learning rate gamma grows with
the loss. hSGD is a diffusion with such noise. A step of SGD is a unit of time::

    dX = -gamma grad f dt + gamma sqrt((2/B) L(X) H) dW.

Far from the solution L is quadratic, so the noise grows with the distance.
Therefore the stationary law has a power tail, ``P(||X|| > x) ~ x^-eta``,
although every increment is Gaussian.

The bounds of eta follow from the generator of hSGD. In the eigenbasis, let y be
the difference to the ridge solution and t_i = lambda_i^2/(lambda_i + delta).
Let T be the sum of the t_i, M the largest and m the smallest positive one. Let
Q = sum y_i^2 lambda_i/(lambda_i + delta). Far out, the generator maps Q^(p/2)
to a number that has the sign of::

    (p - 2) R - (2B/gamma - T),    R a mean of the t_i, in [m, M].

For p > 1 it maps ``|y_1|^p`` to at least a number that has the sign of
p - 1 - 2B/(gamma M). In the stationary law, moments that the generator
decreases are finite, and moments that it increases are infinite. Hence, for
gamma <= gamma_2 = 2B/T::

    2 + (2B/gamma - T)/M <= eta <= min(1 + 2B/(gamma M), 2 + (2B/gamma - T)/m)

and beyond gamma_2, where eta is at most 2::

    2 + (2B/gamma - T)/m <= eta <= 2 + (2B/gamma - T)/M.

All of this is derived here (:ref:`derivation-hsgd-bounds`). It agrees with a
summary of the paper by Jiao and Keller-Ressel. Their own proof and constants
could not be read.

These results hold for hSGD and not for SGD. Far out, the gradient of a step has
the covariance (y'Hy) H/B in hSGD. In SGD on Gaussian rows it has Hyy'H/B in
addition, which is as large again along y, and steps are not small.
:func:`streaming_tail_index` computes the index of that SGD. It is below the
index of hSGD, by tens of percent even if gamma is small and by any factor if
not. It is above the index of hSGD near the end of stationarity if d is much
larger than B. SGD on n fixed rows has no tail at all if
``gamma (||a_k||^2 + delta) < 2`` for every row.
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
