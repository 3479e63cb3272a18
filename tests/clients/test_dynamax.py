"""dynamax: `fit_sgd` discards the optimizer's state (`tell`).

It gives the optimizer no loss (`with_value_fn`). `run_sgd` does not jit its
step.
"""

import client
import jax
import jax.numpy as jnp
import pytest

hmms = client.module("dynamax.hidden_markov_model")
pytestmark = [client.quiet, pytest.mark.slow]


def test_fit_sgd():
  x, _ = client.line()
  hmm = hmms.GaussianHMM(2, 1)
  params, properties = hmm.initialize(jax.random.key(0))
  told = client.Told()
  _, losses = hmm.fit_sgd(
    params,
    properties,
    jnp.asarray(x[None, :, :1]),
    optimizer=told.before(client.adam()),
    num_epochs=client.STEPS,
  )
  assert losses[-1] < losses[0]
  told.check()
