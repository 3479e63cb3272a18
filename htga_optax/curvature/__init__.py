r"""Measures the curvature of a loss, by products with its Hessian.

The parameters are a tree. No matrix is formed. A product is computed in forward
mode over reverse mode, at the cost of a few gradients::

    H v = d/dt grad L(theta + t v) at t = 0.

Everything else is made of products. Random signs z give the trace::

    E z'Hz = tr H.

The Krylov space of a vector v gives the largest eigenvalue: its largest Ritz
value theta, with the Ritz vector y, is a lower bound::

    K_m(v) = span(v, Hv, ..., H^(m-1) v),    Q'HQ = T tridiagonal,
    lambda_max >= theta,    |theta - some eigenvalue| <= ||Hy - theta y||.

With m = 2 the Ritz vector is (H + c)v with the best shift c. Power iteration
repeats this step. The shift is chosen anew each time, so the iteration finds
the largest eigenvalue and not the largest in modulus. A large m is Lanczos'
method.

A product is a function `matvec` from trees to trees, linear and symmetric, for
example that of :func:`hessian`. `num_matvecs` is the number of products, and
measures the cost. Complex leaves count as pairs of real parameters.

matfree (https://github.com/pnkraemer/matfree) has more: the diagonal, traces
with less variance (Hutch++), functions of matrices.
"""

from htga_optax.curvature._eigenvalues import Eigenpair as Eigenpair
from htga_optax.curvature._eigenvalues import Tridiagonal as Tridiagonal
from htga_optax.curvature._eigenvalues import lanczos as lanczos
from htga_optax.curvature._eigenvalues import power_iteration as power_iteration
from htga_optax.curvature._eigenvalues import top_eigenvalue as top_eigenvalue
from htga_optax.curvature._products import AxisName as AxisName
from htga_optax.curvature._products import Matvec as Matvec
from htga_optax.curvature._products import hessian as hessian
from htga_optax.curvature._products import hvp as hvp
from htga_optax.curvature._sam import sam_sharpness as sam_sharpness
from htga_optax.curvature._sampling import Estimate as Estimate
from htga_optax.curvature._sampling import (
  expected_sharpness as expected_sharpness,
)
from htga_optax.curvature._sampling import hutchinson_trace as hutchinson_trace
from htga_optax.curvature._vectors import dimension as dimension
from htga_optax.curvature._vectors import sample_like as sample_like
