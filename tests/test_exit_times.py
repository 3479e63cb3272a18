r"""How long stable noise takes to leave a basin, against the theory.

    dX = -X dt + eps dL^alpha,    out of (-a, b)

with E exp(i u L_1) = exp(-|u|^alpha). As eps -> 0, X leaves in one jump. The
time until then is exponentially distributed and depends only on the width of
the basin,

    E tau = alpha/(c eps^alpha (a^-alpha + b^-alpha)),
    c = Gamma(1 + alpha) sin(pi alpha/2)/pi,

where c x^-alpha/alpha is the rate of jumps of L beyond x (Imkeller and
Pavlyukevich 2006; from memory). For Gaussian noise the time is exponential in
the height of the barrier.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import optax
import pytest

from htga_optax import add_stable_noise

pytestmark = pytest.mark.long_run

DT = 0.01
CHAINS = 2000
EXITS = 4000  # approximately; the mean has a standard error of 1.6 %


def theory(alpha, eps, a, b):
  c = math.gamma(1 + alpha) * math.sin(math.pi * alpha / 2) / math.pi
  return alpha / (c * eps**alpha * (a**-alpha + b**-alpha))


@functools.partial(jax.jit, static_argnames="steps")
def count_exits(alpha, eps, a, b, steps):
  """A chain that leaves restarts at 0, so no chain waits for another."""
  tx = optax.chain(
    optax.sgd(DT), add_stable_noise(alpha, eps, key=0, learning_rate=DT)
  )

  def step(carry, _):
    x, state, exits = carry
    updates, state = tx.update(x, state, x)
    x = optax.apply_updates(x, updates)
    out = (x < -a) | (x > b)
    return (jnp.where(out, 0.0, x), state, exits + jnp.sum(out)), None

  x = jnp.zeros(CHAINS)
  carry, _ = lax.scan(step, (x, tx.init(x), jnp.int32(0)), length=steps)
  return carry[2]


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


# The limit is not reached: for every seed, times are up to 6 % too short at eps
# = 0.1, and up to 4 % at 0.05. A tolerance of 10 % leaves 2.3 standard errors.
@pytest.mark.parametrize(
  "alpha, eps, a, b",
  [
    (1.2, 0.05, 1.0, 1.0),
    (1.5, 0.1, 1.0, 1.0),
    slow(1.2, 0.1, 1.0, 1.0),
    slow(1.5, 0.05, 1.0, 1.0),
    slow(1.5, 0.05, 1.0, 2.0),
    slow(1.8, 0.1, 1.0, 1.0),
    slow(1.8, 0.05, 1.0, 1.0),
  ],
)
def test_mean_exit_times(alpha, eps, a, b):
  expected = theory(alpha, eps, a, b)
  steps = round(EXITS * expected / (CHAINS * DT))
  exits = int(count_exits(alpha, eps, a, b, steps))
  time = steps * DT * CHAINS / exits
  assert exits**-0.5 < 0.02
  assert abs(time / expected - 1) < 0.1, (time, expected)


def test_gaussian_noise_of_the_same_scale_stays():
  """The exit time is of the order of exp(1/(2 eps^2)) = exp(50)."""
  assert int(count_exits(2.0, 0.1, 1.0, 1.0, 1000)) == 0
