"""Runs with bad gradients, and long runs."""

import functools
import gc

import cases
from cases import given
import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import runs
from scipy import signal

import htga_optax
from htga_optax import (
  gradient_noise,
  order_statistics,
  streaming,
)

LARGEST_COUNT = np.iinfo(np.int32).max


def is_finite(tree):
  floats = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))


# -- faults -----------------------------------------------------------------


def faults_of(steps, quiet_from, seed=0):
  """Values to add to the gradients: nan, inf or 1e30 in 1 percent of the steps.

  They are 0 in the first hundred steps and from `quiet_from` on.
  """
  rng = np.random.default_rng(seed)
  kinds = np.float32([np.nan, np.inf, -np.inf, 1e30, -1e30])
  faults = np.where(rng.random(steps) < 0.01, rng.choice(kinds, steps), 0)
  faults[:100] = faults[quiet_from:] = 0
  return faults.astype(np.float32)


def run_with(tx):
  """A jitted run with faults [steps]: its end, and its values in each step."""

  def step(carry, at):
    params, state, finite = carry
    batch, fault = at
    grads, others = runs.gradient(params, batch)
    value_fn = others["value_fn"]
    updates, state = tx.update(
      jax.tree.map(lambda g: g + fault, grads),
      state,
      params,
      noise_updates=jax.tree.map(lambda g: g + fault, others["noise_updates"]),
      value_fn=lambda p: value_fn(p) * (1 + fault),
    )
    params = optax.apply_updates(params, updates)
    finite &= is_finite((params, state))
    norm = optax.tree.get(state, "update_norm", jnp.float32(0.0))
    return (params, state, finite), (runs.excess(params), norm)

  def run(faults):
    params = runs.params()
    start = params, tx.init(params), jnp.bool(True)
    return scan(start, (runs.batches(len(faults)), faults))

  scan = jax.jit(functools.partial(lax.scan, step))
  return run


def runs_of():
  """The runs; those of 1e5 steps, or similar to another run, are slow tests."""
  for steps in (7000, 100_000):
    for name in runs.OPTIMIZERS:
      for guard in ("bare", "clipped"):
        fast = guard == "bare" and name != "scale_by_htga" and steps == 7000
        marks = () if fast else pytest.mark.slow
        yield pytest.param(name, guard, steps, marks=marks)


@pytest.mark.parametrize("name, guard, steps", runs_of())
def test_a_run_recovers_from_faults(name, guard, steps):
  """Parameters and state are finite after every step.

  Three thousand steps after the last fault, the run agrees with one without
  faults: the tail index is that of the window. The parameters agree too, if
  there is no noise that depends on the number of steps. (HTGA needs the time:
  norms differ by 3 percent after 2,000 steps, and by 1e-5 after 2,200.)

  Without a clip, a gradient of 1e30 is an ordinary step. The parameters recover
  from it only because the model is linear.
  """
  clipped = guard == "clipped"
  tx = runs.OPTIMIZERS[name]()
  if clipped:
    tx = optax.chain(htga_optax.clip_by_tail_quantile(0.01, 64, 16), tx)
  faults = faults_of(steps, quiet_from=steps - 3000)
  run = run_with(tx)
  (params, state, finite), (excess, norms) = run(faults)
  (wanted, _, _), (usual_excess, usual_norms) = run(np.zeros_like(faults))
  assert finite

  # Medians, since single steps of runs with noise are far off.
  level, usual = np.median(excess[-1000:]), np.median(usual_excess[-1000:])
  assert level < 1e-3 and 0.5 < level / usual < 2
  if clipped:  # a fault is at most as long as a few steps; 8.4 at the start
    assert np.max(excess[200:]) < max(0.05, 2 * np.max(usual_excess[200:]))

  if name in runs.WITH_A_WINDOW:
    last = np.float64(norms[-runs.WINDOW_SIZE :])
    # After a dropped step, the reading keeps the norm before it.
    seen = norms if clipped else norms[np.isfinite(faults)]
    ratios = reference.over_level(seen)[-runs.WINDOW_SIZE :]
    np.testing.assert_allclose(
      optax.tree.get(state, "tail_index"),
      reference.hill(ratios, runs.K),
      rtol=1e-3,
    )
    np.testing.assert_allclose(last, usual_norms[-len(last) :], rtol=1e-2)
    chex.assert_trees_all_close(params, wanted, atol=1e-3)
    if not clipped:
      count = optax.tree.get(state, "nonfinite_count")
      assert count == np.sum(~np.isfinite(faults))


# -- long runs --------------------------------------------------------------

STEPS, BLOCK, DECAY = 100_000, 1000, 0.99


def stream():
  """Pareto norms rounded to 1/8, with many ties.

  Among them are zeros, runs of one value, nan and inf.
  """
  rng = np.random.default_rng(0)
  x = np.ceil(8 * (rng.pareto(1.5, STEPS) + 1)) / 8
  x[rng.random(STEPS) < 0.01] = 0
  for start in rng.integers(STEPS, size=100):
    x[start : start + 50] = x[start]
  bad = rng.random(STEPS) < 0.01
  return np.where(bad, rng.choice([np.nan, np.inf], STEPS), x).astype("f4")


@functools.cache
def soaked():
  """Every statistic over time, by one scan of the stream.

  Returns:
    The stream, the windows at the end of every block, the last states by name,
    and, by name and step, the references of the averages (threshold, location
    and scale).
  """
  hill = streaming.windowed_hill(32, 4)
  averages = {
    "hill": streaming.ew_hill(DECAY),
    "log_moment": streaming.ew_log_moment(DECAY),
    "characteristic_function": (streaming.ew_characteristic_function(DECAY)),
  }
  amplify = htga_optax.amplify(
    htga_optax.Reading("tail_index"), tau_decay=DECAY
  )
  noise = htga_optax.track_gradient_noise(32, decay=DECAY)
  sharpness = htga_optax.track_sharpness(decay=DECAY)
  leaf = jnp.zeros([1])

  def step(state, x):
    g = x[None]
    new = {
      "window": order_statistics.push(state["window"], x),
      "windowed_hill": hill.update(state["windowed_hill"], x),
      "amplify": amplify.update(g, state["amplify"], tail_index=1.0)[1],
      "noise": noise.update(g, state["noise"], other_updates=2 * g)[1],
      "sharpness": sharpness.update(g, state["sharpness"], sharpness=x)[1],
    } | {name: e.update(state[name], x) for name, e in averages.items()}
    course = {
      "threshold": state["hill"].log_threshold,
      "location": state["characteristic_function"].location,
      "log_scale": new["characteristic_function"].log_scale,
    }
    return new, course

  def block(state, xs):
    state, course = lax.scan(step, state, xs)
    return state, (state["window"], state["windowed_hill"].window, course)

  state = {
    "window": order_statistics.empty_window(256),
    "windowed_hill": hill.init(),
    "amplify": amplify.init(leaf),
    "noise": noise.init(leaf),
    "sharpness": sharpness.init(leaf),
  } | {name: e.init() for name, e in averages.items()}
  x = stream()
  state, (*windows, course) = jax.jit(functools.partial(lax.scan, block))(
    state, x.reshape(-1, BLOCK)
  )
  return x, windows, state, {k: v.ravel() for k, v in course.items()}


def test_the_window_never_drifts():
  """Windows agree to the last bit at a hundred points of 1e5 steps."""
  x, windows, *_ = soaked()
  for window in jax.device_get(windows):
    size = window.ascending.shape[1]
    for i in range(STEPS // BLOCK):
      seen = x[: (i + 1) * BLOCK]
      last = seen[np.isfinite(seen)][-size:]
      assert window.arrivals[i].tobytes() == last.tobytes()
      assert window.ascending[i].tobytes() == np.sort(last).tobytes()


def test_the_estimate_of_the_window_never_drifts():
  """The state equals that of a run that starts 4000 values before the end.

  The misfit has a memory of 16k exceedances. The two agree up to rounding in
  the correlations of the series.
  """
  x, _, state, _ = soaked()
  hill = streaming.windowed_hill(32, 4)
  values = x[np.isfinite(x)]
  start = (len(values) - 4000) // 4 * 4  # the series is examined every 4 values
  step = lambda state, x: (hill.update(state, x), None)
  late, _ = jax.jit(functools.partial(lax.scan, step))(
    hill.init(), values[start:]
  )
  chex.assert_trees_all_equal(late.window, state["windowed_hill"].window)
  np.testing.assert_allclose(
    late.numbers, state["windowed_hill"].numbers, rtol=1e-5, atol=1e-6
  )


def test_averages_never_drift():
  """The averages agree with float64 sums over the whole stream.

  A float32 average has a rounding error of 2^-24 for each of the last
  1/(1 - d) = 100 steps: 6e-6 of its size.
  """
  x, _, state, course = soaked()
  d = float(np.float32(DECAY))
  x, heard = np.float64(x), np.isfinite(x)

  def total(values):
    return signal.lfilter([1.0], [1.0, -d], values)[-1]

  def average(values):
    return total(values) / total(np.ones_like(values))

  close = functools.partial(np.testing.assert_allclose, rtol=2e-5)
  positive = x[heard & (x > 0)]
  log = np.log(positive)
  log_norm, weight = state["amplify"].log_norm
  close([log_norm / weight, weight], [average(log), 1])

  moments = gradient_noise.moments(*(c * np.ones(1) for c in (1.0, 2.0)), 32)
  close(
    state["noise"].moments,
    [float(m) * average(x[heard] ** 2) for m in moments],
  )
  floored = np.log(np.maximum(x[heard], 1e-6))
  close(np.log(state["sharpness"].sharpness), average(floored))

  log_moment = state["log_moment"]
  mean = average(log)
  close(log_moment.mean, mean)
  close(log_moment.variance, average((log - mean) ** 2))

  threshold = np.float64(course["threshold"])
  excess = np.log(np.maximum(x, 1e-38))[heard] - threshold[heard]
  hill = state["hill"]
  close(hill.excess_sum, total(np.maximum(excess, 0)))
  close(hill.exceedances, total(excess > 0))
  close(hill.squared_weights, signal.lfilter([1], [1, -d * d], excess > 0)[-1])

  away = x - np.float64(course["location"])
  heard &= away != 0
  heard[0] = False  # it starts at the first value
  z = away[heard] / np.exp(np.float64(course["log_scale"]))[heard]
  phases = state["characteristic_function"]
  close(phases.log_scale, average(np.log(np.abs(away[heard]))))
  for i, t in enumerate((0.2, 1.0)):
    close(phases.lack[i], average(1 - np.cos(t * z)))
    close(phases.sine[i], average(np.sin(t * z)), atol=2e-5)


def test_memory_does_not_grow_with_the_steps():
  """A scan of 1e5 training steps needs no more memory than one of 1e3.

  The scan carries the state, whose size is fixed, and keeps nothing else.
  """
  tx = runs.OPTIMIZERS["htga"]()

  def step(carry, _):
    t, params, state = carry
    grads, _ = runs.gradient(params, runs.batch(t, size=4))
    updates, state = tx.update(grads, state, params)
    return (t + 1, optax.apply_updates(params, updates), state), None

  def compiled(steps):
    run = lambda *start: lax.scan(step, start, length=steps)[0]
    return jax.jit(run).lower(*start).compile()

  start = jnp.int32(0), runs.params(), tx.init(runs.params())
  short, long = compiled(1000), compiled(STEPS)
  sizes = [
    (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes)
    for m in (short.memory_analysis(), long.memory_analysis())
  ]
  assert sizes[0] == sizes[1]


def test_a_loop_of_steps_leaves_no_buffers_behind():
  tx = runs.OPTIMIZERS["htga"]()
  params = runs.params()
  grads, _ = runs.gradient(params, runs.batch(0))
  step = jax.jit(tx.update, donate_argnums=1)
  updates, state = step(grads, tx.init(params))

  def live():
    gc.collect()  # buffers of earlier tests
    return sum(x.nbytes for x in jax.live_arrays())

  before = live()
  for _ in range(500):
    updates, state = step(grads, state)
  assert live() <= before
  del updates


COUNTED = [
  case for case in cases.CASES
  if case.name in (
    "track_tail_index",
    "clip_by_tail_quantile",
    "stable_noise",
    "inflate_gradient_noise",
    "track_sharpness_of_a_loss",
    "truncate",
  )
]  # fmt: skip


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.name)
def test_counters_stop_at_the_largest_number(case):
  """Counters do not wrap, neither after good steps nor after bad ones."""
  tx, params = case.make(), cases.params()

  def filled(path, x):
    is_count = jax.tree_util.keystr(path).endswith("_count")
    return jnp.full_like(x, LARGEST_COUNT) if is_count else x

  def counts(state):
    return [
      x
      for path, x in jax.tree.leaves_with_path(state)
      if jax.tree_util.keystr(path).endswith("_count")
    ]

  state = jax.tree.map_with_path(filled, tx.init(params))
  grads = jax.tree.map(lambda g: g[:4], cases.gradients(4))
  grads = jax.tree.map(lambda g: g.at[1::2].set(jnp.nan), grads)

  def step(state, g):
    _, state = tx.update(g, state, params, **given(case.extra_args, g))
    return state, counts(state)

  _, course = jax.jit(functools.partial(lax.scan, step))(state, grads)
  assert course
  assert all(np.all(x == LARGEST_COUNT) for x in course)
