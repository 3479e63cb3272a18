"""The methods that set rates or decay by layer, from the spectra of weights.

Published rules, each as its source states it (docs/use/weights.md):

    TempBalance    learning rate, factors 0.5 to 1.5, heavier tails less; every
                   epoch
    AlphaDecay     weight decay, 0.67 to 3, heavier tails less
    LLR            learning rate, 1 to 3, heavier tails less; the first fifth

Each also with the reading divided by its value for an untrained matrix
("ratio"), and with readings that are given to the wrong layers ("shuffled", the
placebo: a permutation that each seed draws). `llr_reversed` gives heavier tails
more.

The optimizer is SGD with momentum or AdamW. Only matrices decay.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from methods import ADAM, SGD, Method
import optax
from tasks import Task

import htga_optax
from htga_optax import Reading, layer_names, spectra

INDEX, RATIO = "weight_tail_index", "weight_tail_ratio"
REST = 0.1  # 1 - momentum


def _inner(name: str, shape: tuple[int, ...]) -> int | None:
  """Leaves out the last layer; the first has too few eigenvalues."""
  return None if "head" in name else spectra.kernel_rows(name, shape)


def _matrices(params):
  return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def _shuffled(rows, key: jax.Array) -> Callable:
  """Makes a wrapper that permutes the readings of the measured layers."""

  def wrap(tx):
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
      shapes = [x.shape for x in jax.tree.leaves(updates)]
      measured = jnp.array(
        [
          i
          for i, (name, shape) in enumerate(zip(layer_names(updates), shapes))
          if rows(name, shape) is not None
        ]
      )
      order = jnp.arange(len(shapes))
      order = order.at[measured].set(jax.random.permutation(key, measured))
      extra_args |= {INDEX: extra_args[INDEX][order]}
      return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)

  return wrap


def _make(
  task: Task,
  setting: dict[str, float],
  rate: optax.Schedule,
  key: jax.Array,
  *,
  core: str,
  rates: tuple[float, float] | None = None,
  decays: tuple[float, float] | None = None,
  every: float = 0.05,
  until: float = 1.0,
  rows=_inner,
  reading: str = INDEX,
  shuffle: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a rule.

  Args:
    task: the task.
    setting: the numbers of the method.
    rate: the learning rate.
    key: for the permutation.
    core: SGD or Adam.
    rates: the factors of the learning rate; None for none.
    decays: the factors of the weight decay; None for none.
    every: the time between two measurements, as a share of the run.
    until: the end of the measurements, likewise.
    rows: what is measured.
    reading: what the factors follow.
    shuffle: whether the readings go to the wrong layers.
  """
  steps = task.steps
  wrap = _shuffled(rows, key) if shuffle else lambda tx: tx
  decay = setting["decay"]
  if decays is None:
    decaying = optax.add_decayed_weights(decay, _matrices)
  else:
    decaying = htga_optax.add_decayed_weights_by_layer(
      decay, Reading(reading), *decays, mask=_matrices
    )
  if core == SGD:
    members = [wrap(decaying), optax.ema(1 - REST, debias=False)]
  else:
    members = [optax.scale_by_adam(), wrap(decaying)]
  if rates is not None:
    members.append(wrap(htga_optax.scale_by_layer(Reading(reading), *rates)))
  tracker = htga_optax.track_weight_tail_index(
    round(every * steps), rows, until_step=round(until * steps)
  )
  return htga_optax.relay(tracker, *members, optax.scale_by_learning_rate(rate))


_PUBLISHED = {
  "tempbalance": ("TempBalance", {"rates": (0.5, 1.5)}),
  "alphadecay": ("AlphaDecay", {"decays": (0.67, 3.0)}),
  "llr": (
    "LLR",
    {
      "rates": (1.0, 3.0),
      "every": 0.02,
      "until": 0.2,
      "rows": spectra.kernel_rows,
    },
  ),
}
_CHANGED = {"ratio": {"reading": RATIO}, "shuffled": {"shuffle": True}}
_RULES = _PUBLISHED | {
  f"{name}_{change}": (f"{label}, {change}", rule | more)
  for change, more in _CHANGED.items()
  for name, (label, rule) in _PUBLISHED.items()
}
_RULES["llr_reversed"] = "LLR, reversed", _RULES["llr"][1] | {"rates": (3, 1)}
_SPACES = {
  SGD: {"rate": (0.1, 3.0), "decay": (1e-5, 1e-2)},
  ADAM: {"rate": (0.1, 3.0), "decay": (1e-3, 1.0)},
}


def methods(core: str) -> dict[str, Method]:
  """The methods with SGD or Adam; the first is the baseline."""

  def method(label, **rule):
    make = functools.partial(_make, core=core, **rule)
    placebo = rule.get("shuffle", False)
    label = "placebo: " * placebo + label
    return Method(core, make, _SPACES[core], label=label, placebo=placebo)

  found = {"uniform": method("the same for all layers")}
  return found | {
    n: method(label, **rule) for n, (label, rule) in _RULES.items()
  }
