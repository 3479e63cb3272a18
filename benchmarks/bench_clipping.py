"""Times clipping at a tail quantile, against clipping at a fixed norm.

It also times different places of the clip, on the gradient or on the update of
Adam, and one norm or a norm for each layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import TREES

from htga_optax import clip_by_tail_quantile

# Does not divide the size of the window, so that the tail changes as in a run.
GRADIENTS = 7


def gradients_of(params):
  """Gradients whose norms have a heavy tail, independently for each layer."""
  rng = np.random.default_rng(0)

  def leaf(x):
    direction = rng.standard_normal(x.shape) / x.size**0.5
    return jnp.asarray(abs(rng.standard_t(3)) * direction, jnp.float32)

  return [jax.tree.map(leaf, params) for _ in range(GRADIENTS)]


def stepper(tx, gradients, rounds):
  """A function that computes some rounds of updates, and waits for them."""
  update = jax.jit(tx.update, donate_argnums=1)
  state = tx.init(jax.tree.map(jnp.zeros_like, gradients[0]))

  def run(rounds=rounds):
    nonlocal state
    for _ in range(rounds):
      for grads in gradients:
        out, state = update(grads, state)
    jax.block_until_ready((out, state))

  run(150)  # after this the window is full
  return run


@pytest.mark.parametrize("n", [100_000, 1_000_000, 10_000_000])
def test_update_over_clip_by_global_norm(race, n):
  gradients = gradients_of({"w": jnp.zeros(n)})
  rounds = 10 if n < 10_000_000 else 1

  def updates(clip):
    return stepper(optax.chain(clip, optax.sgd(0.1)), gradients, rounds)

  race(
    f"an update of {n / 1e6:g}M entries: `chain(clip_by_tail_quantile(), sgd)`"
    " over `chain(clip_by_global_norm, sgd)`",
    updates(clip_by_tail_quantile()),
    updates(optax.clip_by_global_norm(1.0)),
    rounds=10,
    per=rounds * GRADIENTS,
  )


def behind_adam(clip):
  rate = optax.scale_by_learning_rate(1e-3)
  return optax.chain(optax.scale_by_adam(), clip, rate)


PLACES = {
  "chain(clip_by_tail_quantile(), adam)": optax.chain(
    clip_by_tail_quantile(), optax.adam(1e-3)
  ),
  "chain(scale_by_adam(), clip_by_tail_quantile(), rate)": behind_adam(
    clip_by_tail_quantile()
  ),
  "chain(scale_by_adam(), clip_by_tail_quantile(per_layer=True), rate)": (
    behind_adam(clip_by_tail_quantile(per_layer=True))
  ),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("tree", ["CNN (1M)", "ResNet-18 of width 16 (1M)"])
def test_places_over_adam(race, tree, name):
  params = TREES[tree]()
  gradients = gradients_of(params)
  race(
    f"an update of {tree}, {len(params)} leaves: `{name}` over `adam`",
    stepper(PLACES[name], gradients, 5),
    stepper(optax.adam(1e-3), gradients, 5),
    rounds=10,
    per=5 * GRADIENTS,
  )
