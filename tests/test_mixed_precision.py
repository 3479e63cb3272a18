"""Whole runs in half precision, with loss scaling, and with accumulation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import runs

# htga is scale_by_htga in a chain, with momentum.
NAMES = [
  pytest.param(name, marks=pytest.mark.slow)
  if name == "scale_by_htga"
  else name
  for name in runs.OPTIMIZERS
]


@pytest.fixture(params=NAMES)
def name(request):
  return request.param


def batches(steps, size=32):
  return [runs.batch(t, size) for t in range(steps)]


def cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


# -- bfloat16 ---------------------------------------------------------------


@pytest.mark.parametrize(
  "dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_bfloat16_trains(name, dtype):
  """Gradients in bfloat16, with parameters in bfloat16 or float32.

  In bfloat16, an update is lost if it is less than half a spacing, 2^-7 near 3.
  This happens when the error of a weight is below 2^-7/0.1 = 0.08, which is an
  excess loss of 6 * 0.08^2/2 = 0.02. Parameters in float32 reach a smaller
  excess. It is limited by their rounding in products, 1e-4, and by the noise of
  the batches. The norms equal those of the gradients to 2^-8, since XLA may
  omit roundings to bfloat16 within a step.
  """
  tx = runs.OPTIMIZERS[name]()

  @jax.jit
  def step(params, state, batch):
    grads, others = runs.gradient(cast(params, "bfloat16"), batch)
    updates, state = tx.update(grads, state, params, **others)
    return optax.apply_updates(params, updates), state, grads

  params = cast(runs.params(), dtype)
  state = start = tx.init(params)
  seen, course = [], []
  for batch in batches(400):
    params, state, grads = step(params, state, batch)
    seen.append(grads)
    course.append(runs.excess(params))
  chex.assert_trees_all_equal_dtypes(params, cast(params, dtype))
  chex.assert_trees_all_equal_dtypes(seen[0], cast(params, "bfloat16"))
  chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
  assert np.median(course[-100:]) < (0.02 if dtype == "bfloat16" else 2e-3)
  if name in runs.WITH_A_WINDOW:
    last = [float(optax.tree.norm(cast(g, "float32"))) for g in seen]
    np.testing.assert_allclose(
      optax.tree.get(state, "arrivals"),
      reference.over_level(last)[-runs.WINDOW_SIZE :],
      rtol=2**-7,
    )


# -- loss scaling -----------------------------------------------------------

ONLY_IF_FINITE = {
  "forward_extra_args": True,
  "should_transform_fn": (lambda step, grads_are_finite, **_: grads_are_finite),
}
WAYS = {
  "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 20),
  "conditionally_mask": lambda tx: optax.conditionally_mask(
    tx, **ONLY_IF_FINITE
  ),
  "by_hand": lambda tx: tx,
}


def scaled_run(tx, by_hand=False):
  """A step with a scaled float16 loss; the gradients are unscaled."""

  @jax.jit
  def step(params, state, batch, scale):
    half = cast(params, "float16")
    grads, others = runs.gradient(half, batch, scale)
    grads, noise = jax.tree.map(
      lambda g: g.astype(jnp.float32) / scale, (grads, others["noise_updates"])
    )
    finite = jnp.isfinite(optax.tree.norm((grads, noise)))
    updates, new = tx.update(
      grads,
      state,
      params,
      grads_are_finite=finite,
      noise_updates=noise,
      value_fn=others["value_fn"],
    )
    new_params = optax.apply_updates(params, updates)
    if by_hand:
      new_params, new = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (new_params, new),
        (params, state),
      )
    return new_params, new, finite

  return step


@pytest.mark.parametrize(
  "name, way",
  [
    ("scale_by_htga", "by_hand"),
    ("htga", "apply_if_finite"),
    ("tail_index_sgd", "conditionally_mask"),
    ("truncated_heavy_tailed_sgd", "conditionally_mask"),
    ("ahtsgd", "by_hand"),
  ],
)
def test_a_skipped_step_changes_nothing(name, way):
  """A skipped step changes no state: the run equals one of the other steps.

  The scale doubles every 8 steps, so gradients sometimes overflow. Such a step
  enters no window and no count, and does not change momentum, noise and
  parameters. The runs agree bit for bit.
  """
  tx = WAYS[way](runs.OPTIMIZERS[name]())
  step = scaled_run(tx, way == "by_hand")
  params, scale, good = runs.params(), 2.0**16, []
  state = tx.init(params)
  for i, batch in enumerate(batches(200)):
    params, state, finite = step(params, state, batch, scale)
    # The wrapper checks the gradient only, not the other arguments of an
    # update.
    finite = optax.tree.get(state, "last_finite", finite)
    if finite:
      good.append((batch, scale))
    scale *= (2 if i % 8 == 7 else 1) if finite else 0.5
  assert 150 < len(good) < 190
  assert runs.excess(params) < 0.01

  expected = runs.params(), tx.init(runs.params())
  for batch, scale in good:
    *expected, _ = step(*expected, batch, scale)
  if way != "by_hand":  # not the count of the wrapper
    state, expected[1] = state.inner_state, expected[1].inner_state
  chex.assert_trees_all_equal((params, state), tuple(expected))
  if name in runs.WITH_A_WINDOW:
    assert optax.tree.get(state, "nonfinite_count") == 0


# -- accumulation -----------------------------------------------------------


def test_accumulation_equals_a_step_of_the_mean(name):
  """Under MultiSteps, four micro-steps equal one step of the mean gradient.

  One norm per real step enters the window. Loss and noise are those of the last
  micro-batch. MultiSteps is told to skip micro-steps that are not finite.
  """
  micro, params = runs.OPTIMIZERS[name](), runs.params()
  accumulate = optax.MultiSteps(
    micro, 4, should_skip_update_fn=optax.skip_not_finite
  )

  @jax.jit
  def micro_step(params, state, batch, fault):
    grads, others = runs.gradient(params, batch)
    grads = jax.tree.map(lambda g: g + fault, grads)
    updates, state = accumulate.update(grads, state, params, **others)
    return optax.apply_updates(params, updates), state

  @jax.jit
  def step(params, state, batches):
    every = [runs.gradient(params, batch) for batch in batches]
    mean = jax.tree.map(lambda *g: sum(g) / 4, *(grads for grads, _ in every))
    updates, state = micro.update(mean, state, params, **every[-1][1])
    return optax.apply_updates(params, updates), state

  state, faulty = accumulate.init(params), batches(10, 8)
  for i, batch in enumerate(batches(240, 8)):
    if i % 25 == 0:  # a bad micro-step, at any position of the four
      bad = (np.nan, np.inf)[i % 2]
      params, state = micro_step(params, state, faulty[i // 25], bad)
    params, state = micro_step(params, state, batch, 0.0)

  expected = runs.params(), micro.init(runs.params())
  for i in range(60):
    some = [runs.batch(t, 8) for t in range(4 * i, 4 * i + 4)]
    expected = step(*expected, some)
  chex.assert_trees_all_close(
    (params, state.inner_opt_state), expected, rtol=1e-4, atol=1e-5
  )
  assert state.gradient_step == 60 and runs.excess(params) < 0.05


@pytest.mark.skipif(
  not hasattr(optax, "microbatching"), reason="not in this optax"
)
def test_micro_batching_equals_one_step():
  """`optax.microbatch` accumulates within the gradient computation.

  The optimizer gets one gradient, that of the whole batch.
  """
  tx = runs.OPTIMIZERS["htga"]()
  update = jax.jit(tx.update)
  micro = optax.microbatch(
    jax.grad(runs.loss),
    argnums=1,
    microbatch_size=8,
    accumulator=optax.microbatching.AccumulationType.MEAN,
  )
  results = []
  for gradient in (jax.jit(jax.grad(runs.loss)), jax.jit(micro)):
    params = runs.params()
    state = tx.init(params)
    for batch in batches(50):
      updates, state = update(gradient(params, batch), state, params)
      params = optax.apply_updates(params, updates)
    results.append((params, state))
  chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)
  assert optax.tree.get(state, "tail_index") > 0
