"""jaxopt: OptaxSolver keeps the optimizer's state as `internal_state`.

It gives the optimizer no loss (`with_value_fn`).
"""

import client
import jax.numpy as jnp
import pytest

import htga_optax

jaxopt = client.module("jaxopt")
pytestmark = [client.quiet, pytest.mark.slow]


def loss(w, x, y):
  return jnp.mean((x @ w - y) ** 2)


def solve(tx):
  x, y = client.line()
  solver = jaxopt.OptaxSolver(loss, tx, maxiter=client.STEPS)
  return solver.run(jnp.zeros(2), x, y)


def test_htga():
  result = solve(htga_optax.htga(0.1, window_size=8, k=2))
  assert jnp.all(jnp.abs(result.params - jnp.asarray([1.0, -2.0])) < 0.3)
  client.tail_index_of(result.state.internal_state)


def test_ahtsgd_with_a_bound_loss():
  x, y = client.line()
  tx = htga_optax.ahtsgd(0.1, scale=1e-4, key=0)
  result = solve(htga_optax.with_value_fn(tx, lambda w: loss(w, x, y)))
  assert htga_optax.readings(result.state.internal_state)["sharpness"] > 0
