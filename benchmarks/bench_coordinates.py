"""Times the tail index of the entries of a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from htga_optax import coordinates


def numpy_hill(x, k):
  """The usual method on the host, on a copy of the entries there."""
  size = np.abs(x)
  tail = np.partition(size, x.size - k - 1)[x.size - k - 1 :]
  return k / np.sum(np.log(tail / tail[0]))


@pytest.mark.parametrize("n", [1_000_000, 10_000_000])
def test_hill_of_coordinates(race, n):
  x = np.random.default_rng(0).standard_t(3, n).astype(np.float32)
  hill, on_device = jax.jit(coordinates.hill), jnp.asarray(x)
  np.testing.assert_allclose(
    hill(on_device), numpy_hill(x, n // 100), rtol=1e-3
  )
  race(
    f"Hill of the {n // 1_000_000}M entries of a gradient, k = 1 %, over"
    " `numpy.partition` and a mean",
    lambda: jax.block_until_ready(hill(on_device)),
    lambda: numpy_hill(x, n // 100),
    rounds=10,
  )


def test_a_gradient_behind_a_tracker(race):
  """The tracker estimates in every tenth step."""
  import optax

  import htga_optax

  params = {"w": jnp.zeros([1000, 1000])}
  grads = {
    "w": jnp.float32(np.random.default_rng(0).standard_t(3, (1000, 1000)))
  }

  def updates(tx):
    update = jax.jit(tx.update, donate_argnums=1)
    state = tx.init(params)

    def run():
      nonlocal state
      for _ in range(50):
        out, state = update(grads, state)
      jax.block_until_ready((out, state))

    return run

  race(
    "an update of 1M entries: `chain(track_coordinate_tail_index(), adam)` over"
    " `adam`",
    updates(
      optax.chain(htga_optax.track_coordinate_tail_index(), optax.adam(1e-3))
    ),
    updates(optax.adam(1e-3)),
    rounds=10,
    per=50,
  )
