"""Draws a loss around a point: a slice, or the spectrum of its Hessian."""

from typing import Any

from jax.typing import ArrayLike
import numpy as np

from htga_optax.diagnostics import _optional
from htga_optax.diagnostics.plots import _style


def loss_slice(steps: ArrayLike, losses: ArrayLike, ax: Any = None) -> Any:
  """Draws a slice of a loss, as a curve or as contours.

  Args:
    steps: the steps along each direction, [m], in lengths of the filters.
    losses: the result of :func:`htga_optax.diagnostics.landscape.loss_slice`,
      [m] for a curve or [m, m] for contours. From one contour to the next the
      excess over the least loss grows by the same factor.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes. A line or a cross marks the parameters.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  steps, losses = np.asarray(steps, float), np.asarray(losses, float)
  first = "along direction 1 (filter lengths)"
  if losses.ndim == 1:
    ax.plot(steps, losses, color=_style.COLORS[0])
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set(xlabel=first, ylabel="loss")
    return ax
  losses = np.where(np.isfinite(losses), losses, np.nan)
  low, high = np.nanmin(losses), np.nanmax(losses)
  size = max(float(high - low), 1e-12)
  levels = low + size * np.geomspace(3e-3, 1, 12)
  edges = [low, *levels]
  norm = _optional.load("matplotlib.colors").BoundaryNorm(edges, 256)
  drawn = ax.contourf(steps, steps, losses.T, edges, cmap="cividis", norm=norm)
  ax.contour(steps, steps, losses.T, levels, colors="white", linewidths=0.5)
  ax.plot(0, 0, marker="P", ms=9, color="white", mec="black")
  ax.figure.colorbar(drawn, ax=ax, label="loss", format="%.3g")
  ax.set(xlabel=first, ylabel="along direction 2 (filter lengths)")
  return ax


def spectral_density(
  points: ArrayLike, density: ArrayLike, ax: Any = None
) -> Any:
  """Draws the density of a Hessian's eigenvalues.

  Args:
    points: eigenvalues, [m], as
      :func:`htga_optax.diagnostics.landscape.spectral_density` returns them.
    density: the density at these points, [m]. The axis ends at 1e-6 of its
      largest value.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  density = np.asarray(density, float)
  floor = 1e-6 * float(np.max(density))
  ax.fill_between(
    np.asarray(points),
    np.maximum(density, floor),
    floor,
    color=_style.COLORS[5],
  )
  ax.plot(points, np.maximum(density, floor), color=_style.COLORS[0], lw=1)
  ax.set(
    yscale="log",
    ylim=(floor, None),
    xlabel="eigenvalue of the Hessian",
    ylabel="density (1 / eigenvalue)",
  )
  return ax
