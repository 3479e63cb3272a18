"""Computes the spectrum of an untrained matrix."""

import functools

from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks

_POINTS = 2**14  # points of the quadrature


def marchenko_pastur_density(
  x: ArrayLike, rows: int, columns: int
) -> np.ndarray:
  r"""Computes the density of Marchenko and Pastur, on the host.

  The entries of W are independent, with mean 0 and one variance. Then the
  eigenvalues of W'W, divided by their mean, have in the limit the density

  .. math::
    p(x) = \frac{\sqrt{(b - x)(x - a)}}{2\pi q x}, \qquad
    a, b = (1 \mp \sqrt q)^2, \qquad q = \frac{\min(m, n)}{\max(m, n)}

  Args:
    x: eigenvalues divided by their mean, [...].
    rows: m.
    columns: n.

  Returns:
    The density, float64 [...]; 0 outside of [a, b].

  Raises:
    ValueError: a size is below one.

  Examples:
    >>> from htga_optax import spectra
    >>> print(spectra.marchenko_pastur_density([1.0, 5.0], 100, 100).round(3))
    [0.276 0.   ]
  """
  q, _ = _shape(rows, columns)
  x = np.asarray(x, float)
  a, b = (1 - np.sqrt(q)) ** 2, (1 + np.sqrt(q)) ** 2
  inside = (x > a) & (x < b)
  x = np.where(inside, x, b)
  return np.sqrt((b - x) * (x - a)) / (2 * np.pi * q * x)


def _shape(rows: int, columns: int) -> tuple[float, int]:
  """The aspect ratio, at most 1, and the number of eigenvalues."""
  for name, size in (("rows", rows), ("columns", columns)):
    _checks.check_size(name, size)
  number = min(rows, columns)
  return number / max(rows, columns), number


def marchenko_pastur_quantiles(rows: int, columns: int) -> np.ndarray:
  r"""Computes the spectrum that an untrained matrix has in the limit.

  They are the quantiles of :func:`marchenko_pastur_density`. With
  :math:`x = 1 + q - 2\sqrt q\cos\varphi` the law is
  :math:`2\sin^2\varphi/(\pi x)\,d\varphi`, which is summed by the midpoint
  rule.

  Args:
    rows: m.
    columns: n.

  Returns:
    The quantiles at (j + 1/2)/N, float64 [N] with N = min(m, n), in ascending
    order. Their mean is about 1.

  Raises:
    ValueError: a size is below one.

  Examples:
    >>> from htga_optax import spectra
    >>> x = spectra.marchenko_pastur_quantiles(400, 100)
    >>> print(x.min().round(2), x.max().round(2))  # a = 0.25, b = 2.25
    0.27 2.18

  References:
    Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of
    random matrices, Mathematics of the USSR-Sbornik 1(4). Textbook.
  """
  q, number = _shape(rows, columns)
  edges = np.linspace(0, np.pi, _POINTS + 1)
  middle = (edges[1:] + edges[:-1]) / 2
  x = lambda phi: 1 + q - 2 * np.sqrt(q) * np.cos(phi)
  mass = np.cumsum(np.sin(middle) ** 2 / x(middle))
  probability = np.concatenate([[0.0], mass / mass[-1]])
  return x(np.interp((np.arange(number) + 0.5) / number, probability, edges))


@functools.lru_cache(maxsize=1024)
def null_alpha(rows: int, columns: int) -> float:
  """Computes the PL_Alpha_Hill of an untrained matrix of a shape.

  It is the formula of :func:`pl_alpha_hill` on the quantiles of the law of
  Marchenko and Pastur. The quantiles are as many as the matrix has eigenvalues,
  so that the result also contains the effect of a small number.

  Args:
    rows: the number of rows.
    columns: the number of columns.

  Returns:
    The exponent; inf if the matrix has only one eigenvalue.

  Raises:
    ValueError: a size is below one.

  Examples:
    >>> from htga_optax import spectra
    >>> print(f"{spectra.null_alpha(512, 512):.2f}")
    2.13
    >>> print(f"{spectra.null_alpha(64, 512):.2f}")
    4.58
  """
  x = marchenko_pastur_quantiles(rows, columns)
  upper = x[x.size // 2 :]
  total = float(np.sum(np.log(upper / upper[0])))
  return 1 + upper.size / total if total else np.inf
