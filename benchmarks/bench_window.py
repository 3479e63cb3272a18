"""Times a step of a windowed Hill estimate."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from htga_optax import estimators, streaming

STEPS = 5000
NORMS = (np.random.default_rng(0).pareto(1.5, STEPS) + 1).astype(np.float32)


def scanned(step, state):
  """A function that runs STEPS steps in one jitted scan."""
  run = jax.jit(lambda state, xs: lax.scan(step, state, xs))
  xs = jnp.asarray(NORMS)
  run(state, xs)
  return lambda: jax.block_until_ready(run(state, xs))


def windowed_hill(window_size, k):
  return streamed(streaming.windowed_hill(window_size, k))


def streamed(estimator):
  init, update, estimate = estimator

  def step(state, x):
    state = update(state, x)
    return state, estimate(state)

  return scanned(step, init())


def ring_and_top_k(window_size, k):
  """The usual method: a ring buffer, and lax.top_k of all of it in each step
  (in a form that remains a TopK call and does not become a full sort)."""

  def step(state, x):
    buffer, cursor = state
    buffer = buffer.at[cursor].set(x)
    cursor = (cursor + 1) % window_size
    return (buffer, cursor), estimators.hill(buffer, k)

  return scanned(step, (jnp.ones([window_size]), jnp.zeros([], jnp.int32)))


def heavytails_window(window_size, k):
  """heavytails on the host, on floats; no copy from the device is timed."""
  from heavytails.streaming import WindowedTailIndex

  floats = NORMS.tolist()

  def run():
    window = WindowedTailIndex(window_size, k)
    for x in floats:
      window.update(x)
      if window.ready:
        window.hill()

  return run


def partitioned_window(window_size, k):
  """NumPy on the host; it partitions the window, a slice, in each step."""

  def run():
    for end in range(window_size, STEPS + 1):
      window = NORMS[end - window_size : end]
      tail = np.partition(window, window_size - k - 1)[window_size - k - 1 :]
      k / np.sum(np.log(tail / tail[0]))

  return run


@pytest.mark.parametrize(
  "window_size, k, most, most_ratio",
  [
    (256, 16, 2.0, float("inf")),
    (1024, 64, float("inf"), float("inf")),
    (4096, 256, 6.0, 0.1),
  ],
)
def test_windowed_hill_over_top_k(race, window_size, k, most, most_ratio):
  race(
    f"a step of windowed Hill, W={window_size}, k={k}, over a ring buffer and"
    " `lax.top_k`",
    windowed_hill(window_size, k),
    ring_and_top_k(window_size, k),
    most_ratio,
    most,
    rounds=10,
    unit="us",
    per=STEPS,
  )


@pytest.mark.parametrize("window_size, k", [(256, 16), (4096, 256)])
def test_windowed_hill_over_heavytails(race, window_size, k):
  race(
    f"a step of windowed Hill, W={window_size}, k={k}, over heavytails"
    " `WindowedTailIndex`",
    windowed_hill(window_size, k),
    heavytails_window(window_size, k),
    rounds=5,
    unit="us",
    per=STEPS,
  )


def test_windowed_hill_over_partition(race):
  race(
    "a step of windowed Hill, W=256, k=16, over `numpy.partition`",
    windowed_hill(256, 16),
    partitioned_window(256, 16),
    rounds=10,
    unit="us",
    per=STEPS,
  )


FORMS = {
  "`windowed` of the moment estimator, W=256, k=25": streaming.windowed(
    functools.partial(estimators.moment, k=25), 256
  ),
  "`windowed` of the characteristic function, W=256": streaming.windowed(
    estimators.characteristic_function, 256
  ),
  "`streaming.ew_hill`": streaming.ew_hill(),
  "`streaming.ew_log_moment`": streaming.ew_log_moment(),
  "`streaming.ew_characteristic_function`": (
    streaming.ew_characteristic_function()
  ),
}


@pytest.mark.parametrize("form", FORMS)
def test_streaming_form_over_windowed_hill(race, form):
  race(
    f"a step of {form} over windowed Hill, W=256, k=25",
    streamed(FORMS[form]),
    windowed_hill(256, 25),
    rounds=5,
    unit="us",
    per=STEPS,
  )
