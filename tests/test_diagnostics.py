"""The sentences of `diagnostics.explain`."""

from flax import nnx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import htga_optax
from htga_optax import diagnostics, order_statistics


def tracked(
  tail_index=1.5,
  interval=(1.0, 2.5),
  statistics=(0.3, -0.4),
  rejected=False,
  nonfinite_count=0,
  inflation=1.0,
):
  """The state of a tracker with these readings."""
  state = htga_optax.track_tail_index(8, 2).init(jnp.zeros(2))
  found = state.estimator_state
  numbers = found.numbers.at[4].set(inflation)
  return state._replace(
    tail_index=jnp.float32(tail_index),
    tail_index_interval=jnp.float32(interval),
    tail_model_statistics=jnp.float32(statistics),
    tail_model_rejected=jnp.asarray(rejected),
    nonfinite_count=jnp.int32(nonfinite_count),
    estimator_state=found._replace(numbers=numbers),
  )


def test_a_window_that_is_not_full_has_no_index():
  tx = optax.chain(htga_optax.scale_by_htga(), optax.adam(0.1))
  state = tx.init({"w": jnp.zeros(3)})
  assert diagnostics.explain(state) == (
    "No tail index yet: the window has 0 of its 256 norms."
  )
  tx = htga_optax.track_tail_index(8, 2)
  for norms, said in (
    ([1.0] * 5, "the window has 5 of its 8 norms."),
    ([0.0] * 9, "the largest norms are 0."),
  ):
    state = run_of(tx, norms, jnp.ones(1))
    assert diagnostics.explain(state) == f"No tail index yet: {said}"


@pytest.mark.parametrize(
  "interval, meaning",
  [
    ((0.5, 0.9), "very heavy, even the mean of the norm is infinite."),
    ((0.8, 1.9), "heavy, the variance of the norm is infinite."),
    ((1.5, 3.0), "perhaps heavy, the interval includes an infinite variance."),
    ((0.84, 47.0), "too few independent values to tell."),
    ((0.9, 4.6), "too few independent values to tell."),
    ((2.1, 40.0), "a finite variance."),
    ((12.0, 40.0), "a light tail, practically no power law."),
  ],
)
def test_the_interval_says_how_heavy(interval, meaning):
  said = diagnostics.explain(tracked(interval=interval))
  low, high = interval
  assert said == (
    f"Tail index 1.5 (95 %: {low:.2g} to {high:.2g}): {meaning}"
    " A power law is not rejected (drift 0.3, misfit -0.4)."
  )


@pytest.mark.parametrize(
  "statistics, reason",
  [
    ((-3.0, 1.0), "came early in the window, so their level has fallen"),
    ((3.0, -1.0), "came late in the window, so their level has risen"),
    ((1.0, 2.8), "reach farther than a power law's would"),
    ((1.0, -2.8), "reach less far than a power law's would, or their level"),
  ],
)
def test_a_rejection_has_its_reason(statistics, reason):
  said = diagnostics.explain(tracked(statistics=statistics, rejected=True))
  drift, misfit = statistics
  trust = f"Do not trust this index (drift {drift:.1f}, misfit {misfit:.1f}): "
  assert trust in said and reason in said and "not rejected" not in said


def test_dependence_and_nonfinite_norms_are_stated():
  said = diagnostics.explain(tracked(inflation=3.24, nonfinite_count=2))
  assert said.endswith(
    "Successive norms are dependent: 3.2 of them carry as much information as"
    " one independent norm. Number of norms that were not finite: 2."
  )
  assert "Successive" not in diagnostics.explain(tracked(inflation=1.4))


def run(tx, grads):
  state, update = tx.init(grads), jax.jit(tx.update)
  for x in np.random.default_rng(0).pareto(1.5, 40) + 1:
    scaled = jax.tree.map(lambda g, x=x: x * g, grads)
    _, state = update(scaled, state, grads)
  return state


def test_per_layer_a_line_for_each_leaf():
  grads = {"b": {"c": jnp.ones(2)}, "none": None, "a": [jnp.zeros(2)]}
  tx = optax.chain(
    htga_optax.htga(0.1, 0.9, window_size=32, k=4, per_layer=True)
  )
  state = run(tx, grads)
  lines = diagnostics.explain(state, htga_optax.layer_names(grads)).splitlines()
  assert [line.split(":")[0] for line in lines] == ["a/0", "b/c"]
  assert "No tail index yet" in lines[0] and "Tail index" in lines[1]
  numbered = diagnostics.explain(state).splitlines()
  assert [line.split(":")[0] for line in numbered] == ["0", "1"]
  with pytest.raises(ValueError, match="has 2 layers, got 1 names"):
    diagnostics.explain(state, ["a"])


def test_equal_norms_are_lighter_than_any_power_law():
  tx = htga_optax.track_tail_index(8, 2)
  state = tx.init(jnp.ones(2))
  for _ in range(9):
    _, state = tx.update(jnp.ones(2), state)
  assert diagnostics.explain(state).startswith("The tail is lighter than any")


def test_a_window_of_few_norms_is_explained_without_a_warning():
  tx = htga_optax.track_tail_index(8, 2)
  state = tx.init(jnp.ones(1))
  norms = np.float32(stats.expon().rvs(size=64, random_state=1))
  window = order_statistics.sorted_window(norms)
  state = state._replace(
    tail_index=jnp.float32(2.0),
    estimator_state=state.estimator_state._replace(window=window),
  )
  said = diagnostics.explain(state)
  assert said.startswith("Tail index 2") and "exponential" not in said


def test_a_lighter_law_that_fits_as_well_is_named():
  """By scipy's likelihoods of the 25 largest values over the next one."""
  lighter = "do not reject an exponential tail either"
  tx = htga_optax.track_tail_index(256, 25)
  for law in (stats.expon(), stats.halfnorm(), stats.pareto(0.5)):
    norms = np.float32(law.rvs(size=256, random_state=1))
    state = tx.init(jnp.ones(1))
    window = order_statistics.sorted_window(norms)
    state = state._replace(
      tail_index=jnp.float32(2.0),
      tail_index_interval=jnp.float32([1.5, 3.0]),
      estimator_state=state.estimator_state._replace(window=window),
    )
    ascending = np.sort(norms.astype(float))
    tail, u = ascending[-25:], ascending[-26]
    power = stats.pareto(1 / np.mean(np.log(tail / u)), scale=u)
    other = stats.expon(u, np.mean(tail - u))
    ratios = power.logpdf(tail) - other.logpdf(tail)
    score = np.sum(ratios) / (np.std(ratios) * 5)
    assert (lighter in diagnostics.explain(state)) == (score < 1.645)
    assert (score < 1.645) == (law.dist.name != "pareto")


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_restored_state_gives_the_same_text(per_layer):
  grads = {"w": jnp.ones(2), "v": jnp.ones(3)}
  tx = htga_optax.scale_by_htga(32, 4, per_layer=per_layer)
  state = run(tx, grads)
  said = diagnostics.explain(state)
  data = flax.serialization.to_bytes(state)
  restored = flax.serialization.from_bytes(tx.init(grads), data)
  assert diagnostics.explain(restored) == said
  assert diagnostics.explain(jax.tree.map(np.asarray, state)) == said


def test_any_estimator_will_do():
  plain = htga_optax.streaming.StreamingEstimator(
    init=lambda: jnp.zeros([], jnp.float32),
    update=lambda state, x: x,
    estimate=lambda x: htga_optax.estimators.TailEstimate(
      x, jnp.stack([x / 2, 2 * x])
    ),
  )
  state = run(htga_optax.track_tail_index(estimator=plain), jnp.ones(1))
  assert "(drift 0.0, misfit 0.0)" in diagnostics.explain(state)


def test_it_needs_one_tracker():
  with pytest.raises(ValueError, match="found no `tail_index` in this state"):
    diagnostics.explain(optax.adam(0.1).init(jnp.zeros(2)))
  two = optax.chain(*[htga_optax.track_tail_index()] * 2).init(jnp.zeros(2))
  with pytest.raises(ValueError, match="a state with one tracker"):
    diagnostics.explain(two)


def run_of(tx, norms, like):
  """The state after updates of these norms in every leaf."""
  state, update = tx.init(like), jax.jit(tx.update)
  for r in norms:
    _, state = update(jax.tree.map(lambda x, r=r: x * r, like), state)
  return state


NORMS = np.float32(stats.pareto(1.5).rvs(size=(3, 12), random_state=0))
TX = htga_optax.htga(0.1, window_size=8, k=2)


def test_an_ensemble_is_a_line_a_member():
  """Two members: the shape of the intervals is [2, 2]."""
  w = jnp.ones(1)
  states = [run_of(TX, norms, w) for norms in NORMS]
  for count in (2, 3):
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states[:count])
    assert diagnostics.explain(stacked) == "\n".join(
      f"{i}: {diagnostics.explain(state)}"
      for i, state in enumerate(states[:count])
    )


def test_an_ensemble_per_layer_is_a_line_a_member_and_layer():
  tx = htga_optax.track_tail_index(8, 2, per_layer=True)
  like = {"a": jnp.ones(1), "b": jnp.ones(2)}
  states = [run_of(tx, norms, like) for norms in NORMS[:2]]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
  names = htga_optax.layer_names(like)
  assert diagnostics.explain(stacked, names).splitlines() == [
    f"{i}/{line}"
    for i, state in enumerate(states)
    for line in diagnostics.explain(state, names).splitlines()
  ]


def test_states_that_came_back_as_dicts_are_explained():
  state = run_of(TX, NORMS[0], jnp.ones(1))
  as_dict = flax.serialization.to_state_dict(state)
  assert diagnostics.explain(as_dict) == diagnostics.explain(state)


def test_states_of_nnx_are_explained_and_have_plain_names():
  model = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
  tx = htga_optax.htga(0.1, window_size=8, k=2, per_layer=True)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  for r in NORMS[0]:
    grads = jax.tree.map(
      lambda x, r=r: jnp.full_like(x, r), nnx.state(model, nnx.Param)
    )
    optimizer.update(model, grads)
  expected = diagnostics.explain(optimizer.opt_state)
  state = nnx.state(optimizer)
  for found in (state, nnx.to_pure_dict(state)):
    assert diagnostics.explain(found) == expected
    assert set(htga_optax.readings(found)) == set(
      htga_optax.readings(optimizer.opt_state)
    )
  assert htga_optax.layer_names(nnx.state(model, nnx.Param)) == ["kernel"]
  twice = htga_optax.readings((state, state))
  assert twice and not any("value" in name.split("/") for name in twice)
