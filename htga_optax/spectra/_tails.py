"""Estimates the tail of a spectrum."""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.estimators._samples import in_range, log_excesses
from htga_optax.spectra._null import null_alpha

# Eigenvalues whose logarithms differ by less than this count as equal.
_SMALLEST_SPREAD = 1e-4
_EPSILON = float(np.finfo(np.float32).eps)


class PowerLawFit(NamedTuple):
  """A power law above a threshold that the fit has chosen.

  Attributes:
    alpha: the exponent of the density, float32 []; the tail index is alpha - 1.
    xmin: the threshold, float32 [], in the units of the eigenvalues.
    distance: the distance of Kolmogorov and Smirnov, float32 [].
    size: how many eigenvalues are at least `xmin`, int32 [].
  """

  alpha: jax.Array
  xmin: jax.Array
  distance: jax.Array
  size: jax.Array


class SpectralTail(NamedTuple):
  """The tail of the spectrum of one matrix.

  Attributes:
    tail_index: the tail index of the eigenvalues, float32 []. `PL_Alpha_Hill`
      is 1 + tail_index.
    tail_ratio: the tail index divided by that of an untrained matrix of this
      shape, float32 []; 1 for an untrained matrix.
  """

  tail_index: jax.Array
  tail_ratio: jax.Array


def eigenvalues(matrix: ArrayLike) -> jax.Array:
  r"""Computes the eigenvalues of W'W, or of WW' if W has more columns.

  On CPU they are the squares of the singular values. On other platforms they
  come from `jnp.linalg.eigh` of the smaller product, which is faster there. In
  both cases an eigenvalue below :math:`2\sqrt{\max(m, n)}` float32 roundings of
  the largest one is a rounding error, and is set to 0.

  Args:
    matrix: W, [m, n], real or complex. Its entries should be between 1e-16 and
      1e16, since squares are computed in float32.

  Returns:
    The eigenvalues in ascending order, float32 [min(m, n)]; nan if an entry is
    not finite.

  Raises:
    ValueError: `matrix` is not two-dimensional, or has no entries.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import spectra
    >>> print(spectra.eigenvalues(jnp.asarray([[3.0, 0.0], [0.0, 1.0]])))
    [1. 9.]
  """
  w = _matrix(matrix)
  finite = jnp.all(jnp.isfinite(w))
  return jnp.where(finite, _eigenvalues(jnp.where(finite, w, 0)), jnp.nan)


def pl_alpha_hill(eigenvalues: ArrayLike) -> jax.Array:
  r"""Computes PL_Alpha_Hill, as TempBalance and its successors define it.

  .. math::
    \alpha = 1 + n \Big/ \sum_{j=i}^{N-1} \log\frac{\lambda_j}{\lambda_i},
    \qquad i = \lfloor N/2 \rfloor, \quad n = N - i

  with :math:`\lambda_0 \le \dots \le \lambda_{N-1}`. It is the exponent of the
  density of the upper half of the eigenvalues. It is 1 plus n/(n - 1) times
  :func:`htga_optax.estimators.hill` with k = n - 1, since the formula counts
  the threshold as one of the values.

  A sample of half of the values is not a tail. The number compares spectra; it
  does not show that one of them follows a power law.

  Args:
    eigenvalues: [N], in any order, not negative. Their unit does not matter.

  Returns:
    The exponent, float32 []; nan if :math:`\lambda_i` is 0, if the upper half
    is equal within rounding errors (an orthogonal matrix), if a value is not
    finite, or if N is below 3.

  Raises:
    ValueError: `eigenvalues` is not one-dimensional, or is empty.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> print(f"{spectra.pl_alpha_hill(u ** (-1 / 1.5)):.2f}")  # 1 + 1.5
    2.50

  References:
    As stated by Zhou et al. (2023), Temperature Balancing, Layer-wise Weight
    Analysis, and Neural Network Training, NeurIPS (arXiv 2312.00359), and in
    their code (`pl_fitting='median'`).
  """
  index, usable = _upper_half(_ascending(eigenvalues))
  return jnp.where(usable, 1 + index, jnp.nan)


def power_law_fit(eigenvalues: ArrayLike) -> PowerLawFit:
  r"""Fits a power law, and chooses its threshold as WeightWatcher does.

  Every eigenvalue except the largest one is tried as the threshold
  :math:`\lambda_i`. The fit is the one with the smallest distance of Kolmogorov
  and Smirnov,

  .. math::
    \alpha_i = 1 + n \Big/ \sum_{j=i}^{N-1} \log\frac{\lambda_j}{\lambda_i},
    \qquad
    D_i = \max_{j \ge i} \Bigl| 1 - (\lambda_j/\lambda_i)^{1-\alpha_i} -
    \tfrac{j-i}{n} \Bigr|, \qquad n = N - i

  This is WeightWatcher's default, without `fix_fingers`. WeightWatcher leaves
  out eigenvalues below 1e-5, whatever their unit is; here only zeros are left
  out. The choice of the threshold is unstable. A few eigenvalues more or less
  can move it, and alpha with it. No p-value is computed.

  Args:
    eigenvalues: [N], in any order, not negative.

  Returns:
    The fit; nan, with a size of 0, if no threshold has an estimate.

  Raises:
    ValueError: `eigenvalues` is not one-dimensional, or is empty.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> fit = spectra.power_law_fit(u ** (-1 / 1.5))
    >>> print(f"{fit.alpha:.2f}")
    2.50

  References:
    Clauset, Shalizi and Newman (2009), Power-law distributions in empirical
    data, SIAM Review 51(4). As stated in WeightWatcher 0.7.7
    (`WW_powerlaw.py`).
  """
  x = _ascending(eigenvalues)
  if x.size == 1:
    nan = jnp.full([], jnp.nan)
    return PowerLawFit(nan, nan, nan, jnp.zeros([], jnp.int32))
  return _power_law_fit(x)


def tail(matrix: ArrayLike) -> SpectralTail:
  """Measures the tail of the spectrum of a matrix, raw and by its shape.

  The module's docstring defines both numbers. A matrix with heavy-tailed,
  independent entries has a tail index that does not depend on its shape; there
  the raw index compares shapes, and the ratio does not. The ratio is made for
  weights that start from light-tailed entries.

  Args:
    matrix: [m, n], real or complex. Its unit does not matter.

  Returns:
    The tail index of the eigenvalues and its ratio to that of an untrained
    matrix. Both are nan in the cases of :func:`pl_alpha_hill`: a rank of at
    most half of min(m, n), an orthogonal matrix, one row or one column, or an
    entry that is not finite.

  Raises:
    ValueError: `matrix` is not two-dimensional, or has no entries.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> w = np.random.default_rng(0).standard_normal((256, 64))
    >>> found = spectra.tail(w)
    >>> print(f"{1 + found.tail_index:.1f} {found.tail_ratio:.1f}")
    3.7 1.1
  """
  found, known = known_tail(matrix)
  return SpectralTail(*(jnp.where(known, x, jnp.nan) for x in found))


def known_tail(matrix: ArrayLike) -> tuple[SpectralTail, jax.Array]:
  """The tail of a matrix without nan, and whether it is known, bool []."""
  w = _matrix(matrix)
  size = jnp.max(jnp.abs(w))
  usable = jnp.isfinite(size) & (size > 0)
  w = jnp.where(usable, w, 1) / jnp.where(usable, size, 1.0)
  index, known = _upper_half(_eigenvalues(w))
  known &= usable
  return SpectralTail(index, index / (null_alpha(*w.shape) - 1)), known


def _matrix(matrix: Any) -> jax.Array:
  """Converts to float32 or complex64, [m, n]."""
  w = jnp.asarray(matrix)
  if w.ndim != 2 or not w.size:
    raise ValueError(
      f"matrix must have two axes and at least one entry, got shape {w.shape};"
      " use jax.vmap for several matrices."
    )
  return w.astype(jnp.complex64 if jnp.iscomplexobj(w) else jnp.float32)


def _ascending(x: ArrayLike) -> jax.Array:
  x = in_range(x, "eigenvalues")
  _checks.check_number("the number of eigenvalues", x.size, bool, "be positive")
  return jnp.sort(x)


@jax.jit
def _upper_half(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The tail index of the upper half of ascending values, and if it is one."""
  upper = x[x.size // 2 :]
  excesses, usable = log_excesses(upper, upper[0])
  total = jnp.sum(excesses)
  usable &= excesses[-1] > _SMALLEST_SPREAD
  return upper.size / jnp.where(usable, total, 1.0), usable


@jax.jit
def _power_law_fit(x: jax.Array) -> PowerLawFit:
  at = jnp.arange(x.size, dtype=x.dtype)
  usable = (x[:-1] > 0) & jnp.isfinite(x[-1])
  usable &= x[-1] > (1 + _SMALLEST_SPREAD) * x[:-1]
  log = jnp.log(jnp.where(x > 0, x, 1.0))
  # The sum of log(x_j/x_i) over j > i, from spacings and without cancellation.
  spacings = (x.size - at[1:]) * (log[1:] - log[:-1])
  sums = jnp.cumsum(spacings[::-1])[::-1]
  above = x.size - at[:-1]
  index = above / jnp.where(usable, sums, 1.0)

  def distance(i):
    power = jnp.exp(-index[i] * jnp.maximum(log - log[i], 0.0))
    error = jnp.abs(1 - power - (at - at[i]) / above[i])
    return jnp.max(jnp.where(at >= at[i], error, 0.0))

  distances = jnp.where(
    usable, lax.map(distance, jnp.arange(x.size - 1)), jnp.inf
  )
  best, found = jnp.argmin(distances), jnp.any(usable)
  number = lambda value: jnp.where(found, value, jnp.nan)
  return PowerLawFit(
    alpha=number(1 + index[best]),
    xmin=number(x[best]),
    distance=number(distances[best]),
    size=jnp.where(found, above[best], 0).astype(jnp.int32),
  )


@jax.jit
def _eigenvalues(w: jax.Array) -> jax.Array:
  x = lax.platform_dependent(w, cpu=_by_svd, default=_by_gram)
  return jnp.where(x > 2 * max(w.shape) ** 0.5 * _EPSILON * x[-1], x, 0.0)


def _by_svd(w: jax.Array) -> jax.Array:
  return jnp.linalg.svd(w, compute_uv=False)[::-1] ** 2


def _by_gram(w: jax.Array) -> jax.Array:
  w = w if w.shape[0] >= w.shape[1] else w.T
  gram = jnp.matmul(w.conj().T, w, precision=lax.Precision.HIGHEST)
  return jnp.linalg.eigvalsh(gram).astype(jnp.float32)
