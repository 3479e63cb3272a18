"""The training loop of all tasks and methods, as one jitted scan."""

from collections.abc import Callable, Sequence
import operator
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax
import store
from tasks import Problem


def runner(
  problem: Problem,
  optimizer: Callable[..., optax.GradientTransformationExtraArgs],
  batch_size: int,
  steps: int,
  blocks: int,
  observe: Callable[..., dict[str, jax.Array]],
  look: Callable[..., dict[str, jax.Array]],
  batches: int = 1,
  extra_args: Callable[..., dict[str, Any]] = lambda *arguments: {},
  finish: Callable[..., dict[str, jax.Array]] = lambda *arguments: {},
) -> Callable[..., dict[str, jax.Array]]:
  """Makes a function (setting, seed) -> arrays, for `results`.

  The seed alone determines the initial weights, the batches and the
  environments, so that methods can be compared in pairs.

  Args:
    problem: the task with its data.
    optimizer: (setting, key) -> transformation. A setting is a dict of numbers.
    batch_size: the number of examples in a batch.
    steps: the number of gradient steps, a multiple of `blocks`.
    blocks: in how many blocks of equal length the steps are divided.
    observe: (grads, params, state, other batches) -> arrays that are kept of
      every step. The parameters are those before the step, the state is that
      after it.
    look: (grads, params) -> arrays that are kept of the last step of every
      block. `grads` is the gradient of the step.
    batches: how many independent batches a step draws. The first one is the
      training batch.
    extra_args: (loss, params, state, batches) -> the extra arguments of update.
    finish: (params, world, key) -> arrays that are kept of the end.

  Returns:
    The function. Its arrays are `loss` and those of `observe`, [steps, ...],
    those of `look` and of `Problem.scores`, [blocks, ...], and those of
    `finish`.
  """

  def run(setting, seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    params, world = problem.init(keys[0]), problem.start(keys[1])
    tx = optax.with_extra_args_support(optimizer(setting, keys[2]))

    def step(carry, t):
      params, state, world, _ = carry
      world, rows = problem.draw(
        params, world, jax.random.fold_in(keys[3], t), t, batches * batch_size
      )
      rows = jax.tree.map(
        lambda x: x.reshape(batches, batch_size, *x.shape[1:]), rows
      )
      parts = [
        jax.tree.map(operator.itemgetter(i), rows) for i in range(batches)
      ]
      loss, grads = jax.value_and_grad(problem.loss)(params, parts[0])
      updates, state = tx.update(
        grads,
        state,
        params,
        **extra_args(problem.loss, params, state, parts),
      )
      seen = {"loss": loss} | observe(grads, params, state, parts[1:])
      params = optax.apply_updates(params, updates)
      return (params, state, world, grads), seen

    def block(carry, times):
      carry, seen = lax.scan(step, carry, times)
      params, _, world, grads = carry
      return carry, (seen, look(grads, params) | problem.scores(params, world))

    start = (params, tx.init(params), world, params)
    times = jnp.arange(steps).reshape(blocks, -1)
    (params, _, world, _), (seen, looked) = lax.scan(block, start, times)
    seen = jax.tree.map(lambda x: x.reshape(steps, *x.shape[2:]), seen)
    return seen | looked | finish(params, world, keys[3])

  return run


def results(
  run: Callable[..., Any], group: Sequence[store.Unit]
) -> list[dict[str, Any]]:
  """Runs all units of a group in one program; a dict of arrays of each.

  They run at once on an accelerator, and one after the other on a CPU. There a
  vmapped product of matrices is two to three times slower.
  """
  settings = {
    name: jnp.float32([dict(unit.setting)[name] for unit in group])
    for name, _ in group[0].setting
  }
  seeds = jnp.asarray([unit.seed for unit in group])
  if jax.default_backend() == "cpu":
    program = lambda *args: lax.map(lambda one: run(*one), args)
  else:
    program = jax.vmap(run)
  found = jax.device_get(jax.jit(program)(settings, seeds))
  return [
    {name: array[i] for name, array in found.items()} for i in range(len(group))
  ]
