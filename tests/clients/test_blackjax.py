"""blackjax: variational inference keeps the optimizer's state in its own state.

It gives the optimizer no loss (`with_value_fn`).
"""

import client
import jax
import jax.numpy as jnp
import pytest

import htga_optax

blackjax = client.module("blackjax")
pytestmark = [client.quiet, pytest.mark.slow]


def test_mean_field():
  log_density = lambda z: -jnp.sum((z - 3) ** 2) / 2
  tx = htga_optax.relay(htga_optax.track_tail_index(8, 2), client.adam())
  algorithm = blackjax.meanfield_vi(log_density, tx, 20)
  state = algorithm.init(jnp.zeros(2))
  step = jax.jit(algorithm.step)
  for key in jax.random.split(jax.random.key(0), client.STEPS):
    state, _ = step(key, state)
  assert jnp.all(jnp.abs(state.mu - 3) < 1.5)
  client.tail_index_of(state.opt_state)
