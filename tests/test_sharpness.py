"""The sharpness tracker, and AHTSGD compared with its formula."""

import math

import chex
import jax
from jax import lax
from jax.experimental import checkify
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import reference

import htga_optax

EIGENVALUES = np.float32([0.5, 1.0, 2.0, 8.0])


def bowl(w):
  return jnp.sum(EIGENVALUES * w**2) / 2


def track(steps, value_fn=bowl, params=None, **kwargs):
  """The readings of every step."""
  params = jnp.ones(4) if params is None else params
  tx = htga_optax.track_sharpness(**kwargs)

  def step(state, _):
    _, state = tx.update(params, state, params, value_fn=value_fn)
    return state, (
      state.sharpness,
      state.sharpness_estimate,
      state.measurement_count,
    )

  return jax.jit(lambda s: lax.scan(step, s, length=steps))(tx.init(params))


# -- the tracker --------------------------------------------------------------


@pytest.mark.parametrize(
  "source, expected",
  [
    ("top_eigenvalue", 8.0),
    ("trace", 11.5),
    ("mean_eigenvalue", 11.5 / 4),
    ("expected_sharpness", 0.02**2 / 2 * 11.5),
  ],
)
def test_sources(source, expected):
  params = jnp.zeros(4)  # here the expected sharpness is the trace
  _, (sharpness, estimates, _) = track(
    200, source=source, every_k_steps=1, perturbation_scale=0.02, params=params
  )
  if source == "expected_sharpness":  # one draw each, 200 for the mean
    deviation = 0.02**2 * np.sqrt(np.sum(EIGENVALUES**2) / 2 / 200)
    assert abs(np.mean(estimates) - expected) < 4 * deviation
  else:
    np.testing.assert_allclose(estimates[-1], expected, rtol=1e-4)
    np.testing.assert_allclose(sharpness[-1], expected, rtol=1e-2)


def test_power_iteration_continues_from_its_last_vector():
  """With a gap of 4, each step reduces the error by a constant factor."""
  _, (_, estimates, _) = track(12, every_k_steps=1)
  errors = 8 - np.asarray(estimates)
  assert errors[0] > 0.05 and errors[5] < 1e-3 * errors[0] + 1e-5


def test_measurements_are_taken_every_few_steps():
  _, (sharpness, _, counts) = track(11, every_k_steps=5)
  np.testing.assert_array_equal(counts, [1] * 5 + [2] * 5 + [3])
  changes = np.flatnonzero(np.diff(sharpness)) + 1
  np.testing.assert_array_equal(changes, [5, 10])


def test_the_loss_is_not_evaluated_between_measurements():
  evaluated = []

  def loss(w):
    jax.debug.callback(lambda: evaluated.append(1))
    return bowl(w)

  track(
    9,
    value_fn=loss,
    source="expected_sharpness",
    every_k_steps=4,
    num_matvecs=1,
  )
  jax.effects_barrier()
  # Steps 0, 4 and 8 each have three: is it finite, its value, and one draw.
  assert len(evaluated) == 3 * 3


def test_readings_by_hand_equal_the_reference():
  values = [3.0, math.nan, 5.0, 0.2, math.inf, -1.0, 0.0, 40.0, 1e-3]
  tx = htga_optax.track_sharpness(decay=0.7, slow_decay=0.9, floor=1e-2)
  state = tx.init(jnp.ones(2))
  expected = reference.geometric_means(values, 0.7, 0.9, 1e-2)
  for value, (mean, growth) in zip(values, expected):
    updates, state = tx.update(jnp.ones(2), state, sharpness=value)
    np.testing.assert_array_equal(updates, jnp.ones(2))
    np.testing.assert_allclose(state.sharpness, mean, rtol=1e-5)
    np.testing.assert_allclose(state.sharpness_growth, growth, rtol=1e-5)
  assert optax.tree.get(state, "sharpness_estimate") == np.float32(1e-3)


@pytest.mark.parametrize("source", ["top_eigenvalue", "trace"])
def test_a_loss_of_nan_leaves_the_last_reading(source):
  tx = htga_optax.track_sharpness(source, every_k_steps=1)
  params = jnp.ones(4)
  state, _ = track(20, source=source, every_k_steps=1)
  _, hit = tx.update(params, state, params, value_fn=lambda w: jnp.nan * w[0])
  kept = lambda s: (s.sharpness, s.sharpness_estimate, s.top_vector)
  chex.assert_trees_all_equal(kept(hit), kept(state))
  _, new = tx.update(params, hit, params, value_fn=bowl)
  np.testing.assert_allclose(new.sharpness, state.sharpness, rtol=1e-2)


def test_a_first_loss_of_nan_gives_no_reading():
  tx = htga_optax.track_sharpness(every_k_steps=2)
  params = jnp.ones(4)
  _, state = tx.update(
    params, tx.init(params), params, value_fn=lambda w: jnp.nan * w[0]
  )
  assert state.sharpness == 0 and state.sharpness_growth == 0


def test_all_three_readings_are_offered():
  tx = htga_optax.relay(htga_optax.track_sharpness())
  params = jnp.ones(4)
  _, state = tx.update(params, tx.init(params), params, value_fn=bowl)
  read = htga_optax.readings(state)
  assert list(read) == ["sharpness", "sharpness_growth", "sharpness_estimate"]
  for name, value in read.items():
    assert value == optax.tree.get(state, name) != 0


SOURCES = ["top_eigenvalue", "trace", "mean_eigenvalue", "expected_sharpness"]


@pytest.mark.parametrize("source", [*SOURCES, "by hand"])
def test_healthy_steps_are_quiet(source):
  """Checks for nan and division by zero find nothing, from step 0 on."""
  by_hand = source == "by hand"
  given = {"sharpness": 3.0} if by_hand else {"value_fn": bowl}
  tx = htga_optax.track_sharpness(
    "trace" if by_hand else source, every_k_steps=2
  )
  params = jnp.ones(4)
  update = lambda state: tx.update(params, state, params, **given)[1]
  with jax.debug_nans(True):
    state = tx.init(params)
    for _ in range(3):
      state = update(state)
  assert state.sharpness > 0

  checked = jax.jit(checkify.checkify(update, errors=checkify.float_checks))
  state = tx.init(params)
  for _ in range(3):
    error, state = checked(state)
    error.throw()
  assert state.sharpness > 0


@pytest.mark.parametrize("decay", ["decay", "slow_decay"])
def test_a_decay_that_is_one_in_float32_gives_no_nan(decay):
  tx = htga_optax.track_sharpness(**{decay: 1 - 1e-9})
  params = jnp.ones(4)
  with jax.debug_nans(True):
    _, state = tx.update(params, tx.init(params), params, value_fn=bowl)
  # The average never changes, so the reading stays unknown.
  assert (state.sharpness == 0) == (decay == "decay")
  assert state.sharpness_growth == 0 and state.sharpness_estimate > 0


def data_parallel(tx, axis_name):
  """A step on one part of the batch; the loss is averaged over all parts."""

  def step(params, state, x):
    loss = lambda w: jnp.mean((x @ w) ** 2) / 2
    mean = lambda w: lax.pmean(loss(w), axis_name) if axis_name else loss(w)
    grads = jax.grad(mean)(params)
    if axis_name:
      grads = lax.pmean(grads, axis_name)
    updates, state = tx.update(grads, state, params, value_fn=loss)
    return optax.apply_updates(params, updates), state

  return step


@pytest.mark.parametrize(
  "source", ["top_eigenvalue", "trace", "expected_sharpness"]
)
@pytest.mark.devices(8)
def test_devices_average_the_loss(source):
  """Under pmap and shard_map, the sharpness is that of the whole batch."""
  x = jnp.asarray(
    np.random.default_rng(0).standard_normal((32, 4)) * EIGENVALUES**0.5,
    jnp.float32,
  )

  def make(axis_name):
    return optax.chain(
      htga_optax.track_sharpness(source, every_k_steps=1, axis_name=axis_name),
      optax.sgd(0.01),
    )

  params = jnp.ones(4)
  state = make(None).init(params)
  one = jax.jit(data_parallel(make(None), None))
  expected = params, state
  for _ in range(3):
    expected = one(*expected, x)

  stack = lambda tree: jax.tree.map(lambda a: jnp.stack([a] * 8), tree)
  several = jax.pmap(data_parallel(make("data"), "data"), axis_name="data")
  actual = stack(params), stack(state)
  for _ in range(3):
    actual = several(*actual, x.reshape(8, 4, 4))
  close(jax.tree.map(lambda a: a[7], actual), expected)

  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  several = jax.jit(
    jax.shard_map(
      data_parallel(make("data"), "data"),
      mesh=mesh,
      in_specs=(P(), P(), P("data")),
      out_specs=P(),
    )
  )
  actual = params, state
  for _ in range(3):
    actual = several(*actual, x)
  close(actual, expected)


def close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    actual,
    expected,
  )


def test_inside_multi_steps_each_micro_step_counts():
  tx = optax.MultiSteps(htga_optax.track_sharpness(every_k_steps=4), 2)
  params = jnp.ones(4)
  state = tx.init(params)
  for _ in range(2):
    _, state = tx.update(params, state, params, value_fn=bowl)
  assert optax.tree.get(state, "sharpness") > 0


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"source": "hutchinson"}, "source must be one of .*'hutchinson'"),
    ({"every_k_steps": 0}, "every_k_steps must be at least 1, got 0"),
    ({"every_k_steps": 2.5}, "every_k_steps must be a static integer, got 2.5"),
    ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
    ({"slow_decay": -0.1}, r"slow_decay must be in \[0, 1\), got -0.1"),
    ({"num_matvecs": 0}, "num_matvecs must be at least 1, got 0"),
    (
      {"perturbation_scale": 0.0},
      "perturbation_scale must be positive and finite, got 0.0",
    ),
    ({"floor": -1.0}, "floor must be positive and finite, got -1.0"),
    ({"key": 1.5}, "key must be an integer seed"),
  ],
)
def test_bad_arguments(kwargs, message):
  with pytest.raises((TypeError, ValueError), match=message):
    htga_optax.track_sharpness(**kwargs)


@pytest.mark.parametrize(
  "make",
  [
    htga_optax.track_sharpness,
    lambda: htga_optax.ahtsgd(0.1, 0.01, key=0),
  ],
)
@pytest.mark.parametrize("extra_args", [{}, {"value_fn": bowl}])
def test_without_sharpness_the_error_names_both_ways(make, extra_args):
  """Also with a loss but without parameters."""
  tx = make()
  state = tx.init(jnp.ones(4))
  with pytest.raises(ValueError, match=r"value_fn= .* or sharpness="):
    tx.update(jnp.ones(4), state, **extra_args)


# -- AHTSGD -------------------------------------------------------------------


@pytest.mark.parametrize("response", ["rising", "falling", "growth"])
def test_responses_equal_the_reference(response):
  reading = htga_optax.sharpness_alpha(response, 1.5, 2.0, alpha_min=1.2)
  assert reading.name == (
    "sharpness_growth" if response == "growth" else "sharpness"
  )
  for s in (1e-3, 0.5, 4.0, 5.0, 1e3):
    np.testing.assert_allclose(
      reading.response(jnp.float32(s)),
      reference.sharpness_alpha(s, response, 1.5, 2.0, 1.2),
      rtol=1e-6,
    )


@pytest.mark.parametrize("scaling", ["sde", "gradient"])
@pytest.mark.parametrize(
  "momentum, nesterov, edge",
  [(None, False, 2.0), (0.5, False, 3.0), (0.5, True, 1.5)],
)
def test_ahtsgd_is_sgd_and_noise(scaling, momentum, nesterov, edge):
  """On the bowl, with a falling learning rate and noise from the same key."""
  rate = optax.exponential_decay(0.1, 5, 0.5)
  tx = htga_optax.ahtsgd(
    rate,
    0.02,
    key=7,
    scaling=scaling,
    momentum=momentum,
    nesterov=nesterov,
    steepness=2.0,
    decay=0.0,
  )
  w = params = jnp.ones(4)
  state, trace = tx.init(params), np.zeros(4)
  for i in range(8):
    s = [1.0, 20.0, 300.0][i % 3]
    updates, state = tx.update(EIGENVALUES * w, state, w, sharpness=s)
    eta = float(rate(i))
    alpha = reference.sharpness_alpha(s, "rising", np.log(edge / eta), 2, 1.05)
    np.testing.assert_allclose(
      optax.tree.get(state, "noise_tail_index"), alpha, rtol=1e-5
    )
    noise = htga_optax.add_stable_noise(lambda _: alpha, 1.0, key=7)  # noqa: B023
    noise_state = noise.init(params)._replace(step_count=jnp.int32(i))
    xi, _ = noise.update(jnp.zeros(4), noise_state)
    size = 0.02 * (eta ** (1 / alpha) if scaling == "sde" else eta)
    beta, gradient = momentum or 0.0, np.asarray(EIGENVALUES * w)
    trace = beta * trace + gradient
    step = gradient + beta * trace if nesterov else trace
    expected = -eta * step + size * np.asarray(xi)
    np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-6)
    w = w + updates


def test_annealed_needs_no_sharpness():
  alpha = optax.linear_schedule(1.0, 2.0, 4)
  tx = htga_optax.ahtsgd(0.1, 0.01, key=0, alpha=alpha)
  state = tx.init(jnp.ones(4))
  seen = []
  for _ in range(6):
    _, state = tx.update(jnp.ones(4), state)
    seen.append(float(optax.tree.get(state, "noise_tail_index")))
  np.testing.assert_allclose(seen, [1, 1.25, 1.5, 1.75, 2, 2])
  assert optax.tree.get(state, "sharpness") is None


def test_no_scale_is_sgd():
  tx, sgd = htga_optax.ahtsgd(0.1, 0.0, key=0), optax.sgd(0.1)
  grads = jnp.asarray([1.0, -2.0])
  updates, _ = tx.update(grads, tx.init(grads), grads, sharpness=3.0)
  np.testing.assert_array_equal(updates, sgd.update(grads, sgd.init(grads))[0])


def test_threshold_bounds_the_step_with_its_noise():
  tx = htga_optax.ahtsgd(0.1, 10.0, key=0, threshold=0.5)
  grads = jnp.ones(4)
  state = tx.init(grads)
  for _ in range(20):
    updates, state = tx.update(grads, state, grads, sharpness=3.0)
    assert np.linalg.norm(updates) < 0.5 * (1 + 1e-6)


def test_momentum_survives_a_bad_gradient():
  tx = htga_optax.ahtsgd(0.1, 0.0, key=0, momentum=0.9)
  grads = jnp.ones(4)
  state = tx.init(grads)
  for g in (grads, jnp.nan * grads, jnp.inf * grads, grads):
    updates, state = tx.update(g, state, grads, sharpness=3.0)
  np.testing.assert_allclose(updates, -0.1 * (0.9**3 + 1), rtol=1e-6)


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"alpha": "steady"}, "response must be rising.*'steady'"),
    ({"alpha": 2.5}, r"alpha must be in \(0, 2\], got 2.5"),
    ({"alpha_min": 0.0}, r"alpha_min must be in \(0, 2\], got 0.0"),
    ({"scaling": "euler"}, "scaling must be sde or gradient, got 'euler'"),
    ({"scale": -1.0}, "scale must be a finite number of at least 0, got -1.0"),
    ({"scale": -1.0, "scaling": "gradient"}, "at least 0, got -1.0"),
    ({"learning_rate": math.inf}, "learning_rate must .* got inf"),
    ({"momentum": 1.5}, r"momentum must be in \[0, 1\), got 1.5"),
    ({"threshold": -1.0}, "threshold must be at least 0, got -1.0"),
  ],
)
def test_bad_arguments_of_ahtsgd(kwargs, message):
  with pytest.raises(ValueError, match=message):
    htga_optax.ahtsgd(
      **({"learning_rate": 0.1, "scale": 0.1, "key": 0} | kwargs)
    )
