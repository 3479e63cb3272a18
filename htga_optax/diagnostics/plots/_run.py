"""Draws a run: curves over its steps, and histograms of its norms."""

from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike
import numpy as np

from htga_optax.diagnostics.plots import _style

_SHOWN = 2000  # the largest number of points of a curve


def tail_index(
  steps: ArrayLike,
  estimates: ArrayLike,
  low: ArrayLike | None = None,
  high: ArrayLike | None = None,
  bounds: tuple[float, float] | None = None,
  label: str = "tail index",
  ax: Any = None,
) -> Any:
  """Draws the tail index over the steps, with its interval.

  Args:
    steps: the steps, [n].
    estimates: the tail indices, [n]. Values that are 0 or not finite are left
      out.
    low: the lower ends of the intervals, [n].
    high: the upper ends of the intervals, [n].
    bounds: theoretical bounds of the tail index, as
      :func:`htga_optax.hsgd.tail_index_bounds` returns them.
    label: the label in the legend.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes. The axis of the tail index ends at 8 or below; a tail with a
    larger index is practically light.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  steps, values = np.asarray(steps, float), np.asarray(estimates, float)
  there = np.isfinite(values) & (values > 0)
  number = sum(line.get_gid() == "index" for line in ax.lines)
  style = _style.line(number)
  if low is not None and high is not None:
    ends = [np.asarray(v, float)[there] for v in (low, high)]
    ax.fill_between(
      steps[there], *ends, color=style["color"], alpha=0.2, lw=0, label="95 %"
    )
  marker = "o" if np.sum(there) < 60 else None
  ax.plot(
    steps[there], values[there], label=label, gid="index", ms=3, marker=marker,
    **style,
  )  # fmt: skip
  if number == 0:
    ax.axhline(2, color="0.4", lw=0.8)
    ax.text(1, 2, "2", transform=ax.get_yaxis_transform(), va="center")
  if bounds is not None:
    ax.axhspan(*bounds, color="0.8", lw=0, label="bounds from theory")
  top = float(np.max(values[there], initial=2)) * 1.3
  ax.set(xlabel="step", ylabel="tail index", ylim=(0, min(8.0, max(3.0, top))))
  return _style.legend(ax)


def series(
  steps: ArrayLike,
  values: Mapping[str, ArrayLike],
  ylabel: str,
  log: bool = True,
  ax: Any = None,
) -> Any:
  """Draws curves over the steps of a run: norms, losses, step sizes.

  A curve of more than 2000 points is divided into about a thousand parts. The
  line shows the median of each part. The band shows its smallest and its
  largest value, so that no spike is lost.

  Args:
    steps: the steps, [n].
    values: the curves by name, [n] each. Values that are not finite are left
      out; if `log`, so are those that are not positive.
    ylabel: the label of the axis of values, with the unit.
    log: whether the axis of values is logarithmic.
    ax: the axes to draw on; None for a new figure.

  Returns:
    The axes.
  """
  ax = _style.panels()[0, 0] if ax is None else ax
  steps = np.asarray(steps, float)
  for i, (name, y) in enumerate(values.items()):
    y = np.asarray(y, float)
    there = np.isfinite(y) & ((y > 0) | (not log))
    x, y = steps[there], y[there]
    style = _style.line(i)
    if y.size > _SHOWN:
      size = y.size // (_SHOWN // 2)
      x, y = (v[: v.size // size * size].reshape(-1, size) for v in (x, y))
      x = x[:, 0]
      ends = y.min(axis=1), y.max(axis=1)
      ax.fill_between(x, *ends, color=style["color"], alpha=0.25, lw=0)
      y = np.median(y, axis=1)
    ax.plot(x, y, label=name, lw=1.1, **style)
  ax.set(xlabel="step", ylabel=ylabel, yscale="log" if log else "linear")
  return _style.legend(ax) if len(values) > 1 else ax


def mark(steps: ArrayLike, values: ArrayLike, ax: Any) -> Any:
  """Marks values of a curve by the numbers 1, 2, ... above them.

  Args:
    steps: the steps of the values, [n].
    values: the values, [n].
    ax: the axes that :func:`series` returned.

  Returns:
    The axes.
  """
  steps, values = np.asarray(steps, float), np.asarray(values, float)
  ax.plot(steps, values, color=_style.COLORS[1], ls="", marker="v", ms=4)
  for number, (x, y) in enumerate(zip(steps, values), 1):
    ax.annotate(
      str(number), (x, y), xytext=(0, 4), textcoords="offset points",
      ha="center", fontsize="x-small",
    )  # fmt: skip
  return ax


def step_size(
  steps: ArrayLike,
  learning_rate: ArrayLike,
  factors: Mapping[str, ArrayLike] | None = None,
  ax: Any = None,
) -> Any:
  """Draws the learning rate and the effective step size.

  Args:
    steps: the steps, [n].
    learning_rate: the learning rate, a number or [n].
    factors: factors of the learning rate by name, [n] each, for example
      "amplification" and "rate_scale". The effective step size is the product
      of the learning rate and all factors.
    ax: the axes to draw on; None for a new figure.

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
  """Draws histograms of norms before and after modulation, for each stage.

  Args:
    stages: for each stage, by title, the norms before and the norms after the
      modulation.
    unit: the unit of the norms, for the labels.

  Returns:
    The axes, [1, stages]. They have the same scales.

  Raises:
    ValueError: there is no stage, or no norm is positive and finite.
  """
  pairs = [[np.asarray(v, float) for v in pair] for pair in stages.values()]
  pool = np.concatenate([v for pair in pairs for v in pair] or [np.zeros(0)])
  pool = pool[np.isfinite(pool) & (pool > 0)]
  if not pool.size:
    raise ValueError("norm_histograms has no positive and finite norm to draw.")
  axes = _style.panels(1, len(pairs), size=4.0)
  low, high = float(pool.min()), float(pool.max())
  bins = np.geomspace(low / 1.01, high * 1.01, 41)
  for ax, title, pair in zip(axes[0], stages, pairs):
    for i, (norms, label) in enumerate(zip(pair, ("before", "after"))):
      weights = np.full(norms.size, 1 / max(norms.size, 1))
      color = _style.COLORS[i]
      ax.hist(
        norms, bins, weights=weights, histtype="step", color=color, lw=1.4,
        ls=_style.DASHES[i], label=label,
      )  # fmt: skip
    ax.set_title(title, loc="left")
    ax.set(xscale="log", yscale="log", xlabel=_style.label("norm", unit))
    _style.legend(ax)
  axes[0, 0].set_ylabel("share of steps")
  limits = [ax.get_ylim() for ax in axes[0]]
  for ax in axes[0]:
    ax.set_ylim(min(v[0] for v in limits), max(v[1] for v in limits))
  return axes
