"""flowjax: `fit_to_data` discards the optimizer's state (`tell`).

It gives the optimizer no loss (`with_value_fn`, with separate data).
"""

import client
import jax
import jax.numpy as jnp
import pytest

bijections = client.module("flowjax.bijections")
distributions = client.module("flowjax.distributions")
train = client.module("flowjax.train")
pytestmark = [client.quiet, pytest.mark.slow]


def test_fit_to_data():
  x = jax.random.normal(jax.random.key(0), (100, 2)) * 3 + 1
  flow = distributions.Transformed(
    distributions.Normal(jnp.zeros(2)),
    bijections.Affine(jnp.zeros(2), jnp.ones(2)),
  )
  told = client.Told()
  _, losses = train.fit_to_data(
    jax.random.key(1),
    flow,
    x,
    optimizer=told.before(client.adam()),
    max_epochs=client.STEPS,
    max_patience=client.STEPS,
    batch_size=90,
    val_prop=0.1,
    show_progress=False,
  )
  assert losses["train"][-1] < losses["train"][0]
  told.check()
