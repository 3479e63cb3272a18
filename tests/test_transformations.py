"""Trackers, listeners, relay and optimizers against their NumPy twins."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import estimators, streaming

SIZES = {"window_size": 32, "k": 4}


def heavy_gradients(steps=120, shape=(5,), alpha=1.5, seed=0):
  """Random directions on the sphere, times Pareto(alpha) norms."""
  rng = np.random.default_rng(seed)
  g = rng.standard_normal((steps, *shape))
  g /= np.linalg.norm(g.reshape(steps, -1), axis=1).reshape(-1, 1)
  r = stats.pareto.rvs(alpha, size=(steps, 1), random_state=seed)
  return (r * g).astype(np.float32)


def scan(tx, grads, **extra_args):
  """All updates and all states."""

  @jax.jit
  def run(grads):
    def step(state, g):
      updates, state = tx.update(g, state, **extra_args)
      return state, (updates, state)

    return lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], grads)), grads)

  _, (updates, states) = run(grads)
  return updates, states


def log(states, name):
  return np.asarray(optax.tree.get(states, name))


# -- tracker ----------------------------------------------------------------


def test_tracker_equals_its_twin_and_passes_updates_on():
  grads = heavy_gradients()
  grads[40] = np.nan
  grads[41, 2] = np.inf
  grads[60] = 0
  updates, states = scan(htga_optax.track_tail_index(**SIZES), grads)
  np.testing.assert_array_equal(updates, grads)
  twin = reference.Tracker(**SIZES)
  expected = [twin.update(np.linalg.norm(g)) for g in grads]
  np.testing.assert_allclose(log(states, "tail_index"), expected, rtol=1e-5)
  assert log(states, "nonfinite_count")[-1] == twin.nonfinite_count == 2


def test_tracker_reads_its_estimator():
  grads = heavy_gradients(100)
  grads[40] = np.nan
  grads[60:80] = grads[60] / np.linalg.norm(grads[60])
  _, states = scan(htga_optax.track_tail_index(**SIZES), grads)
  estimator = reference.WindowedHill(**SIZES)
  ratios = reference.over_level(np.linalg.norm(grads, axis=1))
  for i, ratio in enumerate(ratios):
    estimator.update(ratio)
    tail_index, interval, drift, misfit = estimator.estimate()
    if not tail_index:
      interval = [0, 0]
    got = log(states, "tail_model_statistics")[i]
    np.testing.assert_allclose(
      log(states, "tail_index")[i], tail_index, rtol=1e-5
    )
    np.testing.assert_allclose(
      log(states, "tail_index_interval")[i], interval, rtol=5e-3
    )
    np.testing.assert_allclose(got, [drift, misfit], rtol=5e-3, atol=5e-3)
    rejected = np.max(np.abs(got)) > 2.5
    assert log(states, "tail_model_rejected")[i] == rejected


def test_tracker_per_layer_holds_a_window_per_leaf():
  grads = {
    "heavy": heavy_gradients(alpha=1.0, seed=1),
    "light": heavy_gradients(alpha=5.0, seed=2),
    "none": None,
  }
  tx = htga_optax.track_tail_index(**SIZES, per_layer=True)
  _, states = scan(tx, grads)
  tail_index = log(states, "tail_index")
  assert htga_optax.layer_names(grads) == ["heavy", "light"]
  for i, name in enumerate(("heavy", "light")):
    twin = reference.Tracker(**SIZES)
    expected = [twin.update(np.linalg.norm(g)) for g in grads[name]]
    np.testing.assert_allclose(tail_index[:, i], expected, rtol=1e-5)
    _, alone = scan(htga_optax.track_tail_index(**SIZES), grads[name])
    for field in ("tail_index_interval", "tail_model_statistics"):
      np.testing.assert_allclose(
        log(states, field)[:, i],
        log(alone, field),
        rtol=1e-3,
        atol=1e-3,
      )
    np.testing.assert_array_equal(
      log(states, "tail_model_rejected")[:, i],
      log(alone, "tail_model_rejected"),
    )


def test_a_tail_that_is_lighter_than_any_power_law_is_read_as_such():
  """The reading is 1e6, not the last heavy value of the window before it.

  Without a level here: divided by a level, norms that become constant approach
  a constant only slowly.
  """
  grads = heavy_gradients(40)
  constant = np.ones((40, 5), np.float32)
  zeros = np.zeros((40, 5), np.float32)
  _, states = scan(
    htga_optax.track_tail_index(**SIZES, level_decay=None),
    np.concatenate([grads, constant, zeros]),
  )
  tail_index = log(states, "tail_index")
  assert np.all((tail_index[31:40] > 0) & (tail_index[31:40] < 100))
  # From here on, the five largest norms in the window are equal.
  np.testing.assert_array_equal(tail_index[72:80], 1e6)
  np.testing.assert_array_equal(tail_index[-1], 0)


def test_stacked_layers_are_layers():
  """A leaf [L, ...] of stacked layers gives the readings of L leaves."""
  heavy, light = heavy_gradients(alpha=1.0), heavy_gradients(alpha=5.0, seed=2)
  grads = {"blocks": np.stack([heavy, light], axis=1), "head": heavy}
  apart = {"blocks": {"0": heavy, "1": light}, "head": heavy}
  assert htga_optax.layer_names(
    {"blocks": jnp.ones([2, 5]), "head": jnp.ones(5)}, "^blocks"
  ) == ["blocks/0", "blocks/1", "head"]

  def make(per_layer):
    return htga_optax.clip_by_tail_quantile(0.1, 32, 5, per_layer=per_layer)

  ours, states = scan(make("^blocks"), grads)
  theirs, expected = scan(make(True), apart)
  for i in range(2):
    np.testing.assert_allclose(
      ours["blocks"][:, i], theirs["blocks"][str(i)], rtol=1e-5
    )
  for name, value in htga_optax.readings(expected).items():
    np.testing.assert_allclose(
      htga_optax.readings(states)[name], value, rtol=1e-5
    )
  state = htga_optax.track_tail_index(per_layer="^blocks").init(apart["head"])
  assert state.tail_index.shape == (1,)


def test_coordinates_of_stacked_layers():
  rng = np.random.default_rng(0)
  x = rng.standard_t([2.0, 8.0], size=(2000, 2)).T.astype(np.float32)
  read = []
  for tree, per_layer in (({"a": x}, "a"), ({"a": x[0], "b": x[1]}, True)):
    tx = htga_optax.track_coordinate_tail_index(per_layer=per_layer)
    read.append(tx.update(tree, tx.init(tree))[1].coordinate_tail_index)
  np.testing.assert_array_equal(*read)


def test_tracker_takes_any_streaming_estimator():
  """Here the reciprocal of the running mean of log x, for x > 1."""
  estimator = streaming.StreamingEstimator(
    init=lambda: (jnp.zeros([]), jnp.zeros([])),
    update=lambda s, x: jax.tree.map(
      lambda new, old: jnp.where(jnp.isfinite(x), new, old),
      (s[0] + jnp.log(x), s[1] + 1),
      s,
    ),
    estimate=lambda s: estimators.TailEstimate(
      s[1] / s[0], jnp.stack([s[1] / s[0]] * 2)
    ),
  )
  grads = heavy_gradients(500)
  grads[100] = np.nan
  tx = htga_optax.track_tail_index(estimator=estimator, level_decay=None)
  _, states = scan(tx, grads)
  r = np.linalg.norm(np.delete(grads, 100, axis=0), axis=1)
  np.testing.assert_allclose(
    log(states, "tail_index")[-1], 1 / np.log(r).mean(), rtol=1e-4
  )


def test_a_trend_reads_as_a_tail_unless_norms_are_over_their_level():
  """The trap in the docstring: norms without randomness have an index."""
  falling = np.geomspace(100, 1, 512, dtype=np.float32)[:, None]
  _, states = scan(htga_optax.track_tail_index(256, 16), falling)
  assert log(states, "tail_index")[-1] > 100
  tx = htga_optax.track_tail_index(256, 16, level_decay=None)
  _, states = scan(tx, falling)
  assert 5 < log(states, "tail_index")[-1] < 20
  assert log(states, "tail_model_rejected")[-1]
  assert log(states, "tail_model_statistics")[-1, 0] < -5


# -- amplification ----------------------------------------------------------

RESPONSES = {
  "formula": (
    htga_optax.sigmoid_exponent(1.8, 2.0, 0.4, 1.7),
    lambda a: reference.sigmoid_exponent(a, 1.8, 2.0, 0.4, 1.7),
  ),
  "opposite sign": (
    htga_optax.sigmoid_exponent(1.8, -2.0, 0.4, 1.7),
    lambda a: reference.sigmoid_exponent(a, 1.8, -2.0, 0.4, 1.7),
  ),
  "ratio": (
    htga_optax.ratio_exponent(1.8, 0.4, 1.7),
    lambda a: reference.ratio_exponent(a, 1.8, 0.4, 1.7),
  ),
}


@pytest.mark.parametrize("tau", [None, 3.0])
@pytest.mark.parametrize("response", RESPONSES)
def test_amplify_equals_its_twin(response, tau):
  ours, theirs = RESPONSES[response]
  grads = heavy_gradients()
  grads[50] = 0
  grads[51] = np.nan
  tx = htga_optax.relay(
    htga_optax.track_tail_index(**SIZES),
    htga_optax.amplify(ours, tau, tau_decay=0.9),
  )
  updates, states = scan(tx, grads)
  tracker = reference.Tracker(**SIZES)
  amplifier = reference.Amplifier(theirs, tau, tau_decay=0.9)
  for i, g in enumerate(grads):
    tail_index = tracker.update(float(np.linalg.norm(g)))
    expected = amplifier.update(g.astype(np.float64), tail_index)
    np.testing.assert_allclose(updates[i], expected, rtol=2e-5, atol=1e-6)
  # The reading is the ratio of the norms.
  good = np.delete(np.arange(len(grads)), [50, 51])
  before, after = np.linalg.norm(
    [grads[good], np.asarray(updates)[good]], axis=-1
  )
  np.testing.assert_allclose(
    log(states, "amplification")[good], after / before, rtol=1e-5
  )


def test_amplified_norms_have_index_alpha_over_gamma():
  """This is exact in every sample, since Hill's estimator is homogeneous."""
  grads = heavy_gradients(2000, alpha=2.0)
  for gamma in (0.5, 1.0, 1.5, 2.0):
    tx = htga_optax.amplify(lambda _, gamma=gamma: gamma, tau=3.0)
    updates, _ = scan(tx, grads, tail_index=1.0)
    before = estimators.hill(np.linalg.norm(grads, axis=1), 100)
    after = estimators.hill(np.linalg.norm(updates, axis=1), 100)
    np.testing.assert_allclose(after, before / gamma, rtol=1e-4)


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.5])
def test_ratio_exponent_controls_the_tail_index(alpha):
  """The tolerance is 30 %.

  With a window of 1024 and k = 100, the exponent has a standard error of 10 %,
  and so has the estimate on the output.
  """
  grads = heavy_gradients(6000, alpha=alpha)
  tx = htga_optax.scale_by_htga(
    1024, 100, response="ratio", target=2.0, tau=3.0
  )
  updates, _ = scan(tx, grads)
  after = estimators.hill(np.linalg.norm(updates[2000:], axis=1), 200)
  np.testing.assert_allclose(after, 2.0, rtol=0.3)
  if alpha != 1.6:
    assert abs(after - 2.0) < abs(alpha - 2.0)


def test_gamma_zero_is_normalised_sgd():
  grads = heavy_gradients(20)
  tx = htga_optax.amplify(0.0, tau=2.0)
  updates, _ = scan(tx, grads, tail_index=1.0)
  np.testing.assert_allclose(np.linalg.norm(updates, axis=1), 2, rtol=1e-5)


def test_amplify_per_layer_steers_each_leaf_by_its_own_index():
  grads = {
    "heavy": heavy_gradients(alpha=1.0, seed=1),
    "light": heavy_gradients(alpha=5.0, seed=2),
  }
  tx = htga_optax.scale_by_htga(**SIZES, per_layer=True)
  updates, _ = scan(tx, grads)
  for name, g in grads.items():
    alone, _ = scan(htga_optax.scale_by_htga(**SIZES), g)
    np.testing.assert_allclose(updates[name], alone, rtol=1e-5)


def test_updates_pass_unchanged_until_the_window_is_full():
  grads = heavy_gradients()
  for tx in (
    htga_optax.scale_by_htga(**SIZES),
    htga_optax.relay(
      htga_optax.track_tail_index(**SIZES), htga_optax.scale_by_tail_index()
    ),
  ):
    updates, _ = scan(tx, grads)
    np.testing.assert_array_equal(updates[:31], grads[:31])
    assert not np.allclose(updates[31:], grads[31:])


def test_amplification_never_overflows():
  """r = 1e30 with gamma = 1.5 and tau = 1 would be 1e45."""
  tx = htga_optax.amplify(1.5, tau=1.0)
  g = jnp.float32([1e20, 0.0])
  updates, _ = tx.update(g, tx.init(g), tail_index=1.0)
  np.testing.assert_allclose(updates, [1e30, 0], rtol=1e-4)
  g = jnp.float32([1e35, 0.0])
  updates, _ = tx.update(g, tx.init(g), tail_index=1.0)
  np.testing.assert_allclose(updates, g, rtol=1e-6)


# -- tail-index learning rate -----------------------------------------------


@pytest.mark.parametrize("beta", [1.0, -1.0, 0.5, 0.0])
def test_scale_by_tail_index_is_the_rule(beta):
  grads = heavy_gradients()
  tx = htga_optax.relay(
    htga_optax.track_tail_index(**SIZES),
    htga_optax.scale_by_tail_index(beta, 1.7, min_scale=0.8, max_scale=1.3),
  )
  updates, states = scan(tx, grads)
  tracker = reference.Tracker(**SIZES)
  for i, g in enumerate(grads):
    tail_index = tracker.update(float(np.linalg.norm(g)))
    scale = min(max((tail_index / 1.7) ** beta, 0.8), 1.3) if tail_index else 1
    np.testing.assert_allclose(updates[i], scale * g, rtol=1e-5)
    np.testing.assert_allclose(log(states, "rate_scale")[i], scale, rtol=1e-5)


# -- listeners that wait ----------------------------------------------------


@pytest.mark.parametrize(
  "listener",
  [
    htga_optax.amplify(htga_optax.ratio_exponent(), tau=1.0),
    htga_optax.scale_by_tail_index(),
  ],
)
def test_unless_rejected_is_the_listener_or_the_identity(listener):
  grads = heavy_gradients(20)
  tx = htga_optax.unless_rejected(listener)
  theirs, _ = scan(listener, grads, tail_index=1.5)
  for rejected, expected in ((False, theirs), (True, grads)):
    updates, _ = scan(
      tx, grads, tail_index=1.5, tail_model_rejected=jnp.asarray(rejected)
    )
    np.testing.assert_array_equal(updates, expected)


def test_unless_rejected_waits_layer_by_layer():
  g = {"a": jnp.ones(2), "b": {"c": jnp.ones(3)}, "none": None}
  tx = htga_optax.unless_rejected(
    htga_optax.scale_by_tail_index(per_layer=True)
  )
  updates, state = tx.update(
    g,
    tx.init(g),
    tail_index=jnp.asarray([3.0, 3.0]),
    tail_model_rejected=jnp.asarray([True, False]),
  )
  np.testing.assert_array_equal(updates["a"], 1)
  np.testing.assert_array_equal(updates["b"]["c"], 1.5)
  np.testing.assert_array_equal(state.rate_scale, [1, 1.5])


def warm_up(steps=700, until=60):
  """Pareto(4) norms; the first ones are four times as large."""
  grads = heavy_gradients(steps, alpha=4.0)
  grads[:until] *= 4
  return grads


@pytest.mark.parametrize("per_layer", [False, True])
def test_htga_waits_until_a_warm_up_has_left_the_window(per_layer):
  grads = {"w": warm_up()}
  sizes = {"window_size": 256, "k": 25, "level_decay": None}
  tx = htga_optax.scale_by_htga(
    **sizes, per_layer=per_layer, unless_rejected=True
  )
  updates, states = scan(tx, grads)
  rejected = log(states, "tail_model_rejected").reshape(-1)
  assert np.all(rejected[255:300]) and not np.any(rejected[400:])
  full = np.arange(rejected.size) >= 255
  waits = rejected | ~full
  ours, theirs = updates["w"], grads["w"]
  np.testing.assert_array_equal(ours[waits], theirs[waits])
  changed = np.any(ours != theirs, axis=1)
  np.testing.assert_array_equal(changed, ~waits)
  acts, _ = scan(htga_optax.scale_by_htga(**sizes, per_layer=per_layer), grads)
  np.testing.assert_allclose(acts["w"][~waits], ours[~waits], rtol=1e-5)
  assert not np.allclose(acts["w"][260:300], theirs[260:300])


@pytest.mark.parametrize(
  "optimizer", [htga_optax.htga, htga_optax.tail_index_sgd]
)
def test_optimizers_wait_if_told_to(optimizer):
  grads = warm_up()
  sizes = {"window_size": 256, "k": 25, "level_decay": None}
  updates, states = scan(optimizer(0.1, **sizes, unless_rejected=True), grads)
  acts, _ = scan(optimizer(0.1, **sizes), grads)
  rejected = log(states, "tail_model_rejected")
  assert 45 < np.sum(rejected) < 300
  np.testing.assert_allclose(updates[rejected], -0.1 * grads[rejected])
  np.testing.assert_array_equal(updates[~rejected], acts[~rejected])
  assert not np.allclose(updates[rejected], acts[rejected])


@pytest.mark.parametrize(
  "readings",
  [{}, {"tail_index": 1.5}, {"tail_model_rejected": False}],
)
def test_unless_rejected_names_the_reading_it_lacks(readings):
  tx = htga_optax.unless_rejected(htga_optax.scale_by_tail_index())
  with pytest.raises(ValueError, match="unless_rejected needs the readings"):
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **readings)


def test_verdicts_must_have_the_shape_of_the_indices():
  tx = htga_optax.unless_rejected(htga_optax.scale_by_tail_index())
  g = {"a": jnp.ones(2)}
  with pytest.raises(ValueError, match="must have the shape of tail_index"):
    tx.update(g, tx.init(g), tail_index=1.5, tail_model_rejected=jnp.ones(1))


# -- optimizers -------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 7, 62])
def test_the_state_has_as_many_leaves_whatever_the_number_of_layers(layers):
  params = {str(i): jnp.ones(2) for i in range(layers)}
  state = htga_optax.htga(0.1, per_layer=True).init(params)
  assert len(jax.tree.leaves(state)) <= 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "tx",
  [
    htga_optax.htga(0.1, 0.9),
    htga_optax.tail_index_sgd(0.1, 0.9),
    htga_optax.truncated_heavy_tailed_sgd(0.1, None, key=0, scale=None),
    htga_optax.truncated_heavy_tailed_sgd(0.1, 1.0, key=0, scale=None),
    htga_optax.ahtsgd(0.1, 0.0, key=0, alpha=2.0),
    htga_optax.ahtsgd(0.1, 0.0, key=0, alpha=2.0, momentum=0.9),
  ],
)
def test_every_optimizer_drops_a_step_that_is_not_finite(tx, bad):
  params = {"a": jnp.ones(2), "b": jnp.ones(3)}
  grads = {"a": jnp.float32([1.0, bad]), "b": jnp.ones(3)}
  state = tx.init(params)
  updates, state = tx.update(grads, state, params)
  assert not any(np.any(x) for x in jax.tree.leaves(updates))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


def test_htga_equals_its_twin():
  grads = heavy_gradients()
  tx = htga_optax.htga(0.3, momentum=0.9, **SIZES, tau_decay=0.95)
  updates, _ = scan(tx, grads)
  tracker = reference.Tracker(**SIZES)
  amplifier = reference.Amplifier(
    lambda a: reference.sigmoid_exponent(a, 2.0, 1.0, 0.5, 1.5), None, 0.95
  )
  amplified = [
    amplifier.update(g.astype(float), tracker.update(float(np.linalg.norm(g))))
    for g in grads
  ]
  expected = reference.momentum_sgd(amplified, 0.3, 0.9)
  np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-5)


def test_tail_index_sgd_equals_its_twin():
  grads = heavy_gradients()
  updates, _ = scan(htga_optax.tail_index_sgd(0.3, 0.9, **SIZES), grads)
  tracker = reference.Tracker(**SIZES)
  scaled = []
  for g in grads:
    tail_index = tracker.update(float(np.linalg.norm(g)))
    scale = min(max(tail_index / 2.0, 0.5), 2.0) if tail_index else 1
    scaled.append(scale * g)
  expected = reference.momentum_sgd(scaled, 0.3, 0.9)
  np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "optimizer", [htga_optax.htga, htga_optax.tail_index_sgd]
)
def test_learning_rate_schedules(optimizer):
  schedule = optax.linear_schedule(1.0, 0.0, 100)
  grads = heavy_gradients(20)
  updates, _ = scan(optimizer(schedule), grads)
  rates = 1 - np.arange(20) / 100
  np.testing.assert_allclose(updates, -rates[:, None] * grads, rtol=1e-5)


def test_momentum_survives_a_gradient_that_is_not_finite():
  grads = heavy_gradients(60)
  grads[40] = np.nan
  updates, _ = scan(htga_optax.htga(0.1, momentum=0.9, **SIZES), grads)
  np.testing.assert_allclose(updates[40], 0.9 * updates[39], rtol=1e-5)
  assert np.all(np.isfinite(updates))


# -- relay ------------------------------------------------------------------


def recorder(names):
  """A transformation that stores the readings it gets."""

  def init(params):
    del params
    return {name: jnp.zeros([]) for name in names}

  def update(updates, state, params=None, **extra_args):
    del state, params
    return updates, {name: extra_args[name] for name in names}

  return optax.GradientTransformationExtraArgs(init, update)


def test_relay_without_trackers_is_chain():
  grads = heavy_gradients(10)
  members = optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9), optax.scale(2)
  ours, _ = scan(htga_optax.relay(*members), grads)
  theirs, _ = scan(optax.chain(*members), grads)
  np.testing.assert_array_equal(ours, theirs)


def test_the_place_in_the_chain_determines_what_is_measured():
  grads = heavy_gradients()
  track = htga_optax.track_tail_index(**SIZES)
  _, raw = scan(htga_optax.relay(track, optax.clip_by_global_norm(2.0)), grads)
  _, cut = scan(htga_optax.relay(optax.clip_by_global_norm(2.0), track), grads)
  assert log(raw, "update_norm").max() > 2.1 > log(cut, "update_norm").max()
  assert np.median(log(cut, "tail_index")) > np.median(log(raw, "tail_index"))


def test_relays_nest_and_one_tracker_feeds_several_listeners():
  grads = heavy_gradients()
  track = htga_optax.track_tail_index(**SIZES)
  listeners = (
    htga_optax.amplify(htga_optax.ratio_exponent()),
    htga_optax.scale_by_tail_index(),
  )
  flat, _ = scan(htga_optax.relay(track, *listeners), grads)
  nested = htga_optax.relay(
    htga_optax.relay(track, listeners[0]), htga_optax.relay(listeners[1])
  )
  np.testing.assert_array_equal(scan(nested, grads)[0], flat)


def test_a_reading_reaches_later_members_only_and_the_later_one_counts():
  track = htga_optax.track_tail_index(**SIZES)
  grads = heavy_gradients()
  with pytest.raises(KeyError):
    scan(htga_optax.relay(recorder(["tail_index"]), track), grads)
  tx = htga_optax.relay(
    track,
    recorder(["tail_index"]),
    optax.clip_by_global_norm(2.0),
    htga_optax.track_tail_index(**SIZES),
    recorder(["tail_index"]),
  )
  _, states = scan(tx, grads, tail_index=jnp.float32(7.0))
  first, _, second = states.members[1], None, states.members[4]
  np.testing.assert_array_equal(
    first["tail_index"], states.members[0].tail_index
  )
  np.testing.assert_array_equal(
    second["tail_index"], states.members[3].tail_index
  )


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_wrapper_of_a_member_may_change_a_reading(depth):
  """Whether the member is a listener or a relay of several."""
  listener = htga_optax.scale_by_tail_index(min_scale=1e-3, max_scale=1e3)
  for _ in range(depth):
    listener = htga_optax.relay(optax.scale(1.0), listener)

  def halved(updates, state, params=None, **extra_args):
    extra_args |= {"tail_index": 0.5 * extra_args["tail_index"]}
    return listener.update(updates, state, params, **extra_args)

  tx = htga_optax.relay(
    htga_optax.track_tail_index(**SIZES),
    optax.GradientTransformationExtraArgs(listener.init, halved),
  )
  _, states = scan(tx, heavy_gradients())
  index = optax.tree.get(states, "tail_index")[-20:]
  scale = optax.tree.get(states, "rate_scale")[-20:]
  np.testing.assert_allclose(scale, 0.5 * index / 2.0, rtol=1e-6)


def test_a_reading_may_be_passed_by_hand():
  grads = heavy_gradients(10)
  tx = optax.chain(htga_optax.scale_by_tail_index(), optax.sgd(1.0))
  updates, _ = scan(tx, grads, tail_index=3.0)
  np.testing.assert_allclose(updates, -1.5 * grads, rtol=1e-6)


def test_a_listener_in_a_chain_beside_a_line_search_gets_its_reading():
  """The line search refuses unknown arguments."""
  loss = lambda w: jnp.sum(jnp.arange(1.0, 6.0) * w**2)
  tx = htga_optax.relay(
    htga_optax.track_tail_index(**SIZES),
    optax.chain(
      recorder(["tail_index"]),
      htga_optax.scale_by_tail_index(),
      optax.sgd(1.0),
      optax.scale_by_backtracking_linesearch(20),
    ),
  )

  def step(carry, _):
    w, state = carry
    value, grads = jax.value_and_grad(loss)(w)
    updates, state = tx.update(
      grads, state, w, value=value, grad=grads, value_fn=loss
    )
    return (optax.apply_updates(w, updates), state), value

  w = jnp.ones(5)
  (_, state), values = lax.scan(step, (w, tx.init(w)), length=40)
  assert np.all(np.diff(values[:10]) < 0)
  assert state.members[1][0]["tail_index"] == state.members[0].tail_index > 0


def test_a_member_with_fixed_keywords_gets_those_that_it_takes():
  def update(updates, state, params=None, *, tail_index=None):
    return updates, {"seen": jnp.asarray(tail_index)}

  strict = optax.GradientTransformationExtraArgs(
    lambda params: {"seen": jnp.zeros([])}, update
  )
  tx = htga_optax.relay(htga_optax.track_tail_index(**SIZES), strict)
  _, states = scan(tx, heavy_gradients(40))
  np.testing.assert_array_equal(
    states.members[1]["seen"], states.members[0].tail_index
  )


def test_readings_of_one_name_get_their_paths():
  tx = optax.named_chain(
    ("gradients", htga_optax.track_tail_index(**SIZES)),
    ("htga", htga_optax.htga(0.1, **SIZES)),
  )
  read = htga_optax.readings(tx.init(jnp.ones(3)))
  assert {"gradients/tail_index", "amplification"} < set(read)
  assert "htga/members/0/members/0/tail_index" in read
  assert "tail_index" not in read


@pytest.mark.parametrize("factor", [np.nan, np.inf, -np.inf])
def test_a_factor_that_is_not_finite_gives_zeros(factor):
  """A factor such as 1/r at a zero gradient must not end a run."""
  law = htga_optax.Controller(
    optax.EmptyState, lambda r, state: (factor + 0 * r, state)
  )
  for per_layer in (False, True):
    tx = htga_optax.by_norm(law, per_layer=per_layer)
    grads = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert not any(np.any(x) for x in jax.tree.leaves(updates))


def test_by_layer_names_what_is_measured():
  grads = {"a": {"b": jnp.ones(2)}, "c": jnp.zeros(3), "none": None}
  tx = htga_optax.track_tail_index(per_layer=True)
  _, state = tx.update(grads, tx.init(grads))
  norms = htga_optax.by_layer(state.update_norm, grads)
  assert list(norms) == ["a/b", "c"]
  np.testing.assert_allclose([*norms.values()], [2**0.5, 0])
  with pytest.raises(ValueError, match="each of the 2 layers, got shape"):
    htga_optax.by_layer(jnp.ones(3), grads)


@pytest.mark.devices(8)
def test_norms_of_shards_are_joined():
  """Of updates that are split by hand; nan in one shard drops them all."""
  mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
  g = jnp.asarray(heavy_gradients(1, shape=(64,))[0] * 1e25)
  for tx in (
    htga_optax.truncate(1.0, shard_axis_name="model"),
    htga_optax.normalized_sgd(1.0, shard_axis_name="model"),
  ):

    def step(x, tx=tx):
      return tx.update(x, tx.init(x))[0]

    split = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=P("model"),
      out_specs=P("model"),
      check_vma=False,
    )
    split = jax.jit(split)
    np.testing.assert_allclose(np.linalg.norm(split(g)), 1, rtol=1e-5)
    np.testing.assert_array_equal(split(g.at[3].set(jnp.nan)), 0)


# -- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
  "make, error, sentence",
  [
    (lambda: htga_optax.track_tail_index(16, 16), ValueError,
     "k must be below n, to leave one value as the threshold, got k=16 for a"
     " window of 16."),
    (lambda: htga_optax.scale_by_htga(10, 20), ValueError, "got k=20 for"),
    (lambda: htga_optax.track_tail_index(0, 0), ValueError,
     "window_size must be at least 1, got 0."),
    (lambda: htga_optax.htga(-0.1), ValueError,
     "learning_rate must be a finite number of at least 0, got -0.1."),
    (lambda: htga_optax.htga(float("nan")), ValueError, "got nan."),
    (lambda: htga_optax.tail_index_sgd(-1), ValueError, "got -1."),
    (lambda: htga_optax.htga(0.1, momentum=1.5), ValueError,
     "momentum must be in [0, 1), got 1.5."),
    (lambda: htga_optax.scale_by_htga(gamma_min=2.0, gamma_max=1.0), ValueError,
     "gamma_max must be at least gamma_min=2.0, got 1.0."),
    (lambda: htga_optax.ratio_exponent(gamma_min=-1.0), ValueError,
     "gamma_min must be at least 0, got -1.0."),
    (lambda: htga_optax.sigmoid_exponent(target=0), ValueError,
     "target must be positive, got 0."),
    (lambda: htga_optax.scale_by_htga(tau=0.0), ValueError,
     "tau must be positive, got 0.0."),
    (lambda: htga_optax.scale_by_htga(tau_decay=1.0), ValueError,
     "tau_decay must be in [0, 1), got 1.0."),
    (lambda: htga_optax.scale_by_htga(response="linear"), ValueError,
     "response must be one of ['ratio', 'sigmoid'], got 'linear'."),
    (lambda: htga_optax.amplify("1.5"), TypeError, "got '1.5'."),
    (lambda: htga_optax.amplify(-0.5), ValueError,
     "exponent must be at least 0, got -0.5."),
    (lambda: htga_optax.track_tail_index(per_layer="("), ValueError,
     "per_layer must be a regular expression, got '('"),
    (lambda: htga_optax.truncate(1.0, shard_axis_name=None) and
     htga_optax.by_norm(None, per_layer=2), TypeError, "got 2."),
    (lambda: htga_optax.scale_by_tail_index(min_scale=3.0), ValueError,
     "max_scale must be at least min_scale=3.0, got 2.0."),
    (lambda: htga_optax.scale_by_tail_index(beta=float("inf")), ValueError,
     "beta must be finite, got inf."),
    (lambda: htga_optax.unless_rejected(1.5), TypeError,
     "unless_rejected takes gradient transformations, got float 1.5."),
    (lambda: htga_optax.relay(optax.sgd), TypeError,
     "relay takes gradient transformations, got function"),
  ],
)  # fmt: skip
def test_bad_arguments_are_one_sentence_with_the_value(make, error, sentence):
  with pytest.raises(error) as raised:
    make()
  assert sentence in str(raised.value)
  assert str(raised.value).count(". ") == 0


@pytest.mark.parametrize(
  "listener",
  [
    htga_optax.amplify(htga_optax.ratio_exponent()),
    htga_optax.scale_by_tail_index(),
  ],
)
def test_a_listener_without_its_reading_says_how_to_get_it(listener):
  grads = jnp.ones(3)
  # A plain chain does not pass the reading on.
  tx = optax.chain(htga_optax.track_tail_index(), listener)
  with pytest.raises(ValueError, match=r"track_tail_index\(\) before it in"):
    jax.jit(tx.update)(grads, tx.init(grads))


def test_readings_must_fit_the_listener():
  tx = htga_optax.relay(
    htga_optax.track_tail_index(per_layer=True),
    htga_optax.scale_by_tail_index(),
  )
  grads = {"a": jnp.ones(3), "b": jnp.ones(2)}
  with pytest.raises(
    ValueError, match="give the tracker and scale_by_tail_index the"
  ):
    tx.update(grads, tx.init(grads))


def test_updates_must_be_floating_point():
  grads = {"w": jnp.arange(3)}
  for tx in (htga_optax.track_tail_index(), htga_optax.htga(0.1)):
    with pytest.raises(TypeError, match=r"got int32 at 'w': put None"):
      tx.update(grads, tx.init(grads))


def test_a_state_of_another_relay_is_named():
  one = htga_optax.relay(optax.scale(1.0))
  two = htga_optax.relay(optax.scale(1.0), optax.scale(1.0))
  with pytest.raises(ValueError, match="has 2 members but the state has 1"):
    two.update(jnp.ones(2), one.init(jnp.ones(2)))


def test_sizes_under_inject_hyperparams_say_what_to_pass():
  factory = optax.inject_hyperparams(htga_optax.htga)
  tx = factory(learning_rate=0.1, window_size=64)
  with pytest.raises(TypeError, match="pass static_args=") as raised:
    tx.init(jnp.ones(2))
  assert "window_size must be a static integer" in str(raised.value)
