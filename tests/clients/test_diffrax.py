"""diffrax: its default adjoint differentiates only in reverse mode.

The top eigenvalue therefore needs `DirectAdjoint`. The expected sharpness works
with both.
"""

import client
import jax.numpy as jnp
import optax
import pytest

import htga_optax

diffrax = client.module("diffrax")
pytestmark = [client.quiet, pytest.mark.slow]


def loss(rate, adjoint):
  """How far a decay is from 1/5 at time 1."""
  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(lambda t, y, args: -rate * y),
    diffrax.Tsit5(),
    0.0,
    1.0,
    0.1,
    jnp.ones(2),
    adjoint=adjoint,
  )
  return jnp.sum((solution.ys - 0.2) ** 2)


@pytest.mark.parametrize(
  "source, adjoint",
  [
    ("top_eigenvalue", diffrax.DirectAdjoint()),
    ("expected_sharpness", diffrax.RecursiveCheckpointAdjoint()),
  ],
)
def test_training(source, adjoint):
  value_fn = lambda w: loss(w, adjoint)
  tx = htga_optax.relay(
    htga_optax.track_tail_index(8, 2),
    htga_optax.track_sharpness(source),
    optax.sgd(0.5),
  )
  w, state = client.train(value_fn, jnp.ones(2), tx)
  assert jnp.all(jnp.abs(w - jnp.log(5.0)) < 0.1)
  client.tail_index_of(state)
  assert htga_optax.readings(state)["sharpness"] > 0


def test_the_error_names_what_works():
  tx, w = htga_optax.track_sharpness(), jnp.ones(2)
  adjoint = diffrax.RecursiveCheckpointAdjoint()
  with pytest.raises(TypeError, match=r"expected_sharpness.*DirectAdjoint"):
    tx.update(w, tx.init(w), w, value_fn=lambda w: loss(w, adjoint))
