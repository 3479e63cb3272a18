"""The tables, the picture and the CSV of the comparison, for report.py.

The protocol, PROTOCOL.md, decides what is computed here.
"""

import collections
import csv
import importlib.util
import math
import pathlib
from typing import NamedTuple

import comparison
import matplotlib.pyplot as plt
import methods
import numpy as np
import pictures
from scipy import stats
import store
import tables
import tasks

from htga_optax.diagnostics import plots

HERE = pathlib.Path(__file__).parent
LEVEL = 0.05
BASELINES = {methods.SGD: "sgd", methods.ADAM: "adamw"}
VERDICTS = ("helps", "harms")
PLACEBOS = ("htga_gamma_1", "adamw_again")
CONFIDENCE = 0.8  # of the bands of the tuning curves
UNITS = {"accuracy": "test accuracy", "loss": "test loss", "return": "return"}
NAMES = {
  "sgd": "SGD with momentum",
  "sgd_clip": "the same, `clip_by_global_norm`",
  "sgd_normalised": "normalised momentum",
  "sgd_tail_clip": "SGD, `clip_by_tail_quantile`",
  "htga_formula": "HTGA, formula",
  "htga_ratio": "HTGA, ratio",
  "htga_gamma_1": "placebo: HTGA, exponent 1",
  "power_half": "HTGA, constant exponent 0.5",
  "power_zero": "HTGA, constant exponent 0",
  "ahtsgd_rising": "AHTSGD, rising",
  "truncated_1": "truncated heavy-tailed SGD 1",
  "adamw": "AdamW",
  "adamw_again": "placebo: AdamW, other tuning seeds",
  "adamw_clip": "AdamW, `clip_by_global_norm`",
  "adamw_tail_clip": "AdamW, `clip_by_tail_quantile`",
  "adamw_htga_formula": "AdamW, HTGA, formula",
  "adamw_htga_ratio": "AdamW, HTGA, ratio",
  "lion": "Lion",
}
Runs = dict[str, dict[int, store.Row]]  # method -> seed -> final run


class Effect(NamedTuple):
  """The paired difference of a method from its baseline; positive is better.

  Attributes:
    mean: the mean difference.
    low, high: its 95 percent bootstrap interval (BCa).
    pvalue: of a paired t test.
    smallest: the difference that these seeds see with a power of 80 percent.
  """

  mean: float
  low: float
  high: float
  pvalue: float
  smallest: float


def sign_of(task: str) -> int:
  """1 if a larger score is better, else -1."""
  return 1 if tasks.TASKS[task].higher_is_better else -1


def scores(runs: dict[int, store.Row]) -> np.ndarray:
  """The test scores of the final seeds."""
  return np.array(
    [comparison.score_of(runs[s], tasks.TEST) for s in comparison.FINAL]
  )


def effect(difference: np.ndarray) -> Effect:
  """Summarises paired differences, positive for the better."""
  n = difference.size
  mean, sd = float(np.mean(difference)), float(np.std(difference, ddof=1))
  if sd == 0:
    return Effect(mean, mean, mean, 1.0 if mean == 0 else 0.0, 0.0)
  found = stats.bootstrap(
    (difference,), np.mean, method="BCa", rng=np.random.default_rng(0)
  ).confidence_interval
  quantiles = stats.t.ppf([1 - LEVEL / 2, 0.8], n - 1)
  return Effect(
    mean,
    float(found.low),
    float(found.high),
    float(stats.ttest_1samp(difference, 0.0).pvalue),
    float(np.sum(quantiles) * sd / math.sqrt(n)),
  )


def holm(pvalues: dict[str, float]) -> dict[str, float]:
  """Holm's corrected p-values."""
  names = sorted(pvalues, key=pvalues.get)
  corrected, largest = {}, 0.0
  for i, name in enumerate(names):
    largest = max(largest, min(1.0, (len(names) - i) * pvalues[name]))
    corrected[name] = largest
  return corrected


def effects(task: str, final: Runs) -> dict[str, tuple[Effect, float, str]]:
  """By method: the effect, Holm's p-value, and the verdict of the protocol."""
  found = {}
  for family, baseline in BASELINES.items():
    if baseline not in final:
      continue
    base = scores(final[baseline])
    each = {
      name: effect(sign_of(task) * (scores(final[name]) - base))
      for name in final
      if methods.METHODS[name].family == family and name != baseline
    }
    tested = {n: e.pvalue for n, e in each.items() if n not in PLACEBOS}
    corrected = holm(tested)
    luck = max([abs(e.mean) for n, e in each.items() if n in PLACEBOS] + [0])
    for name, e in each.items():
      p = corrected.get(name, e.pvalue)
      verdict = "cannot be told"
      if p < LEVEL and name in PLACEBOS:
        verdict = "differs by luck"
      elif p < LEVEL:
        verdict = "helps" if e.mean > 0 else "harms"
        verdict += ", by less than a placebo" * (abs(e.mean) < luck)
      found[name] = (e, p, verdict)
  return found


def complete(rows: list[store.Row]) -> dict[str, Runs]:
  """The final runs of each task; methods whose seeds are all there."""
  chosen = comparison.best(rows)
  found: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
  for row in rows:
    unit = row.unit
    if unit.seed in comparison.FINAL and unit.setting == chosen.get(
      (unit.task, unit.method)
    ):
      found[unit.task][unit.method][unit.seed] = row
  return {
    task: {
      name: found[task][name]
      for name in methods.METHODS
      if len(found[task][name]) == len(comparison.FINAL)
    }
    for task in comparison.SIZES
    if task in found
  }


def primary(task: str, final: Runs) -> list[str]:
  """The table of the primary score."""
  each = effects(task, final)
  rows = []
  for name, runs in final.items():
    x = scores(runs)
    error = np.std(x, ddof=1) / math.sqrt(x.size)
    cells = [NAMES[name], f"{np.mean(x):.4g} ± {error:.2g}"]
    if name in each:
      e, p, verdict = each[name]
      strong = verdict.startswith(VERDICTS)
      cells += [
        f"{e.mean:+.3g} ({e.low:+.3g} to {e.high:+.3g})",
        f"{p:.3f}",
        f"{e.smallest:.2g}",
        f"**{verdict}**" if strong else verdict,
      ]
    else:
      cells += ["", "", "", "baseline"]
    rows.append(cells)
  head = [
    f"{task}: {UNITS[tasks.TASKS[task].score]}",
    "mean ± standard error",
    "better by (95 % interval)",
    "p (Holm)",
    "smallest visible",
    "verdict",
  ]
  return tables.table(head, rows)


def early_score(row: store.Row, share: float) -> float:
  """The score after a share of the steps, of what is held out."""
  task = tasks.TASKS[row.unit.task]
  at = round(share * comparison.BLOCKS) - 1
  if task.score == "return":
    before = max(at - 2, 0)
    returns, episodes = (
      row.arrays[name][at] - row.arrays[name][before] * (at > 0)
      for name in ("returns", "episodes")
    )
    value = returns / max(episodes, 1)
  else:
    value = row.arrays[f"{tasks.TEST}_{task.score}"][at]
  return float(value) if np.isfinite(value) else task.guess


def ratio(
  name: str, found: list[store.Row], base: dict | None, runs: dict
) -> str:
  """The median of a positive number, and its paired ratio to the baseline."""
  own = np.array([row.arrays[name] for row in found], float)
  text = f"{np.median(own):.3g}"
  if base is None or base is runs:
    return text
  other = np.array(
    [base[seed].arrays[name] for seed in comparison.FINAL], float
  )
  if np.min(own) <= 0 or np.min(other) <= 0:
    return text
  e = effect(np.log(own) - np.log(other))
  mean, low, high = np.exp(e[:3])
  return f"{text} ({mean:.2f}, {low:.2f} to {high:.2f})"


def secondary(task: str, final: Runs, tuned: dict[str, list]) -> list[str]:
  """The table of everything else."""
  rows = []
  for name, runs in final.items():
    found = [runs[seed] for seed in comparison.FINAL]
    mean = lambda values: float(np.nanmean(np.asarray(list(values), float)))
    base = final.get(BASELINES[methods.METHODS[name].family])
    cells = [NAMES[name]]
    for share in (0.1, 0.25, 0.5):
      own = np.array([early_score(row, share) for row in found])
      text = f"{np.mean(own):.3g}"
      if base is not None and base is not runs:
        other = np.array(
          [early_score(base[seed], share) for seed in comparison.FINAL]
        )
        e = effect(sign_of(task) * (own - other))
        text += f" ({e.mean:+.2g}{'*' if e.pvalue < LEVEL else ''})"
      cells.append(text)
    if tasks.TASKS[task].score == "return":
      gap = ""
    else:
      gap = f"""{
        mean(
          r.arrays["test_loss"][-1] - r.arrays["loss"][-1] for r in found
        ):.3g}"""
    best = max(sign_of(task) * score for score in tuned[name])
    near = np.mean(
      [best - sign_of(task) * s <= 0.01 * abs(best) for s in tuned[name]]
    )
    steps = found[0].unit.steps
    cells += [
      gap,
      *(
        ratio(name, found, base, runs)
        for name in ("top_eigenvalue", "sharpness")
      ),
      f"{100 * near:.0f} %",
      str(sum(not np.all(np.isfinite(r.arrays["loss"])) for r in found)),
      f"{1e3 * mean(r.arrays['seconds'] for r in found) / steps:.2f}",
    ]
    rows.append(cells)
  head = [
    task,
    "score at 10 %",
    "at 25 %",
    "at 50 %",
    "gap of the losses",
    "top eigenvalue",
    "expected sharpness",
    "settings within 1 % of the best",
    "runs not finite",
    "ms a step",
  ]
  return tables.table(head, rows)


def acted(task: str, final: Runs) -> list[str]:
  """What the trackers read in the final runs, and what the methods did."""
  rows = []
  for name, runs in final.items():
    found = [runs[seed].arrays for seed in comparison.FINAL]
    if "reading/tail_index" in found[0]:
      index = np.stack([a["reading/tail_index"] for a in found])
      known = index[index > 0]
      factor = np.stack([a["reading/amplification"] for a in found])
      rejected = np.stack([a["reading/tail_model_rejected"] for a in found])
      quantiles = lambda x: (
        " to ".join(f"{v:.2g}" for v in np.quantile(x, [0.1, 0.9]))
        if x.size
        else "none"
      )
      rows.append(
        [
          NAMES[name],
          quantiles(known),
          f"{100 * np.mean(known < 2):.0f} %" if known.size else "",
          f"{100 * np.mean(rejected[index > 0]):.0f} %" if known.size else "",
          f"{100 * np.mean([a['acting'] for a in found]):.0f} %",
          quantiles(factor),
          "",
        ]
      )
    elif "reading/exceedance_count" in found[0]:
      steps = runs[comparison.FINAL[0]].unit.steps
      share = np.mean([a["reading/exceedance_count"][-1] for a in found])
      rows.append(
        [
          NAMES[name],
          "",
          "",
          "",
          "",
          "",
          f"{1000 * share / steps:.0f} in 1,000",
        ]
      )
  if not rows:
    return []
  head = [
    task,
    "tail index, middle 80 %",
    "below 2",
    "rejected",
    "steps with a factor other than 1",
    "factor, middle 80 %",
    "clipped",
  ]
  return tables.table(head, rows)


def chosen_settings(task: str, final: Runs) -> list[str]:
  """The settings that tuning chose."""
  rows = []
  for name, runs in final.items():
    setting = dict(runs[comparison.FINAL[0]].unit.setting)
    text = ", ".join(f"{key} {value:.3g}" for key, value in setting.items())
    rows.append([NAMES[name], text])
  return tables.table([task, "setting"], rows)


def profile(found: dict[str, Runs]) -> list[str]:
  """How many tasks a method solves within 1, 5 and 20 percent of the best."""
  near = (0.01, 0.05, 0.2)
  counts = collections.defaultdict(lambda: np.zeros(len(near), int))
  for task, final in found.items():
    means = {n: sign_of(task) * np.mean(scores(r)) for n, r in final.items()}
    best = max(means.values())
    for name, mean in means.items():
      counts[name] += [best - mean <= share * abs(best) for share in near]
  rows = [
    [NAMES[name], *(f"{c} of {len(found)}" for c in counts[name])]
    for name in methods.METHODS
    if name in counts
  ]
  head = ["tasks within ... of the best mean", *(f"{s:.0%}" for s in near)]
  return tables.table(head, rows)


def spread(family: str, rows: list[store.Row], task: str) -> float:
  """The median difference between the tuning seeds, at the chosen settings."""
  tuned, chosen = comparison.tuned(rows), comparison.best(rows)
  return float(
    np.median(
      [
        abs(np.subtract(*tuned[key][setting]))
        for key, setting in chosen.items()
        if key[0] == task and methods.METHODS[key[1]].family == family
      ]
    )
  )


def claims(found: dict[str, Runs], rows: list[store.Row]) -> list[str]:
  """Rule 4 of the protocol: what holds over all tasks."""
  each = {task: effects(task, final) for task, final in found.items()}
  spreads = {
    (task, family): spread(family, rows, task)
    for task in found
    for family in BASELINES
  }
  lines = []
  for name in methods.METHODS:
    if name in PLACEBOS or not all(name in e for e in each.values()):
      continue
    family = methods.METHODS[name].family
    verdicts = [e[name][2] for e in each.values()]
    helps, harms = (sum(v == word for v in verdicts) for word in VERDICTS)
    ends = [
      (e[name][0].high, spreads[task, family]) for task, e in each.items()
    ]
    if helps >= 2 and not harms:
      verdict = "**holds**"
    elif not helps and all(high <= width for high, width in ends):
      verdict = "**does not hold here**"
    else:
      verdict = "cannot be told"
    texts = [f"{high:.2g} of {width:.2g}" for high, width in ends]
    lines.append([NAMES[name], str(helps), str(harms), *texts, verdict])
  head = ["is better than its baseline", "helps", "harms", *found, "rule 4"]
  return tables.table(head, lines)


def swept(task: str, rows: list[store.Row]) -> list[list[str]]:
  """Lines: how many learning rates are about as good as the best."""
  scores: dict = collections.defaultdict(lambda: collections.defaultdict(list))
  for row in rows:
    unit = row.unit
    if unit.seed in comparison.SWEEP and unit.task == task:
      rate = dict(unit.setting)["rate"]
      scores[unit.method][rate].append(comparison.score_of(row))
  lines = []
  for name in comparison.SWEPT:
    if sum(map(len, scores[name].values())) < len(comparison.RATES) * len(
      comparison.SWEEP
    ):
      continue
    rates = sorted(scores[name])
    means = np.array([sign_of(task) * np.mean(scores[name][r]) for r in rates])
    worse = np.max(means) - means
    shares = [
      f"{np.sum(worse <= share * abs(np.max(means)))} of {len(rates)}"
      for share in (0.01, 0.05)
    ]
    best = f"{rates[int(np.argmax(means))]:.2g}"
    values = ", ".join(f"{sign_of(task) * mean:.3g}" for mean in means)
    lines.append([task, NAMES[name], *shares, best, values])
  return lines


def draw(
  found: dict[str, Runs],
  tuned: dict[tuple[str, str], list[float]],
  path: pathlib.Path,
) -> None:
  """The effects of all methods, and tuning curves of the two families."""
  has_bands = importlib.util.find_spec("opda") is not None
  names = [n for n in methods.METHODS if n not in BASELINES.values()]
  fig, axes = plt.subplots(
    2,
    len(found),
    figsize=(3.4 * len(found), 8),
    squeeze=False,
    height_ratios=(1.5, 1),
    layout="constrained",
  )
  for column, (task, final) in enumerate(found.items()):
    ax, each = axes[0, column], effects(task, final)
    for y, name in enumerate(reversed(names)):
      if name not in each:
        continue
      e, _, verdict = each[name]
      strong = verdict.startswith(VERDICTS)
      color = "0.5" if name in PLACEBOS else "black"
      ax.plot([e.low, e.high], [y, y], color=color, lw=1.4)
      face = color if strong else "white"
      ax.plot(e.mean, y, "o", color=color, mfc=face, ms=5)
    ax.axvline(0, **pictures.TARGET)
    labels = [NAMES[n].replace("`", "") for n in reversed(names)]
    ax.set_yticks(range(len(names)), labels if column == 0 else [], fontsize=8)
    ax.set_title(task, fontsize=10)
    ax.set_xlabel(f"better by, {UNITS[tasks.TASKS[task].score]}", fontsize=9)
    ax = axes[1, column]
    for name, color in zip(
      ("sgd", "htga_formula", "sgd_tail_clip", "adamw", "adamw_htga_formula"),
      plots.COLORS,
    ):
      ys = tuned.get((task, name))
      if ys is None or len(ys) < comparison.SETTINGS:
        continue
      n = np.arange(1, comparison.SETTINGS + 1)
      if has_bands:
        from opda.nonparametric import EmpiricalDistribution as Empirical

        low, middle, high = (
          d.quantile_tuning_curve(
            n, minimize=not tasks.TASKS[task].higher_is_better
          )
          for d in Empirical.confidence_bands(ys, confidence=CONFIDENCE)
        )
        span = np.nanmin(ys), np.nanmax(ys)
        ax.fill_between(
          n, np.clip(low, *span), np.clip(high, *span), color=color, alpha=0.1
        )
        ax.plot(n, middle, color=color, label=NAMES[name].replace("`", ""))
    ax.set_xlabel("settings tried", fontsize=9)
    if column == 0:
      ax.set_ylabel("validation score of the best, median")
  axes[1, 0].legend(fontsize=7, frameon=False)
  for ax in axes.flat:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
  fig.savefig(path, dpi=pictures.PIXELS / fig.get_size_inches()[0])
  plt.close(fig)


def write_csv(rows: list[store.Row], path: pathlib.Path) -> None:
  """All scores, one run a line: of the test data only if the run is final."""
  with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "method", "seed", "part", "score", "setting"])
    for row in sorted(rows, key=lambda row: row.unit):
      unit = row.unit
      part = tasks.TEST if unit.seed in comparison.FINAL else tasks.VALID
      score = comparison.score_of(row, part)
      text = " ".join(f"{key}={value:g}" for key, value in unit.setting)
      line = [unit.task, unit.method, unit.seed, part, f"{score:.6g}", text]
      writer.writerow(line)


def report(rows: list[store.Row], troubles: int) -> None:
  """Writes comparison.md, comparison.png and comparison.csv."""
  found = {task: final for task, final in complete(rows).items() if final}
  if not found:
    return
  tuned = {
    key: [float(np.mean(scores)) for scores in each.values()]
    for key, each in comparison.tuned(rows).items()
  }
  count = sum(map(len, found.values()))
  hours = sum(row.arrays["seconds"] for row in rows) / 3600
  about = (
    f"{count} of {len(comparison.SIZES) * len(methods.METHODS)} pairs of a task"
    f" and a method, {len(rows)} runs, {hours:.1f} hours of one core;"
    f" {troubles} attempts without a result."
    f" {tables.machine('python benchmarks/study/report.py')}."
  )
  first, second, third, fourth = [about, ""], [], [], []
  for task, final in found.items():
    first += [*primary(task, final), ""]
    own = {name: tuned[task, name] for name in final}
    second += [*secondary(task, final, own), ""]
    third += [*acted(task, final), ""]
    fourth += [*chosen_settings(task, final), ""]
  head = ["task", "method", "within 1 %", "within 5 %", "best rate", "scores"]
  lines = [line for task in found for line in swept(task, rows)]
  sections = {
    "primary": first,
    "claims": claims(found, rows),
    "sweep": tables.table(head, lines),
    "secondary": second,
    "acted": third,
    "profile": profile(found),
    "settings": fourth,
  }
  for name, lines in sections.items():
    tables.write(name, lines, HERE / "comparison.md")
  draw(found, tuned, HERE / "comparison.png")
  write_csv(rows, HERE / "comparison.csv")
