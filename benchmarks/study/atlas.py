"""The atlas: where are gradients heavy-tailed? What is run, and what is kept.

Every task is trained with SGD and Adam at a constant learning rate, for each
batch size. The rate for batches of B examples is that of 64 times
min(1, sqrt(B/64)). Kept of a run:

    norm [steps], layers [steps, layers]    norms of the gradient
    noise [steps]       the norm of the gradient noise: the gradient minus that
                        of a second batch, divided by the root of 2
    largest [10, 512]   the largest entries of the gradient at ten moments
"""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import loop
import numpy as np
import optax
from store import Unit
import tasks

from htga_optax import layer_names, norms

NAME = "atlas"
METHODS = {"sgd": optax.sgd, "adam": optax.adam}
SEEDS, AGAIN = (0, 1), (100, 101)  # the second pair repeats a part
BLOCKS, LARGEST = 10, 512


def units(names=tuple(tasks.TASKS), seeds=SEEDS) -> list[Unit]:
  """All runs, the cheap ones first."""
  found = []
  for name in names:
    task = tasks.TASKS[name]
    for batch_size in task.batch_sizes:
      for method in METHODS:
        rate = task.rates[method] * min(1.0, math.sqrt(batch_size / 64))
        setting = (("rate", round(rate, 8)),)
        found += [
          Unit(
            NAME,
            name,
            method,
            batch_size,
            task.steps,
            setting,
            seed,
            task.version,
          )
          for seed in seeds
        ]
  return sorted(found, key=lambda unit: unit.batch_size)


def again(share: float = 0.1, names=tuple(tasks.TASKS)) -> list[Unit]:
  """A random share of the groups, with other seeds."""
  first = units(names, AGAIN[:1])
  rng = np.random.default_rng(0)
  chosen = rng.permutation(len(first))[: math.ceil(share * len(first))]
  return [
    first[i]._replace(seed=seed) for i in sorted(chosen) for seed in AGAIN
  ]


def observer(loss) -> Callable[..., dict[str, jax.Array]]:
  """Makes a function that computes the norms that are kept of every step."""

  def observe(grads, params, state, others):
    del state
    (batch,) = others
    noise = jax.tree.map(
      lambda a, b: (a - b) / math.sqrt(2), grads, jax.grad(loss)(params, batch)
    )
    return {
      "norm": norms.norm(grads),
      "noise": norms.norm(noise),
      "layers": norms.layer_norms(grads),
    }

  return observe


def look(grads, params) -> dict[str, jax.Array]:
  """The largest entries of the gradient, in falling order."""
  del params
  flat = jnp.concatenate([jnp.abs(g).ravel() for g in jax.tree.leaves(grads)])
  count = min(LARGEST, flat.size)
  return {"largest": lax.top_k(flat, count)[0]}


def run(group: list[Unit], folder: str) -> list[dict[str, Any]]:
  """The arrays of each run of a group."""
  unit = group[0]
  problem = tasks.TASKS[unit.task].make(folder)
  train = loop.runner(
    problem,
    lambda setting, key: METHODS[unit.method](setting["rate"]),
    unit.batch_size,
    unit.steps,
    BLOCKS,
    observer(problem.loss),
    look,
    batches=2,
  )
  found = loop.results(train, group)
  shapes = jax.eval_shape(problem.init, jax.random.key(0))
  sizes = [math.prod(x.shape) for x in jax.tree.leaves(shapes)]
  about = {
    "layer_names": np.array(layer_names(shapes)),
    "entries": np.array(sum(sizes)),
  }
  return [one | about for one in found]
