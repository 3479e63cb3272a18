"""Draws a sample: its exceedances, its quantiles, its Hill plot."""

from collections.abc import Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks, estimators, intervals, order_statistics
from htga_optax.diagnostics import fits
from htga_optax.diagnostics.plots import _style


def ccdf(
  x: ArrayLike,
  laws: Sequence[fits.Fit] = (),
  bounds: tuple[float, float] | None = None,
  unit: str = "",
  ax: Any = None,
) -> Any:
  """Draws which share of the values exceeds each size.

  The picture shows the share of values whose size exceeds :math:`|x|`, over
  :math:`|x|`. Both axes are logarithmic, and a power law is a straight line.

  Args:
    x: the values, [n].
    laws: fitted laws. A law of a tail is drawn from its threshold on.
    bounds: two tail indices, as :func:`htga_optax.hsgd.tail_index_bounds`
      returns them. They are drawn as a wedge between two powers. It begins at
      the value that a tenth of the values exceeds.
    unit: the unit of x, for the label.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes.

  Raises:
    ValueError: all values are 0.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import fits, plots
    >>> x = np.random.default_rng(0).pareto(1.5, 1000) + 1
    >>> ax = plots.ccdf(x, [fits.fit("Pareto tail", x)], bounds=(1.2, 2.0))
    >>> print(ax.get_xlabel())
    |x|
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  largest = np.sort(np.abs(np.asarray(x, float)))[::-1]
  n = largest.size
  positive = largest[largest > 0]
  if not positive.size:
    raise ValueError("ccdf has nothing to draw: all values are 0.")
  ranks = np.unique(np.geomspace(1, positive.size, 300).astype(int))
  ax.plot(positive[ranks - 1], ranks / n, label=f"{n} values", **_style.DATA)
  most = 2 * positive[0]
  if bounds is not None:
    level = min(max(1, n // 10), positive.size)
    at = np.geomspace(positive[level - 1], most, 50)
    wedge = [level / n * (at / at[0]) ** -b for b in bounds]
    label = f"bounds {bounds[0]:.2g} to {bounds[1]:.2g}"
    ax.fill_between(at, *wedge, color="0.8", lw=0, label=label)
  for i, law in enumerate(laws):
    tail = fits.LAWS[law.law].support == "tail"
    start = law.scale if tail else max(positive[-1], 1e-4 * positive[n // 2])
    at = np.geomspace(start, max(most, 2 * start), 300)
    height = law.share * law.sf(at)
    if fits.LAWS[law.law].support == "real":
      height = height + law.cdf(-at)
    ax.plot(at, height, label=law.law, **_style.line(i))
  ax.set(
    xscale="log",
    yscale="log",
    ylim=(0.3 / n, 2),
    xlabel=_style.label("|x|", unit),
    ylabel="share of values above |x|",
  )
  return _style.legend(ax)


def qq(x: ArrayLike, law: fits.Fit, unit: str = "", ax: Any = None) -> Any:
  """Draws the quantiles of a sample over those of a fitted law.

  Args:
    x: the values, [n]. For a law of a tail pass the whole sample too.
    law: a fitted law.
    unit: the unit of x, for the labels.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes. Their limits are those of the sample. A note counts the points
    for which the quantile of the law is outside.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  x = np.sort(np.asarray(x, float))
  is_real = fits.LAWS[law.law].support == "real"
  if fits.LAWS[law.law].support == "tail":
    x = x[x > law.scale]
  n = x.size
  ends = np.unique(np.geomspace(1, n, 200).astype(int))
  ranks = np.unique(np.concatenate([ends - 1, n - ends]))
  of, shown = law.quantile((ranks + 0.5) / n), x[ranks]
  low, high = float(x[0]), float(x[-1])
  if is_real:  # logarithmic on both sides of 0
    size = float(np.quantile(np.abs(x - law.loc), 0.5)) or 1.0
    for scale in (ax.set_xscale, ax.set_yscale):
      scale("symlog", linthresh=4 * size)
    low, high = 1.5 * min(low, -size), 1.5 * max(high, size)
  else:
    ax.set(xscale="log", yscale="log")
    low, high = low / 1.2, high * 1.2
  ax.plot([low, high], [low, high], color="0.5", lw=1)
  inside = (of >= low) & (of <= high)
  ax.plot(
    of[inside], shown[inside], **_style.DATA | {"color": _style.COLORS[0]}
  )
  if not np.all(inside):
    said = f"outside: {np.sum(~inside)} of {inside.size} points"
    ax.text(0.97, 0.03, said, transform=ax.transAxes, ha="right", va="bottom")
  ax.set(
    xlim=(low, high),
    ylim=(low, high),
    xlabel=_style.label(f"quantile of {law.law}", unit),
    ylabel=_style.label("quantile of the sample", unit),
  )
  return ax


def hill_plot(
  x: ArrayLike, k: int | None = None, most: int | None = None, ax: Any = None
) -> Any:
  """Draws Hill's estimate and its interval over k, and marks the chosen k.

  Args:
    x: positive values in order of time, [n].
    k: the chosen k; a tenth of n if None. The picture also marks the k of
      :func:`htga_optax.estimators.automatic_k`.
    most: the largest k that is drawn; two fifths of n if None.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes. The interval is nominally of 95 %. It assumes for every k the
    dependence that is measured at the chosen k.

  Raises:
    ValueError: as in :func:`htga_optax.estimators.hill`; or `most` is below k.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  x = np.asarray(x, float)
  k = max(2, x.size // 10) if k is None else k
  most = max(k, 2 * x.size // 5) if most is None else most
  _checks.check_number(
    "most", most, lambda v: k <= v < x.size, f"be in [{k}, {x.size - 1}]"
  )
  chosen = np.unique(np.geomspace(2, most, 300).astype(int))
  alphas, ends, automatic = _hill_curve(x / np.median(x), k, most)
  ks, alphas, (low, high) = chosen, alphas[chosen - 1], ends[chosen - 1].T
  ax.fill_between(
    ks, low, high, color=_style.COLORS[5], alpha=0.4, lw=0, label="95 %"
  )
  ax.plot(ks, alphas, color=_style.COLORS[0], label="Hill's estimate")
  marks = (k, "k used"), (automatic, "automatic k")
  for i, (at, label) in enumerate(marks):
    label = f"{label}, {at}"
    ax.axvline(
      at, color=_style.COLORS[1], ls=_style.DASHES[i], lw=1.2, label=label
    )
  top = 2 * float(np.nanmedian(alphas[ks >= max(2, k // 2)]))
  ax.set(
    xscale="log",
    ylim=(0, top if math.isfinite(top) and top > 0 else 10),
    xlabel="k, the number of largest values used",
    ylabel="tail index",
  )
  return _style.legend(ax)


def _hill_curve(
  x: np.ndarray, k: int, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
  """Estimates and intervals at 1, ..., most, and the automatic k."""
  alphas, ends, automatic = _curve(np.asarray(x, np.float32), k, most)
  return np.asarray(alphas), np.asarray(ends), int(automatic)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _curve(x: jax.Array, k: int, most: int) -> tuple[jax.Array, ...]:
  window = order_statistics.sorted_window(x)
  inflation = intervals.examine(window, k).variance_inflation
  alphas = estimators.hill_all(x)[:most]
  sizes = jnp.maximum(jnp.arange(1, most + 1) / inflation, 0.12)
  ends = estimators.hill_interval(alphas, sizes)
  return alphas, ends, estimators.automatic_k(x, most)
