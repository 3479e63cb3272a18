"""Clipping at a tail quantile: its NumPy twin, and its stated rate."""

import functools
from pathlib import Path

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from scipy import stats

import htga_optax
from htga_optax import clip_by_tail_quantile, estimators

pytestmark = pytest.mark.long_run

CHUNK = 1000


def scan(norms, *args, **kwargs):
  """Clipped norms, quantiles and counts of a run of clip_by_tail_quantile.

  Updates have one entry. Runs with the same arguments share one compilation.
  """
  state, run = compiled(args, tuple(kwargs.items()))
  norms = np.asarray(norms, np.float32)
  found = []
  for chunk in np.pad(norms, (0, -norms.size % CHUNK)).reshape(-1, CHUNK):
    state, seen = run(state, chunk)
    found.append(seen)
  return [np.concatenate(x)[: norms.size] for x in zip(*found)]


@functools.cache
def compiled(args, kwargs):
  tx = clip_by_tail_quantile(*args, **dict(kwargs))

  def step(state, r):
    updates, state = tx.update(r[None], state)
    return state, (updates[0], state.tail_quantile, state.exceedance_count)

  return tx.init(jnp.zeros([1])), jax.jit(functools.partial(lax.scan, step))


LAWS = {
  "halfnorm": (stats.halfnorm.rvs, stats.halfnorm.isf(1e-3)),
  "lognorm": (stats.lognorm(1).rvs, stats.lognorm(1).isf(1e-3)),
  "abs_t3": (lambda **kw: abs(stats.t.rvs(3, **kw)), stats.t.isf(5e-4, 3)),
  "pareto": (stats.pareto(1.5).rvs, stats.pareto(1.5).isf(1e-3)),
  "chi": (stats.chi(1000).rvs, stats.chi(1000).isf(1e-3)),
}


@pytest.mark.parametrize(
  "law, decimals, options",
  [
    ("halfnorm", None, {"skip": True}),
    ("pareto", None, {"max_norm": 20.0}),
    (
      "pareto",
      None,
      {"history": tuple(stats.pareto(2).rvs(150, random_state=1))},
    ),
    ("lognorm", None, {"level_decay": None}),
    ("halfnorm", 1, {}),
    ("abs_t3", 0, {"skip": True, "level_decay": None}),
  ],
  ids=["skip", "max_norm", "history", "no_level", "one_decimal", "integers"],
)
def test_it_equals_its_twin(law, decimals, options):
  """Also before the window of 100 is full, and with rounded norms."""
  norms = LAWS[law][0](size=400, random_state=0)
  if decimals is not None:
    norms = np.round(norms, decimals)
  norms = norms.astype(np.float32)
  norms[250] *= 1e4
  norms[300], norms[301] = np.nan, np.inf
  kwargs = {"window_size": 100, "k": 15} | options
  twin = reference.TailClipper(0.01, **kwargs)
  expected = np.array([twin.update(float(r)) for r in norms])
  got = scan(norms, 0.01, **kwargs)
  for values, wanted in zip(got, expected.T):
    np.testing.assert_allclose(values, wanted, rtol=2e-4)
  assert got[2][-1] > 3


@pytest.mark.parametrize("law", LAWS)
def test_the_rate_of_false_alarms_is_the_one_stated(law):
  """The bounds are 0.8 and 1.25 times the rate, plus two binomial deviations.

  There are 1e5 steps here, and a million in benchmarks/false_alarms.py. The
  norms are independent, so clips do not cluster.
  """
  rvs, _ = LAWS[law]
  *_, count = scan(rvs(size=100_000, random_state=1), 1e-3)
  assert 0.6e-3 < count[-1] / (1e5 - 1024) < 1.45e-3


@pytest.mark.parametrize("law", LAWS)
def test_spikes_are_caught(law):
  rvs, quantile = LAWS[law]
  norms = rvs(size=50_000, random_state=2)
  is_spike = np.random.default_rng(2).random(50_000) < 2e-3
  is_spike[:1024] = False
  norms[is_spike] = 10 * quantile
  clipped, q, _ = scan(norms, 1e-3)
  caught = clipped[is_spike] < 0.999 * norms[is_spike]
  assert np.mean(caught) >= 0.99
  np.testing.assert_allclose(
    clipped[is_spike][caught], q[is_spike][caught], rtol=1e-5
  )


def test_a_huge_spike_does_not_disable_it_and_it_adapts_to_a_new_level():
  norms = stats.halfnorm.rvs(size=6000, random_state=3)
  norms[2000] = 1e30
  _, q, _ = scan(norms, 1e-3)
  assert 2.5 < q[2001] < 1.5 * q[2000]
  norms[3000:] *= 1000
  _, q, count = scan(norms, 1e-3)
  assert count[-1] - count[2999] < 100
  assert q[4500] > 1000 * 2.5


@pytest.mark.parametrize("sizes", [(32, 8), (128, 16)])
def test_equal_norms_are_not_clipped(sizes):
  """Also while part of the window is empty."""
  clipped, q, count = scan(np.ones(100), 0.01, *sizes)
  np.testing.assert_array_equal(clipped, 1)
  assert not q.any() and not count.any()


def two_decimals(x):
  return np.round(0.12 * x / np.median(x), 2)


def in_bfloat16(x):
  return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)


def half_zeros(x):
  return np.where(np.random.default_rng(3).random(x.size) < 0.5, 0.0, x)


@pytest.mark.parametrize("tie", [two_decimals, in_bfloat16, half_zeros])
@pytest.mark.parametrize("law", ["halfnorm", "pareto"])
def test_ties_do_not_switch_it_off(law, tie):
  """There is a quantile in every step, and the rate is the one stated.

  The binomial deviation of 40,000 steps is 0.16e-3.
  """
  norms = tie(LAWS[law][0](size=40_000, random_state=4))
  _, q, count = scan(norms, 1e-3)
  assert np.all(q[64:] > 0)
  assert 0.4e-3 < (count[-1] - count[1024]) / (norms.size - 1024) < 2.3e-3


def test_zeros_before_the_first_norm_count():
  norms = np.r_[0, 0, 0, stats.halfnorm.rvs(size=200, random_state=4)]
  _, q, _ = scan(norms, 1e-3)
  assert not q[:64].any() and np.all(q[64:] > 0)


def test_behind_another_clip_the_quantile_is_its_norm():
  """Without a level. With one, a step at that norm is sometimes clipped."""
  norms = np.minimum(stats.halfnorm.rvs(size=5000, random_state=5), 1.0)
  clipped, _, count = scan(norms, 1e-3)
  assert np.all(clipped > 0.8 * norms) and count[-1] < 10
  clipped, q, count = scan(norms, 1e-3, level_decay=None)
  np.testing.assert_array_equal(clipped, norms.astype(np.float32))
  assert not count.any()
  np.testing.assert_allclose(q[1024:], 1.0, rtol=1e-6)


def test_it_starts_after_64_norms():
  """The rate is at first 3 in a thousand (benchmarks/false_alarms.py).

  For the 6,400 steps here, 5 in a thousand is three binomial deviations more.
  The seed is fixed.
  """
  norms = stats.halfnorm.rvs(size=(100, 128), random_state=6)
  tx = clip_by_tail_quantile(1e-3)

  def run(xs):
    step = lambda s, r: tx.update(r[None], s)[::-1]
    return lax.scan(step, tx.init(jnp.zeros([1])), xs)[0]

  state = jax.jit(jax.vmap(run))(jnp.asarray(norms, jnp.float32))
  assert np.mean(state.exceedance_count) / 64 < 5e-3
  assert np.all(state.tail_quantile > 0)
  spike, _ = tx.update(jnp.float32([1e6]), jax.tree.map(lambda x: x[0], state))
  assert spike[0] < 20


def test_a_spike_too_large_for_a_fit_is_no_quantile():
  """A tail that has no fit and is not flat either."""
  norms = np.ones(80) + np.arange(80)
  norms[3] = 3e37  # before anything is clipped
  _, q, _ = scan(1e-3 * norms, 1e-3, 64, 16)
  assert not q[:67].any() and np.all(q[68:] > 0)


def test_max_norm_holds_from_the_first_step_on():
  norms = np.full(200, 1.0) + 0.1 * stats.halfnorm.rvs(size=200, random_state=7)
  norms[:10] = 50.0
  kwargs = {"window_size": 64, "k": 16}
  schedule = lambda count: jnp.where(count < 20, 5.0, 1.05)
  clipped, *_ = scan(norms, 1e-3, **kwargs, max_norm=7.0)
  np.testing.assert_allclose(clipped[:10], 7.0, rtol=1e-6)
  clipped, *_ = scan(norms, 1e-3, **kwargs, max_norm=schedule)
  np.testing.assert_allclose(clipped[:10], 5.0, rtol=1e-6)
  assert np.max(clipped[20:]) <= 1.05 * (1 + 1e-6)


def test_history_gives_a_quantile_at_once():
  norms = stats.halfnorm.rvs(size=1500, random_state=8)
  history = np.concatenate([[np.nan, np.inf], norms])
  tx = clip_by_tail_quantile(1e-3, history=history)
  state = tx.init(jnp.zeros([1]))
  assert state.tail_fit[2] > 0
  spike, state = jax.jit(tx.update)(jnp.float32([100.0]), state)
  _, q, _ = scan(norms, 1e-3)
  # The other run clipped its first norms slightly.
  np.testing.assert_allclose(state.tail_quantile, q[-1], rtol=0.05)
  np.testing.assert_allclose(spike[0], state.tail_quantile, rtol=1e-6)
  assert jax.eval_shape(tx.init, jnp.zeros([1])) is not None


LOG = Path(__file__).parents[2] / "shared/data/norm_logs/llmc_gpt2_124m.csv"


@pytest.mark.skipif(not LOG.exists(), reason="no logs beside the repository")
@pytest.mark.parametrize(
  "window_size, k, most", [(1024, 128, 0.6), (256, 32, 0.9)]
)
def test_on_the_log_of_a_language_model(window_size, k, most):
  """19,560 norms with two decimals, which fall from 15.4 to 0.22.

  Both spikes, 2.02 and 1.44 at a level of 0.27, are clipped to two or three
  times the level.
  """
  norms = np.genfromtxt(LOG, delimiter=",", names=True)["grad_norm"]
  clipped, q, count = scan(norms, 1e-3, window_size, k)
  assert np.all(q[64:] > 0)
  for step in (9025, 7435):
    (i,) = np.flatnonzero(norms[step - 50 : step + 50] > 1.4)
    assert clipped[step - 50 + i] < most
  rate = (count[-1] - count[window_size]) / norms.size
  assert rate < 2e-3


RUNS = LOG.with_name("algoperf_grad_norms.npz")


@pytest.mark.skipif(not RUNS.exists(), reason="no logs beside the repository")
def test_on_runs_whose_level_moves():
  """Clips at most 2 in a thousand norms of AlgoPerf, once a window is full.

  Rows are 100 steps apart. On the raw norms, without a level, it clips 14. Runs
  that diverge are left out.
  """
  log = np.load(RUNS)
  ends = np.cumsum(log["lengths"])
  runs = np.split(log["norms"], ends[:-1])
  runs = [r for r in runs if r.size > 1024]
  calm = [r for r in runs if np.ptp(np.log(np.maximum(r, 1e-9))) < 14]
  norms = np.concatenate(calm)
  age = np.concatenate([np.arange(r.size) for r in calm])
  tx = clip_by_tail_quantile(1e-3)

  def step(state, run):
    age, r = run
    state = optax.tree.where(age == 0, tx.init(r[None]), state)
    _, new = tx.update(r[None], state)
    return new, new.exceedance_count - state.exceedance_count

  scan = jax.jit(lambda *run: lax.scan(step, tx.init(jnp.zeros([1])), run)[1])
  fired = np.asarray(scan(age, norms))
  full = (age >= 1024) & np.isfinite(norms)
  assert np.sum(full) > 200_000
  assert 0.5e-3 < np.mean(fired[full]) < 2e-3


@pytest.mark.parametrize("law", ["halfnorm", "pareto", "chi"])
def test_a_jump_of_the_level_is_followed_within_200_steps(law):
  """The level rises or falls tenfold every 5,000 steps.

  From 100 steps after a rise on, the rate is the one stated. In 700 such steps
  of seven rises, 0 or 1 clips are expected, and 4 have a probability below 1
  percent.
  """
  time = np.arange(75_000)
  norms = LAWS[law][0](size=time.size, random_state=9)
  norms *= 10.0 ** (time // 5000 % 2)
  *_, count = scan(norms, 1e-3)
  fired = np.diff(count, prepend=0)
  risen = (time // 5000 % 2 == 1) & (time % 5000 >= 100)
  assert np.sum(fired[risen & (time % 5000 < 200)]) < 4
  assert 0.5e-3 < np.mean(fired[risen]) < 2e-3


def test_a_step_is_scaled_and_keeps_dtype_and_direction():
  tx = clip_by_tail_quantile(0.05, 32, 8)
  params = {"a": jnp.zeros(3, jnp.float16), "b": None, "c": jnp.zeros(2)}
  state = tx.init(params)
  rng = np.random.default_rng(4)
  update = jax.jit(tx.update)
  for _ in range(40):
    grads = jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params
    )
    _, state = update(grads, state)
  grads = {"a": jnp.float16([6e4, 6e4, 0]), "b": None, "c": jnp.float32([3, 4])}
  updates, state = update(grads, state)
  q = optax.tree.get(state, "tail_quantile")
  assert updates["a"].dtype == jnp.float16
  np.testing.assert_allclose(htga_optax.norms.norm(updates), q, rtol=1e-3)
  np.testing.assert_allclose(updates["a"][0], q / 2**0.5, rtol=2e-3)


def test_per_layer_clips_the_layer_alone():
  tx = clip_by_tail_quantile(0.05, 32, 8, per_layer=True)
  params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
  state, update = tx.init(params), jax.jit(tx.update)
  rng = np.random.default_rng(5)
  for _ in range(40):
    grads = jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params
    )
    _, state = update(grads, state)
  grads = {"a": jnp.float32([100, 0, 0]), "b": jnp.float32([0.1, 0])}
  before = state.exceedance_count
  updates, state = update(grads, state)
  np.testing.assert_allclose(updates["a"][0], state.tail_quantile[0])
  np.testing.assert_array_equal(updates["b"], grads["b"])
  np.testing.assert_array_equal(state.exceedance_count - before, [1, 0])


def test_every_layer_has_its_own_clip():
  """If the tail of a layer has not changed, its fit does not change."""
  rng = np.random.default_rng(7)
  grads = {f"layer{i}": rng.standard_t(3, size=(90, 1)) for i in range(5)}
  grads = jax.tree.map(np.float32, grads)

  def run(grads, per_layer):
    tx = clip_by_tail_quantile(0.05, 32, 8, per_layer=per_layer)
    step = lambda state, g: tx.update(g, state)[::-1]
    return lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], grads)), grads)

  state, updates = jax.jit(run, static_argnums=1)(grads, True)
  for i, (name, g) in enumerate(grads.items()):
    alone, expected = jax.jit(run, static_argnums=1)(g, False)
    np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
    np.testing.assert_allclose(state.tail_fit[i], alone.tail_fit, rtol=1e-5)
  # Also under vmap over seeds.
  seeds = jax.tree.map(lambda x: np.stack([x, 2 * x]), grads)
  _, mapped = jax.jit(jax.vmap(lambda g: run(g, True)))(seeds)
  for name in grads:
    np.testing.assert_allclose(mapped[name][0], updates[name], rtol=1e-5)
    np.testing.assert_allclose(mapped[name][1], 2 * updates[name], rtol=1e-4)


def test_the_rate_may_be_injected_and_changed():
  tx = optax.inject_hyperparams(
    clip_by_tail_quantile, static_args=("window_size", "k", "skip", "per_layer")
  )(exceedance_rate=0.05, window_size=64, k=16)
  state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
  for r in stats.halfnorm.rvs(size=70, random_state=6):
    _, state = update(jnp.float32([r]), state)
  quantiles = []
  for p in (0.05, 0.01):
    state.hyperparams["exceedance_rate"] = jnp.float32(p)
    _, new = update(jnp.float32([0.1]), state)
    quantiles.append(float(optax.tree.get(new, "tail_quantile")))
  assert quantiles[1] > 1.1 * quantiles[0]


@pytest.mark.parametrize("xi", [-0.5, 0.0, 1e-8, 0.3, 2.0])
def test_isf_equals_scipys(xi):
  for q in (0.5, 1e-2, 1e-5):
    np.testing.assert_allclose(
      estimators.generalized_pareto_isf(q, xi, 2.0),
      stats.genpareto.isf(q, xi, scale=2.0),
      rtol=1e-5,
    )


@pytest.mark.parametrize(
  "kwargs, error, words",
  [
    (
      {"exceedance_rate": 0.0},
      ValueError,
      r"exceedance_rate must be in \(0, k/window_size = 0.125\), got 0",
    ),
    ({"exceedance_rate": 0.2}, ValueError, "got 0.2"),
    ({"exceedance_rate": float("nan")}, ValueError, "got nan"),
    ({"k": 4}, ValueError, "k must be at least 5, got 4"),
    ({"k": 1024}, ValueError, "k=1024 for a window of 1024"),
    ({"window_size": 0}, ValueError, "window_size must be at least 1, got 0"),
    ({"window_size": 99.5}, TypeError, "window_size must be a static"),
    ({"max_norm": 0.0}, ValueError, "max_norm must be positive, got 0.0"),
    ({"history": [1.0], "per_layer": True}, ValueError, "holds global norms"),
    ({"history": [2.0, -1.0]}, ValueError, "at least 0, got -1.0"),
    ({"history": [[1.0]]}, ValueError, r"got shape \(1, 1\)"),
    ({"level_decay": 1.0}, ValueError, r"level_decay must be in \(0, 1\)"),
  ],
)
def test_bad_arguments_are_named(kwargs, error, words):
  with pytest.raises(error, match=words):
    clip_by_tail_quantile(**kwargs)
