"""Times the exact k-th largest of many entries."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from htga_optax import order_statistics

N = 1_000_000
X = np.random.default_rng(0).standard_t(3, N).astype(np.float32)


def jitted(f):
  """A function that jits f and runs it on X, which is on the device."""
  run, x = jax.jit(f), jnp.asarray(X)
  return lambda: jax.block_until_ready(run(x))


def kth_largest(k):
  return jitted(lambda x: order_statistics.kth_largest(x, k))


@pytest.mark.parametrize("k", [100, N // 100])
def test_kth_largest_over_top_k(race, k):
  """The straightforward code; on CPU its slice turns it into a full sort."""
  race(
    f"the k-th largest of 1M float32, k={k}, over `lax.top_k(x, k)[0][-1]`",
    kth_largest(k),
    jitted(lambda x: lax.top_k(x, k)[0][-1]),
    1 / 15,
    rounds=10,
  )


@pytest.mark.parametrize("k", [100, N // 100, N // 10])
def test_kth_largest_over_minimum_of_top_k(race, k):
  """The minimum keeps the TopK call, and its cost grows with k."""
  race(
    f"the k-th largest of 1M float32, k={k}, over `min(lax.top_k(x, k)[0])`",
    kth_largest(k),
    jitted(lambda x: jnp.min(lax.top_k(x, k)[0])),
    rounds=10,
  )


@pytest.mark.parametrize("k", [100, N // 100, N // 2])
def test_kth_largest_over_partition(race, k):
  """NumPy copies and partitions the entries, which are on the host already."""
  race(
    f"the k-th largest of 1M float32, k={k}, over `numpy.partition`",
    kth_largest(k),
    lambda: np.partition(X, N - k)[N - k],
  )
