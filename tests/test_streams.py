"""Streaming forms: compared with loops over all values, on SciPy's samples."""

import functools

import chex
import jax
from jax import lax
from jax.experimental import checkify
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import estimators, streaming

MOMENT = functools.partial(estimators.moment, k=8)
ESTIMATORS = {
  "windowed": streaming.windowed(
    MOMENT, 32, functools.partial(estimators.moment_standard_error, k=8)
  ),
  "windowed_no_error": streaming.windowed(MOMENT, 32),
  "windowed_hill": streaming.windowed_hill(32, 8),
  "ew_hill": streaming.ew_hill(0.95),
  "ew_log_moment": streaming.ew_log_moment(0.95),
  "ew_characteristic_function": streaming.ew_characteristic_function(0.95),
}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
  return ESTIMATORS[request.param]


def follow(estimator, xs, state=None):
  """The last state, and the estimates after each value."""
  state = estimator.init() if state is None else state
  return following(estimator)(state, jnp.float32(xs))


@functools.cache
def following(estimator):
  """`follow`, compiled once for each length."""

  def step(state, x):
    state = estimator.update(state, x)
    return state, estimator.estimate(state)

  return jax.jit(functools.partial(lax.scan, step))


def last(estimator, samples):
  """The estimate at the end of each series, [R, T]."""

  def one(xs):
    step = lambda state, x: (estimator.update(state, x), None)
    return estimator.estimate(lax.scan(step, estimator.init(), xs)[0])

  return jax.jit(jax.vmap(one))(jnp.float32(samples))


def signed_pareto(steps, seed=0):
  rng = np.random.default_rng(seed)
  x = (rng.pareto(1.5, steps) + 1) * rng.choice([-1, 1], steps)
  return x.astype(np.float32)


# -- twins ------------------------------------------------------------------


def test_windowed_is_its_estimator_of_the_window():
  xs = np.abs(signed_pareto(100))
  _, estimates = follow(ESTIMATORS["windowed"], xs)
  twin = reference.Windowed(functools.partial(reference.moment, k=8), 32)
  expected = np.array([twin.update(x) for x in xs])
  np.testing.assert_allclose(
    estimates.tail_index, reference.read(expected), rtol=1e-4
  )
  known = np.isfinite(expected)
  assert not np.any(known[:31]) and np.mean(known[31:]) > 0.5
  expected = reference.read(expected[known])
  relative_error = np.sqrt((expected**2 + 1) / 8)
  for end, sign in enumerate((-1, 1)):
    np.testing.assert_allclose(
      estimates.interval[known, end],
      expected * np.exp(sign * 1.959964 * relative_error),
      rtol=1e-3,
    )
  _, estimates = follow(ESTIMATORS["windowed_no_error"], xs)
  assert not np.any(estimates.interval)


def test_ew_hill_equals_its_twin():
  xs = np.abs(signed_pareto(300))
  xs[50:55] = 0.0
  _, estimates = follow(streaming.ew_hill(0.95, 0.2), xs)
  twin = reference.ExponentialHill(0.95, 0.2)
  tail_index, k, drift = np.transpose([twin.update(float(x)) for x in xs])
  np.testing.assert_allclose(
    estimates.tail_index, reference.read(tail_index), rtol=1e-3
  )
  assert np.all(np.isnan(tail_index[:5])) and np.all(tail_index[40:] > 0)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
  close(estimates.drift[40:], drift[40:])
  for i in (60, 299):
    close(estimates.interval[i], reference.hill_interval(tail_index[i], k[i]))


@pytest.mark.parametrize(
  "name, twin, standard_error",
  [
    (
      "ew_log_moment",
      reference.ExponentialLogMoment,
      estimators.log_moment_standard_error,
    ),
    (
      "ew_characteristic_function",
      reference.ExponentialCharacteristicFunction,
      estimators.characteristic_function_standard_error,
    ),
  ],
)
def test_stable_law_forms_equal_their_twins(name, twin, standard_error):
  xs = stats.levy_stable.rvs(1.5, 0, 3.0, 2.0, size=150, random_state=0)
  xs = xs.astype(np.float32)
  _, estimates = follow(ESTIMATORS[name], xs)
  twin = twin(0.95)
  tail_index, n = np.transpose([twin.update(float(x)) for x in xs])
  np.testing.assert_allclose(
    estimates.tail_index, reference.read(tail_index), rtol=1e-3
  )
  assert np.all(np.isnan(tail_index[:21])) and np.all(tail_index[23:] > 0)
  for i in np.flatnonzero(np.isfinite(tail_index))[::30]:
    error = standard_error(tail_index[i], 1) / n[i] ** 0.5
    ends = estimators.positive_interval(tail_index[i], error)
    np.testing.assert_allclose(estimates.interval[i], ends, rtol=1e-3)


def test_hill_all_and_automatic_k_equal_their_twins():
  for i, x in enumerate(
    (signed_pareto(100), np.random.default_rng(0).standard_t(3, 100))
  ):
    x = np.abs(x) * 1e20
    np.testing.assert_allclose(
      estimators.hill_all(x), reference.hill_all(x), rtol=1e-4
    )
    k = jax.jit(functools.partial(estimators.automatic_k, max_k=25))(x)
    assert k.dtype == jnp.int32
    assert k == reference.automatic_k(x, max_k=25, min_k=2), i
    assert estimators.automatic_k(x, max_k=25, min_k=25) == 25


def test_hill_all_is_nan_beyond_positive_values():
  x = [4.0, 2.0, 2.0, 0.0, -1.0]
  np.testing.assert_allclose(
    estimators.hill_all(x), [1 / np.log(2), 2 / np.log(2), np.nan, np.nan]
  )
  for bad in (np.nan, np.inf):
    assert np.all(np.isnan(estimators.hill_all([bad, 2.0, 1.0])))
  assert estimators.automatic_k(np.ones(50), max_k=12) == 2
  assert estimators.automatic_k(np.zeros(50), max_k=12) == 2


def test_a_window_of_equal_values_is_lighter_than_any_power_law():
  """It reads 1e6, as does a tail that is lighter than any power law."""
  for xs, estimator in (
    (np.ones(40), streaming.windowed_hill(32, 8)),
    (np.linspace(1, 2, 40), ESTIMATORS["windowed"]),
    (np.tile([1.0, 1.01], 40), streaming.ew_log_moment(0.95)),
  ):
    _, estimates = follow(estimator, xs)
    assert estimates.tail_index[-1] == streaming.LIGHTEST == 1e6
    chex.assert_tree_all_finite(estimates)
  _, estimates = follow(streaming.windowed_hill(32, 8), np.zeros(40))
  chex.assert_trees_all_equal(
    jax.tree.map(lambda x: x[-1], estimates)[:2], (0.0, np.zeros(2))
  )


def test_nothing_is_flagged_while_nothing_is_known():
  for estimator, xs in (
    (streaming.ew_hill(), np.zeros(5)),
    (streaming.ew_hill(), np.ones(300)),
    (streaming.windowed_hill(64, 8), np.r_[np.ones(5), np.zeros(59)]),
  ):
    unknown = jax.tree.map(np.zeros_like, estimator.estimate(estimator.init()))
    _, estimates = follow(estimator, xs)
    last = jax.tree.map(lambda x: x[-1], estimates)
    chex.assert_trees_all_equal(
      unknown, last, estimator.estimate(estimator.init())
    )


def test_a_flat_window_scores_no_values():
  xs = np.ones(5000)
  xs[::700] = 1.5
  _, estimates = follow(streaming.windowed_hill(256, 16), xs)
  assert not np.any(estimates.misfit[:700])
  assert np.all(np.abs(estimates.misfit) < 2.5)


def test_estimates_of_other_estimators_become_finite():
  for value, expected in ((np.nan, 0), (np.inf, 1e6), (-1.0, 0), (2.0, 2)):
    estimator = streaming.windowed(lambda x, value=value: value + 0 * x[0], 4)
    _, estimates = follow(estimator, np.ones(6))
    np.testing.assert_array_equal(estimates.tail_index[-1], expected)
    np.testing.assert_array_equal(estimates.tail_index[:3], 0)


QUIET = ESTIMATORS | {
  name: streaming.windowed(
    functools.partial(getattr(estimators, name), k=8),
    32,
    functools.partial(getattr(estimators, f"{name}_standard_error"), k=8),
  )
  for name in ("generalized_pareto", "pickands")
}


@pytest.mark.parametrize("name", QUIET)
def test_ordinary_values_are_quiet_under_debug_nans(name):
  """In eager steps, before and after the window is full."""
  estimator = QUIET[name]
  state = estimator.init()
  with jax.debug_nans(True):
    estimator.estimate(state)
    for i, x in enumerate(np.abs(signed_pareto(36))):
      state = estimator.update(state, x)
      if i % 16 == 15 or i == 35:
        estimator.estimate(state)


@pytest.mark.parametrize("name", QUIET)
def test_ordinary_values_are_quiet_under_float_checks(name):
  """No nan and no division by zero, not even in discarded values."""
  estimator = QUIET[name]
  xs = np.abs(signed_pareto(70))

  def run(xs):
    def step(state, x):
      state = estimator.update(state, x)
      return state, estimator.estimate(state)

    return lax.scan(step, estimator.init(), xs)

  checked = jax.jit(checkify.checkify(run, errors=checkify.float_checks))
  for values in (xs, np.ones(70), np.zeros(70)):
    if estimator is not ESTIMATORS["windowed_hill"] and values is not xs:
      continue  # equal values are no sample of a law
    error, _ = checked(jnp.float32(values))
    error.throw()


@pytest.mark.parametrize(
  "name",
  [
    "windowed_hill",
    "ew_hill",
    "ew_characteristic_function",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("windowed", "windowed_no_error", "ew_log_moment")
    ),
  ],
)
def test_gradients_through_a_loop_of_steps(name):
  """In reverse mode and in forward mode."""
  estimator = ESTIMATORS[name]
  xs = jnp.float32(np.abs(signed_pareto(40)))
  state, _ = follow(estimator, xs)

  def after(scale):
    step = lambda state, x: (estimator.update(state, scale * x), None)
    return estimator.estimate(lax.scan(step, state, xs[:3])[0]).tail_index

  slopes = jax.jit(lambda s: (jax.grad(after)(s), jax.jacfwd(after)(s)))(1.0)
  assert np.all(np.isfinite(slopes))
  np.testing.assert_allclose(*slopes, rtol=1e-3, atol=1e-4)


# -- on samples -------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.8, 1.5, 3.0])
def test_ew_hill_is_as_good_as_a_window(alpha):
  """Medians agree within 5 percent, and the noise within a fifth; k = 20."""
  samples = stats.pareto.rvs(alpha, size=(400, 800), random_state=0)
  estimate = last(streaming.ew_hill(0.99, 0.1), samples)
  log_error = np.log(estimate.tail_index / alpha)
  assert abs(np.median(log_error)) < 0.05
  np.testing.assert_allclose(np.std(log_error), 20**-0.5, rtol=0.2)
  low, high = np.transpose(estimate.interval)
  assert np.mean((low < alpha) & (alpha < high)) > 0.92
  assert np.mean(np.abs(estimate.drift) > 2.5) < 0.01


@pytest.mark.parametrize("alpha", [1.0, 1.5, 1.8])
@pytest.mark.parametrize(
  "form, standard_error",
  [
    ("log_moment", estimators.log_moment_standard_error),
    (
      "characteristic_function",
      estimators.characteristic_function_standard_error,
    ),
  ],
)
def test_stable_law_forms_recover_alpha(form, standard_error, alpha):
  loc = 0.0 if form == "log_moment" else 10.0
  samples = stats.levy_stable.rvs(
    alpha, 0, loc, 3.0, size=(200, 2000), random_state=0
  )
  estimate = last(getattr(streaming, f"ew_{form}")(0.998), samples)
  expected = standard_error(alpha, 999)
  np.testing.assert_allclose(
    np.median(estimate.tail_index), alpha, atol=0.4 * expected
  )
  np.testing.assert_allclose(np.std(estimate.tail_index), expected, rtol=0.2)
  low, high = np.transpose(estimate.interval)
  assert np.mean((low < alpha) & (alpha < high)) > 0.88


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_ew_hill_flags_a_moving_level_and_follows_it(factor):
  samples = stats.pareto.rvs(1.5, size=(100, 1500), random_state=0)
  samples[:, 700:] *= factor
  ew = streaming.ew_hill(0.99, 0.1)
  drift = last(ew, samples[:, :850]).drift
  assert np.mean(np.sign(factor - 1) * drift > 2.5) > 0.9
  estimate = last(ew, samples)
  assert abs(np.median(np.log(estimate.tail_index / 1.5))) < 0.1
  assert np.mean(np.abs(estimate.drift) > 2.5) < 0.05


# -- the contract of a streaming estimator ----------------------------------


def test_state_is_finite_strong_and_of_fixed_shape(estimator):
  state = estimator.init()
  leaves = jax.tree.leaves(state)
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
  new = jax.jit(estimator.update)(state, 1.0)
  for x, y in zip(leaves, jax.tree.leaves(new), strict=True):
    assert np.all(np.isfinite(x)) and not x.aval.weak_type
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert not y.aval.weak_type
  tail_index, interval, *_ = estimator.estimate(state)
  assert tail_index == 0 and not np.any(interval)
  assert (tail_index.dtype, tail_index.shape) == (jnp.float32, ())
  assert (interval.dtype, interval.shape) == (jnp.float32, (2,))


def test_scan_is_loop_and_vmap(estimator):
  xs = signed_pareto(60)
  xs = np.abs(xs) if estimator is ESTIMATORS["ew_hill"] else xs
  scanned, estimates = follow(estimator, xs)
  state = estimator.init()
  jitted = jax.jit(estimator.update)  # eager steps are slow: three are enough
  for i, x in enumerate(xs):
    update = jitted if i < 57 else estimator.update
    state = update(state, x)
  close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)
  close(state, scanned)
  both = np.stack([xs, xs[::-1]])
  _, mapped = jax.vmap(lambda xs: follow(estimator, xs))(both)
  close(jax.tree.map(lambda x: x[0], mapped), estimates)


def test_values_that_are_not_finite_leave_the_state(estimator):
  xs = np.abs(signed_pareto(50))
  mixed = np.insert(xs, [0, 0, 20, 40], [np.nan, np.inf, -np.inf, np.nan])
  clean, _ = follow(estimator, xs)
  state, _ = follow(estimator, mixed)
  chex.assert_trees_all_equal(clean, state)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, 1e-30, 1e-40])
def test_state_stays_finite_and_forgets(estimator, value):
  """Many equal values at the start and later, and then 2,000 good ones."""
  good = signed_pareto(500, seed=1)
  if estimator is not ESTIMATORS["ew_characteristic_function"]:
    good = np.abs(good)
  bad = np.full(300, value)
  xs = np.concatenate([bad[:60], good[:100], -bad[:5], bad])
  state, estimates = follow(estimator, xs)
  chex.assert_tree_all_finite(state)
  chex.assert_tree_all_finite(estimates)
  state, estimates = follow(estimator, np.tile(good, 4), state)
  chex.assert_tree_all_finite(state)
  _, clean = follow(estimator, np.tile(good, 4))
  np.testing.assert_allclose(
    estimates.tail_index[-300:], clean.tail_index[-300:], rtol=0.05
  )


def test_largest_numbers_stay_finite(estimator):
  huge = np.finfo(np.float32).max
  xs = [huge, -huge, 1e-38, huge, huge, -1e-38, 0.0, 3.0, -huge] * 20
  for start in range(3):
    state, estimates = follow(estimator, xs[start:])
    chex.assert_tree_all_finite(state)
    chex.assert_tree_all_finite(estimates)


@pytest.mark.parametrize(
  "per_layer", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_inside_a_tracker(estimator, per_layer):
  xs = np.abs(signed_pareto(80))
  tx = htga_optax.track_tail_index(estimator=estimator, per_layer=per_layer)
  grads = {"a": jnp.stack([0 * xs, xs], axis=1), "b": jnp.zeros([80, 3])}
  first = jax.tree.map(lambda x: x[0], grads)
  step = lambda state, g: tx.update(g, state)[::-1]
  state, _ = jax.jit(functools.partial(lax.scan, step))(tx.init(first), grads)
  chex.assert_tree_all_finite(state)
  _, estimates = follow(estimator, reference.over_level(xs))
  tail_index = state.tail_index[0] if per_layer else state.tail_index
  np.testing.assert_allclose(tail_index, estimates.tail_index[-1], 1e-3)
  if per_layer:  # norms of zero have no index
    assert state.tail_index[1] == 0


def test_bad_arguments_are_named():
  for make in (
    streaming.ew_hill,
    streaming.ew_log_moment,
    streaming.ew_characteristic_function,
  ):
    for decay in (0.0, 1.0):
      with pytest.raises(ValueError, match=r"decay must be in \(0, 1\), got"):
        make(decay)
  with pytest.raises(ValueError, match="tail_fraction must be in"):
    streaming.ew_hill(0.99, 1.0)
  with pytest.raises(ValueError, match="k=8 for a sample of 8"):
    streaming.windowed(MOMENT, 8)
  with pytest.raises(ValueError, match="one number, got shape"):
    streaming.windowed(jnp.sort, 8)
  with pytest.raises(TypeError, match="window_size must be a static integer"):
    streaming.windowed(MOMENT, 8.0)
  with pytest.raises(ValueError, match="k=9 for a sample of 9"):
    estimators.automatic_k(np.ones(9), max_k=9)
  with pytest.raises(ValueError, match="at most max_k=4, got 5"):
    estimators.automatic_k(np.ones(9), max_k=4, min_k=5)
  with pytest.raises(ValueError, match="level must be in"):
    estimators.positive_interval(1.0, 1.0, level=1.0)
