"""The pictures of the comparison."""

import pathlib

import comparison
import effects
from effects import VERDICTS, Scores, method_of
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter
import numpy as np
from opda.nonparametric import EmpiricalDistribution
import pictures
import store
import tasks

from htga_optax.diagnostics import plots

CONFIDENCE = 0.8  # of the bands of the tuning curves
# The tuning curves that are drawn, of those that are there.
CURVES = (
  "sgd",
  "htga_formula",
  "sgd_tail_clip",
  "adamw",
  "adamw_htga_formula",
  "uniform",
  "tempbalance",
  "llr",
)


def draw(
  found: dict[str, Scores],
  tuned: dict[tuple[str, str], list[float]],
  path: pathlib.Path,
) -> None:
  """The effects of all methods, and tuning curves of some."""
  fig, axes = plt.subplots(
    2,
    len(found),
    figsize=(max(8, 3.4 * len(found)), 8),
    squeeze=False,
    height_ratios=(1.5, 1),
    layout="constrained",
  )
  for column, (task, final) in enumerate(found.items()):
    draw_effects(axes[0, column], task, final, names=column == 0)
    draw_curves(axes[1, column], task, tuned)
  with_curves = [ax for ax in axes[1] if ax.lines]
  for ax in with_curves[:1]:
    ax.set_ylabel("validation score of the best, median")
    ax.legend(fontsize=7, frameon=False)
  for ax in axes.flat:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
  fig.savefig(path, dpi=pictures.PIXELS / fig.get_size_inches()[0])
  plt.close(fig)


def draw_effects(ax: plt.Axes, task: str, final: Scores, names: bool) -> None:
  """The effect of each method with its interval; filled if it has a verdict."""
  each = effects.effects(task, final)
  known = comparison.SUITE_OF[task].methods[task]
  shown = [n for n in reversed(known) if effects.baseline_of(task, n) != n]
  for y, name in enumerate(shown):
    if name not in each:
      continue
    e, _, verdict = each[name]
    color = "0.5" if known[name].placebo else "black"
    ax.plot([e.low, e.high], [y, y], color=color, lw=1.4)
    face = color if verdict.startswith(VERDICTS) else "white"
    ax.plot(e.mean, y, "o", color=color, mfc=face, ms=5)
  ax.axvline(0, **pictures.TARGET)
  ax.locator_params(axis="x", nbins=4)
  labels = [known[n].label.replace("`", "") for n in shown]
  ax.set_yticks(range(len(shown)), labels if names else [], fontsize=8)
  ax.set_title(task, fontsize=10)
  ax.set_xlabel(
    f"better by, {comparison.SCORES[tasks.TASKS[task].score]}", fontsize=9
  )


def draw_curves(
  ax: plt.Axes, task: str, tuned: dict[tuple[str, str], list[float]]
) -> None:
  """What a number of settings buys, with a band of confidence."""
  suite = comparison.SUITE_OF[task]
  drawn = [n for n in CURVES if len(tuned.get((task, n), [])) == suite.settings]
  if not drawn:
    ax.set_axis_off()
  n = np.arange(1, suite.settings + 1)
  minimize = not tasks.TASKS[task].higher_is_better
  for name, color in zip(drawn, plots.COLORS):
    ys = tuned[task, name]
    low, middle, high = (
      band.quantile_tuning_curve(n, minimize=minimize)
      for band in EmpiricalDistribution.confidence_bands(
        ys, confidence=CONFIDENCE
      )
    )
    span = np.nanmin(ys), np.nanmax(ys)
    ax.fill_between(
      n, np.clip(low, *span), np.clip(high, *span), color=color, alpha=0.1
    )
    label = method_of(task, name).label.replace("`", "")
    ax.plot(n, middle, color=color, label=label)
  ax.set_xlabel("settings tried", fontsize=9)


def draw_acted(
  found: dict[str, dict[str, list[store.Row]]], path: pathlib.Path
) -> None:
  """What HTGA read and did, beside the loss: the median seed, and the range."""
  rows = {
    "loss": "training loss",
    "reading/tail_index": "tail index",
    "reading/amplification": "factor of HTGA",
  }
  looks = {
    "sgd": pictures.LOOKS["SGD"],
    "sgd_normalised": pictures.LOOKS["SGD+clip"],
    "htga_formula": pictures.LOOKS["HTGA"],
  }
  axes = pictures.panels(3, len(found), 7.0, max(8, 2.7 * len(found)))
  for column, (task, final) in enumerate(found.items()):
    steps = comparison.SUITE_OF[task].sizes[task][1]
    t = (np.arange(comparison.PARTS) + 0.5) * steps / comparison.PARTS
    for ax, name in zip(axes[:, column], rows):
      for method, look in looks.items():
        arrays = [row.arrays for row in final.get(method, [])]
        if not arrays or name not in arrays[0]:
          continue
        values = np.array([a[name] for a in arrays])
        if name == "reading/tail_index":
          # 0 means "not known", also in a part of the first known one.
          known = np.all(values > 0, axis=0)
          values[:, ~known | ~np.roll(known, 1)] = np.nan
        low, middle, high = np.quantile(values, (0.0, 0.5, 1.0), axis=0)
        ax.fill_between(t, low, high, color=look.color, alpha=0.12, lw=0)
        ax.plot(t, middle, **look.line)
      if name == "reading/tail_index":
        ax.axhline(2, **pictures.TARGET)
        ax.set(yscale="log", xlim=axes[0, column].get_xlim())
        ax.yaxis.set_minor_formatter(NullFormatter())
      if name == "reading/amplification":
        ax.axhline(1, **pictures.TARGET)
    axes[-1, column].set_xlabel("step")
  for ax, label in zip(axes[:, 0], rows.values()):
    ax.set_ylabel(label)
  for ax, task in zip(axes[0], found):
    ax.set_title(task, fontsize="medium")
  labels = {
    method_of(next(iter(found)), method).label: look
    for method, look in looks.items()
  }
  figure = axes[0, 0].figure
  figure.legend(
    handles=pictures.lines(labels), loc="outside lower center", ncols=3
  )
  figure.savefig(path, dpi=pictures.PIXELS / figure.get_figwidth())
  plt.close(figure)
