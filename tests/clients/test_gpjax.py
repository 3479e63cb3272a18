"""gpjax: `fit` discards the optimizer's state (`tell`).

It gives the optimizer no loss (`with_value_fn`).
"""

import client
import jax.numpy as jnp
import pytest

gpx = client.module("gpjax")
pytestmark = [client.quiet, pytest.mark.slow]


def test_fit():
  x, y = client.line()
  data = gpx.Dataset(X=jnp.asarray(x[:, 1:]), y=jnp.asarray(y[:, None]))
  prior = gpx.gps.Prior(
    mean_function=gpx.mean_functions.Zero(), kernel=gpx.kernels.RBF()
  )
  told = client.Told()
  _, losses = gpx.fit(
    model=prior * gpx.likelihoods.Gaussian(),
    objective=lambda p, d: -gpx.objectives.conjugate_mll(p, d),
    train_data=data,
    optim=told.before(client.adam()),
    num_iters=client.STEPS,
    verbose=False,
  )
  assert losses[-1] < losses[0]
  told.check()
