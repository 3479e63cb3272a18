"""Draws the spectra of weights: one matrix, or the readings of all layers."""

from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike
import numpy as np

from htga_optax import spectra
from htga_optax.diagnostics.plots import _style


def spectrum(
  eigenvalues: ArrayLike,
  shape: tuple[int, int],
  fit: spectra.PowerLawFit | None = None,
  ax: Any = None,
) -> Any:
  """Draws the eigenvalues of a matrix, its bulk if untrained, and its tail.

  The histogram is in units of the mean eigenvalue. A few large eigenvalues
  raise this mean; the bulk then lies to the left of the law of Marchenko and
  Pastur.

  Args:
    eigenvalues: the eigenvalues of W'W, [n]. Those below 1e-4 of the largest
      one are not drawn.
    shape: the rows and columns of W, for the law of Marchenko and Pastur.
    fit: the power law above its threshold, in the units of the eigenvalues;
      None for no line.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes, both logarithmic.

  Raises:
    ValueError: no eigenvalue is positive, or one is not finite.
  """
  x = np.asarray(eigenvalues, float)
  if not np.all(np.isfinite(x)) or not np.max(x, initial=0.0) > 0:
    raise ValueError(
      "eigenvalues must be finite, and one must be positive, got"
      f" {x.size} values from {np.min(x, initial=np.inf)} to"
      f" {np.max(x, initial=-np.inf)}."
    )
  ax = _style.panels()[0, 0] if ax is None else ax
  mean = float(np.mean(x))
  shown = x[x > 1e-4 * np.max(x)] / mean
  edges = np.geomspace(0.999 * np.min(shown), 1.001 * np.max(shown), 41)
  counts, _ = np.histogram(shown, edges)
  density = counts / (x.size * np.diff(edges))
  ax.stairs(
    density, edges, fill=True, color="0.75", label=f"{x.size} eigenvalues"
  )
  at = np.geomspace(edges[0], edges[-1], 400)
  bulk = spectra.marchenko_pastur_density(at, *shape)
  bulk = np.where(bulk > 0, bulk, np.nan)
  ax.plot(at, bulk, label="untrained (Marchenko-Pastur)", **_style.line(0))
  if fit is not None and fit.size:
    alpha, xmin = float(fit.alpha), float(fit.xmin) / mean
    tail = np.geomspace(xmin, edges[-1], 100)
    share = float(fit.size) / x.size
    height = share * (alpha - 1) / xmin * (tail / xmin) ** -alpha
    label = f"power law, alpha = {alpha:.2f}"
    ax.plot(tail, height, label=label, **_style.line(1))
  lowest = float(np.min(density[density > 0]))
  ax.set(
    xscale="log",
    yscale="log",
    ylim=(lowest / 3, None),
    xlabel="eigenvalue / mean eigenvalue",
    ylabel="density",
  )
  return _style.legend(ax)


def layers(
  steps: ArrayLike,
  values: Mapping[str, ArrayLike],
  label: str = "tail ratio",
  ax: Any = None,
) -> Any:
  """Draws a reading of every layer over the steps, as a map of colours.

  Args:
    steps: the steps, [n], increasing.
    values: the reading by the name of the layer, [n] each. Values that are 0 or
      not finite ("not known") are white.
    label: the name of the reading.
    ax: the axes to draw on; None for a new figure, whose height grows with the
      number of layers.

  Returns:
    The axes. The first layer is at the top.

  Raises:
    ValueError: there is no layer, or lengths differ.
  """
  steps = np.asarray(steps, float)
  sizes = {name: np.size(v) for name, v in values.items()}
  if not values or set(sizes.values()) != {steps.size}:
    raise ValueError(
      f"every layer must have {steps.size} values, got {sizes or 'no layer'}."
    )
  height = max(3.0, 1.2 + 0.2 * len(sizes))
  ax = _style.panels(height=height)[0, 0] if ax is None else ax
  z = np.stack([np.asarray(v, float) for v in values.values()])
  z = np.ma.masked_where(~(np.isfinite(z) & (z > 0)), z)
  places = np.arange(len(sizes))
  drawn = ax.pcolormesh(steps, places, z, cmap="cividis", shading="nearest")
  ax.figure.colorbar(drawn, ax=ax, label=label)
  ax.invert_yaxis()
  ax.grid(False)
  ax.set_yticks(places, list(sizes), fontsize="x-small")
  ax.set(xlabel="step", ylabel="layer")
  return ax
