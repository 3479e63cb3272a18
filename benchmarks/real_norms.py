"""Applies the rules against spikes to the norms of real runs.

This command writes its tables into benchmarks/README.md:

    python benchmarks/real_norms.py PATH [PATH ...]

A PATH is a folder that contains one or more of these files:

    **/measurements.csv         runs of AlgoPerf, as in a clone of
                                github.com/mlcommons/submissions_algorithms
    algoperf_grad_norms.npz     the same runs in one file: `norms` joined end
                                to end; `lengths`, `paths` and `stride` of the
                                runs
    llmc_gpt2_124m.csv          a run with a norm in every step

The column `grad_norm` has the norms before any clipping. Every rule is applied
to the norms as they were logged. Therefore its clips do not change later norms.
"""

import argparse
import collections
import csv
import itertools
import pathlib
from typing import NamedTuple

import numpy as np
from scipy import ndimage
import tables

from htga_optax import clip_by_tail_quantile
from htga_optax.diagnostics import spike_rules

FEWEST = 50  # runs with fewer norms are left out
# A norm above SPIKE times the median of the ROWS rows around it is a spike.
SPIKE, ROWS = 8.0, 51
EARLY = 256  # how many rows are the beginning of a run
WORKLOADS = (
  "criteo1tb",
  "fastmri",
  "imagenet_resnet",
  "imagenet_vit",
  "librispeech_conformer",
  "librispeech_deepspeech",
  "ogbg",
  "wmt",
)
ALGOPERF, LANGUAGE_MODEL = "all of AlgoPerf", "GPT-2 124M"


def ours(*args, **kwargs):
  return lambda: spike_rules.law_of(clip_by_tail_quantile(*args, **kwargs))


# Each rule is a row of the tables.
RULES = {
  "`clip_by_tail_quantile(1e-3)`": ours(1e-3),
  "the same, `level_decay=None`": ours(1e-3, level_decay=None),
  "`clip_by_tail_quantile(1e-2, 256, 32)`": ours(1e-2, 256, 32),
  "mean + 6 sd of 128 (OLMo-core, Levanter, MaxText)": (
    spike_rules.mean_and_deviations
  ),
  "mean + 3 sd of 128 (Levanter, of updates)": (
    spike_rules.RULES["mean + 3 sd of 128"]
  ),
  "ZClip": spike_rules.zclip,
  "ZClip, and its default `max_grad_norm=1`": (
    lambda: spike_rules.zclip(max_norm=1.0)
  ),
  "AdaGC, on the global norm": spike_rules.adagc,
  "AutoClip, 10th percentile": spike_rules.autoclip,
  "20 times the mean (axlearn)": spike_rules.moving_mean,
}


class Run(NamedTuple):
  """A run; `stride` is the number of steps from one norm to the next."""

  workload: str
  norms: np.ndarray
  path: str
  stride: int


def workload_of(path):
  """The workload in a path; "imagenet_vit_glu_jax" is "imagenet_vit"."""
  found = [w for w in WORKLOADS if f"/{w}_" in f"/{path}"]
  return found[0] if found else "other"


def read(path, workload, name):
  """The run in a CSV file; rows without a norm are skipped."""
  with open(path, encoding="utf-8", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row.get("grad_norm")]
  steps = [row.get("global_step") or row.get("step") for row in rows]
  stride = 1
  if len(rows) > 1 and all(steps):
    stride = max(int(np.median(np.diff(np.array(steps, float)))), 1)
  norms = np.array([float(row["grad_norm"]) for row in rows])
  return Run(workload, norms, name, stride)


def runs_in(folder):
  """Yields all runs in a folder."""
  packed = folder / "algoperf_grad_norms.npz"
  if packed.exists():
    with np.load(packed) as file:
      paths = [str(path) for path in file["paths"]]
      ends = np.cumsum(file["lengths"])[:-1]
      parts = np.split(file["norms"].astype(float), ends)
      strides = file["stride"].tolist()
      yield from map(Run, map(workload_of, paths), parts, paths, strides)
  for path in sorted(folder.rglob("measurements.csv")):
    name = path.relative_to(folder).as_posix()
    yield read(path, workload_of(path.as_posix()), name)
  log = folder / "llmc_gpt2_124m.csv"
  if log.exists():
    yield read(log, LANGUAGE_MODEL, log.name)


def spikes_of(norms):
  """Which norms are more than 8 times the median around them."""
  median = ndimage.median_filter(norms, ROWS, mode="nearest")
  return (norms > SPIKE * median) & (median > 0)


class Count:
  """Counts over the runs of a workload; counts of rules are vectors [rules]."""

  def __init__(self):
    self.runs = self.failed = self.rows = self.calm_rows = 0
    self.spikes = self.early_spikes = 0
    self.clipped, self.calm_clipped, self.caught, self.early_caught = np.zeros(
      (4, len(RULES)), int
    )

  def add(self, fires, spikes):
    """Adds a run, given which rows each rule clipped and which are spikes."""
    early = spikes & (np.arange(spikes.size) < EARLY)
    self.rows += spikes.size
    self.spikes += np.sum(spikes)
    self.early_spikes += np.sum(early)
    self.clipped += np.sum(fires, axis=1)
    self.caught += np.sum(fires & spikes, axis=1)
    self.early_caught += np.sum(fires & early, axis=1)
    if not np.any(spikes):
      self.calm_rows += spikes.size
      self.calm_clipped += np.sum(fires, axis=1)


def count(folders):
  """The counts of each workload, and of all of AlgoPerf."""
  counts = collections.defaultdict(Count)
  for run in itertools.chain.from_iterable(map(runs_in, folders)):
    if run.norms.size < FEWEST:
      continue
    ends = [run.workload] + [ALGOPERF] * (run.workload != LANGUAGE_MODEL)
    finite = np.all(np.isfinite(run.norms))
    if finite:
      after = spike_rules.apply(run.norms, RULES).values()
      fires = np.stack([x < run.norms for x in after])
      spikes = spikes_of(run.norms)
    for end in ends:
      counts[end].runs += 1
      if finite:
        counts[end].add(fires, spikes)
      else:
        counts[end].failed += 1
  return counts


def share(part, whole, of, digits):
  return f"{of * part / whole:.{digits}f}" if whole else ""


def lines_of(counts):
  """The tables, as lines: the data, and what each rule did."""
  columns = (*WORKLOADS, "other", ALGOPERF, LANGUAGE_MODEL)
  names = [name for name in columns if name in counts]
  found = [counts[w] for w in names]
  numbers = {
    "runs": [c.runs for c in found],
    "failed runs among them (a norm is not finite), not counted below": [
      c.failed for c in found
    ],
    "rows": [c.rows for c in found],
    "rows of runs without a spike": [c.calm_rows for c in found],
    "spikes": [c.spikes for c in found],
    f"spikes in the first {EARLY} rows": [c.early_spikes for c in found],
  }
  rows = [[key, *map(str, values)] for key, values in numbers.items()]
  lines = tables.table(["data", *names], rows)

  def add(title, part, whole, of, digits):
    rows = [
      [rule, *(share(part(c)[i], whole(c), of, digits) for c in found)]
      for i, rule in enumerate(RULES)
    ]
    lines.extend(["", *tables.table([title, *names], rows)])

  add(
    "clipped or skipped in 1,000 rows, of runs without a spike",
    lambda c: c.calm_clipped,
    lambda c: c.calm_rows,
    1000,
    1,
  )
  add(
    "clipped or skipped in 1,000 rows, of all runs",
    lambda c: c.clipped,
    lambda c: c.rows,
    1000,
    1,
  )
  add(
    "spikes caught, percent",
    lambda c: c.caught,
    lambda c: c.spikes,
    100,
    0,
  )
  add(
    f"spikes in the first {EARLY} rows caught, percent",
    lambda c: c.early_caught,
    lambda c: c.early_spikes,
    100,
    0,
  )
  return lines


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("path", nargs="+", type=pathlib.Path)
  counts = count(parser.parse_args().path)
  if not counts:
    parser.error("these folders contain no log of norms")
  command = tables.machine("python benchmarks/real_norms.py PATH")
  tables.write("real norms", [command, "", *lines_of(counts)])
