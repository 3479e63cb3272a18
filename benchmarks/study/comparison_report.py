"""The pages of the comparison: tables and CSV, for report.py.

The protocol, PROTOCOL.md, decides what is computed here. The scores of all runs
are in PAGE.csv. Those that the store does not have stay there, and so do the
tables of other numbers of a task without final runs in the store.
"""

import collections
import math
import pathlib

import comparison
import comparison_pictures
import effects
from effects import LEVEL, VERDICTS, Scores, method_of, sign_of
import numpy as np
import store
import tables
import tasks

HERE = pathlib.Path(__file__).parent
Rows = dict[str, list[store.Row]]  # method -> the final runs, by seed
# The shares of the steps at which a score is printed, by the number of scores.
SHARES = {20: (0.1, 0.25, 0.5), 4: (0.25, 0.5)}


def primary(task: str, final: Scores) -> list[str]:
  """The table of the primary score."""
  each = effects.effects(task, final)
  rows = []
  for name, x in final.items():
    error = np.std(x, ddof=1) / math.sqrt(x.size)
    cells = [method_of(task, name).label, f"{np.mean(x):.4g} ± {error:.2g}"]
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
    f"{task}: {comparison.SCORES[tasks.TASKS[task].score]}",
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
  at = round(share * comparison.SUITE_OF[row.unit.task].blocks) - 1
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


def ratio(name: str, found: list[store.Row], base: list[store.Row]) -> str:
  """The median of a positive number, and its paired ratio to the baseline."""
  own, other = (
    np.array([row.arrays[name] for row in rows], float)
    for rows in (found, base)
  )
  text = f"{np.median(own):.3g}"
  if base is found or np.min(own) <= 0 or np.min(other) <= 0:
    return text
  e = effects.effect(np.log(own) - np.log(other))
  mean, low, high = np.exp(e[:3])
  return f"{text} ({mean:.2f}, {low:.2f} to {high:.2f})"


def secondary(task: str, final: Rows, tuned: dict[str, list]) -> list[str]:
  """The table of everything else."""
  suite = comparison.SUITE_OF[task]
  shares, (_, steps) = SHARES[suite.blocks], suite.sizes[task]
  rows = []
  for name, found in final.items():
    mean = lambda values: float(np.nanmean(np.asarray(list(values), float)))
    base = final.get(effects.baseline_of(task, name), found)
    cells = [method_of(task, name).label]
    for share in shares:
      own, other = (
        np.array([early_score(row, share) for row in one])
        for one in (found, base)
      )
      text = f"{np.mean(own):.3g}"
      if base is not found:
        e = effects.effect(sign_of(task) * (own - other))
        text += f" ({e.mean:+.2g}{'*' if e.pvalue < LEVEL else ''})"
      cells.append(text)
    gap = ""
    if tasks.TASKS[task].score != "return":
      losses = [(r.arrays["test_loss"], r.arrays["loss"]) for r in found]
      gap = f"{mean(test[-1] - train[-1] for test, train in losses):.3g}"
    cells.append(gap)
    if suite.minimum:
      for number in ("top_eigenvalue", "sharpness"):
        cells.append(ratio(number, found, base))
    best = max(sign_of(task) * score for score in tuned[name])
    near = np.mean(
      [best - sign_of(task) * s <= 0.01 * abs(best) for s in tuned[name]]
    )
    cells += [
      f"{100 * near:.0f} %",
      str(sum(not np.all(np.isfinite(r.arrays["loss"])) for r in found)),
      f"{1e3 * mean(r.arrays['seconds'] for r in found) / steps:.2f}",
    ]
    rows.append(cells)
  head = [
    task,
    *(f"score at {share:.0%}".replace("%", " %") for share in shares),
    "gap of the losses",
    *(["top eigenvalue", "expected sharpness"] if suite.minimum else []),
    "settings within 1 % of the best",
    "runs not finite",
    "ms a step",
  ]
  return tables.table(head, rows)


def acted(task: str, final: Rows) -> list[str]:
  """What the trackers read in the final runs, and what the methods did."""
  rows = []
  for name, runs in final.items():
    found = [run.arrays for run in runs]
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
          method_of(task, name).label,
          quantiles(known),
          f"{100 * np.mean(known < 2):.0f} %" if known.size else "",
          f"{100 * np.mean(rejected[index > 0]):.0f} %" if known.size else "",
          f"{100 * np.mean([a['acting'] for a in found]):.0f} %",
          quantiles(factor),
          "",
        ]
      )
    elif "reading/exceedance_count" in found[0]:
      steps = runs[0].unit.steps
      share = np.mean([a["reading/exceedance_count"][-1] for a in found])
      rows.append(
        [
          method_of(task, name).label,
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


def chosen_settings(task: str, runs: list[comparison.Run]) -> list[str]:
  """The settings of the final runs, which tuning chose."""
  found = {
    run.method: run.setting
    for run in runs
    if run.task == task and run.seed in comparison.FINAL
  }
  rows = []
  for name, method in comparison.SUITE_OF[task].methods[task].items():
    if name in found:
      text = ", ".join(f"{key} {value:.3g}" for key, value in found[name])
      rows.append([method.label, text])
  return tables.table([task, "setting"], rows)


def against_placebos(task: str, final: Scores) -> list[str]:
  """The rules by layer, against the same factors on the wrong layers."""
  lines = []
  for name in final:
    placebo = f"{name}_shuffled"
    if placebo in final:
      e = effects.effect(sign_of(task) * (final[name] - final[placebo]))
      text = f"{e.mean:+.3g} ({e.low:+.3g} to {e.high:+.3g})"
      label = method_of(task, name).label
      lines.append([label, text, f"{e.pvalue:.3f}", f"{e.smallest:.2g}"])
  head = [task, "better than shuffled by", "p", "smallest visible"]
  return tables.table(head, lines)


def layer_readings(task: str, final: Rows) -> list[str]:
  """The mean first and last readings of each matrix."""
  found = [row.arrays for row in final["tempbalance"]]
  index, ratio = (
    np.mean([a[f"reading/weight_tail_{name}"] for a in found], axis=0)
    for name in ("index", "ratio")
  )
  lines = [
    [name, *(f"{x[at, i]:.2f}" for x in (index, ratio) for at in (0, -1))]
    for i, name in enumerate(found[0]["layer_names"])
    if index[-1, i] > 0
  ]
  head = [task, "index, first", "last", "ratio, first", "last"]
  return tables.table(head, lines)


def profile(found: dict[str, Scores]) -> list[str]:
  """How many tasks a method solves within 1, 5 and 20 percent of the best."""
  near = (0.01, 0.05, 0.2)
  counts = collections.defaultdict(lambda: np.zeros(len(near), int))
  for task, final in found.items():
    means = {name: sign_of(task) * np.mean(x) for name, x in final.items()}
    best = max(means.values())
    for name, mean in means.items():
      label = method_of(task, name).label
      counts[label] += [best - mean <= share * abs(best) for share in near]
  rows = [
    [label, *(f"{c} of {len(found)}" for c in each)]
    for label, each in counts.items()
  ]
  head = ["tasks within ... of the best mean", *(f"{s:.0%}" for s in near)]
  return tables.table(head, rows)


def claims(found: dict[str, Scores], runs: list[comparison.Run]) -> list[str]:
  """Rule 4 of the protocol: what holds over all tasks."""
  each = {task: effects.effects(task, final) for task, final in found.items()}
  first = next(iter(found))
  lines = []
  for name, method in comparison.SUITE_OF[first].methods[first].items():
    if method.placebo or not all(name in e for e in each.values()):
      continue
    verdicts = [e[name][2] for e in each.values()]
    helps, harms = (sum(v == word for v in verdicts) for word in VERDICTS)
    ends = [
      (
        e[name][0].high,
        effects.spread(task, effects.baseline_of(task, name), runs),
      )
      for task, e in each.items()
    ]
    if helps >= 2 and not harms:
      verdict = "**holds**"
    elif not helps and all(high <= width for high, width in ends):
      verdict = "**does not hold here**"
    else:
      verdict = "cannot be told"
    texts = [f"{high:.2g} of {width:.2g}" for high, width in ends]
    texts = [text.replace("nan", "?") for text in texts]
    lines.append([method.label, str(helps), str(harms), *texts, verdict])
  head = ["is better than its baseline", "helps", "harms", *found, "rule 4"]
  return tables.table(head, lines)


def swept(task: str, runs: list[comparison.Run]) -> list[list[str]]:
  """Lines: how many learning rates are about as good as the best."""
  scores: dict = collections.defaultdict(lambda: collections.defaultdict(list))
  for run in runs:
    if run.seed in comparison.SWEEP and run.task == task:
      scores[run.method][dict(run.setting)["rate"]].append(run.score)
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
    lines.append([task, method_of(task, name).label, *shares, best, values])
  return lines


def final_rows(rows: list[store.Row]) -> dict[str, Rows]:
  """The final runs by task and method, of the methods that are complete."""
  chosen = comparison.best(map(comparison.run_of, rows))
  found: dict = collections.defaultdict(lambda: collections.defaultdict(list))
  for row in sorted(rows, key=lambda row: row.unit.seed):
    key = row.unit.task, row.unit.method
    if row.unit.seed in comparison.FINAL and row.unit.setting == chosen.get(
      key
    ):
      found[row.unit.task][row.unit.method].append(row)
  return {
    task: {
      name: found[task][name]
      for name in suite.methods[task]
      if len(found[task][name]) == len(comparison.FINAL)
    }
    for task, suite in comparison.SUITE_OF.items()
    if task in found
  }


def report(rows: list[store.Row], troubles: int) -> None:
  """Writes PAGE.md, PAGE.png and PAGE.csv of each suite that has results."""
  for page, suite in comparison.SUITES.items():
    own = [row for row in rows if row.unit.task in suite.sizes]
    if own:
      write_page(page, suite, own, troubles)


def write_page(
  page: str, suite: comparison.Suite, rows: list[store.Row], troubles: int
) -> None:
  """Writes the page of a suite."""
  finals, path = final_rows(rows), HERE / f"{page}.csv"
  runs = effects.merged(effects.read_page(page), map(comparison.run_of, rows))
  effects.write(runs, path)
  found = effects.complete(runs)
  tuned = {
    key: [float(np.mean(scores)) for scores in each.values()]
    for key, each in comparison.tuned(runs).items()
  }
  count = sum(map(len, found.values()))
  hours = sum(row.arrays["seconds"] for row in rows) / 3600
  about = (
    f"{count} of {sum(map(len, suite.methods.values()))} pairs of a task and a"
    f" method, {len(runs)} runs, of which the store has {len(rows)}, from"
    f" {hours:.1f} hours of one core; {troubles} attempts without a result."
    f" {tables.machine('python benchmarks/study/report.py')}."
  )
  sections: dict[str, list[str]] = {
    "primary": [about, ""],
    "settings": [],
    "profile": profile(found),
  }
  for task, scores in found.items():
    sections["primary"] += [*primary(task, scores), ""]
    sections["settings"] += [*chosen_settings(task, runs), ""]
  for task, final in finals.items():
    own = {name: tuned[task, name] for name in final}
    sections[f"secondary {task}"] = secondary(task, final, own)
  if page == "comparison":
    head = ["task", "method", "within 1 %", "within 5 %", "best rate", "scores"]
    lines = [line for task in found for line in swept(task, runs)]
    sections["sweep"] = tables.table(head, lines)
    sections["claims"] = claims(found, runs)
    for task, final in finals.items():
      sections[f"acted {task}"] = acted(task, final)
    if finals:
      comparison_pictures.draw_acted(finals, HERE / "acted.png")
  else:
    sections["placebos"] = []
    for task, scores in found.items():
      sections["placebos"] += [*against_placebos(task, scores), ""]
    for task, final in finals.items():
      sections[f"readings {task}"] = layer_readings(task, final)
  for name, lines in sections.items():
    tables.write(name, lines, HERE / f"{page}.md")
  comparison_pictures.draw(found, tuned, HERE / f"{page}.png")
