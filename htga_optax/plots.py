"""Pictures of tails, runs and landscapes, in one style.

Every function draws on the `ax` it is given, or makes one of a figure of its
own, and returns it: `ax.figure.savefig("tail.png")`. Nothing here touches
pyplot's global state. Colours are those of Okabe and Ito, which the
colour-blind can tell apart; lines differ in dashes too, for print.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import checks, estimators, fits, intervals, order_statistics

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
DATA = {"color": "black", "ls": "", "marker": "o", "ms": 3}
_SHOWN = 2000  # points of a curve, at most


def panels(rows: int = 1, columns: int = 1, size: float = 4.5) -> Any:
  """Axes in the style of this file, an array [rows, columns].

  Args:
    rows: of axes.
    columns: of axes.
    size: width of one, in inches.

  Returns:
    The array; its figure is `panels(...)[0, 0].figure`.

  Raises:
    ImportError: matplotlib is missing.
  """
  figures = checks.optional_module("matplotlib.figure")
  figure = figures.Figure(
    figsize=(size * columns, 0.75 * size * rows), layout="constrained"
  )
  made = figure.subplots(rows, columns, squeeze=False)
  for ax in made.flat:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.tick_params(which="minor", labelsize="x-small")
  return made


def ccdf(
  x: ArrayLike,
  laws: Sequence[fits.Fit] = (),
  bounds: tuple[float, float] | None = None,
  unit: str = "",
  ax: Any = None,
) -> Any:
  """How often |x| is exceeded, on logarithmic axes, where a power is a line.

  Args:
    x: the values, [n].
    laws: fitted ones, drawn from where they begin.
    bounds: of the tail index, as :func:`hsgd.tail_index_bounds`: the wedge
      between the two powers through the point that a tenth exceeds.
    unit: of x, for the label.
    ax: where to draw.

  Returns:
    The axes.

  Raises:
    ValueError: no value is other than 0.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import fits, plots
    >>> x = np.random.default_rng(0).pareto(1.5, 1000) + 1
    >>> ax = plots.ccdf(x, [fits.fit("Pareto tail", x)], bounds=(1.2, 2.0))
    >>> print(ax.get_xlabel())
    |x|
  """
  ax = panels()[0, 0] if ax is None else ax
  largest = np.sort(np.abs(np.asarray(x, float)))[::-1]
  n = largest.size
  positive = largest[largest > 0]
  if not positive.size:
    raise ValueError("ccdf has nothing to draw: no value is other than 0.")
  ranks = np.unique(np.geomspace(1, positive.size, 300).astype(int))
  ax.plot(positive[ranks - 1], ranks / n, label=f"{n} values", **DATA)
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
    ax.plot(at, height, label=law.law, **_look(i))
  ax.set(
    xscale="log",
    yscale="log",
    ylim=(0.3 / n, 2),
    xlabel=_label("|x|", unit),
    ylabel="share of values beyond",
  )
  return _legend(ax)


def qq(x: ArrayLike, law: fits.Fit, unit: str = "", ax: Any = None) -> Any:
  """Quantiles of the sample over those of a fitted law.

  Args:
    x: the values, [n]; of a "tail", all of them.
    law: any of :data:`fits.LAWS`.
    unit: of x, for the labels.
    ax: where to draw; the axes end at the sample's, and say how many points
      of the law are beyond.

  Returns:
    The axes.
  """
  ax = panels()[0, 0] if ax is None else ax
  x = np.sort(np.asarray(x, float))
  is_real = fits.LAWS[law.law].support == "real"
  if fits.LAWS[law.law].support == "tail":
    x = x[x > law.scale]
  n = x.size
  ends = np.unique(np.geomspace(1, n, 200).astype(int))
  ranks = np.unique(np.concatenate([ends - 1, n - ends]))
  of, shown = law.quantile((ranks + 0.5) / n), x[ranks]
  low, high = float(x[0]), float(x[-1])
  if is_real:  # logarithms of either side
    size = float(np.quantile(np.abs(x - law.loc), 0.5)) or 1.0
    for scale in (ax.set_xscale, ax.set_yscale):
      scale("symlog", linthresh=4 * size)
    low, high = 1.5 * min(low, -size), 1.5 * max(high, size)
  else:
    ax.set(xscale="log", yscale="log")
    low, high = low / 1.2, high * 1.2
  ax.plot([low, high], [low, high], color="0.5", lw=1)
  inside = (of >= low) & (of <= high)
  ax.plot(of[inside], shown[inside], **DATA | {"color": COLORS[0]})
  if not np.all(inside):
    said = f"outside: {np.sum(~inside)} of {inside.size} points"
    ax.text(0.97, 0.03, said, transform=ax.transAxes, ha="right", va="bottom")
  ax.set(
    xlim=(low, high),
    ylim=(low, high),
    xlabel=_label(f"quantile of {law.law}", unit),
    ylabel=_label("quantile of the sample", unit),
  )
  return ax


def hill_plot(
  x: ArrayLike, k: int | None = None, most: int | None = None, ax: Any = None
) -> Any:
  """Hill's estimate at every k, its interval, and the k that was chosen.

  Args:
    x: positive values in order of time, [n].
    k: the chosen one; a tenth of n if None. The k of
      :func:`estimators.automatic_k` is marked too.
    most: the largest k that is drawn; two fifths of n if None.
    ax: where to draw.

  Returns:
    The axes. The interval is nominally of 95 %, for values that depend on
    those before as much as at the chosen k.

  Raises:
    ValueError: as :func:`estimators.hill`; `most` is below k.
  """
  ax = panels()[0, 0] if ax is None else ax
  x = np.asarray(x, float)
  k = max(2, x.size // 10) if k is None else k
  most = max(k, 2 * x.size // 5) if most is None else most
  checks.check_number(
    "most", most, lambda v: k <= v < x.size, f"be in [{k}, {x.size - 1}]"
  )
  chosen = np.unique(np.geomspace(2, most, 300).astype(int))
  alphas, ends, automatic = _hill_curve(x / np.median(x), k, most)
  ks, alphas, (low, high) = chosen, alphas[chosen - 1], ends[chosen - 1].T
  ax.fill_between(ks, low, high, color=COLORS[5], alpha=0.4, lw=0, label="95 %")
  ax.plot(ks, alphas, color=COLORS[0], label="Hill's estimate")
  marks = (k, "k used"), (automatic, "automatic k")
  for i, (at, label) in enumerate(marks):
    label = f"{label}, {at}"
    ax.axvline(at, color=COLORS[1], ls=DASHES[i], lw=1.2, label=label)
  top = 2 * float(np.nanmedian(alphas[ks >= max(2, k // 2)]))
  ax.set(
    xscale="log",
    ylim=(0, top if math.isfinite(top) and top > 0 else 10),
    xlabel="k, how many values are the tail",
    ylabel="tail index",
  )
  return _legend(ax)


def _hill_curve(
  x: np.ndarray, k: int, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
  """Estimates and intervals at 1, ..., most, and the automatic k."""

  def curve(x):
    window = order_statistics.sorted_window(x)
    inflation = intervals.examine(window, k).inflation
    alphas = estimators.hill_all(x)[:most]
    sizes = jnp.maximum(jnp.arange(1, most + 1) / inflation, 0.12)
    ends = estimators.hill_interval(alphas, sizes)
    return alphas, ends, estimators.automatic_k(x, most)

  alphas, ends, automatic = jax.jit(curve)(np.asarray(x, np.float32))
  return np.asarray(alphas), np.asarray(ends), int(automatic)


def tail_index(
  steps: ArrayLike,
  estimates: ArrayLike,
  low: ArrayLike | None = None,
  high: ArrayLike | None = None,
  bounds: tuple[float, float] | None = None,
  label: str = "tail index",
  ax: Any = None,
) -> Any:
  """The tail index over time, with its interval.

  Args:
    steps: of the run, [n].
    estimates: at these steps; 0 and what is not finite are left out.
    low: the interval's lower end.
    high: the interval's upper end.
    bounds: from theory, as :func:`hsgd.tail_index_bounds`.
    label: in the legend.
    ax: where to draw.

  Returns:
    The axes; the axis ends at 8, where a tail is as good as light.
  """
  ax = panels()[0, 0] if ax is None else ax
  steps, values = np.asarray(steps, float), np.asarray(estimates, float)
  there = np.isfinite(values) & (values > 0)
  number = sum(line.get_gid() == "index" for line in ax.lines)
  look = _look(number)
  if low is not None and high is not None:
    ends = [np.asarray(v, float)[there] for v in (low, high)]
    ax.fill_between(
      steps[there], *ends, color=look["color"], alpha=0.2, lw=0, label="95 %"
    )
  marker = "o" if np.sum(there) < 60 else None
  ax.plot(
    steps[there], values[there], label=label, gid="index", ms=3, marker=marker,
    **look,
  )  # fmt: skip
  if number == 0:
    ax.axhline(2, color="0.4", lw=0.8)
    ax.text(1, 2, "2", transform=ax.get_yaxis_transform(), va="center")
  if bounds is not None:
    ax.axhspan(*bounds, color="0.8", lw=0, label="bounds from theory")
  top = float(np.max(values[there], initial=2)) * 1.3
  ax.set(xlabel="step", ylabel="tail index", ylim=(0, min(8.0, max(3.0, top))))
  return _legend(ax)


def series(
  steps: ArrayLike,
  values: Mapping[str, ArrayLike],
  ylabel: str,
  log: bool = True,
  ax: Any = None,
) -> Any:
  """Curves over the steps of a run: norms, losses, effective step sizes.

  A long one is drawn as the band from the least to the largest of each of a
  thousand stretches, so that no spike is lost, around their medians.

  Args:
    steps: [n].
    values: by name, [n] each. What is not finite is left out, and what is not
      positive if `log`.
    ylabel: with the unit.
    log: whether the axis is logarithmic.
    ax: where to draw.

  Returns:
    The axes.
  """
  ax = panels()[0, 0] if ax is None else ax
  steps = np.asarray(steps, float)
  for i, (name, y) in enumerate(values.items()):
    y = np.asarray(y, float)
    there = np.isfinite(y) & ((y > 0) | (not log))
    x, y = steps[there], y[there]
    look = _look(i)
    if y.size > _SHOWN:
      size = y.size // (_SHOWN // 2)
      x, y = (v[: v.size // size * size].reshape(-1, size) for v in (x, y))
      x = x[:, 0]
      ends = y.min(axis=1), y.max(axis=1)
      ax.fill_between(x, *ends, color=look["color"], alpha=0.25, lw=0)
      y = np.median(y, axis=1)
    ax.plot(x, y, label=name, lw=1.1, **look)
  ax.set(xlabel="step", ylabel=ylabel, yscale="log" if log else "linear")
  return _legend(ax) if len(values) > 1 else ax


def step_size(
  steps: ArrayLike,
  learning_rate: ArrayLike,
  factors: Mapping[str, ArrayLike] | None = None,
  ax: Any = None,
) -> Any:
  """The learning rate, and what modulation makes of it.

  Args:
    steps: [n].
    learning_rate: a number or [n].
    factors: by name, [n] each: "amplification", "rate_scale". The effective
      step size is the learning rate times all of them.
    ax: where to draw.

  Returns:
    The axes.
  """
  steps = np.asarray(steps, float)
  rate = np.broadcast_to(np.asarray(learning_rate, float), steps.shape)
  curves = {"learning rate": rate}
  if factors:
    product = rate * np.prod([np.asarray(f) for f in factors.values()], axis=0)
    curves["effective"] = product
  return series(steps, curves, "step size", ax=ax)


def norm_histograms(
  stages: Mapping[str, tuple[ArrayLike, ArrayLike]], unit: str = ""
) -> Any:
  """Histograms of norms at stages of a run, before and after modulation.

  Args:
    stages: by title, norms before and after.
    unit: of the norm, for the labels.

  Returns:
    The axes, [1, stages], with one scale.

  Raises:
    ValueError: there is no stage, or no positive and finite norm.
  """
  pairs = [[np.asarray(v, float) for v in pair] for pair in stages.values()]
  pool = np.concatenate([v for pair in pairs for v in pair] or [np.zeros(0)])
  pool = pool[np.isfinite(pool) & (pool > 0)]
  if not pool.size:
    raise ValueError("norm_histograms has no positive and finite norm to draw.")
  axes = panels(1, len(pairs), size=4.0)
  low, high = float(pool.min()), float(pool.max())
  bins = np.geomspace(low / 1.01, high * 1.01, 41)
  for ax, title, pair in zip(axes[0], stages, pairs):
    for i, (norms, label) in enumerate(zip(pair, ("before", "after"))):
      weights = np.full(norms.size, 1 / max(norms.size, 1))
      color = COLORS[i]
      ax.hist(
        norms, bins, weights=weights, histtype="step", color=color, lw=1.4,
        ls=DASHES[i], label=label,
      )  # fmt: skip
    ax.set_title(title, loc="left")
    ax.set(xscale="log", yscale="log", xlabel=_label("norm", unit))
    _legend(ax)
  axes[0, 0].set_ylabel("share of steps")
  limits = [ax.get_ylim() for ax in axes[0]]
  for ax in axes[0]:
    ax.set_ylim(min(v[0] for v in limits), max(v[1] for v in limits))
  return axes


def loss_slice(steps: ArrayLike, losses: ArrayLike, ax: Any = None) -> Any:
  """A slice of the loss landscape, see :func:`landscape.loss_slice`.

  Args:
    steps: along each direction, [m], in lengths of the filters.
    losses: [m] for a curve, [m, m] for contours at ratios of the excess over
      the least loss.
    ax: where to draw.

  Returns:
    The axes; the parameters are the cross in the middle.
  """
  ax = panels()[0, 0] if ax is None else ax
  steps, losses = np.asarray(steps, float), np.asarray(losses, float)
  first = "along direction 1 (filter lengths)"
  if losses.ndim == 1:
    ax.plot(steps, losses, color=COLORS[0])
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set(xlabel=first, ylabel="loss")
    return ax
  losses = np.where(np.isfinite(losses), losses, np.nan)
  low, high = np.nanmin(losses), np.nanmax(losses)
  size = max(float(high - low), 1e-12)
  levels = low + size * np.geomspace(3e-3, 1, 12)
  edges = [low, *levels]
  norm = checks.optional_module("matplotlib.colors").BoundaryNorm(edges, 256)
  drawn = ax.contourf(steps, steps, losses.T, edges, cmap="cividis", norm=norm)
  ax.contour(steps, steps, losses.T, levels, colors="white", linewidths=0.5)
  ax.plot(0, 0, marker="P", ms=9, color="white", mec="black")
  ax.figure.colorbar(drawn, ax=ax, label="loss", format="%.3g")
  ax.set(xlabel=first, ylabel="along direction 2 (filter lengths)")
  return ax


def spectral_density(
  points: ArrayLike, density: ArrayLike, ax: Any = None
) -> Any:
  """The density of a Hessian's eigenvalues, see :mod:`htga_optax.landscape`.

  Args:
    points: eigenvalues, [m].
    density: at them, [m]; drawn down to 1e-6 of its largest value.
    ax: where to draw.

  Returns:
    The axes.
  """
  ax = panels()[0, 0] if ax is None else ax
  density = np.asarray(density, float)
  floor = 1e-6 * float(np.max(density))
  ax.fill_between(
    np.asarray(points), np.maximum(density, floor), floor, color=COLORS[5]
  )
  ax.plot(points, np.maximum(density, floor), color=COLORS[0], lw=1)
  ax.set(
    yscale="log",
    ylim=(floor, None),
    xlabel="eigenvalue of the Hessian",
    ylabel="density (1 / eigenvalue)",
  )
  return ax


def _look(i: int) -> dict[str, Any]:
  return {"color": COLORS[i % len(COLORS)], "ls": DASHES[i % len(DASHES)]}


def _label(name: str, unit: str) -> str:
  return f"{name} ({unit})" if unit else name


def _legend(ax: Any) -> Any:
  ax.legend(fontsize="small", framealpha=0.8, edgecolor="none")
  return ax
