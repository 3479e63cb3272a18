r"""Estimates the tail index of the spectrum of a weight matrix.

A matrix W of m rows and n columns, n <= m, has the eigenvalues

    lambda_1 <= ... <= lambda_n    of W'W,    lambda_j = sigma_j^2,

where sigma_j are its singular values. Trained networks often have a few large
eigenvalues, and some authors fit a power law to them. Their number
`PL_Alpha_Hill` is the exponent of the density, p(x) ~ x^-alpha. The tail index
of this package is the exponent of P(X > x) ~ x^-tail_index, hence

    tail index of the eigenvalues     = alpha - 1,
    tail index of the singular values = 2 (alpha - 1).

Neither number is a property of training alone. The eigenvalues of a matrix with
independent Gaussian entries follow the law of Marchenko and Pastur. It has no
heavy tail, but the formula returns a number for it, too, and this number
depends on the shape: 2.13 for a square matrix, 2.72 for twice as many rows as
columns, 4.58 for eight times as many. :func:`tail` therefore also returns the
tail index divided by that of an untrained matrix,

    tail ratio = (alpha - 1)/(alpha_0 - 1),

with alpha_0 = :func:`null_alpha` of the shape. It is 1 for an untrained matrix
of any shape, below 1 for a heavier tail, and above 1 for a lighter one. It is a
ratio and not a difference for two reasons: it is positive, so that 0 can mean
"not known"; and the error of a tail index is proportional to the index, so that
all shapes have the same relative error. Since alpha - 1 is one over the mean
log-excess of the upper half, the ratio compares two mean log-excesses. The
ratio is derived here (no source has it).
"""

from htga_optax.spectra._kernels import FEWEST as FEWEST
from htga_optax.spectra._kernels import kernel_rows as kernel_rows
from htga_optax.spectra._null import (
  marchenko_pastur_density as marchenko_pastur_density,
)
from htga_optax.spectra._null import (
  marchenko_pastur_quantiles as marchenko_pastur_quantiles,
)
from htga_optax.spectra._null import null_alpha as null_alpha
from htga_optax.spectra._tails import PowerLawFit as PowerLawFit
from htga_optax.spectra._tails import SpectralTail as SpectralTail
from htga_optax.spectra._tails import eigenvalues as eigenvalues
from htga_optax.spectra._tails import pl_alpha_hill as pl_alpha_hill
from htga_optax.spectra._tails import power_law_fit as power_law_fit
from htga_optax.spectra._tails import tail as tail
