"""Paired effects of the methods of a comparison, as PROTOCOL.md asks for.

They are computed from the scores of all runs, which are in PAGE.csv.
"""

import collections
from collections.abc import Iterable
import csv
import math
import pathlib
from typing import NamedTuple

import comparison
import methods
import numpy as np
from scipy import stats
import tasks

LEVEL = 0.05
VERDICTS = ("helps", "harms")
Scores = dict[str, np.ndarray]  # method -> the test scores of the final seeds


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


def method_of(task: str, name: str) -> methods.Method:
  """A method of a task, by its name."""
  return comparison.SUITE_OF[task].methods[task][name]


def baseline_of(task: str, name: str) -> str:
  """The first method of the family of a method."""
  known = comparison.SUITE_OF[task].methods[task]
  family = known[name].family
  return next(n for n, method in known.items() if method.family == family)


def effects(task: str, final: Scores) -> dict[str, tuple[Effect, float, str]]:
  """By method: the effect, Holm's p-value, and the verdict of the protocol."""
  found = {}
  for baseline in {baseline_of(task, name) for name in final} & set(final):
    base = final[baseline]
    each = {
      name: effect(sign_of(task) * (final[name] - base))
      for name in final
      if baseline_of(task, name) == baseline and name != baseline
    }
    placebos = {n for n in each if method_of(task, n).placebo}
    corrected = holm(
      {n: e.pvalue for n, e in each.items() if n not in placebos}
    )
    luck = max([abs(each[n].mean) for n in placebos] + [0])
    for name, e in each.items():
      p = corrected.get(name, e.pvalue)
      verdict = "cannot be told"
      if p < LEVEL and name in placebos:
        verdict = "differs by luck"
      elif p < LEVEL:
        verdict = "helps" if e.mean > 0 else "harms"
        verdict += ", by less than a placebo" * (abs(e.mean) < luck)
      found[name] = (e, p, verdict)
  return found


def complete(runs: list[comparison.Run]) -> dict[str, Scores]:
  """The final scores by task, of the methods whose seeds are all there."""
  chosen = comparison.best(runs)
  found: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
  for run in runs:
    wanted = chosen.get((run.task, run.method), run.setting)
    if run.seed in comparison.FINAL and run.setting == wanted:
      found[run.task][run.method][run.seed] = run.score
  return {
    task: {
      name: np.array([found[task][name][s] for s in comparison.FINAL])
      for name in suite.methods[task]
      if len(found[task][name]) == len(comparison.FINAL)
    }
    for task, suite in comparison.SUITE_OF.items()
    if task in found
  }


def spread(task: str, baseline: str, runs: list[comparison.Run]) -> float:
  """The median difference between the tuning seeds, at the chosen settings.

  It is nan if the scores of the tuning are not there.
  """
  tuned = comparison.tuned(runs)
  differences = [
    abs(np.subtract(*tuned[key][setting]))
    for key, setting in comparison.best(runs).items()
    if key[0] == task and baseline_of(*key) == baseline
  ]
  return float(np.median(differences)) if differences else math.nan


def merged(
  old: Iterable[comparison.Run], new: Iterable[comparison.Run]
) -> list[comparison.Run]:
  """All runs; the new score of a run that is in both.

  Final runs and sweeps of a setting that the tuning no longer chooses are left
  out.
  """
  found = {}
  for run in (*old, *new):
    found[run._replace(score=0.0)] = run
  chosen = comparison.best(found.values())

  def stays(run):
    wanted = chosen.get((run.task, run.method))
    if wanted is None or run.seed not in comparison.FINAL + comparison.SWEEP:
      return True
    same = dict(wanted)
    if run.seed in comparison.SWEEP:
      same["rate"] = dict(run.setting)["rate"]
    return dict(run.setting) == same

  return [run for run in found.values() if stays(run)]


def write(runs: Iterable[comparison.Run], path: pathlib.Path) -> None:
  """Writes the scores, one run a line."""
  with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(comparison.Run._fields)
    for run in sorted(runs):
      setting = " ".join(f"{key}={value:g}" for key, value in run.setting)
      writer.writerow([*run[:-2], f"{run.score:.6g}", setting])


def read_page(page: str) -> list[comparison.Run]:
  """Reads the scores of a page, which are part of the repository."""
  return read(pathlib.Path(__file__).with_name(f"{page}.csv"))


def read(path: pathlib.Path) -> list[comparison.Run]:
  """Reads the scores; none if there is no such file."""
  if not path.exists():
    return []
  with path.open(newline="") as file:
    return [
      comparison.Run(
        line["task"],
        line["method"],
        int(line["seed"]),
        line["part"],
        float(line["score"]),
        tuple(
          (key, float(value))
          for key, value in (x.split("=") for x in line["setting"].split())
        ),
      )
      for line in csv.DictReader(file)
    ]
