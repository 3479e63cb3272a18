"""numpyro: SVI takes any optax transformation and keeps its state. It calls
`update` without a loss, so `ahtsgd` needs `with_value_fn`."""

import client
import jax
import optax
import pytest

import htga_optax

numpyro = client.module("numpyro")
infer = client.module("numpyro.infer")
guides = client.module("numpyro.infer.autoguide")
pytestmark = [client.quiet, pytest.mark.slow]


def model():
  numpyro.sample("z", numpyro.distributions.Normal(3.0, 0.5))


def fit(tx):
  guide = guides.AutoNormal(model)
  svi = infer.SVI(model, guide, tx, infer.Trace_ELBO())
  return svi.run(jax.random.key(0), client.STEPS, progress_bar=False)


def test_svi():
  result = fit(
    htga_optax.relay(htga_optax.track_tail_index(8, 2), client.adam())
  )
  assert result.losses[-10:].mean() < result.losses[:10].mean()
  client.tail_index_of(result.state)


def test_ahtsgd_with_a_bound_loss():
  guide = guides.AutoNormal(model)
  elbo = infer.Trace_ELBO(8)
  svi = infer.SVI(model, guide, optax.sgd(1e-4), elbo)
  svi.init(jax.random.key(0))
  loss = lambda p: elbo.loss(
    jax.random.key(0), svi.constrain_fn(p), model, guide
  )
  tx = htga_optax.ahtsgd(1e-3, scale=1e-4, key=0)
  result = fit(htga_optax.with_value_fn(tx, loss))
  assert htga_optax.readings(result.state)["sharpness"] > 0
