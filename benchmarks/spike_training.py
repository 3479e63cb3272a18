"""Trains with each rule against spikes, and tests whether the rule helps.

    python benchmarks/spike_training.py RESULTS.csv --data-dir PTB

This command trains a small Transformer on the characters of the Penn Treebank
(PTB contains ptb.train.txt and ptb.test.txt, plain or .gz), and PPO on CartPole
and Acrobot (gymnax). It appends each result to RESULTS.csv, and does not repeat
results that the file contains. When the file is complete, it writes the tables
into benchmarks/README.md.

These choices were fixed before the first run:

* Adam runs with each rule of `RULES`, at five learning rates of each task, with
  eight seeds. A seed gives the same initial weights, batches and environments
  for all rules, so that differences are paired by seed. All rates fall to 0.
* Each runs with and without corrupted batches. In gradient steps 250, 750, ...
  of the former the labels of the batch are shuffled (in PPO, the advantages and
  the targets of the value).
* The score of the Transformer is the loss on the test text after the last step.
  A loss that is not finite, or above the loss of a guess, counts as the loss of
  a guess, ln(vocabulary). The score of PPO is the mean return of the episodes
  that end in the last quarter of the run.
* A rule helps on a task if its paired difference to "no clip", at the rate that
  is best for "no clip", is better than 0 by 4 standard errors over the seeds
  (with 7 degrees of freedom that is two-sided 0.5 %, for nine rules 5 %). It
  harms if it is worse by as much. It widens the range of rates if it helps in
  the same sense at the largest rate.
* Everything else is no result, and is printed too.

A group is a task, a rule, and corrupted or not. It is one vmapped program in
its own process. A process that takes longer than `--limit` seconds is ended,
and its group is left out.
"""

import argparse
import csv
import importlib.util
import math
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tables

from htga_optax import by_norm, clip_by_tail_quantile, norms
from htga_optax.diagnostics import spike_rules

SEEDS = 8
EVERY = 500  # one of so many batches is corrupted
COLUMNS = ("task", "rule", "corrupted", "rate", "seed", "score", "clipped")


class Task(NamedTuple):
  rates: tuple[float, ...]
  max_norm: float  # of clip_by_global_norm, as people use it there
  higher_is_better: bool


TASKS = {
  "transformer": Task((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 1.0, False),
  "CartPole-v1": Task((2.5e-4, 1e-3, 4e-3, 1.6e-2, 6.4e-2), 0.5, True),
  "Acrobot-v1": Task((2.5e-4, 1e-3, 4e-3, 1.6e-2, 6.4e-2), 0.5, True),
}
# By name: a function task -> transformation, and whether it comes after Adam.
RULES = {
  "no clip": (lambda task: optax.identity(), False),
  "clip_by_global_norm": (
    lambda task: optax.clip_by_global_norm(task.max_norm),
    False,
  ),
  "clip_by_tail_quantile(1e-3)": (
    lambda task: clip_by_tail_quantile(1e-3),
    False,
  ),
  "clip_by_tail_quantile(1e-2, 256, 32)": (
    lambda task: clip_by_tail_quantile(1e-2, 256, 32),
    False,
  ),
  "mean + 6 sd of 128": (
    lambda task: by_norm(spike_rules.mean_and_deviations()),
    False,
  ),
  "mean + 3 sd of 128, of updates": (
    lambda task: by_norm(spike_rules.mean_and_deviations(3.0, skip=False)),
    True,
  ),
  "ZClip": (lambda task: by_norm(spike_rules.zclip()), False),
  "AdaGC": (
    lambda task: by_norm(spike_rules.adagc(), per_layer=True),
    False,
  ),
  "AutoClip": (lambda task: by_norm(spike_rules.autoclip()), False),
  "20 times the mean": (
    lambda task: by_norm(spike_rules.moving_mean()),
    False,
  ),
}
GROUPS = [
  (task, rule, corrupted)
  for task in TASKS
  for corrupted in (False, True)
  for rule in RULES
]


class CountedState(NamedTuple):
  inner: Any
  clipped_count: jax.Array


def counted(tx):
  """Counts the steps that a transformation makes shorter."""

  def init(params):
    return CountedState(tx.init(params), jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    out, inner = tx.update(updates, state.inner, params)
    shorter = norms.norm(out) < (1 - 1e-5) * norms.norm(updates)
    return out, CountedState(inner, state.clipped_count + shorter)

  return optax.GradientTransformation(init, update)


def optimizer_of(task, rule):
  """Adam with the rule before or after it, without a learning rate."""
  make, behind = RULES[rule]
  adam, clip = optax.scale_by_adam(), counted(make(TASKS[task]))
  return optax.chain(adam, clip) if behind else optax.chain(clip, adam)


def is_corrupted(step):
  return step % EVERY == EVERY // 2


def run_group(task, rule, corrupted, data_dir):
  """The rows of a group."""
  if task == "transformer":
    import spike_transformer

    train = spike_transformer.trainer(optimizer_of(task, rule), data_dir)
  else:
    import spike_ppo

    train = spike_ppo.trainer(optimizer_of(task, rule), task)
  rates, seeds = np.meshgrid(TASKS[task].rates, range(SEEDS), indexing="ij")
  rates, seeds = rates.ravel(), seeds.ravel()
  run = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))
  scores, clipped = run(
    jnp.float32(rates), jnp.int32(seeds), jnp.bool_(corrupted)
  )
  for row in zip(rates, seeds, np.asarray(scores), np.asarray(clipped)):
    yield [task, rule, int(corrupted), *map(str, row)]


def read(path):
  """{(task, rule, corrupted): {(rate, seed): (score, clipped)}}."""
  found = {}
  if path.exists():
    with open(path, newline="", encoding="utf-8") as file:
      for row in csv.DictReader(file):
        group = row["task"], row["rule"], row["corrupted"] == "1"
        key = float(row["rate"]), int(row["seed"])
        value = float(row["score"]), float(row["clipped"])
        found.setdefault(group, {})[key] = value
  return found


def possible(groups, data_dir):
  """The groups that can run here; prints a sentence on those that cannot."""
  path = pathlib.Path(data_dir).expanduser() / "ptb.train.txt"
  text = path.exists() or path.with_suffix(".txt.gz").exists()
  if not text:
    print(
      f"The Transformer is left out: {path} is missing, plain and with .gz."
    )
  games = importlib.util.find_spec("gymnax") is not None
  if not games:
    print("PPO is left out: gymnax is missing: pip install '.[study]'.")
  return [g for g in groups if (text if g[0] == "transformer" else games)]


def run_all(path, groups, data_dir, limit):
  """Runs the groups that the CSV file lacks, each in its own process."""
  there = read(path)
  if not path.exists():
    path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
  for task, rule, corrupted in possible(groups, data_dir):
    if (task, rule, corrupted) in there:
      continue
    command = [sys.executable, __file__, os.fspath(path), "--one"]
    command += [task, rule, str(int(corrupted)), "--data-dir", data_dir]
    start = time.time()
    try:
      # The rows of a group are written together, when the group is complete.
      out = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=limit, check=True
      ).stdout
    except subprocess.SubprocessError as error:
      print(f"{task}, {rule}, corrupted {corrupted}: {error}", flush=True)
      continue
    with open(path, "a", encoding="utf-8") as file:
      file.write(out)
    seconds = time.time() - start
    print(f"{task}, {rule}, corrupted {corrupted}: {seconds:.0f} s", flush=True)


def scores_of(rows, task, rate):
  return np.array([rows[rate, seed][0] for seed in range(SEEDS)])


def verdict(rows, baseline, task, rate):
  """Whether a rule helps or harms at a rate, by paired differences."""
  sign = 1 if TASKS[task].higher_is_better else -1
  difference = sign * (
    scores_of(rows, task, rate) - scores_of(baseline, task, rate)
  )
  error = np.std(difference, ddof=1) / math.sqrt(SEEDS)
  z = np.mean(difference) / error if error > 0 else 0.0
  word = "helps" if z > 4 else "harms" if z < -4 else "-"
  return f"{word} ({z:+.1f})"


def lines_of(found):
  """A table for each task, with and without corrupted batches."""
  lines = []
  for task, corrupted in dict.fromkeys((t, c) for t, _, c in found):
    rates = TASKS[task].rates
    baseline = found.get((task, "no clip", corrupted))
    if baseline is None:
      continue
    sign = 1 if TASKS[task].higher_is_better else -1
    best = max(
      rates, key=lambda rate: sign * np.mean(scores_of(baseline, task, rate))
    )
    title = f"{task}{', corrupted batches' if corrupted else ''}"
    head = [title, *(f"{rate:g}" for rate in rates)]
    head += [f"verdict at rate {rate:g}" for rate in (best, rates[-1])]
    head.append("steps clipped in 1,000")
    rows = []
    for rule in RULES:
      group = found.get((task, rule, corrupted))
      if group is None:
        continue
      cells = [rule]
      for rate in rates:
        x = scores_of(group, task, rate)
        error = np.std(x, ddof=1) / math.sqrt(SEEDS)
        cells.append(f"{np.mean(x):.4g} ± {error:.2g}")
      cells += [
        "" if group is baseline else verdict(group, baseline, task, rate)
        for rate in (best, rates[-1])
      ]
      share = np.mean([clipped for _, clipped in group.values()])
      rows.append([*cells, f"{1000 * share:.3g}"])
    lines += ["", *tables.table(head, rows)]
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("results", type=pathlib.Path)
  parser.add_argument(
    "--data-dir", default=".", help="the folder of the Penn Treebank"
  )
  parser.add_argument(
    "--limit", type=float, default=180, help="time limit of a group, in seconds"
  )
  parser.add_argument("--only", help="the only task to run")
  parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.one:
    task, rule, corrupted = args.one
    rows = run_group(task, rule, corrupted == "1", args.data_dir)
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    return
  groups = [g for g in GROUPS if args.only in (None, g[0])]
  run_all(args.results, groups, args.data_dir, args.limit)
  found = read(args.results)
  lines = lines_of(found)
  if set(found) == set(GROUPS):
    command = tables.machine("python benchmarks/spike_training.py")
    tables.write("spike training", [command, *lines])
  else:
    print("\n".join(lines))


if __name__ == "__main__":
  main()
