"""The rules against spikes: each and its twin, on a log and in a chain."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from scipy import stats

from htga_optax import by_norm, clip_by_tail_quantile
from htga_optax.diagnostics import spike_rules

OURS = "clip_by_tail_quantile(1e-3)"  # its twin is in test_clipping.py
TWINS = {
  "mean + 6 sd of 128": functools.partial(
    reference.mean_and_deviations, deviations=6.0, skip=True
  ),
  "mean + 3 sd of 128": functools.partial(
    reference.mean_and_deviations, deviations=3.0, skip=False
  ),
  "ZClip": reference.zclip,
  "AdaGC": reference.adagc,
  "AutoClip": reference.autoclip,
  "20 times the mean": reference.moving_mean,
}
SPIKES = [80, 90, 200, 201, 202, 350]


@functools.cache
def series():
  """400 falling, finite norms with spikes."""
  norms = stats.lognorm(0.5).rvs(size=400, random_state=0)
  norms *= np.geomspace(3, 0.5, 400)
  norms[SPIKES] *= 100
  return norms.astype(np.float32)


def applied(norms, name):
  return spike_rules.apply(norms)[name]


def test_every_rule_has_a_twin():
  assert [OURS, *TWINS] == list(spike_rules.RULES)


@pytest.mark.parametrize("name", TWINS)
def test_a_rule_equals_its_twin(name):
  expected = np.array(TWINS[name](series().astype(float).tolist()))
  # The percentile is of norms that are rounded up by 1 part in 512.
  rtol = 2.1e-3 if name == "AutoClip" else 2e-4
  np.testing.assert_allclose(applied(series(), name), expected, rtol=rtol)
  assert np.any(expected < series())


def test_zclip_with_the_bound_of_its_code():
  rule = lambda: spike_rules.zclip(max_norm=1.0)
  (after,) = spike_rules.apply(series(), {"": rule}).values()
  expected = reference.zclip(series().astype(float).tolist(), max_norm=1.0)
  np.testing.assert_allclose(after, expected, rtol=2e-4)


@pytest.mark.parametrize("name", [OURS, *TWINS])
def test_a_log_and_a_chain_agree(name):
  """Also for norms that are not finite, and for each of two layers.

  The fit of a tail extrapolates rounding errors: 7e-4 was observed.
  """
  rtol = 1e-2 if name == OURS else 1e-5
  norms = series()[:256].copy()
  norms[[10, 120]] = np.nan, np.inf
  if name == OURS:
    tx = clip_by_tail_quantile(1e-3, per_layer=True)
  else:
    tx = by_norm(spike_rules.RULES[name](), per_layer=True)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}

  def step(state, r):
    updates, state = tx.update({"a": r[None], "b": 1 / r[None]}, state)
    return state, updates

  run = jax.jit(lambda xs: lax.scan(step, tx.init(params), xs)[1])
  updates = run(norms)
  after = applied(norms, name)
  assert after[10] == after[120] == 0
  np.testing.assert_allclose(updates["a"][:, 0], after, rtol=rtol)
  other = np.where(np.isfinite(norms), 1 / norms, np.nan).astype(np.float32)
  after = applied(other, name)
  np.testing.assert_allclose(updates["b"][:, 0], after, rtol=rtol)


def test_norms_that_are_not_clipped_are_unchanged():
  norms = np.array([0.1, 0.7, 1e-30, 0.0, 1e300])
  for after in spike_rules.apply(norms).values():
    assert after[3] == after[4] == 0
  gentle = {"": lambda: spike_rules.law_of(optax.clip_by_global_norm(0.5))}
  (after,) = spike_rules.apply(norms, gentle).values()
  np.testing.assert_array_equal(after[[0, 2, 3]], norms[[0, 2, 3]])
  np.testing.assert_allclose(after[1], 0.5, rtol=1e-6)


def test_equal_norms_are_not_clipped():
  """AdaGC clips at 1 in its warm-up, so the norms are below 1."""
  norms = np.full(300, 0.7)
  for name, after in spike_rules.apply(norms).items():
    np.testing.assert_array_equal(after, norms, err_msg=name)


def test_a_level_above_the_bound_is_always_skipped():
  """As in axlearn, the mean starts at 1 and does not include skipped norms."""
  after = spike_rules.apply(np.full(100, 25.0))["20 times the mean"]
  assert not after.any()


def test_masked_and_empty_logs():
  norms = np.ma.masked_greater(series(), 50)
  for name, after in spike_rules.apply(norms).items():
    assert not after[norms.mask].any(), name
  for after in spike_rules.apply([]).values():
    assert after.shape == (0,)


@pytest.mark.parametrize(
  "call, error, words",
  [
    (lambda: spike_rules.apply([[1.0]]), ValueError, r"got shape \(1, 1\)"),
    (lambda: spike_rules.apply([1.0, -2.0]), ValueError, "got -2.0"),
    (lambda: spike_rules.law_of(1.0), TypeError, "got float 1.0"),
    (
      lambda: spike_rules.mean_and_deviations(-1.0),
      ValueError,
      "deviations must be a finite number of at least 0, got -1.0",
    ),
    (
      lambda: spike_rules.mean_and_deviations(window_size=0),
      ValueError,
      "window_size must be at least 1, got 0",
    ),
    (lambda: spike_rules.zclip(0.0), ValueError, "z_most must be positive"),
    (lambda: spike_rules.zclip(decay=1.0), ValueError, "got 1.0"),
    (lambda: spike_rules.zclip(max_norm=-1.0), ValueError, "got -1.0"),
    (lambda: spike_rules.zclip(warm_up=2.5), TypeError, "got 2.5"),
    (lambda: spike_rules.adagc(0.0), ValueError, "relative must be positive"),
    (lambda: spike_rules.adagc(decay=-0.1), ValueError, "got -0.1"),
    (lambda: spike_rules.adagc(max_norm=0.0), ValueError, "got 0.0"),
    (lambda: spike_rules.autoclip(101.0), ValueError, "got 101.0"),
    (lambda: spike_rules.moving_mean(0.0), ValueError, "multiple must be"),
    (lambda: spike_rules.moving_mean(decay=1.0), ValueError, "got 1.0"),
  ],
)
def test_bad_arguments_are_named(call, error, words):
  with pytest.raises(error, match=words):
    call()
