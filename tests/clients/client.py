"""Shared code for the tests of programs that use this package."""

import importlib
import warnings

import jax
import numpy as np
import optax
import pytest

import htga_optax

STEPS = 50


def module(name):
  """Imports a client, or skips the test file and gives the reason."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      return importlib.import_module(name)
    except Exception as error:
      pytest.skip(
        f"{name} beside jax {jax.__version__}: {error}; pip install"
        " htga_optax[clients]",
        allow_module_level=True,
      )


# Clients issue their own warnings.
quiet = pytest.mark.filterwarnings("ignore")


class Told:
  """A tracker with `tell`, and the recorded calls."""

  def __init__(self):
    self.calls = []

  def before(self, optimizer):
    return htga_optax.relay(
      htga_optax.track_tail_index(window_size=8, k=2),
      htga_optax.tell(lambda *call: self.calls.append(call), every_k_steps=7),
      optimizer,
    )

  def check(self):
    """The steps are those of the run; from the 8th on there is an index."""
    jax.effects_barrier()
    calls = sorted(self.calls, key=lambda call: call[0])
    assert [step for step, _ in calls] == list(range(0, STEPS, 7))
    indices = [readings["tail_index"] for _, readings in calls]
    assert indices[0] == 0
    assert all(index > 0 for index in indices[1:])


def tail_index_of(state):
  """The tail index in a state, which must be known."""
  index = np.asarray(htga_optax.readings(state)["tail_index"])
  assert np.all(index > 0)
  return index


def line():
  """Points of the line y = x_1 - 2 x_2 + 1/2 with noise."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((64, 2)).astype(np.float32)
  noise = 0.1 * rng.standard_normal(64)
  return x, np.float32(x @ [1.0, -2.0] + 0.5 + noise)


def train(loss, params, tx):
  """Trains by jitted steps; returns parameters and optimizer state."""

  @jax.jit
  def step(params, state):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params, value_fn=loss)
    return optax.apply_updates(params, updates), state

  state, before = tx.init(params), loss(params)
  for _ in range(STEPS):
    params, state = step(params, state)
  assert loss(params) < before / 2
  return params, state


def adam():
  return optax.adam(0.05)
