"""A run that began without the package continues with it.

A checkpoint of the old optimizer is restored into the state of the old
optimizer. That state then replaces the matching part of the new state.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import cases
import chex
from flax import linen as nn
from flax import nnx
import flax.serialization
from flax.training import train_state
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import htga_optax
from htga_optax import amplify, ratio_exponent, relay, track_tail_index


def clip():
  return optax.clip_by_global_norm(1.0)


def sgd():
  return optax.sgd(optax.linear_schedule(0.1, 0.01, 20), momentum=0.9)


@dataclasses.dataclass(frozen=True)
class Migration:
  """A change from one optimizer to another.

  Attributes:
    name: the test's id.
    old: the optimizer of the checkpoint.
    new: the optimizer that continues. Until its window is full, it gives the
      same updates as the old one (with noise of scale 0, and no truncation).
    graft: (new state, old state) -> new state that contains the old one.
  """

  name: str
  old: Callable[[], Any]
  new: Callable[[], Any]
  graft: Callable[[Any, Any], Any]


def in_front(fresh, old):
  return fresh[0], old


def last_member(fresh, old):
  return fresh._replace(members=(*fresh.members[:-1], old))


MIGRATIONS = [
  Migration(
    "tracker_before_a_chain",
    lambda: optax.chain(clip(), optax.adamw(1e-2)),
    lambda: optax.chain(
      track_tail_index(), optax.chain(clip(), optax.adamw(1e-2))
    ),
    in_front,
  ),
  Migration(
    "tracker_as_a_member",
    lambda: optax.chain(clip(), optax.adamw(1e-2)),
    lambda: optax.chain(track_tail_index(), clip(), optax.adamw(1e-2)),
    lambda fresh, old: (fresh[0], *old),
  ),
  Migration(
    "relay_for_a_chain",
    lambda: optax.chain(clip(), optax.adamw(1e-2)),
    lambda: relay(
      track_tail_index(),
      clip(),
      amplify(ratio_exponent()),
      optax.adamw(1e-2),
    ),
    lambda fresh, old: fresh._replace(
      members=(fresh.members[0], old[0], fresh.members[2], old[1])
    ),
  ),
  Migration(
    "htga_for_sgd",
    sgd,
    lambda: htga_optax.htga(optax.linear_schedule(0.1, 0.01, 20), momentum=0.9),
    last_member,
  ),
  Migration(
    "tail_index_sgd_for_sgd",
    sgd,
    lambda: htga_optax.tail_index_sgd(
      optax.linear_schedule(0.1, 0.01, 20), momentum=0.9
    ),
    last_member,
  ),
  Migration(
    "truncated_heavy_tailed_sgd_for_sgd",
    lambda: optax.sgd(0.1),
    lambda: htga_optax.truncated_heavy_tailed_sgd(
      0.1, threshold=jnp.inf, key=0, scale=0.0
    ),
    lambda fresh, old: fresh._replace(
      members=(fresh.members[0], old, fresh.members[2])
    ),
  ),
  Migration(
    "ahtsgd_for_sgd",
    sgd,
    lambda: htga_optax.ahtsgd(
      optax.linear_schedule(0.1, 0.01, 20), scale=0.0, key=0, momentum=0.9
    ),
    lambda fresh, old: fresh._replace(
      members=(*fresh.members[:2], old, *fresh.members[3:])
    ),
  ),
  Migration(
    "inside_multi_steps",
    lambda: optax.MultiSteps(sgd(), 2),
    lambda: optax.MultiSteps(optax.chain(htga_optax.scale_by_htga(), sgd()), 2),
    lambda fresh, old: old._replace(
      inner_opt_state=in_front(fresh.inner_opt_state, old.inner_opt_state)
    ),
  ),
  Migration(
    "before_injected_hyperparameters",
    lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    lambda: optax.chain(
      track_tail_index(), optax.inject_hyperparams(optax.adam)(1e-2)
    ),
    in_front,
  ),
]


def train(tx, params, state, grads):
  @jax.jit
  def run(params, state, grads):
    def step(carry, g):
      params, state = carry
      updates, state = tx.update(
        g, state, params, sharpness=1.0, noise_updates=g
      )
      return (optax.apply_updates(params, updates), state), None

    return lax.scan(step, (params, state), grads)[0]

  return run(params, state, grads)


def through_orbax(path, tree, template):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, tree)
    checkpointer.wait_until_finished()
    return checkpointer.restore(path, jax.eval_shape(lambda: template))


def through_flax(path, tree, template):
  path.write_bytes(flax.serialization.to_bytes(tree))
  return flax.serialization.from_bytes(template, path.read_bytes())


@pytest.fixture(params=MIGRATIONS, ids=lambda migration: migration.name)
def migration(request):
  return request.param


def test_the_old_state_is_kept(migration, tmp_path):
  """Parameters and the old optimizer's state are restored bit for bit.

  To restore the checkpoint directly into the new state is an error; it does not
  give a partly filled state.
  """
  old, new, start = migration.old(), migration.new(), cases.params()
  params, state = train(old, start, old.init(start), cases.gradients(5))
  fresh = new.init(params)

  for through in (through_flax, through_orbax):
    path = tmp_path / through.__name__
    restored = through(path, (params, state), (start, old.init(start)))
    chex.assert_trees_all_equal(restored, (params, state))
    with pytest.raises(ValueError):
      through(path.with_suffix(".new"), (params, state), (start, fresh))

  grafted = migration.graft(fresh, restored[1])
  chex.assert_trees_all_equal_shapes_and_dtypes(grafted, fresh)


@pytest.mark.slow
def test_the_run_continues(migration):
  """The run agrees with the old optimizer, up to rounding."""
  old, new, start = migration.old(), migration.new(), cases.params()
  params, state = train(old, start, old.init(start), cases.gradients(5))
  grafted = migration.graft(new.init(params), state)
  later = cases.gradients(4, seed=1)
  resumed, _ = train(new, params, grafted, later)
  expected, _ = train(old, params, state, later)
  chex.assert_trees_all_close(resumed, expected, rtol=1e-6, atol=1e-6)


def test_linen_train_state(tmp_path):
  model, x = nn.Dense(2), jnp.ones((8, 4))
  params = model.init(jax.random.key(0), x)["params"]

  def created(tx):
    return train_state.TrainState.create(
      apply_fn=model.apply, params=params, tx=tx
    )

  @jax.jit
  def step(state):
    loss = lambda p: jnp.mean(state.apply_fn({"params": p}, x) ** 2)
    return state.apply_gradients(grads=jax.grad(loss)(state.params))

  state = step(step(created(sgd())))
  restored = through_flax(tmp_path / "old", state, created(sgd()))
  tx = optax.chain(htga_optax.scale_by_htga(), sgd())
  fresh = tx.init(restored.params)
  resumed = restored.replace(tx=tx, opt_state=(fresh[0], restored.opt_state))
  chex.assert_trees_all_equal_shapes_and_dtypes(resumed.opt_state, fresh)
  chex.assert_trees_all_equal(
    (resumed.params, resumed.opt_state[1]), (state.params, state.opt_state)
  )
  assert step(resumed).step == 3


def test_nnx_optimizer(tmp_path):
  loss = lambda model: jnp.mean(model(jnp.ones((8, 4))) ** 2)

  def created(tx, seed):
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(seed))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    optimizer.update(model, nnx.grad(loss)(model))
    return nnx.state(model)

  def pure(*objects):
    return nnx.to_pure_dict(nnx.state(objects))

  run = created(sgd(), seed=0)
  step(*run)
  model, old = created(sgd(), seed=1)
  saved = through_orbax(tmp_path / "old", pure(*run), pure(model, old))
  state = nnx.state((model, old))
  nnx.replace_by_pure_dict(state, saved)
  nnx.update((model, old), state)

  tx = optax.chain(htga_optax.scale_by_htga(), sgd())
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  optimizer.opt_state = nnx.data((optimizer.opt_state[0], old.opt_state))
  optimizer.step = old.step
  chex.assert_trees_all_close(
    step(model, optimizer), step(*run), rtol=1e-6, atol=1e-6
  )
  assert optimizer.step[...] == 2


def test_a_field_that_a_later_version_adds(tmp_path):
  """In the template, the structure on disk replaces the part that changed."""
  tx = optax.chain(track_tail_index(window_size=8, k=2), sgd())
  params = cases.params()
  params, state = train(tx, params, tx.init(params), cases.gradients(9))
  fields = state[0]._asdict()
  del fields["tail_model_rejected"]  # as if a later version added it
  saved = {"params": params, "opt_state": (fields, state[1])}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "old", saved)
    checkpointer.wait_until_finished()
    template = {"params": params, "opt_state": tx.init(params)}
    with pytest.raises(ValueError, match="tail_model_rejected"):
      checkpointer.restore(tmp_path / "old", template)
    found = checkpointer.restore(tmp_path / "old")
    template["opt_state"] = (found["opt_state"][0], template["opt_state"][1])
    restored = checkpointer.restore(tmp_path / "old", template)
  chex.assert_trees_all_equal(restored["params"], params)
  chex.assert_trees_all_equal(restored["opt_state"][1], state[1])
  # The window can be kept, too.
  np.testing.assert_array_equal(
    restored["opt_state"][0]["tail_index"], state[0].tail_index
  )
