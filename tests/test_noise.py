"""Stable noise and truncation: laws, scales, keys, devices and memory."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import (
  Reading,
  add_stable_noise,
  inflate_gradient_noise,
  noise_gradient,
  norms,
  stable,
  truncate,
  truncated_heavy_tailed_sgd,
)

KEY = jax.random.key(7)
set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh


def noise_of(tx, like, steps=1, **extra_args):
  """The noise on updates of ones, for each step."""
  state, found = tx.init(like), []
  ones = jax.tree.map(jnp.ones_like, like)
  update = jax.jit(lambda s, e: tx.update(ones, s, **e))
  for _ in range(steps):
    updates, state = update(state, extra_args)
    found.append(jax.tree.map(lambda u, x: np.asarray(u - x), updates, ones))
  return found


def leaf_noise(*args, size=100_000, **kwargs):
  return noise_of(add_stable_noise(*args, **kwargs), jnp.zeros(size))[0]


# -- the law ----------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.8, 1.2, 1.5, 1.9, 2.0])
@pytest.mark.parametrize("isotropic", [False, True])
def test_noise_has_the_stable_law(alpha, isotropic):
  """E cos(t x/s) = exp(-|t|^alpha), within four standard errors.

  The entries of an isotropic vector are dependent, so one entry of many steps
  is used.
  """
  n = 4000 if isotropic else 100_000
  tx = add_stable_noise(alpha, 0.5, key=1, isotropic=isotropic)
  if isotropic:
    state = tx.init(jnp.zeros(1))
    step = lambda s, _: tx.update(jnp.zeros(1), s)[::-1]
    _, x = jax.lax.scan(step, state, length=n)
    x = np.asarray(x[:, 0])
  else:
    x, _ = tx.update(jnp.zeros(n), tx.init(jnp.zeros(n)))
  for t in (0.1, 0.5, 1.0, 2.0):
    waves = np.cos(t * np.asarray(x, np.float64) / 0.5)
    error = waves.std() / n**0.5
    assert abs(waves.mean() - np.exp(-(t**alpha))) < 4 * error
  if alpha == 2:
    assert stats.kstest(x, stats.norm(scale=0.5 * 2**0.5).cdf).pvalue > 1e-3


def test_isotropic_noise_jumps_everywhere_at_once():
  """All entries of all leaves jump in the same step, in any direction."""
  like = {"a": jnp.zeros(2000), "b": jnp.zeros([10, 100])}
  tx = add_stable_noise(1.0, 1.0, key=0, isotropic=True)
  sizes = [
    [np.sqrt(np.mean(x**2)) for x in jax.tree.leaves(step)]
    for step in noise_of(tx, like, 30)
  ]
  a, b = np.transpose(sizes)
  np.testing.assert_allclose(a / b, 1.0, rtol=0.15)  # the leaves are Gaussian
  assert a.max() / np.median(a) > 5
  x = noise_of(add_stable_noise(1.0, 1.0, key=0), like, 1)[0]["a"]
  assert np.abs(x).max() > 50 * np.median(np.abs(x))  # jumps alone


# -- the scale --------------------------------------------------------------


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"learning_rate": 0.01},
    {"relative": True},
    {"max_jump": 2.0},
    {"relative": True, "max_jump": 1.5, "learning_rate": 0.1},
  ],
)
def test_scale_equals_its_twin(options):
  """The twin gets the samples from noise with a scale of one."""
  updates = [
    jnp.asarray(np.random.default_rng(i).normal(size=n), jnp.float32)
    for i, n in enumerate((5, 40))
  ]
  zeros = [jnp.zeros(5), jnp.zeros(40)]
  plain = add_stable_noise(1.3, 1.0, key=KEY)
  xi, _ = plain.update(zeros, plain.init(zeros))
  tx = add_stable_noise(1.3, 0.2, key=KEY, **options)
  got, _ = tx.update(updates, tx.init(updates))
  wanted = reference.stable_noise(updates, xi, 1.3, 0.2, **options)
  for x, y in zip(got, wanted):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_scale_and_alpha_follow_schedules_and_the_learning_rate():
  alpha = lambda count: 1.0 + 0.25 * count
  eta = optax.linear_schedule(0.4, 0.1, 3)
  scheduled = add_stable_noise(
    alpha, optax.linear_schedule(1.0, 0.0, 4), key=KEY, learning_rate=eta
  )
  like = jnp.zeros(50)
  for t, x in enumerate(noise_of(scheduled, like, 6)):
    a, s = min(alpha(t), 2.0), max(1.0 - t / 4, 0.0)  # 2.25 counts as 2
    same = add_stable_noise(a, s * float(eta(t)) ** (1 / a), key=KEY)
    np.testing.assert_allclose(
      x, noise_of(same, like, t + 1)[-1], rtol=1e-4, atol=1e-5
    )
    assert np.any(x) == (t < 4)


def test_alpha_and_scale_answer_readings():
  tx = add_stable_noise(
    Reading("sharpness", lambda s: 2 - s),
    Reading("tail_index", lambda a: a / 10),
    key=KEY,
  )
  like = jnp.zeros(50)
  (x,) = noise_of(tx, like, sharpness=0.6, tail_index=3.0)
  (y,) = noise_of(add_stable_noise(1.4, 0.3, key=KEY), like)
  np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)

  # A reading that is unknown or no valid alpha: no noise, and the reading is 0.
  for sharpness in (0.0, 3.0, np.nan):
    updates, state = tx.update(
      like, tx.init(like), sharpness=sharpness, tail_index=3.0
    )
    np.testing.assert_array_equal(updates, like)
    assert state.noise_tail_index == 0

  with pytest.raises(ValueError, match=r"`tail_index`.*relay.*tail_index="):
    tx.update(like, tx.init(like), sharpness=1.0)
  for sharpness in (jnp.ones(2), {"a": 1.0, "b": 2.0}):
    with pytest.raises(ValueError, match="`sharpness` as one number"):
      tx.update(like, tx.init(like), sharpness=sharpness, tail_index=3.0)


def test_a_tracker_in_a_relay_steers_the_noise():
  tx = htga_optax.relay(
    htga_optax.track_tail_index(window_size=8, k=2),
    add_stable_noise(Reading("tail_index"), 0.1, key=0),
  )
  state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
  for r in stats.pareto(1.5).rvs(size=10, random_state=0):
    _, state = update(jnp.float32([r]), state)
  found = optax.tree.get(state, "noise_tail_index")
  assert found == min(optax.tree.get(state, "tail_index"), 2.0) > 0


def test_a_jump_is_capped_in_units_of_the_scale():
  x = leaf_noise(1.0, 0.1, key=0, max_jump=5.0)
  np.testing.assert_allclose(np.abs(x).max(), 0.5, rtol=1e-5)
  free = leaf_noise(1.0, 0.1, key=0)
  inside = np.abs(free) < 0.49
  np.testing.assert_allclose(x[inside], free[inside], rtol=1e-5, atol=1e-6)
  tx = add_stable_noise(0.5, 0.1, key=0, isotropic=True, max_jump=2.0)
  largest = max(x.std() for x in noise_of(tx, jnp.zeros(1000), 20))
  np.testing.assert_allclose(largest, 2 * 0.1 * 2**0.5, rtol=0.1)


def test_relative_noise_spares_a_leaf_of_zeros():
  tx = add_stable_noise(1.5, 0.1, key=0, relative=True)
  updates = {"a": jnp.zeros(10), "b": 1e-8 * jnp.ones(10)}
  noisy, _ = tx.update(updates, tx.init(updates))
  np.testing.assert_array_equal(noisy["a"], 0)
  assert 1e-10 < np.abs(noisy["b"] - 1e-8).max() < 1e-6


def test_a_complex_leaf_has_independent_noise_on_both_parts():
  tx = add_stable_noise(1.5, 1.0, key=0)
  z, _ = tx.update(jnp.zeros(1000, jnp.complex64), tx.init(jnp.zeros(1)))
  assert abs(stats.spearmanr(z.real, z.imag).statistic) < 0.15


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_noise_ends_at_the_largest_number_of_the_dtype(dtype):
  tx = add_stable_noise(0.3, 1e3, key=0)
  x, _ = tx.update(jnp.zeros(10_000, dtype), tx.init(jnp.zeros(1)))
  assert x.dtype == dtype and np.all(np.isfinite(x.astype(jnp.float32)))
  assert (np.abs(x).max() == jnp.finfo(dtype).max) == (dtype == jnp.float16)


# -- keys -------------------------------------------------------------------


def test_noise_is_that_of_the_key_the_step_and_the_leaf():
  like = [jnp.zeros(100), jnp.zeros(100)]
  first, again = (
    noise_of(add_stable_noise(1.5, 1.0, key=key), like, 3) for key in (3, 3)
  )
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = noise_of(add_stable_noise(1.5, 1.0, key=4), like, 3)
  everything = [*jax.tree.leaves(first), *jax.tree.leaves(other)]
  for i, x in enumerate(everything):
    for y in everything[:i]:
      assert np.mean(np.isclose(x, y, rtol=1e-3)) < 0.05
  # The shapes of other leaves do not matter.
  shorter = noise_of(add_stable_noise(1.5, 1.0, key=3), [jnp.zeros(7), like[1]])
  np.testing.assert_array_equal(shorter[0][1], first[0][1])


def test_a_key_is_a_seed_a_key_or_its_data():
  keys = [3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3)]
  keys.append(np.asarray(jax.random.PRNGKey(3)))
  expected, *others = (leaf_noise(1.5, 1.0, key=key, size=50) for key in keys)
  for x in others:
    np.testing.assert_array_equal(x, expected)
  rbg = add_stable_noise(1.5, 1.0, key=jax.random.key(3, impl="rbg"))
  assert rbg.init(None).rng_key.shape == (4,)
  assert np.all(np.isfinite(noise_of(rbg, jnp.zeros(50))[0]))


def test_vmap_over_keys():
  def noise(key):
    tx = add_stable_noise(1.5, 1.0, key=key)
    return tx.update(jnp.zeros(50), tx.init(jnp.zeros(50)))[0]

  keys = jax.random.split(KEY, 3)
  for key, x in zip(keys, jax.vmap(noise)(keys)):
    np.testing.assert_allclose(x, noise(key), rtol=1e-5, atol=1e-6)


# -- devices ----------------------------------------------------------------


@pytest.mark.parametrize(
  "devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4)), 8]
)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.devices(8)
def test_jit_has_the_noise_of_one_device(devices, axis_type, isotropic):
  tx = add_stable_noise(1.5, 1.0, key=0, isotropic=isotropic)
  like = {"w": jnp.zeros([16, 8]), "b": jnp.zeros([16])}
  (expected,) = noise_of(tx, like)
  mesh = jax.make_mesh(
    (devices,), ("m",), axis_types=(axis_type,), devices=jax.devices()[:devices]
  )
  with set_mesh(mesh):
    zeros = jax.device_put(like, NamedSharding(mesh, P("m")))
    state = tx.init(zeros)
    noise, _ = jax.jit(tx.update)(zeros, state)
    shards = [np.asarray(s.data) for s in noise["w"].addressable_shards]
    noise = jax.device_get(noise)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    noise,
    expected,
  )
  assert len(shards) == devices
  for i, x in enumerate(shards):
    assert not any(np.allclose(x, y) for y in shards[:i])


@pytest.mark.devices(8)
def test_pmap_repeats_the_noise_on_every_device():
  tx = add_stable_noise(1.5, 1.0, key=0)
  zeros = jnp.zeros([8, 20])
  noise, _ = jax.pmap(lambda x: tx.update(x, tx.init(x)))(zeros)
  expected, _ = tx.update(zeros[0], tx.init(zeros[0]))
  np.testing.assert_allclose(noise, [expected] * 8, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "options", [{}, {"relative": True}, {"isotropic": True}], ids=str
)
@pytest.mark.devices(8)
def test_shard_map_asks_for_the_axis_of_split_parameters(options):
  """Each shard has its own noise, with the sizes and amplitudes of the whole.

  All shards have the same state.
  """
  mesh = jax.make_mesh((8,), ("m",), axis_types=(AxisType.Auto,))

  def run(updates, **kwargs):
    tx = add_stable_noise(1.5, 0.1, key=0, **options, **kwargs)
    step = jax.shard_map(
      tx.update, mesh=mesh, in_specs=(P("m"), P()), out_specs=(P("m"), P())
    )
    return jax.jit(step)(updates, tx.init(updates))

  updates = jnp.repeat(jnp.float32([1.0] * 7 + [3.0]), 1000)
  with pytest.raises(ValueError, match="name the axis in shard_axis_name"):
    run(updates)
  noisy, state = run(updates, shard_axis_name="m")
  apart = np.split(np.asarray(noisy - updates), 8)
  for i, x in enumerate(apart):
    assert not any(np.allclose(x, y, rtol=0.1) for y in apart[:i])
  assert state.step_count == 1
  spread = [np.median(np.abs(x)) for x in apart]
  np.testing.assert_allclose(spread, spread[0], rtol=0.2)
  if options.get("relative"):  # of [1]*7 + [3]: rms is sqrt(2)
    x = np.concatenate(apart)
    median = np.median(np.abs(stable.sample(KEY, 1.5, shape=(100_000,))))
    np.testing.assert_allclose(
      np.median(np.abs(x)), 0.1 * 2**0.5 * median, rtol=0.05
    )
  # A value that is not finite in one shard drops the step in all shards.
  dropped, state = run(updates.at[3].set(jnp.nan), shard_axis_name="m")
  np.testing.assert_array_equal(dropped, 0)
  assert state.step_count == 1 and state.noise_tail_index == 0


@pytest.mark.parametrize(
  "options",
  [{}, {"relative": True, "max_jump": 3.0}, {"isotropic": True}],
  ids=str,
)
@pytest.mark.parametrize(
  "axis_type",
  [
    None,
    AxisType.Auto,
    pytest.param(AxisType.Explicit, marks=pytest.mark.slow),
  ],
)
@pytest.mark.devices(8)
def test_peak_memory_is_a_leaf_more(options, axis_type):
  """With donated updates, at most one more leaf is in memory.

  Or as much as their norm takes: XLA of JAX 0.7 keeps all squares.
  """
  tx = add_stable_noise(1.5, 0.1, key=0, **options)
  like = {name: jnp.zeros([256, 1024]) for name in "abcd"}
  leaf = 4 * 256 * 1024

  def temporary_bytes(fn, *args, **kwargs):
    compiled = jax.jit(fn, **kwargs).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def check(like, leaf):
    norm = temporary_bytes(norms.norm, like)
    step = temporary_bytes(tx.update, like, tx.init(like), donate_argnums=0)
    assert step < 1.01 * max(norm, leaf) + 4096

  if axis_type is None:
    check(like, leaf)
    return
  mesh = jax.make_mesh((8,), ("m",), axis_types=(axis_type,))
  with set_mesh(mesh):
    check(jax.device_put(like, NamedSharding(mesh, P("m"))), leaf / 8)


# -- truncation -------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.25, 10.0, np.inf])
def test_truncation_equals_its_twin(threshold):
  tx = truncate(threshold)
  for seed in range(5):
    rng = np.random.default_rng(seed)
    step = [rng.standard_t(1.5, size=n).astype(np.float32) for n in (3, 8)]
    got, _ = tx.update(step, tx.init(step))
    for x, y in zip(got, reference.truncate(step, threshold)):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_truncation_is_that_of_optax_where_theirs_is_right():
  step = {"a": jnp.float32([3.0, 4.0]), "b": jnp.float32([12.0])}
  for b in (1.0, 100.0):
    theirs, _ = optax.clip_by_global_norm(b).update(step, optax.EmptyState())
    ours, _ = truncate(b).update(step, truncate(b).init(step))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
      np.testing.assert_allclose(x, y, rtol=1e-6)


def test_truncation_where_that_of_optax_is_not_right():
  """The differences that the docstring lists."""

  def both(b, step):
    ours, _ = truncate(b).update(step, truncate(b).init(step))
    theirs, _ = optax.clip_by_global_norm(b).update(step, optax.EmptyState())
    return np.asarray(ours), np.asarray(theirs)

  ours, theirs = both(1.0, jnp.full(10_000, 1e3, jnp.float16))  # norm 1e5
  np.testing.assert_allclose(ours, 0.01, rtol=2e-3)
  assert not np.any(theirs)
  ours, theirs = both(0.0, jnp.zeros(3))
  assert not np.any(ours) and np.all(np.isnan(theirs))
  for bad in (np.nan, np.inf):
    ours, theirs = both(1.0, jnp.float32([1.0, bad]))
    assert not np.any(ours) and np.any(np.isnan(theirs))


def test_threshold_follows_its_schedule():
  tx = truncate(lambda count: 2.0 - count)
  w = jnp.float32([3.0, 4.0])
  state, lengths = tx.init(w), []
  for step in (w, jnp.nan * w, w, w, w):
    updates, state = tx.update(step, state)
    lengths.append(float(np.linalg.norm(updates)))
  # A dropped step counts as a step.
  np.testing.assert_allclose(lengths, [2, 0, 0, 0, 0], rtol=1e-6)


# -- inflated gradient noise -------------------------------------------------


def factors_of(tx, steps, scale=1.0):
  """Z of every step, and one entry of the noise multiplied by it."""

  def step(state, _):
    u, new = tx.update(jnp.zeros(1), state, noise_updates=jnp.full(1, scale))
    return new, (state.noise_factor, u[0])

  run = jax.jit(lambda s: jax.lax.scan(step, s, length=steps)[1])
  return [np.asarray(x) for x in run(tx.init(jnp.zeros(1)))]


@pytest.mark.parametrize("a, c", [(0.8, 0.1), (1.4, 0.5), (3.0, 2.0)])
def test_inflation_has_the_law_of_lomax(a, c):
  z, noise = factors_of(inflate_gradient_noise(a, c, key=0), 20_000)
  assert stats.kstest(z, stats.lomax(a, scale=c).cdf).pvalue > 1e-3
  np.testing.assert_array_equal(z, noise)
  other, _ = factors_of(inflate_gradient_noise(a, c, key=1), 100)
  assert not np.any(z[:100] == other)


def test_inflation_is_finite_where_its_tail_is_heaviest():
  z, noise = factors_of(inflate_gradient_noise(0.05, 1.0, key=0), 1000, 1e20)
  assert z.max() > 1e29 and np.all(np.isfinite(z))
  assert noise.max() == np.finfo(np.float32).max


def test_a_gate_closes_at_its_rate_and_changes_nothing_else():
  gate = 0.5 * (0.1 ** (-1 / 1.4) - 1)
  free, _ = factors_of(inflate_gradient_noise(key=0), 20_000)
  gated, noise = factors_of(inflate_gradient_noise(key=0, gate=gate), 20_000)
  np.testing.assert_array_equal(gated, np.where(free > gate, free, 0))
  np.testing.assert_array_equal(gated, noise)
  assert abs(np.mean(gated > 0) - 0.1) < 4 * (0.09 / 20_000) ** 0.5


def test_the_scale_of_the_inflation_follows_its_schedule():
  constant, _ = factors_of(inflate_gradient_noise(1.4, 1.0, key=0), 6)
  scale = lambda count: jnp.where(count < 4, 0.5 + count, 0.0)
  z, _ = factors_of(inflate_gradient_noise(1.4, scale, key=0), 6)
  wanted = constant * [0.5, 1.5, 2.5, 3.5, 0, 0]
  np.testing.assert_allclose(z, wanted, rtol=1e-5)


def loss(params, batch):
  x, y = batch
  return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def test_noise_is_the_difference_of_the_gradients_where_the_gate_is_open():
  """While the gate is closed, no loss is evaluated."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(32, 3)), rng.normal(size=32)
  params = {"w": jnp.ones(3), "b": jnp.float32(0.5)}
  small, large = (x[:4], y[:4]), (x, y)
  calls = []

  def counted(params, batch):
    jax.debug.callback(lambda: calls.append(1))
    return loss(params, batch)

  noise = jax.jit(lambda z: noise_gradient(counted, params, small, large, z))
  closed = noise(0.0)
  jax.effects_barrier()
  assert not calls
  jax.tree.map(lambda v: np.testing.assert_array_equal(v, 0), closed)
  wanted = jax.tree.map(
    lambda a, b: a - b,
    *(jax.grad(loss)(params, batch) for batch in (small, large)),
  )
  got = noise(0.3)
  jax.effects_barrier()
  assert calls
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_noise_that_is_not_finite_counts_only_where_the_gate_is_open():
  nan = jnp.full(2, jnp.nan)
  tx = inflate_gradient_noise(key=0)
  state = tx.init(jnp.ones(2))
  updates, new = tx.update(jnp.ones(2), state, noise_updates=nan)
  np.testing.assert_array_equal(updates, 0)
  assert new.step_count == 1 and new.noise_factor != state.noise_factor
  tx = inflate_gradient_noise(key=0, gate=np.inf)
  state = tx.init(jnp.ones(2))
  updates, new = tx.update(jnp.ones(2), state, noise_updates=nan)
  np.testing.assert_array_equal(updates, 1)
  assert new.step_count == 1


@pytest.mark.parametrize("threshold", [0.25, None])
@pytest.mark.parametrize("scale", [0.5, None])
def test_the_optimizer_equals_its_twin(threshold, scale):
  """Our methods and the baselines, with the arguments of the table."""
  rng = np.random.default_rng(1)
  pairs = rng.normal(size=(30, 2, 3)).astype(np.float32)
  tx = truncated_heavy_tailed_sgd(0.3, threshold, key=0, scale=scale)
  params = jnp.ones(3)
  state, z = tx.init(params), []
  for gradient, noise in pairs:
    z.append(0.0 if scale is None else optax.tree.get(state, "noise_factor"))
    extra = {} if scale is None else {"noise_updates": jnp.asarray(noise)}
    updates, state = tx.update(jnp.asarray(gradient), state, params, **extra)
    params = optax.apply_updates(params, updates)
  wanted = reference.truncated_heavy_tailed_sgd(
    [1.0] * 3, pairs, map(float, z), 0.3, threshold or np.inf
  )
  np.testing.assert_allclose(params, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", [{}, {"noise_updates": [jnp.ones(2)]}])
def test_a_missing_second_gradient_is_named(missing):
  tx = truncated_heavy_tailed_sgd(0.1, 0.5, key=0)
  with pytest.raises(ValueError, match=r"difference.*pass noise_updates="):
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), **missing)


# -- errors -----------------------------------------------------------------


@pytest.mark.parametrize(
  "make, error, words",
  [
    (
      lambda: add_stable_noise(0.0, 1, key=0),
      ValueError,
      r"alpha.*\(0, 2\], got 0",
    ),
    (lambda: add_stable_noise(2.1, 1, key=0), ValueError, "got 2.1"),
    (
      lambda: add_stable_noise(1.5, -1.0, key=0),
      ValueError,
      "scale .* got -1.0",
    ),
    (
      lambda: add_stable_noise(1.5, 1, key=0, learning_rate=-1),
      ValueError,
      "learning_rate .* got -1",
    ),
    (
      lambda: add_stable_noise(1.5, 1, key=0, max_jump=0),
      ValueError,
      "max_jump must be positive, got 0",
    ),
    (
      lambda: add_stable_noise(1.5, 1, key="a"),
      TypeError,
      "key must be .* got 'a'",
    ),
    (lambda: add_stable_noise(1.5, 1, key=0.5), TypeError, "got 0.5"),
    (lambda: add_stable_noise(1.5, 1, key=None), TypeError, "got None"),
    (
      lambda: add_stable_noise(1.5, 1, key=jax.random.split(KEY)),
      ValueError,
      r"one key, got shape \(2,\)",
    ),
    (
      lambda: add_stable_noise(1.5, 1, key=np.zeros(3, np.uint32)),
      ValueError,
      r"shape \(2,\), got shape \(3,\)",
    ),
    (
      lambda: inflate_gradient_noise(key=0, alpha=0.0),
      ValueError,
      "alpha must be positive, got 0.0",
    ),
    (
      lambda: inflate_gradient_noise(key=0, scale=-1),
      ValueError,
      "scale .* got -1",
    ),
    (
      lambda: inflate_gradient_noise(key=0, gate=-1),
      ValueError,
      "gate .* got -1",
    ),
    (
      lambda: inflate_gradient_noise(key="a"),
      TypeError,
      "key must be .* got 'a'",
    ),
    (
      lambda: truncated_heavy_tailed_sgd(-0.1, 1.0, key=0),
      ValueError,
      "learning_rate .* got -0.1",
    ),
    (lambda: truncate(-0.5), ValueError, "threshold .* got -0.5"),
    (lambda: truncate(float("nan")), ValueError, "got nan"),
  ],
)
def test_bad_arguments_are_named(make, error, words):
  with pytest.raises(error, match=words):
    make()


def test_a_key_under_inject_hyperparams_must_be_static():
  tx = optax.inject_hyperparams(add_stable_noise)(alpha=1.5, scale=1.0, key=0)
  with pytest.raises(TypeError, match=r"static_args=\('key',\)"):
    tx.init(jnp.zeros(2))
