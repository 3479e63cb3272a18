"""The sorted window and the windowed estimator, by lists and sorts."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from htga_optax import order_statistics, streaming


def push_all(window, xs):
  def step(window, x):
    window = order_statistics.push(window, x)
    return window, window

  return jax.jit(lambda w, xs: lax.scan(step, w, xs))(window, xs)


@pytest.mark.parametrize("window_size", [1, 2, 3, 16, 256])
@pytest.mark.parametrize("kind", ["continuous", "ties", "rising", "falling"])
def test_window_is_sorted_to_the_last_bit(window_size, kind):
  rng = np.random.default_rng(0)
  xs = {
    "continuous": rng.pareto(0.5, 600),
    "ties": rng.integers(0, 4, 600).astype(float),
    "rising": np.arange(600.0),
    "falling": np.arange(600.0)[::-1],
  }[kind].astype(np.float32)
  _, windows = push_all(order_statistics.empty_window(window_size), xs)
  for i in (0, window_size - 1, window_size, 300, 599):
    last = xs[: i + 1][-window_size:]
    np.testing.assert_array_equal(
      windows.ascending[i][-len(last) :], np.sort(last)
    )
    np.testing.assert_array_equal(windows.arrivals[i][-len(last) :], last)
    assert np.sum(windows.ascending[i] >= 0) == len(last)


def test_values_that_are_not_finite_leave_the_window_as_it_is():
  xs = np.float32([1, np.nan, 3, np.inf, 2, -np.inf, 5, np.nan])
  for window_size in (2, 4, 8):
    mixed, _ = push_all(order_statistics.empty_window(window_size), xs)
    clean, _ = push_all(
      order_statistics.empty_window(window_size), xs[np.isfinite(xs)]
    )
    jax.tree.map(np.testing.assert_array_equal, mixed, clean)


def test_there_is_no_sort_in_the_step():
  window = order_statistics.empty_window(256)
  hlo = jax.jit(order_statistics.push).lower(window, 1.0).compile().as_text()
  for operation in (" sort(", "topk", "TopK", " gather(", " scatter("):
    assert operation not in hlo


def test_windowed_hill_is_hill_of_the_window():
  xs = stats.pareto.rvs(1.5, size=500, random_state=0).astype(np.float32)
  init, update, estimate = streaming.windowed_hill(window_size=64, k=8)

  def step(state, x):
    state = update(state, x)
    return state, estimate(state)

  _, estimates = jax.jit(lambda xs: lax.scan(step, init(), xs))(xs)
  tail_index, interval = estimates.tail_index, estimates.interval
  assert all(leaf.dtype == jnp.float32 for leaf in estimates)
  assert not np.any(tail_index[:63]) and not np.any(interval[:63])
  for i in range(63, 500):
    expected = reference.hill(xs[i - 63 : i + 1], 8)
    np.testing.assert_allclose(tail_index[i], expected, rtol=1e-5)
    # Dependence and bias widen it (tests/test_intervals.py tests by how much).
    low, high = reference.hill_interval(expected, 8)
    assert interval[i, 0] < low * 1.00001 and interval[i, 1] > high * 0.99999


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="k=16 for a window of 16"):
    streaming.windowed_hill(window_size=16, k=16)
  with pytest.raises(ValueError, match="window_size must be at least 1, got 0"):
    streaming.windowed_hill(window_size=0)
  with pytest.raises(TypeError, match="window_size must be a static integer"):
    jax.jit(order_statistics.empty_window)(3)
