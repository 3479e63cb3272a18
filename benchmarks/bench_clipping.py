"""What does clipping at a tail quantile cost, over clipping at a number?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from htga_optax import clip_by_tail_quantile

# Not a divisor of the window, so that the tail changes as it does in a run.
GRADIENTS = 7


@pytest.mark.parametrize("n", [100_000, 1_000_000, 10_000_000])
def test_update_over_clip_by_global_norm(race, n):
  rng = np.random.default_rng(0)
  direction = rng.standard_normal(n) / n**0.5
  gradients = [
    {"w": jnp.asarray(size * direction, jnp.float32)}
    for size in np.abs(rng.standard_t(3, GRADIENTS))
  ]
  params = jax.tree.map(jnp.zeros_like, gradients[0])
  rounds = 10 if n < 10_000_000 else 1

  def updates(tx):
    tx = optax.chain(tx, optax.sgd(0.1))
    update = jax.jit(tx.update, donate_argnums=1)
    state = tx.init(params)

    def run(rounds=rounds):
      nonlocal state
      for _ in range(rounds):
        for grads in gradients:
          out, state = update(grads, state)
      jax.block_until_ready((out, state))

    run(150)  # the window is full
    return run

  race(
    f"an update of {n / 1e6:g}M entries: `chain(clip_by_tail_quantile(), sgd)`"
    " over `chain(clip_by_global_norm, sgd)`",
    updates(clip_by_tail_quantile()),
    updates(optax.clip_by_global_norm(1.0)),
    rounds=10,
    per=rounds * GRADIENTS,
  )
