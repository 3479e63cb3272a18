"""The comparison: does acting on the tail help? See PROTOCOL.md.

Every method is tuned on each task, and its best setting is run with fresh
seeds. Some are also run at other learning rates. Kept of a run, in 100 parts of
equal length:

    loss, norm          the training loss and the norm of the gradient, means
    largest_norm        the largest norm
    readings            the readings of the method, means; names with a slash
    acting              the share of steps in which the method scaled a gradient

and at the end `top_eigenvalue` and `sharpness` (the expected sharpness) of the
loss of 512 training examples.
"""

from collections.abc import Iterable
import time
from typing import Any

import jax
import jax.numpy as jnp
import loop
import methods
import numpy as np
from store import Row, Unit
import tasks

from htga_optax import curvature, norms, readings

NAME = "comparison"
SETTINGS = 12
# The seeds of the three stages.
TUNE, FINAL, SWEEP = (10, 11), tuple(range(1000, 1010)), (2000, 2001)
# The sweep of learning rates: the methods, and the rates.
SWEPT = ("sgd", "sgd_normalised", "htga_formula", "ahtsgd_rising", "adamw")
RATES = tuple(float(f"{r:.4g}") for r in np.geomspace(0.03, 3, 7))
BLOCKS, PARTS = 20, 100
# The batch size and the number of steps.
SIZES = {
  "cartpole": (64, 2000),
  "acrobot": (64, 2000),
  "fashion_noisy": (32, 2000),
  "words": (16, 2000),
}


def _unit(task: str, method: str, setting: dict[str, float], seed: int) -> Unit:
  batch_size, steps = SIZES[task]
  return Unit(
    NAME,
    task,
    method,
    batch_size,
    steps,
    tuple(sorted(setting.items())),
    seed,
    tasks.TASKS[task].version,
  )


def tuning(names: Iterable[str] = tuple(SIZES)) -> list[Unit]:
  """All runs that choose a setting."""
  return [
    _unit(task, name, setting, seed + 100 * method.salt)
    for task in names
    if task in SIZES
    for name, method in methods.METHODS.items()
    for setting in method.settings(SETTINGS)
    for seed in TUNE
  ]


def score_of(row: Row, part: str = tasks.VALID) -> float:
  """The score of a run at its end.

  It is that of a guess if the run is not finite, or worse than a guess.

  For games it is the mean return of the episodes that end in the last quarter.
  """
  task = tasks.TASKS[row.unit.task]
  if task.score == "return":
    late = -BLOCKS // 4 - 1
    returns, episodes = (
      row.arrays[name][-1] - row.arrays[name][late]
      for name in ("returns", "episodes")
    )
    score = returns / max(episodes, 1)
  else:
    score = row.arrays[f"{part}_{task.score}"][-1]
  if not np.all(np.isfinite(row.arrays["loss"])) or not np.isfinite(score):
    return task.guess
  better = max if task.higher_is_better else min
  return float(better(score, task.guess))


def tuned(rows: Iterable[Row]) -> dict[tuple[str, str], dict[tuple, list]]:
  """By task and method: the validation scores of each setting."""
  scores = {}
  for row in rows:
    unit = row.unit
    if unit.seed not in FINAL + SWEEP:
      found = scores.setdefault((unit.task, unit.method), {})
      found.setdefault(unit.setting, []).append(score_of(row))
  return scores


def best(rows: Iterable[Row]) -> dict[tuple[str, str], tuple]:
  """The best setting of each task and method whose tuning is complete."""
  chosen = {}
  for (task, method), found in tuned(rows).items():
    count = sum(map(len, found.values()))
    if method in methods.METHODS and count == SETTINGS * len(TUNE):
      sign = 1 if tasks.TASKS[task].higher_is_better else -1
      chosen[task, method] = max(found, key=lambda s: sign * np.mean(found[s]))
  return chosen


def final(rows: Iterable[Row], names: Iterable[str] = ()) -> list[Unit]:
  """The runs of the best settings with fresh seeds."""
  return [
    _unit(task, method, dict(setting), seed)
    for (task, method), setting in best(rows).items()
    if not names or task in names
    for seed in FINAL
  ]


def sweep(rows: Iterable[Row], names: Iterable[str] = ()) -> list[Unit]:
  """The best settings at other learning rates."""
  return [
    _unit(task, method, dict(setting) | {"rate": rate}, seed)
    for (task, method), setting in best(rows).items()
    if method in SWEPT and (not names or task in names)
    for rate in RATES
    for seed in SWEEP
  ]


def observe(grads, params, state, others) -> dict[str, jax.Array]:
  """The norm of the gradient, and the readings that are numbers."""
  del params, others
  found = {
    f"reading/{name}": jnp.float32(value)
    for name, value in readings(state).items()
    if jnp.shape(value) == ()
  }
  return {"norm": norms.norm(grads)} | found


def run(group: list[Unit], folder: str) -> list[dict[str, Any]]:
  """The arrays of each run of a group."""
  unit = group[0]
  task, method = tasks.TASKS[unit.task], methods.METHODS[unit.method]
  problem = task.make(folder)

  def finish(params, world, key):
    _, batch = problem.draw(params, world, key, 1, 512)
    loss = lambda params: problem.loss(params, batch)
    start = curvature.sample_like(jax.random.normal, params, key=key)
    pair = curvature.top_eigenvalue(curvature.hessian(loss, params), start)
    sharpness, _ = curvature.expected_sharpness(loss, params, key=key)
    return {"top_eigenvalue": pair.value, "sharpness": sharpness}

  train = loop.runner(
    problem,
    methods.optimizer(method, task, unit.steps),
    unit.batch_size,
    unit.steps,
    BLOCKS,
    observe,
    lambda grads, params: {},
    method.batches,
    method.extra_args,
    finish,
  )
  start = time.monotonic()
  found = loop.results(train, group)
  seconds = (time.monotonic() - start) / len(group)
  return [_reduced(one) | {"seconds": np.array(seconds)} for one in found]


def _reduced(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of every step in parts."""
  kept = {}
  for name, array in arrays.items():
    if name in ("loss", "norm") or name.startswith("reading/"):
      parts = array.reshape(PARTS, -1)
      kept[name] = parts.mean(axis=1)
      if name == "norm":
        kept["largest_norm"] = parts.max(axis=1)
      if name == "reading/amplification":
        kept["acting"] = np.mean(parts != 1, axis=1)
    else:
      kept[name] = array
  return kept
