r"""Fits laws to a sample and tests them, on the host, with scipy.

:func:`fit` fits a law by maximum likelihood. :func:`goodness` tests it by the
distances of Kolmogorov and Smirnov, and of Anderson and Darling::

    D = sup_x |F_n(x) - F(x)|,
    A^2 = -n - sum_i (2i - 1)/n log[F(x_(i)) (1 - F(x_(n+1-i)))].

The p-values of textbooks assume a law that was not fitted to the sample. For a
fitted law they are far too large. Therefore a parametric bootstrap computes the
p-value: samples are drawn from the fitted law, and the law is fitted again to
each. The p-value is the share of these samples whose distance is at least as
large. :func:`vuong` compares two laws by the ratio of their likelihoods. A law
that is not rejected need not be right. All functions assume independent values.

A likelihood is computed on at most two thousand weighted points, the means of
narrow bins. Therefore a fit of 1e5 values costs little more than sorting them.
"""

from htga_optax.diagnostics.fits._fit import FEW as FEW
from htga_optax.diagnostics.fits._fit import LAWS as LAWS
from htga_optax.diagnostics.fits._fit import Fit as Fit
from htga_optax.diagnostics.fits._fit import fit as fit
from htga_optax.diagnostics.fits._goodness import Comparison as Comparison
from htga_optax.diagnostics.fits._goodness import Goodness as Goodness
from htga_optax.diagnostics.fits._goodness import distances as distances
from htga_optax.diagnostics.fits._goodness import goodness as goodness
from htga_optax.diagnostics.fits._goodness import vuong as vuong
from htga_optax.diagnostics.fits._law import Law as Law
