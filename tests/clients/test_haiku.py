"""Haiku: parameters are plain dicts, so everything works as with optax."""

import client
import jax
import jax.numpy as jnp
import pytest

import htga_optax

hk = client.module("haiku")
pytestmark = [client.quiet, pytest.mark.slow]


def test_training():
  x, y = client.line()
  net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1])(x)))
  params = net.init(jax.random.key(0), x)
  tx = htga_optax.htga(0.05, window_size=8, k=2, per_layer=True)
  loss = lambda p: jnp.mean((net.apply(p, x)[:, 0] - y) ** 2)
  params, state = client.train(loss, params, tx)
  indices = htga_optax.by_layer(client.tail_index_of(state), params)
  assert "mlp/~/linear_0/w" in indices
