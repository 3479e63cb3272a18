"""The comparisons: does acting on the tail help? See PROTOCOL.md.

There are two suites, `comparison` of the tails of gradients and `layers` of
those of weights.

Every method is tuned on each task, and its best setting is run with fresh
seeds. Some are also run at other learning rates. Kept of a run, in 100 parts of
equal length:

    loss, norm          the training loss and the norm of the gradient, means
    largest_norm        the largest norm
    readings            the readings of the method, means; names with a slash
                        (also those that are a number per layer)
    acting              the share of steps in which the method scaled a gradient

and at the end of a final run of the first suite `top_eigenvalue` and
`sharpness` (the expected sharpness) of the loss of some training examples.
"""

from collections.abc import Iterable
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import layers
import loop
import methods
import numpy as np
from store import Row, Unit
import tasks

from htga_optax import curvature, layer_names, norms, readings

NAME = "comparison"
# The seeds of the final runs and of the sweep of learning rates.
FINAL, SWEEP = tuple(range(1000, 1010)), (2000, 2001)
# The methods of the sweep, and the rates.
SWEPT = ("sgd", "sgd_normalised", "htga_formula", "ahtsgd_rising", "adamw")
RATES = tuple(float(f"{r:.4g}") for r in np.geomspace(0.03, 3, 7))
PARTS = 100
# The primary scores.
SCORES = {"accuracy": "test accuracy", "loss": "test loss", "return": "return"}


class Suite(NamedTuple):
  """Tasks and methods that are compared on one page.

  Attributes:
    sizes: the batch size and the number of steps, by task.
    methods: the methods, by task.
    settings: the number of settings that are tried.
    tune: the seeds of the tuning.
    blocks: the number of scores over a run.
    minimum: with how many examples the minimum at the end of final runs is
      measured, by task; empty if it is not.
  """

  sizes: dict[str, tuple[int, int]]
  methods: dict[str, dict[str, methods.Method]]
  settings: int
  tune: tuple[int, ...]
  blocks: int
  minimum: dict[str, int]


_SIZES = {
  "cartpole": (64, 2000),
  "acrobot": (64, 2000),
  "fashion_noisy": (32, 2000),
  "words": (16, 2000),
}
SUITES = {
  "comparison": Suite(
    _SIZES,
    dict.fromkeys(_SIZES, methods.METHODS),
    12,
    (10, 11),
    20,
    dict.fromkeys(_SIZES, 512) | {"words": 128},  # of 16 words
  ),
  "layers": Suite(
    {"vgg": (32, 800), "transformer": (8, 1200)},
    {
      "vgg": layers.methods(methods.SGD),
      "transformer": layers.methods(methods.ADAM),
    },
    6,
    (10,),
    4,
    {},
  ),
}
SUITE_OF = {task: suite for suite in SUITES.values() for task in suite.sizes}


def method_of(unit: Unit) -> methods.Method:
  """The method of a run."""
  return SUITE_OF[unit.task].methods[unit.task][unit.method]


def _unit(task: str, method: str, setting: dict[str, float], seed: int) -> Unit:
  batch_size, steps = SUITE_OF[task].sizes[task]
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


def tuning(names: Iterable[str] = tuple(SUITE_OF)) -> list[Unit]:
  """All runs that choose a setting."""
  return [
    _unit(task, name, setting, seed + 100 * method.salt)
    for task, suite in SUITE_OF.items()
    if task in names
    for name, method in suite.methods[task].items()
    for setting in method.settings(suite.settings)
    for seed in suite.tune
  ]


def score_of(row: Row, part: str = tasks.VALID) -> float:
  """The score of a run at its end.

  It is that of a guess if the run is not finite, or worse than a guess.

  For games it is the mean return of the episodes that end in the last quarter.
  """
  task = tasks.TASKS[row.unit.task]
  if task.score == "return":
    late = -SUITE_OF[row.unit.task].blocks // 4 - 1
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


class Run(NamedTuple):
  """The score of a run: that of the test data only if the run is final."""

  task: str
  method: str
  seed: int
  part: str
  score: float
  setting: tuple[tuple[str, float], ...]


def run_of(row: Row) -> Run:
  """The score of a row of the store."""
  unit = row.unit
  part = tasks.TEST if unit.seed in FINAL else tasks.VALID
  score = score_of(row, part)
  return Run(unit.task, unit.method, unit.seed, part, score, unit.setting)


def tuned(runs: Iterable[Run]) -> dict[tuple[str, str], dict[tuple, list]]:
  """By task and method: the validation scores of each setting."""
  scores = {}
  for run in runs:
    if run.seed not in FINAL + SWEEP:
      found = scores.setdefault((run.task, run.method), {})
      found.setdefault(run.setting, []).append(run.score)
  return scores


def best(runs: Iterable[Run]) -> dict[tuple[str, str], tuple]:
  """The best setting of each task and method whose tuning is complete."""
  chosen = {}
  for (task, method), found in tuned(runs).items():
    suite = SUITE_OF[task]
    wanted = suite.settings * len(suite.tune)
    if method in suite.methods[task] and wanted == sum(
      map(len, found.values())
    ):
      sign = 1 if tasks.TASKS[task].higher_is_better else -1
      chosen[task, method] = max(found, key=lambda s: sign * np.mean(found[s]))
  return chosen


def final(runs: Iterable[Run], names: Iterable[str] = ()) -> list[Unit]:
  """The runs of the best settings with fresh seeds."""
  return [
    _unit(task, method, dict(setting), seed)
    for (task, method), setting in best(runs).items()
    if not names or task in names
    for seed in FINAL
  ]


def sweep(runs: Iterable[Run], names: Iterable[str] = ()) -> list[Unit]:
  """The best settings at other learning rates."""
  return [
    _unit(task, method, dict(setting) | {"rate": rate}, seed)
    for (task, method), setting in best(runs).items()
    if method in SWEPT and (not names or task in names)
    for rate in RATES
    for seed in SWEEP
  ]


def observe(grads, params, state, others) -> dict[str, jax.Array]:
  """The norm of the gradient, and the readings."""
  del params, others
  found = {
    f"reading/{name}": jnp.float32(value)
    for name, value in readings(state).items()
    if jnp.ndim(value) <= 1
  }
  return {"norm": norms.norm(grads)} | found


def run(group: list[Unit], folder: str) -> list[dict[str, Any]]:
  """The arrays of each run of a group."""
  unit = group[0]
  task, method = tasks.TASKS[unit.task], method_of(unit)
  suite = SUITE_OF[unit.task]
  examples = suite.minimum.get(unit.task, 0) * (unit.seed in FINAL)
  problem = task.make(folder)

  def finish(params, world, key):
    _, batch = problem.draw(params, world, key, 1, examples)
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
    suite.blocks,
    observe,
    lambda grads, params: {},
    method.batches,
    method.extra_args,
    finish if examples else lambda *arguments: {},
  )
  start = time.monotonic()
  found = loop.results(train, group)
  seconds = (time.monotonic() - start) / len(group)
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  about = {
    "seconds": np.array(seconds),
    "layer_names": np.array(layer_names(shapes)),
  }
  return [_reduced(one) | about for one in found]


def _reduced(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of every step in parts."""
  kept = {}
  for name, array in arrays.items():
    if name in ("loss", "norm") or name.startswith("reading/"):
      parts = array.reshape(PARTS, -1, *array.shape[1:])
      kept[name] = parts.mean(axis=1)
      if name == "norm":
        kept["largest_norm"] = parts.max(axis=1)
      if name == "reading/amplification":
        kept["acting"] = np.mean(parts != 1, axis=1)
    else:
      kept[name] = array
  return kept
