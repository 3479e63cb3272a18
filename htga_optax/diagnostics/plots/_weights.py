"""Draws the spectrum of a weight matrix."""

from typing import Any

from jax.typing import ArrayLike
import numpy as np

from htga_optax import spectra
from htga_optax.diagnostics.plots import _style


def spectrum(
  eigenvalues: ArrayLike, rows: int, columns: int, ax: Any = None
) -> Any:
  """Draws the eigenvalues of a weight matrix, beside an untrained matrix.

  The picture has the density of the logarithms of the eigenvalues, the law of
  Marchenko and Pastur for entries of the same variance, and the power law of
  :func:`htga_optax.spectra.alpha_hill` from the median on.

  Args:
    eigenvalues: those of :func:`htga_optax.spectra.eigenvalues`, [N].
    rows: the number of rows of the matrix.
    columns: the number of columns.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes.

  Raises:
    ValueError: fewer than 10 eigenvalues are positive.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import spectra
    >>> from htga_optax.diagnostics import plots
    >>> w = np.random.default_rng(0).standard_normal((200, 100))
    >>> ax = plots.spectrum(spectra.eigenvalues(w), 200, 100)
    >>> print(ax.get_xlabel())
    eigenvalue
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  x = np.asarray(eigenvalues, float)
  positive = x[x > 1e-6 * np.max(x)]
  if positive.size < 10:
    raise ValueError(
      "spectrum needs 10 positive eigenvalues, got"
      f" {positive.size} of {x.size}."
    )
  bins = np.geomspace(positive[0], positive[-1], max(10, positive.size // 8))
  ax.hist(
    positive,
    bins,
    weights=np.full(positive.size, 1 / positive.size)
    / np.log(bins[1] / bins[0]),
    color=_style.COLORS[5],
    alpha=0.6,
    label=f"{positive.size} eigenvalues",
  )
  y = min(rows, columns) / max(rows, columns)
  low, high = (1 - np.sqrt(y)) ** 2, (1 + np.sqrt(y)) ** 2
  points = np.linspace(low, high, 402)[1:-1]
  # Density of log(lambda): lambda times that of lambda.
  bulk = np.sqrt((high - points) * (points - low)) / (2 * np.pi * y)
  scale = np.sum(x) / x.size  # the law has a mean of 1
  ax.plot(
    scale * points,
    bulk,
    color="black",
    ls=_style.DASHES[1],
    label="untrained, same variance",
  )
  alpha = float(spectra.alpha_hill(x))
  if alpha:
    start = x[x.size // 2]
    at = np.geomspace(start, x[-1], 50)
    share = np.mean(x >= start) * (alpha - 1)
    ax.plot(
      at,
      share * (at / start) ** (1 - alpha),
      color=_style.COLORS[1],
      label=f"power law, alpha = {alpha:.2f}",
    )
  ax.set(xscale="log", yscale="log", xlabel="eigenvalue")
  ax.set_ylim(0.3 / positive.size, None)
  ax.set_ylabel("density of the logarithm")
  ax.legend()
  return ax
