"""Times samples of stable noise, against Gaussian noise."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from scipy import stats

from htga_optax import stable

KEY = jax.random.key(0)


def jitted(f, *parameters):
  """A function that jits f and runs it on a key and traced parameters."""
  run = jax.jit(f)
  parameters = tuple(jnp.float32(p) for p in parameters)
  return lambda: jax.block_until_ready(run(KEY, *parameters))


def normal(*shape):
  return jitted(lambda key: jax.random.normal(key, shape))


def symmetric(*shape):
  return jitted(lambda key, a: stable.sample(key, a, shape=shape), 1.5)


def by_the_book(key, alpha, shape):
  """The method of Chambers, Mallows and Stuck (1976), in its usual form."""
  key_v, key_w = jax.random.split(key)
  half = math.pi / 2
  v = jax.random.uniform(key_v, shape, minval=-half, maxval=half)
  w = jax.random.exponential(key_w, shape)
  tail = (jnp.cos((1 - alpha) * v) / w) ** ((1 - alpha) / alpha)
  return jnp.sin(alpha * v) / jnp.cos(v) ** (1 / alpha) * tail


@pytest.mark.parametrize(
  "shape",
  [(10**6,), (10**7,), (1000, 1000), (512, 512, 3, 3)],
  ids=str,
)
def test_symmetric_over_normal(race, shape):
  race(
    f"symmetric stable noise {list(shape)} over `jax.random.normal`",
    symmetric(*shape),
    normal(*shape),
    0.7 if len(shape) < 3 else float("inf"),
  )


@pytest.mark.parametrize(
  "name, f",
  [
    ("skewed", functools.partial(stable.sample, shape=(10**6,))),
    (
      "isotropic",
      lambda key, a, b: stable.isotropic(key, a, (10**3, 10**3)),
    ),
  ],
  ids=["skewed", "isotropic"],
)
def test_other_laws_over_normal(race, name, f):
  race(
    f"{name} stable noise of 1M over `jax.random.normal`",
    jitted(f, 1.5, 0.5),
    normal(10**6),
  )


def test_over_the_usual_formula(race):
  race(
    "symmetric stable noise of 1M over the usual formula in JAX",
    symmetric(10**6),
    jitted(lambda key, a: by_the_book(key, a, (10**6,)), 1.5),
  )


def test_over_scipy(race):
  race(
    "symmetric stable noise of 1M over `levy_stable.rvs`",
    symmetric(10**6),
    lambda: stats.levy_stable.rvs(1.5, 0.0, size=10**6),
    rounds=5,
  )
