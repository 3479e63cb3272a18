"""The contract of every public transformation: cases x laws.

States and updates are compared to 1e-5 where two programs may round differently
(jit and eager, one device and eight). They are compared bit for bit where
nothing may differ (a restored state, a counter).
"""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

import cases
from cases import bowl, given
import chex
from flax import linen as nn
from flax import nnx
import flax.serialization
import jax
from jax import lax
from jax.experimental import checkify
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import htga_optax

# JAX 0.7 does not have jax.set_mesh.
set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=cases.CASES, ids=lambda case: case.name)
def case(request):
  return request.param


def fast_for(*names):
  """Runs a law on all cases; it is slow on those that are not named."""
  return pytest.mark.parametrize(
    "case",
    [
      pytest.param(case, marks=() if case.name in names else pytest.mark.slow)
      for case in cases.CASES
    ],
    ids=lambda case: case.name,
  )


# Most laws are fast tests on one case of a factory. They are slow tests on its
# variants (per layer, another estimator), and on optimizers composed of other
# transformations, except htga.
_COMPOSED = (
  htga_optax.scale_by_htga,
  htga_optax.normalized_sgd,
  htga_optax.tail_index_sgd,
  htga_optax.truncated_heavy_tailed_sgd,
  htga_optax.ahtsgd,
)
_FIRST = {case.factory: case.name for case in reversed(cases.CASES)}
variants_are_slow = fast_for(
  *(name for factory, name in _FIRST.items() if factory not in _COMPOSED)
)

# A law that depends mostly on optax, orbax or devices is a fast test on three
# cases only: a relay with a law of one norm, a second gradient, and a loss.
_FEW = (
  "htga",
  "inflate_gradient_noise",
  "track_sharpness_of_a_loss",
)
few_are_fast = fast_for(*_FEW)


def at(tree, i):
  return jax.tree.map(lambda x: x[i], tree)


def step_of(tx, extra_args):
  def step(grads, state, params):
    return tx.update(grads, state, params, **given(extra_args, grads))

  return step


def scan_of(step):
  """A jitted scan: state, stacked gradients -> last state, all updates."""

  @jax.jit
  def scan(state, grads, params):
    def body(state, grads):
      updates, state = step(grads, state, params)
      return state, updates

    return lax.scan(body, state, grads)

  return scan


class Bare(NamedTuple):
  """A case on its own, compiled once for all laws."""

  tx: optax.GradientTransformationExtraArgs
  step: Callable[..., Any]
  scan: Callable[..., Any]

  def run(self, grads, params):
    return self.scan(self.tx.init(params), grads, params)


@functools.cache
def bare(case):
  tx = case.make()
  step = step_of(tx, case.extra_args)
  return Bare(tx, jax.jit(step), scan_of(step))


def run(tx, grads, params, extra_args):
  return scan_of(step_of(tx, extra_args))(tx.init(params), grads, params)


compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, seconds, **_: (
    compilations.append(event) if "backend_compile" in event else None
  )
)


def traced_once(fn):
  """`fn`, jitted; a second trace is an error."""
  traces = []

  @functools.wraps(fn)
  def counted(*args):
    traces.append(args)
    assert len(traces) == 1, "traced again"
    return fn(*args)

  return jax.jit(counted)


def assert_all_finite(tree):
  for path, x in jax.tree.leaves_with_path(tree):
    assert np.all(np.isfinite(x)), f"{jax.tree_util.keystr(path)} = {x}"


def types(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


# -- state ------------------------------------------------------------------


def test_init_takes_shapes(case):
  tx, params = case.make(), cases.params()
  shapes = jax.eval_shape(lambda: params)
  chex.assert_trees_all_equal_shapes_and_dtypes(
    tx.init(shapes), tx.init(params), jax.eval_shape(tx.init, shapes)
  )


def test_initial_state_is_finite_strong_and_not_shared(case):
  state = case.make().init(cases.params())
  assert_all_finite(state)
  leaves = jax.tree.leaves(state)
  assert not any(x.aval.weak_type for x in leaves)
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_state_keeps_its_types(case):
  tx, step, _ = bare(case)
  params = cases.params()
  state = tx.init(params)
  _, new = jax.eval_shape(step, at(cases.gradients(1), 0), state, params)
  assert types(new) == types(state)


@variants_are_slow
def test_one_trace_in_many_steps(case):
  tx, params = case.make(), cases.params()
  grads = cases.gradients(5)
  step, state = traced_once(step_of(tx, case.extra_args)), tx.init(params)
  for i in range(5):
    _, state = step(at(grads, i), state, params)


@few_are_fast
def test_jit_equals_eager_and_scan_equals_loop(case):
  """Eager steps are compared around the eighth, which fills the window.

  The second eager step compiles nothing, except for a loss, which is the
  caller's.
  """
  tx, step, scan = bare(case)
  params, grads = cases.params(), cases.gradients(10)
  scanned, updates = scan(tx.init(params), grads, params)
  state = tx.init(params)
  for i in range(10):
    g = at(grads, i)
    apply = step_of(tx, case.extra_args) if i in (6, 7) else step
    before = len(compilations)
    u, state = apply(g, state, params)
    if i == 7 and "value_fn" not in case.extra_args:
      assert len(compilations) == before
    close(u, at(updates, i))
  # Entries cancel in the momentum, and the gradients have norm 50.
  close(state, scanned, atol=1e-5)


@few_are_fast
def test_state_may_be_donated(case):
  tx, step, _ = bare(case)
  params, grads = cases.params(), cases.gradients(3)
  donating = jax.jit(step_of(tx, case.extra_args), donate_argnums=1)
  mine, theirs = tx.init(params), tx.init(params)
  for i in range(3):
    _, mine = donating(at(grads, i), mine, params)
    _, theirs = step(at(grads, i), theirs, params)
  chex.assert_trees_all_equal(mine, theirs)


def test_readings_are_found_once(case):
  state = bare(case).tx.init(cases.params())
  nested = (optax.EmptyState(), {"inner": state})
  for name in case.readings:
    found = optax.tree.get_all_with_path(nested, name)
    assert len(found) == 1, name
    assert optax.tree.get(nested, name) is not None


@few_are_fast
def test_vmap_over_seeds(case):
  params = cases.params()
  grads = [cases.gradients(10, seed=seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
  run = bare(case).run
  states, updates = jax.vmap(lambda g: run(g, params))(stacked)
  for i, g in enumerate(grads):
    close(run(g, params), (at(states, i), at(updates, i)))


# -- updates ----------------------------------------------------------------


@few_are_fast
@pytest.mark.parametrize(
  "dtype",
  [pytest.param("float32", marks=pytest.mark.slow), "bfloat16", "float16"],
)
def test_dtype_is_kept(case, dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), cases.params())
  grads = cases.gradients(10, params)
  state, updates = bare(case).run(grads, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
  assert_all_finite((state, updates))
  assert types(state) == types(bare(case).tx.init(params))


@variants_are_slow
def test_numbers_and_numpy_arrays_are_leaves(case):
  """A Python float, and NumPy's float64 without x64, as in optax."""
  plain = {"a": 1.5, "b": np.ones(3), "c": np.float64(2.0)}
  arrays = jax.tree.map(jnp.asarray, plain)
  tx = case.make()
  step = step_of(tx, case.extra_args)
  close(
    step(plain, tx.init(plain), plain), step(arrays, tx.init(arrays), arrays)
  )


@few_are_fast
def test_float16_norm_does_not_overflow(case):
  params = {"w": jnp.zeros([6400], jnp.float16)}
  grads = {"w": jnp.full([10, 6400], 1e3, jnp.float16)}  # norm 8e4 > 65504
  state, updates = bare(case).run(grads, params)
  assert_all_finite((state, updates))
  if "update_norm" in case.readings:
    norm = jax.tree.leaves(optax.tree.get(state, "update_norm"))[0]
    np.testing.assert_allclose(norm, 8e4, rtol=1e-3)


@few_are_fast
def test_complex_leaves(case):
  params = {"z": jnp.zeros([3], jnp.complex64)}
  grads = cases.gradients(10, params)
  state, updates = bare(case).run(grads, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
  assert_all_finite((state, updates))
  # A complex tree gives the same as the real tree of its parts.
  parts = {"x": grads["z"].real, "y": grads["z"].imag}
  if not case.kwargs.get("per_layer") and not case.kwargs.get("relative"):
    _, real = bare(case).run(parts, at(parts, 0))
    close(updates["z"], real["x"] + 1j * real["y"])


@variants_are_slow
@pytest.mark.parametrize(
  "tree",
  [
    {},
    {"a": None},
    *(pytest.param(tree, marks=pytest.mark.slow) for tree in ([None], [], ())),
  ],
  ids=str,
)
def test_trees_without_leaves(case, tree):
  tx, step, _ = bare(case)
  state = tx.init(tree)
  for _ in range(10):
    updates, state = step(tree, state, tree)
    assert updates == tree
  assert_all_finite(state)


@few_are_fast
def test_leaves_without_entries(case):
  params = {"w": jnp.zeros([0]), "v": jnp.zeros([3])}
  state, updates = bare(case).run(cases.gradients(10, params), params)
  assert updates["w"].shape == (10, 0)
  assert_all_finite((state, updates))


@variants_are_slow
def test_unknown_extra_args_are_accepted(case):
  tx, step, _ = bare(case)
  params, grads = cases.params(), at(cases.gradients(1), 0)
  unknown = {"no_such_reading": jnp.ones([2]), "value": 1.0}
  both = jax.jit(step_of(tx, case.extra_args | unknown))
  with_them, _ = both(grads, tx.init(params), params)
  without, _ = step(grads, tx.init(params), params)
  close(with_them, without)


@variants_are_slow
def test_params_are_not_needed(case):
  if case.needs_params or "value_fn" in case.extra_args:
    pytest.skip("parameters are needed")
  tx, step, _ = bare(case)
  params, grads = cases.params(), at(cases.gradients(1), 0)
  updates, _ = step(grads, tx.init(params), None)
  close(updates, step(grads, tx.init(params), params)[0])


@few_are_fast
def test_gradient_through_the_update_is_finite(case):
  """Also at a zero gradient, before and after the window is full."""
  params, grads = cases.params(), cases.gradients(10)
  made = bare(case)  # not in a trace, whose key other tests would get

  @jax.jit
  @jax.grad
  def slope(scale):
    scaled = jax.tree.map(lambda x: scale * x, grads)
    _, updates = made.run(scaled, params)
    return sum(jnp.sum(x) for x in jax.tree.leaves(updates))

  assert np.isfinite(slope(1.0))
  assert np.isfinite(slope(0.0))


# -- bad gradients ----------------------------------------------------------


@fast_for(*_FIRST.values())
def test_state_survives_a_bad_gradient(case):
  """The state is finite after the bad step, and recovers.

  Once the bad step has left the window, the measured index is that of a run
  without the step. A step that is not finite changes only a count and a
  momentum that decays.
  """
  tx, step, scan = bare(case)
  params = cases.params()
  filled, _ = scan(tx.init(params), cases.gradients(10, seed=1), params)
  after = cases.gradients(10, seed=2)
  clean, expected = scan(filled, after, params)
  after_drop = expected
  if case.follows_clock:  # the dropped step counts as a step of zeros
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, after_drop = scan(step(zeros, filled, params)[1], after, params)

  for bad in (0.0, np.nan, np.inf, -np.inf, 1e30, 1e-30):
    worst = jax.tree.map(lambda x, bad=bad: jnp.full_like(x, bad), params)
    updates, hit = step(worst, filled, params)
    assert_all_finite(hit)
    if case.factory in cases.TRACKERS:
      chex.assert_trees_all_equal(updates, worst)
    else:
      assert_all_finite(updates)

    state, updates = scan(hit, after, params)
    assert_all_finite((state, updates))
    if case.forgets or not np.isfinite(bad):
      for name in set(case.readings) & {"tail_index", "tail_index_interval"}:
        close(optax.tree.get(state, name), optax.tree.get(clean, name))
    if not np.isfinite(bad) and "momentum" not in case.kwargs:
      close(updates, after_drop)
    if "nonfinite_count" in case.readings:
      counts = optax.tree.get(state, "nonfinite_count")
      assert np.all(counts == (not np.isfinite(bad)))


@variants_are_slow
def test_step_counts_agree_after_a_dropped_step(case):
  tx, step, _ = bare(case)
  params = cases.params()
  state = tx.init(params)
  good = at(cases.gradients(1), 0)
  bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  for grads in (good, bad, good):
    _, state = step(grads, state, params)
  for name in ("step_count", "count"):
    for _, count in optax.tree.get_all_with_path(state, name):
      assert np.all(count == 3), name


def test_one_bad_entry_drops_the_step(case):
  params = cases.params()
  filled, _ = bare(case).run(cases.gradients(10), params)
  grads = at(cases.gradients(1), 0)
  grads["dense"]["bias"] = grads["dense"]["bias"].at[3].set(jnp.nan)
  updates, state = bare(case).step(grads, filled, params)
  assert_all_finite(state)
  if case.factory not in cases.TRACKERS:
    assert all(not np.any(x) for x in jax.tree.leaves(updates)) or (
      "momentum" in case.kwargs
    )
    assert_all_finite(updates)


# -- inside optax wrappers -----------------------------------------------------


@few_are_fast
def test_inside_chain(case):
  tx = optax.chain(optax.scale(2.0), case.make(), optax.scale(0.5))
  params, grads = cases.params(), cases.gradients(10)
  doubled = jax.tree.map(lambda x: 2 * x, grads)
  _, updates = run(tx, grads, params, case.extra_args)
  _, expected = bare(case).run(doubled, params)
  close(updates, jax.tree.map(lambda x: x / 2, expected))


@pytest.mark.slow  # the test of optax.partition masks too
def test_inside_masked(case):
  params, grads = cases.params(), cases.gradients(10)
  tx = optax.masked(
    case.make(),
    lambda p: jax.tree.map(lambda x: x.ndim > 0, p),
    mask_compatible_extra_args=True,
  )
  _, updates = run(tx, grads, params, case.extra_args)
  dense = {"dense": grads["dense"]}
  _, expected = bare(case).run(dense, {"dense": params["dense"]})
  close(updates["dense"], expected["dense"])
  close(updates["scale"], grads["scale"])


@few_are_fast
def test_inside_partition(case):
  params, grads = cases.params(), cases.gradients(10)
  labels = {"dense": "a", "frozen": "a", "empty": "a", "scale": "b"}
  tx = optax.partition(
    {"a": case.make(), "b": optax.set_to_zero()},
    labels,
    mask_compatible_extra_args=True,
  )
  _, updates = run(tx, grads, params, case.extra_args)
  dense = {"dense": grads["dense"]}
  _, expected = bare(case).run(dense, {"dense": params["dense"]})
  close(updates["dense"], expected["dense"])
  assert not np.any(updates["scale"])


@few_are_fast
def test_inside_multi_steps(case):
  """One norm per real step enters the window."""
  params, grads = cases.params(), cases.gradients(20)
  tx = optax.MultiSteps(case.make(), every_k_schedule=2)
  _, updates = run(tx, grads, params, case.extra_args)
  pairs = jax.tree.map(
    lambda x: x.reshape(10, 2, *x.shape[1:]).mean(axis=1), grads
  )
  _, expected = bare(case).run(pairs, params)
  close(jax.tree.map(lambda x: x[1::2], updates), expected)
  assert not any(np.any(x[0::2]) for x in jax.tree.leaves(updates))


@few_are_fast
def test_inside_apply_if_finite(case):
  tx, params = optax.apply_if_finite(case.make(), 3), cases.params()
  grads = cases.gradients(10)
  state, updates = run(tx, grads, params, case.extra_args)
  last, expected = bare(case).run(grads, params)
  close(updates, expected)
  close(state.inner_state, last)
  nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
  step = jax.jit(step_of(tx, case.extra_args))
  updates, after = step(nan, state, params)
  assert not any(np.any(x) for x in jax.tree.leaves(updates))
  chex.assert_trees_all_equal(after.inner_state, state.inner_state)


@few_are_fast
def test_inside_conditionally_transform(case):
  params, grads = cases.params(), cases.gradients(14)
  tx = optax.conditionally_transform(
    case.make(), should_transform_fn=lambda step, *_, **__: step >= 4
  )
  _, updates = run(tx, grads, params, case.extra_args)
  late = jax.tree.map(lambda x: x[4:], grads)
  _, expected = bare(case).run(late, params)
  close(jax.tree.map(lambda x: x[:4], updates), at(grads, slice(4)))
  close(jax.tree.map(lambda x: x[4:], updates), expected)


@few_are_fast
def test_inside_inject_hyperparams(case):
  """Numeric arguments may change between steps without a new trace."""
  params, grads = cases.params(), cases.gradients(10)
  tx = optax.inject_hyperparams(case.factory, static_args=case.static_args)(
    **case.kwargs
  )
  _, updates = run(tx, grads, params, case.extra_args)
  _, expected = bare(case).run(grads, params)
  close(updates, expected)

  step, state = traced_once(step_of(tx, case.extra_args)), tx.init(params)
  for i in range(10):
    for name in state.hyperparams:
      value = state.hyperparams[name]
      state.hyperparams[name] = (value * 0.99).astype(value.dtype)
    _, state = step(at(grads, i), state, params)
  assert_all_finite(state)
  # No reading has the name of an argument.
  for name in case.readings:
    assert len(optax.tree.get_all_with_path(state, name)) == 1


# -- readings ---------------------------------------------------------------


@variants_are_slow
def test_sizes_that_are_not_given_need_no_static_args(case):
  needed = inspect.signature(case.factory).parameters
  kwargs = {
    name: value
    for name, value in case.kwargs.items()
    if name not in case.static_args
    or needed[name].default is inspect.Parameter.empty
    or name == "estimator"
  }
  static = [name for name in case.static_args if name in kwargs]
  tx = optax.inject_hyperparams(case.factory, static_args=static)(**kwargs)
  params, grads = cases.params(), at(cases.gradients(1), 0)
  jax.eval_shape(step_of(tx, case.extra_args), grads, tx.init(params), params)


@fast_for(*_FEW[1:])  # htga compiles for 7 s
def test_derivatives_through_a_loop(case):
  """Reverse mode equals forward mode, and both are finite.

  The loop has three steps. Derivatives are with respect to the parameters and
  every float argument.
  """
  bound = inspect.signature(case.factory).bind(**case.kwargs)
  bound.apply_defaults()
  floats = {
    name: value
    for name, value in bound.arguments.items()
    if type(value) is float and name not in case.static_args
  }
  grads, start = cases.gradients(3), cases.params()

  def loss(params, floats):
    tx = case.factory(**case.kwargs | floats)

    def step(carry, x):
      params, state = carry
      g = jax.tree.map(lambda x, y: x * (1 + y), x, params)
      u, state = tx.update(g, state, params, **given(case.extra_args, g))
      params = jax.tree.map(
        lambda p, u: (p - 0.01 * u).astype(p.dtype), params, u
      )
      return (params, state), None

    (params, _), _ = lax.scan(step, (params, tx.init(params)), grads)
    return bowl(params)

  slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(start, floats)
  assert_all_finite(slopes)
  ones = jax.tree.map(jnp.ones_like, (start, floats))
  _, forward = jax.jit(lambda x, v: jax.jvp(loss, x, v))((start, floats), ones)
  reverse = sum(jnp.sum(x) for x in jax.tree.leaves(slopes))
  # The two modes add some hundred terms in different orders.
  np.testing.assert_allclose(reverse, forward, rtol=1e-4)


def test_a_reading_has_no_arguments_name(case):
  arguments = {
    name
    for other in cases.CASES
    for name in inspect.signature(other.factory).parameters
  }
  state = case.make().init(cases.params())
  assert not arguments & set(htga_optax.readings(state))


def test_readings_are_those_of_the_state(case):
  state = case.make().init(cases.params())
  for name, value in htga_optax.readings((state, {})).items():
    assert value is optax.tree.get(state, name)


def test_readings_of_dicts_equal_those_of_the_state(case):
  """A checkpoint without a template, and flax.nnx, turn a state into dicts."""
  state, _ = bare(case).run(cases.gradients(10), cases.params())
  expected = htga_optax.readings(state)
  as_dicts = flax.serialization.to_state_dict({"inner": [state, state]})
  found = htga_optax.readings(as_dicts)
  assert len(found) == 2 * len(expected)
  found = htga_optax.readings(as_dicts["inner"]["0"])
  chex.assert_trees_all_equal(found, expected)


trackers = pytest.mark.parametrize(
  "case",
  [case for case in cases.CASES if case.factory in cases.TRACKERS],
  ids=lambda case: case.name,
)


@trackers
def test_two_trackers_of_a_kind_both_measure(case):
  params, grads = cases.params(), cases.gradients(10)
  tx = htga_optax.relay(case.make(), optax.scale(3.0), case.make())
  state, _ = run(tx, grads, params, case.extra_args)
  first, _ = bare(case).run(grads, params)
  scaled = jax.tree.map(lambda x: 3 * x, grads)
  if "other_updates" in case.extra_args:
    fixed = case.extra_args["other_updates"]
    again = {"other_updates": lambda x: fixed(jax.tree.map(lambda y: y / 3, x))}
    second, _ = run(case.make(), scaled, params, again)
  else:
    second, _ = bare(case).run(scaled, params)
  close(state.members[0], first)
  close(state.members[2], second)
  both = htga_optax.readings(state)
  assert len(both) == 2 * len(htga_optax.readings(first))
  assert all(name.startswith(("members/0/", "members/2/")) for name in both)


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(
      case,
      marks=()
      if case.name in ("track_tail_index", "track_sharpness_of_a_loss")
      else pytest.mark.slow,
    )
    for case in cases.CASES
    if case.factory in cases.TRACKERS
  ],
  ids=lambda case: case.name,
)
@pytest.mark.parametrize(
  "search",
  [
    optax.lbfgs(),
    optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
  ],
  ids=["lbfgs", "backtracking"],
)
def test_a_line_search_works_in_a_relay(case, search):
  if "other_updates" in case.extra_args:
    pytest.skip("the search refuses this argument of the caller's")
  params = {"w": jnp.arange(1.0, 4.0)}
  value, grads = jax.value_and_grad(bowl)(params)
  asks = {"value": value, "grad": grads, "value_fn": bowl}
  tx = htga_optax.relay(case.make(), search)
  updates, _ = tx.update(grads, tx.init(params), params, **asks)
  assert bowl(optax.apply_updates(params, updates)) < value


# -- strict modes -----------------------------------------------------------


@variants_are_slow
def test_healthy_steps_are_quiet_under_debug_nans(case):
  """In eager mode, debug_nans checks every intermediate value."""
  tx, params = case.make(), cases.params()
  filled, _ = bare(case).run(cases.gradients(10), params)
  step, grads = step_of(tx, case.extra_args), at(cases.gradients(1), 0)
  with jax.debug_nans(True):
    for state in (tx.init(params), filled):
      step(grads, state, params)


@few_are_fast
def test_healthy_steps_are_quiet_under_float_checks(case):
  tx, params = case.make(), cases.params()
  filled, _ = bare(case).run(cases.gradients(10), params)
  step = step_of(tx, case.extra_args)
  checked = jax.jit(
    checkify.checkify(
      lambda grads, state: step(grads, state, params),
      errors=checkify.float_checks,
    )
  )
  for state in (tx.init(params), filled):
    error, _ = checked(at(cases.gradients(1), 0), state)
    error.throw()


@variants_are_slow
@pytest.mark.parametrize(
  "mode",
  [
    lambda: jax.numpy_dtype_promotion("strict"),
    lambda: jax.numpy_rank_promotion("raise"),
  ],
  ids=["dtypes", "ranks"],
)
def test_strict_promotion(case, mode):
  params = cases.params() | {
    "half": jnp.ones([2], jnp.float16),
    "z": jnp.ones([3], jnp.complex64),
  }
  tx, grads = case.make(), at(cases.gradients(1, params), 0)
  step = step_of(tx, case.extra_args)
  if "value_fn" in case.extra_args:  # the loss itself may promote
    half = lambda p: bowl({k: x for k, x in p.items() if k != "half"})
    step = step_of(tx, {"value_fn": lambda updates: half})
  with mode():
    jax.eval_shape(step, grads, tx.init(params), params)


@variants_are_slow
def test_integers_are_no_layers(case):
  """In Equinox, `init` gets an array of integers; its gradient is None."""
  params = cases.params()
  tx, grads = case.make(), at(cases.gradients(1), 0)
  step = step_of(tx, case.extra_args)
  whole = params | {"ids": jnp.arange(3)}
  if "momentum" in case.kwargs:
    pytest.skip("optax.trace needs trees of one structure")
  updates, _ = step(grads | {"ids": None}, tx.init(whole), whole)
  expected, _ = step(grads, tx.init(params), params)
  close(updates.pop("ids"), None)
  close(updates, expected)


def test_another_number_of_layers_is_named(case):
  if not case.kwargs.get("per_layer"):
    pytest.skip("a norm of all leaves has no layers")
  tx, params = case.make(), cases.params()
  more = params | {"other": jnp.ones(2)}
  with pytest.raises(ValueError, match=r"2 layers.*4 \(dense/bias, "):
    tx.update(
      more, tx.init(params["dense"]), more, **given(case.extra_args, more)
    )


# -- many devices -----------------------------------------------------------


def data_parallel_loss(params, batch, axis_name=None):
  """A regression loss; it takes the mean over devices itself."""
  x, y = batch
  prediction = x @ params["w"] + params["b"]
  loss = jnp.mean((prediction - y) ** 2)
  return loss if axis_name is None else lax.pmean(loss, axis_name)


def data_parallel_problem():
  rng = np.random.default_rng(0)
  params = {
    "w": jnp.asarray(rng.standard_normal([16, 8]), jnp.float32),
    "b": jnp.zeros([8]),
  }
  size = (rng.pareto(1.5, 12) + 1).reshape(-1, 1, 1)
  x = jnp.asarray(rng.standard_normal([12, 32, 16]), jnp.float32)
  y = jnp.asarray(size * rng.standard_normal([12, 32, 8]), jnp.float32)
  return params, (x, y)


def train_step(tx, extra_args, axis_name=None):
  def step(params, state, batch):
    grads = jax.grad(data_parallel_loss)(params, batch, axis_name)
    if axis_name is not None:
      grads = lax.pmean(grads, axis_name)
    updates, state = tx.update(grads, state, params, **given(extra_args, grads))
    small = jax.tree.map(lambda u: 1e-3 * u, updates)
    return optax.apply_updates(params, small), state

  return step


@functools.cache
def single_device_result(case):
  params, batches = data_parallel_problem()
  tx = case.make()
  step, state = jax.jit(train_step(tx, case.extra_args)), tx.init(params)
  for i in range(12):
    params, state = step(params, state, at(batches, i))
  return params, state


@pytest.mark.slow  # test_train.py has a run under pmap
@pytest.mark.devices(8)
def test_pmap_equals_one_device(case):
  params, batches = data_parallel_problem()
  tx = case.make()
  step = jax.pmap(train_step(tx, case.extra_args, "data"), axis_name="data")
  params, state = jax.tree.map(
    lambda x: np.stack([x] * 8), (params, tx.init(params))
  )
  for i in range(12):
    batch = jax.tree.map(lambda x: x.reshape(8, 4, -1), at(batches, i))
    params, state = step(params, state, batch)
  result = jax.device_get((params, state))
  for device in (0, 7):
    close(at(result, device), single_device_result(case))


@few_are_fast
@pytest.mark.devices(8)
def test_shard_map_equals_one_device(case):
  params, batches = data_parallel_problem()
  tx = case.make()
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  step = jax.jit(
    jax.shard_map(
      train_step(tx, case.extra_args, "data"),
      mesh=mesh,
      in_specs=(P(), P(), P("data")),
      out_specs=P(),
    )
  )
  state = tx.init(params)
  for i in range(12):
    params, state = step(params, state, at(batches, i))
  close((params, state), single_device_result(case))


def placed_like_params(tx, state, shardings, mesh):
  """Shards the leaves that are like params in the same way, copies the rest."""
  return jax.device_put(
    state,
    optax.tree_map_params(
      tx,
      lambda _, sharding: sharding,
      state,
      shardings,
      transform_non_params=lambda _: NamedSharding(mesh, P()),
    ),
  )


@variants_are_slow
@pytest.mark.devices(8)
def test_split_parameters_work_or_name_the_missing_argument(case):
  """Inside shard_map without an axis name, a case works or names the argument.

  Every transformation with a window of norms raises an error of one sentence,
  which names the missing argument.
  """
  mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
  params = {"w": jnp.ones([16, 8])}
  tx = case.make()
  state = tx.init(params)
  step = step_of(tx, case.extra_args)
  specs = jax.tree.map(
    lambda x: P("model") if x.shape == (16, 8) else P(), state
  )
  mapped = jax.shard_map(
    lambda g, s, p: step(g, s, p)[0],
    mesh=mesh,
    in_specs=(P("model"), specs, P("model")),
    out_specs=P("model"),
  )
  run = lambda: jax.eval_shape(mapped, params, state, params)
  try:
    run()
  except ValueError as error:
    assert "name the axis in" in str(error) or "whole arrays" in str(error)
  else:
    assert "window_size" not in case.kwargs


@few_are_fast
@pytest.mark.parametrize(
  "axis_type",
  [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)],
  ids=str,
)
@pytest.mark.devices(8)
def test_named_sharding_equals_one_device(case, axis_type):
  """Shards parameters, gradients and parameter-shaped state over 8 devices.

  The shardings do not change, so there is one trace.
  """
  params, batches = data_parallel_problem()
  tx = case.make()
  mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
  specs = {"w": P(None, "model"), "b": P("model")}
  shard = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
  with set_mesh(mesh):
    params = jax.device_put(params, shard)
    batches = jax.device_put(batches, NamedSharding(mesh, P()))
    step = traced_once(train_step(tx, case.extra_args))
    state = jax.jit(tx.init)(params)
    state = placed_like_params(tx, state, shard, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    for i in range(12):
      params, state = step(params, state, at(batches, i))
      same = jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings
      )
      assert jax.tree.all(same)
      params = jax.device_put(params, shard)
      state = jax.device_put(state, shardings)
  close(
    jax.device_get((params, state)), jax.device_get(single_device_result(case))
  )


def partition_mesh():
  return jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


@few_are_fast
@pytest.mark.devices(8)
def test_tree_map_params_shards_the_state(case):
  tx, params = case.make(), {"w": jnp.ones([8, 8]), "b": jnp.ones(8)}
  mesh = partition_mesh()
  specs = {"w": P("x", "y"), "b": P("y")}
  shardings = jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda x: isinstance(x, P),
  )
  state = tx.init(params)
  placed = placed_like_params(tx, state, shardings, mesh)
  chex.assert_trees_all_equal(jax.device_get(placed), jax.device_get(state))


@few_are_fast
@pytest.mark.devices(8)
def test_nnx_partitioning(case):
  init = nnx.with_partitioning(nnx.initializers.ones_init(), ("x", "y"))

  @nnx.jit
  def create():
    model = nnx.Linear(4, 8, kernel_init=init, use_bias=False, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)
    state = nnx.state(optimizer)
    specs = nnx.get_partition_spec(state)
    nnx.update(optimizer, lax.with_sharding_constraint(state, specs))
    return optimizer

  with set_mesh(partition_mesh()):
    assert_all_finite(create().opt_state)


@few_are_fast
@pytest.mark.devices(8)
def test_linen_partitioning(case):
  tx = case.make()
  init = nn.with_partitioning(nn.initializers.ones_init(), ("x", "y"))
  model = nn.Dense(8, kernel_init=init, use_bias=False)

  def create():
    variables = model.init(jax.random.key(0), jnp.ones([2, 4]))
    return tx.init(variables["params"])

  shardings = nn.get_sharding(jax.eval_shape(create), partition_mesh())
  assert_all_finite(jax.jit(create, out_shardings=shardings)())


# -- checkpoints ------------------------------------------------------------


def assert_resumes(case, restore):
  tx, _, scan = bare(case)
  params = cases.params()
  state, _ = scan(tx.init(params), cases.gradients(10), params)
  restored = restore(state)
  chex.assert_trees_all_equal(restored, state)
  later = cases.gradients(10, seed=3)
  chex.assert_trees_all_equal(
    scan(restored, later, params), scan(state, later, params)
  )


def test_flax_serialization_resumes(case):
  def restore(state):
    template = case.make().init(cases.params())
    return flax.serialization.from_bytes(
      template, flax.serialization.to_bytes(state)
    )

  assert_resumes(case, restore)


@few_are_fast
def test_orbax_resumes(case, tmp_path):
  def restore(state):
    template = jax.eval_shape(case.make().init, cases.params())
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(tmp_path / "state", state)
      checkpointer.wait_until_finished()
      return checkpointer.restore(tmp_path / "state", template)

  assert_resumes(case, restore)
