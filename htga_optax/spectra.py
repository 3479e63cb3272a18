r"""Estimates the tail index of the spectrum of a weight matrix.

The eigenvalues of W'W are the squared singular values of a weight matrix W. In
trained networks their largest ones look like a power law, and practitioners
compare layers by its exponent. They write it as the exponent of the density,

    p(x) ~ x^-alpha,

which is the tail index of the rest of this package plus 1. The tail index of
the singular values is twice that of the eigenvalues: 2 (alpha - 1).

An untrained matrix has no power law: its eigenvalues follow the law of
Marchenko and Pastur, which depends on the shape of the matrix alone. Its
exponent also depends on the shape alone, from 2.1 (square) to 4.5 (8:1). A map
of raw exponents therefore ranks layers by their shapes. `relative_tail_index`
divides by the value of an untrained matrix of that shape.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks

_POINTS = 20_000  # of the quadrature over the law of Marchenko and Pastur
_TINY = 1e-30


class PowerLaw(NamedTuple):
  """A power law fitted to the eigenvalues above a threshold.

  Attributes:
    alpha: the exponent of the density, float32 []; 0 if there is no fit.
    xmin: the threshold, float32 [].
    distance: the Kolmogorov-Smirnov distance to the law above it, float32 [].
  """

  alpha: jax.Array
  xmin: jax.Array
  distance: jax.Array


def matrix_shape(shape: Sequence[int], smallest: int = 50) -> tuple[int, int]:
  """The shape of a parameter as a matrix; (0, 0) if it is none.

  A kernel [..., inputs, outputs] is a matrix of all axes but the last one
  times the last one: a convolution [h, w, c_in, c_out] is h w c_in times c_out.
  Vectors are no matrices.

  Args:
    shape: the shape of the parameter.
    smallest: the smallest number of rows and of columns. The default is that of
      TempBalance; a spectrum of fewer eigenvalues has hardly a tail.

  Returns:
    The number of rows and of columns.

  Examples:
    >>> from htga_optax import spectra
    >>> spectra.matrix_shape((3, 3, 64, 128))
    (576, 128)
    >>> spectra.matrix_shape((128,))
    (0, 0)
  """
  _checks.check_size("smallest", smallest)
  if len(shape) < 2:
    return 0, 0
  rows, columns = math.prod(shape[:-1]), shape[-1]
  return (rows, columns) if min(rows, columns) >= smallest else (0, 0)


def eigenvalues(weights: ArrayLike) -> jax.Array:
  """The eigenvalues of the smaller Gram matrix of W, W'W or WW'.

  They are computed in float32. The smallest ones have an absolute error of
  1e-6 of the largest one, and a rank below full makes them 0 up to this error.

  Args:
    weights: W, [..., m, n], real.

  Returns:
    The eigenvalues in ascending order, float32 [..., min(m, n)], at least 0.

  Raises:
    ValueError: `weights` has fewer than two axes, or is complex.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import spectra
    >>> w = jnp.diag(jnp.asarray([4.0, 1.0, 2.0]))
    >>> print(spectra.eigenvalues(w).round(4))
    [ 1.  4. 16.]
  """
  w = jnp.asarray(weights)
  if w.ndim < 2 or jnp.iscomplexobj(w):
    raise ValueError(
      "weights must be real and have the shape [..., m, n], got"
      f" {w.dtype} {list(w.shape)}."
    )
  w = w.astype(jnp.float32)
  w = jnp.swapaxes(w, -1, -2) if w.shape[-1] > w.shape[-2] else w
  # Scaled to 1, so that no square leaves the range of float32.
  scale = jnp.max(jnp.abs(w), axis=(-2, -1), keepdims=True)
  usable = (scale > 0) & (scale < jnp.inf)
  scale = jnp.where(usable, scale, 1.0)
  gram = jnp.einsum(
    "...ki,...kj->...ij", w / scale, w / scale, precision="highest"
  )
  found = jnp.linalg.eigvalsh(gram) * jnp.square(scale[..., 0])
  return jnp.maximum(found, 0.0)


def alpha_hill(eigenvalues: ArrayLike) -> jax.Array:
  r"""PL_Alpha_Hill, the exponent of the upper half of a spectrum.

  .. math::
    \alpha = 1 + n \Big/ \sum_{j=i}^{N} \ln\frac{\lambda_j}{\lambda_i},
    \qquad i = \lfloor N/2 \rfloor, \quad n = N - i

  with ascending eigenvalues :math:`\lambda_0, \dots, \lambda_{N-1}`. It is 1
  plus Hill's estimate from the n - 1 largest, times n/(n - 1): the published
  rule counts the threshold.

  Args:
    eigenvalues: ascending, [..., N].

  Returns:
    The exponent of the density, float32 [...]. It is 0 if there are fewer than
    4 eigenvalues, the one in the middle is 0 (the rank is below N/2), the upper
    half is equal, or one is not finite.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> w = np.random.default_rng(0).standard_normal((256, 256))
    >>> print(f"{spectra.alpha_hill(spectra.eigenvalues(w)):.2f}")
    2.12

  References:
    Zhou et al. (2023), Temperature balancing, layer-wise weight analysis, and
    neural network training, arXiv:2312.00359. The rule as in its public code.
  """
  x = jnp.asarray(eigenvalues, jnp.float32)
  count = x.shape[-1]
  if count < 4:
    return jnp.zeros(x.shape[:-1], jnp.float32)
  start = count // 2
  upper = x[..., start:]
  least, largest = upper[..., :1], upper[..., -1:]
  usable = (least > 1e-6 * largest) & (largest < jnp.inf)
  ratio = jnp.where(usable, upper, 1.0) / jnp.where(usable, least, 1.0)
  total = jnp.sum(jnp.log(jnp.maximum(ratio, 1.0)), axis=-1)
  usable = usable[..., 0] & (total > 1e-5 * (count - start))
  alpha = 1 + (count - start) / jnp.where(usable, total, 1.0)
  return jnp.where(usable, alpha, 0.0)


def power_law(eigenvalues: ArrayLike) -> PowerLaw:
  r"""Fits a power law above the threshold with the best fit.

  For every eigenvalue :math:`\lambda_i` as the threshold, the exponent of
  maximum likelihood and the distance of Kolmogorov and Smirnov are

  .. math::
    \alpha_i = 1 + n_i \Big/ \sum_{j \ge i} \ln\frac{\lambda_j}{\lambda_i},
    \qquad
    D_i = \max_{j \ge i} \Bigl|\frac{j - i}{n_i}
      - 1 + \Bigl(\frac{\lambda_j}{\lambda_i}\Bigr)^{1-\alpha_i}\Bigr|

  and the threshold with the smallest distance wins. This is the fit of
  WeightWatcher (without its finger options) and of ``powerlaw.Fit``, by the
  method of Clauset, Shalizi and Newman (2009). The result can rest on very few
  eigenvalues.

  Args:
    eigenvalues: ascending, [N], at least 4 of them; O(N^2) memory.

  Returns:
    The fit.

  Raises:
    ValueError: the eigenvalues are not one-dimensional, or fewer than 4.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> x = np.sort(np.random.default_rng(0).pareto(1.5, 500) + 1)
    >>> print(f"{spectra.power_law(x).alpha:.1f}")
    2.4
  """
  x = jnp.asarray(eigenvalues, jnp.float32)
  if x.ndim != 1 or x.size < 4:
    raise ValueError(
      f"eigenvalues must be [N] with N of at least 4, got shape {x.shape}."
    )
  count = x.size
  usable = (x > 1e-6 * x[-1]) & (x[-1] < jnp.inf)
  logs = jnp.log(jnp.where(usable, x, 1.0))
  left = np.arange(count, 0, -1, dtype=np.float32)  # n_i
  sums = jnp.cumsum(logs[::-1])[::-1] - left * logs
  # The last threshold leaves one value, which fits perfectly.
  good = usable & (sums > 0) & (np.arange(count) < count - 1)
  alpha = 1 + left / jnp.where(good, sums, 1.0)
  i, j = np.arange(count)[:, None], np.arange(count)[None]
  law = 1 - jnp.exp((1 - alpha)[:, None] * (logs[None] - logs[:, None]))
  distance = jnp.abs((j - i) / left[:, None] - law)
  distance = jnp.max(jnp.where(j >= i, distance, 0.0), axis=1)
  best = jnp.argmin(jnp.where(good, distance, jnp.inf))
  found = good[best]
  pick = lambda values: jnp.where(found, values[best], 0.0)
  return PowerLaw(pick(alpha), pick(x), pick(distance))


@functools.lru_cache(maxsize=256)
def null_alpha_hill(rows: int, columns: int) -> float:
  r"""`alpha_hill` of an untrained matrix with independent entries.

  By the law of Marchenko and Pastur, with
  :math:`y = \min(m, n)/\max(m, n)` and
  :math:`\lambda(t) = 1 + y + 2\sqrt{y} \cos t`, the eigenvalues have the
  density :math:`\frac2\pi \sin^2 t/\lambda(t)` in t from 0 to :math:`\pi`.
  With the median :math:`\lambda_{1/2}` of this law,

  .. math::
    \alpha_0 = 1 + 1 \Big/ E\Bigl[\ln\frac{\lambda}{\lambda_{1/2}}
      \Bigm| \lambda > \lambda_{1/2}\Bigr]

  The law is exact for large matrices with entries of finite variance. With only
  64 eigenvalues, the mean of Gaussian matrices is 0 to 2 percent larger
  (measured).

  Args:
    rows: m, positive.
    columns: n, positive.

  Returns:
    The exponent, a Python float.

  Raises:
    ValueError: a size is below 1.

  Examples:
    >>> from htga_optax import spectra
    >>> for columns in (512, 256, 128, 64):
    ...   print(f"{spectra.null_alpha_hill(512, columns):.2f}")
    2.12
    2.71
    3.45
    4.47
  """
  _checks.check_size("rows", rows)
  _checks.check_size("columns", columns)
  y = min(rows, columns) / max(rows, columns)
  # From the largest eigenvalue downwards.
  t = (np.arange(_POINTS) + 0.5) * (math.pi / _POINTS)
  values = np.maximum(1 + y + 2 * math.sqrt(y) * np.cos(t), _TINY)
  density = 2 * np.sin(t) ** 2 / values / _POINTS
  share = np.cumsum(density) / np.sum(density)
  upper = share <= 0.5
  median = np.interp(0.5, share, values)
  excess = np.log(values[upper] / median)
  return float(1 + np.sum(density[upper]) / np.sum(density[upper] * excess))


def relative_tail_index(weights: ArrayLike) -> jax.Array:
  r"""The tail index of a spectrum over that of an untrained matrix.

  .. math:: \frac{\alpha - 1}{\alpha_0 - 1}

  with :func:`alpha_hill` and :func:`null_alpha_hill`. It is 1 for independent
  entries of any shape, and smaller for a heavier spectrum. The ratio is used,
  and not the difference, because the relative error of Hill's estimate does not
  depend on the index: the ratio has one scale for all shapes. (The correction
  is derived here; no source has it.)

  Args:
    weights: W, [..., m, n], real.

  Returns:
    The ratio, float32 [...]; 0 where there is no estimate.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> rng = np.random.default_rng(0)
    >>> for columns in (512, 256, 64):
    ...   w = rng.standard_normal((512, columns))
    ...   print(f"{spectra.relative_tail_index(w):.2f}")
    1.01
    1.01
    1.06
  """
  alpha = alpha_hill(eigenvalues(weights))
  rows, columns = jnp.shape(weights)[-2:]
  null = null_alpha_hill(rows, columns)
  return jnp.where(alpha > 0, (alpha - 1) / (null - 1), 0.0)
