"""Order statistics of a stream, without a sort in the step.

A window of the W last values is held twice: in order of arrival, so that the
oldest is known, and in ascending order a_0 <= ... <= a_(W-1). A new value x
replaces the oldest value o. Where x >= o, the values below o stay, and the
rest moves down by one with x put in its place, which is a median of three:

    a'_i = a_i                          if a_i < o
    a'_i = median(a_i, x, a_(i+1))      otherwise,   a_W = +inf

and where x < o the mirror image,

    a'_i = a_i                          if a_i > o
    a'_i = median(a_(i-1), x, a_i)      otherwise,   a_(-1) = -inf.

That is one pass of comparisons over W numbers: no search, no sort, no gather,
alike under vmap, and the result is the sorted window to the last bit.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import checks


class SortedWindow(NamedTuple):
  """The last W values of a stream, in order of arrival and of size.

  Values must not be negative: a slot that was never filled holds -1, so that
  the window is full once `ascending[0]` is at least 0.

  Attributes:
    arrivals: the values, oldest first, float32 [W].
    ascending: the same values sorted, float32 [W].
  """

  arrivals: jax.Array
  ascending: jax.Array


def empty_window(window_size: int) -> SortedWindow:
  """A window that has seen nothing.

  Args:
    window_size: W, static.

  Returns:
    The window.

  Raises:
    TypeError: `window_size` is not a static integer.
    ValueError: `window_size` is below one.
  """
  window_size = checks.check_size("window_size", window_size)
  return SortedWindow(
    arrivals=jnp.full([window_size], -1.0, jnp.float32),
    ascending=jnp.full([window_size], -1.0, jnp.float32),
  )


def push(window: SortedWindow, x: ArrayLike) -> SortedWindow:
  """Replaces the oldest value by a new one, in O(W).

  Args:
    window: the window so far.
    x: the new value, [], not negative. A value that is not finite leaves the
      window as it is.

  Returns:
    The window with `x` in it.

  Examples:
    >>> from htga_optax import order_statistics
    >>> window = order_statistics.empty_window(3)
    >>> for x in (5.0, 1.0, float("nan"), 4.0, 2.0):
    ...   window = order_statistics.push(window, x)
    >>> print(window.arrivals, window.ascending)
    [1. 4. 2.] [1. 2. 4.]
  """
  arrivals, a = window
  x = jnp.asarray(x, jnp.float32)
  finite = jnp.isfinite(x)
  oldest = arrivals[0]
  # Where x is not finite, the oldest value replaces itself.
  x = jnp.where(finite, x, oldest)
  shifted = lax.pad(arrivals, x, [(-1, 1, 0)])

  above = jnp.concatenate([a[1:], jnp.full([1], jnp.inf, a.dtype)])
  below = jnp.concatenate([jnp.full([1], -jnp.inf, a.dtype), a[:-1]])
  rising = jnp.where(a < oldest, a, jnp.maximum(a, jnp.minimum(x, above)))
  falling = jnp.where(a > oldest, a, jnp.minimum(a, jnp.maximum(x, below)))
  return SortedWindow(
    arrivals=jnp.where(finite, shifted, arrivals),
    ascending=jnp.where(x >= oldest, rising, falling),
  )
