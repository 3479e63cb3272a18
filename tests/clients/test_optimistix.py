"""optimistix: OptaxMinimiser turns the optimizer's functions into pytrees.

It returns the optimizer's state, and passes `value`, `grad` and `value_fn`.
"""

import client
import jax.numpy as jnp
import pytest

import htga_optax

optx = client.module("optimistix")
pytestmark = [client.quiet, pytest.mark.slow]


def minimise(tx):
  x, y = client.line()
  return optx.minimise(
    lambda w, _: jnp.mean((x @ w - y) ** 2),
    optx.OptaxMinimiser(tx, rtol=1e-8, atol=1e-8),
    jnp.zeros(2),
    max_steps=client.STEPS,
    throw=False,
  )


def test_readings_while_it_runs_and_after():
  told = client.Told()
  solution = minimise(told.before(client.adam()))
  assert jnp.all(jnp.abs(solution.value - jnp.asarray([1.0, -2.0])) < 0.3)
  told.check()
  client.tail_index_of(solution.state)


def test_it_passes_the_loss():
  solution = minimise(htga_optax.ahtsgd(0.1, scale=1e-4, key=0))
  assert htga_optax.readings(solution.state)["sharpness"] > 0
