"""Finds order statistics of streams and of large arrays, without a sort.

A window keeps the last W values twice: in order of arrival, which gives the
oldest value, and in ascending order a_0 <= ... <= a_(W-1). A new value x
replaces the oldest value o. Where x >= o, the values below o and above x stay.
Those between move down by one, and x is put above them. A median of three does
this:

    a'_i = a_i                          if a_i < o
    a'_i = median(a_i, x, a_(i+1))      otherwise,   a_W = +inf

Where x < o, the mirror image holds:

    a'_i = a_i                          if a_i > o
    a'_i = median(a_(i-1), x, a_i)      otherwise,   a_(-1) = -inf.

This is one pass of comparisons over W numbers, also under vmap. It needs no
search, no sort and no gather. The result is the sorted window to the last bit.

Counts alone find the k-th largest of n entries,

    x_(k) = max {t : N(t) >= k},    N(t) = #{i : x_i >= t},

since N falls from n to 0. The bits of floats that are not negative, read as
integers, are in the order of the floats. The same holds for negative floats
once all bits except the sign are flipped. N(0) >= k determines the sign of
x_(k), and with it whether to flip. Each pass then determines two more bits of
its integer p, from the top:

    p <- p + d 2^s,    d = #{j in 1..3 : N(p + j 2^s) >= k}.

This takes sixteen passes for float32 and eight for 16-bit floats. A pass reads
x once for its three counts. Counts are added over leaves and over devices, so
that no entry is moved. The result is an entry of x to the last bit.

Where x is sharded under jit, each device counts in its own part of x. The
counts are gathered and added: a few numbers per pass, and never entries of x.
"""

import functools
import numbers
import operator
from typing import Any, NamedTuple

import jax
from jax import dtypes, lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks
from htga_optax._states import known_state


@known_state
class SortedWindow(NamedTuple):
  """The last W values of a stream, in order of arrival and of size.

  Values must not be negative. An unfilled slot holds -1, so that the window is
  full once `ascending[0]` is at least 0.

  Attributes:
    arrivals: the values, oldest first, float32 [W].
    ascending: the same values sorted, float32 [W].
  """

  arrivals: jax.Array
  ascending: jax.Array


def empty_window(window_size: int) -> SortedWindow:
  """Makes a window without values.

  Args:
    window_size: W, static.

  Returns:
    The window.

  Raises:
    TypeError: `window_size` is not a static integer.
    ValueError: `window_size` is below one.
  """
  window_size = _checks.check_size("window_size", window_size)
  return SortedWindow(
    arrivals=jnp.full([window_size], -1.0, jnp.float32),
    ascending=jnp.full([window_size], -1.0, jnp.float32),
  )


def sorted_window(x: ArrayLike) -> SortedWindow:
  """Makes a full window of a series.

  Args:
    x: the values, oldest first, [W], not negative.

  Returns:
    The window.

  Raises:
    ValueError: `x` is not one-dimensional, or complex.

  Examples:
    >>> from htga_optax import order_statistics
    >>> print(order_statistics.sorted_window([3.0, 1.0, 2.0]).ascending)
    [1. 2. 3.]
  """
  x = jnp.asarray(_checks.check_sample("x", x), jnp.float32)
  if x.ndim != 1:
    raise ValueError(
      f"x must be one-dimensional, got shape {x.shape}; use jax.vmap."
    )
  return SortedWindow(arrivals=x, ascending=jnp.sort(x))


def push(window: SortedWindow, x: ArrayLike) -> SortedWindow:
  """Replaces the oldest value by a new one, in O(W) operations.

  Args:
    window: the window so far.
    x: the new value, [], not negative. A value that is not finite does not
      change the window.

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
  shifted = shift_in(arrivals, x)

  # The values between the oldest value and x move by one place.
  above = jnp.append(a[1:], jnp.inf)
  below = jnp.append(-jnp.inf, a[:-1])
  falling = jnp.where((x <= a) & (a <= oldest), jnp.maximum(below, x), a)
  rising = (oldest <= a) & (a <= x)
  return SortedWindow(
    arrivals=jnp.where(finite, shifted, arrivals),
    ascending=jnp.where(rising, jnp.minimum(above, x), falling),
  )


def shift_in(values: jax.Array, x: jax.Array) -> jax.Array:
  """Drops the first value and appends `x`, in one kernel.

  The padding is not `x`, since the transpose of `lax.pad` would then fail in a
  Python loop.
  """
  shifted = lax.pad(values, jnp.zeros([], values.dtype), [(-1, 1, 0)])
  place = lax.iota(jnp.int32, values.size)
  return jnp.where(place == values.size - 1, x, shifted)


def spread_ties(
  ascending: jax.Array, count: jax.Array | int | None = None
) -> jax.Array:
  r"""Spreads equal values over the interval that they were rounded from.

  Rounding makes blocks of equal values. A block of c values v becomes

  .. math:: v + h \Bigl(\frac{j - 1/2}c - \frac12\Bigr), \quad j = 1, ..., c

  with the distance h to the nearer of the two neighbouring values. This is a
  sample with the quantiles of the block. A single value does not change, nor do
  values that are all equal.

  Args:
    ascending: values in ascending order, finite, [n].
    count: the number of values, an integer, []. They are the largest entries;
      the entries below them only fill the array. None for n.

  Returns:
    The values, ascending, [n].

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import order_statistics
    >>> print(order_statistics.spread_ties(jnp.float32([1, 2, 2, 2, 2, 4])))
    [1.    1.625 1.875 2.125 2.375 4.   ]
  """
  a = ascending
  first = jnp.searchsorted(a, a, side="left")
  behind = jnp.searchsorted(a, a, side="right")
  lowest = 0 if count is None else a.size - count
  below = jnp.where(first > lowest, a - a[jnp.maximum(first - 1, 0)], jnp.inf)
  last = a.size - 1
  above = jnp.where(behind <= last, a[jnp.minimum(behind, last)] - a, jnp.inf)
  h = jnp.minimum(below, above)
  place = (jnp.arange(a.size) - first).astype(a.dtype)
  share = (place + 0.5) / (behind - first).astype(a.dtype) - 0.5
  return a + jnp.where(jnp.isfinite(h), h, 0.0) * share


# A pass determines so many bits of the result, by 2^bits - 1 counts.
_BITS_A_PASS = 2


def kth_largest(
  x: Any,
  k: ArrayLike,
  shard_axis_name: str | tuple[str, ...] | None = None,
  *,
  of_magnitudes: bool = False,
) -> jax.Array:
  r"""Finds the k-th largest entry of an array or a tree, exactly, by counting.

  .. math::
    x_{(k)} = \max\,\{t : \#\{i : x_i \ge t\} \ge k\},
    \qquad x_{(1)} \ge x_{(2)} \ge \dots \ge x_{(n)}

  The result is, to the last bit, the k-th entry from the end of the sorted
  entries. There is no sort, and no entry is gathered, reshaped or concatenated.
  Only counts are added, over leaves and devices.

  Under jit, a sharded `x` needs no argument, with Auto and Explicit meshes.
  Each device counts in its part, and XLA gathers three numbers per device and
  pass (once for each axis of the mesh that splits `x`). Under `jax.shard_map`
  and `jax.pmap`, pass `shard_axis_name`.

  A pass reads `x` once, for three counts, and takes no memory of the size of
  `x`. float32 takes 17 passes, float16 and bfloat16 take nine.

  Args:
    x: an array of any shape, or a tree of arrays, of dtype float16, bfloat16,
      float32, or, where x64 is enabled, float64. All entries of a tree are
      ranked together, in the common dtype of its leaves. None leaves are left
      out.
    k: the rank, 1 for the maximum and n for the minimum, [], an integer. It
      may be traced; a traced k outside [1, n] gives nan. The cost does not
      depend on k.
    shard_axis_name: the mapped axes over which `x` is split. Then n is the
      number of entries on all devices, and every device gets the result. An `x`
      that is replicated over one of these axes counts once per device. Without
      this argument, each device ranks its own part.
    of_magnitudes: whether to rank the absolute values, without a copy of them.

  Returns:
    The entry, [], in the dtype of `x`. If any entry is nan, the result is nan
    for every k (`np.sort` would count nans as the largest). -0.0 ranks below
    0.0, although `==` finds them equal. Subnormals, which XLA's arithmetic
    treats as zero, are ranked by their values and returned unchanged.
    Infinities are ordinary entries. The gradient is zero, since the result is a
    threshold.

  Raises:
    TypeError: `x` is not of one of these dtypes, or k is not an integer.
    ValueError: `x` has no entries; or k is not a single number, or a number
      outside [1, n]; or n is 2^31 or more without x64 (counts are int32, or
      int64 with x64).

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import order_statistics
    >>> x = jnp.float32([[3.0, -1.0], [4.0, 3.0]])
    >>> print(*[order_statistics.kth_largest(x, k) for k in (1, 2, 3, 4)])
    4.0 3.0 3.0 -1.0
    >>> tree = {"b": jnp.float32([5.0]), "w": x}
    >>> print(order_statistics.kth_largest(tree, 2))
    4.0
  """
  leaves = [lax.stop_gradient(jnp.asarray(leaf)) for leaf in jax.tree.leaves(x)]
  for leaf in leaves:
    if leaf.dtype not in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
      raise TypeError(
        "x must be float16, bfloat16, float32 or float64, got"
        f" {leaf.dtype.name}."
      )
  n = sum(leaf.size for leaf in leaves)
  if shard_axis_name is not None:
    n *= lax.psum(1, shard_axis_name)  # a number at trace time
  _checks.check_number("the size of x", n, lambda v: v >= 1, "be at least 1")
  # int64 where it is needed; without x64, JAX turns this into int32 again.
  count_dtype = dtypes.canonicalize_dtype(
    jnp.int64 if n >= 2**31 else jnp.int32
  )
  most = int(jnp.iinfo(count_dtype).max)
  _checks.check_number(
    "the size of x", n, lambda v: v <= most, f"be at most {most} without x64"
  )
  if isinstance(k, numbers.Integral):
    _checks.check_number(
      "k", k, lambda v: 1 <= v <= n, f"be from 1 to {n}, the size of x"
    )
  k = jnp.asarray(k)
  if not jnp.issubdtype(k.dtype, jnp.integer):
    raise TypeError(f"k must be an integer, got {k}.")
  if k.ndim:
    raise ValueError(
      f"k must be one number, got shape {k.shape}; use jax.vmap."
    )
  k = k.astype(jnp.promote_types(k.dtype, count_dtype))
  return _kth_largest(leaves, k, n, count_dtype, shard_axis_name, of_magnitudes)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _kth_largest(
  leaves: list[jax.Array],
  k: jax.Array,
  n: int,
  count_dtype: Any,
  shard_axis_name: str | tuple[str, ...] | None,
  of_magnitudes: bool,
) -> jax.Array:
  with jax.numpy_dtype_promotion("standard"):
    dtype = jnp.result_type(*leaves)

  def ranked(leaf):
    leaf = leaf.astype(dtype)
    return jnp.abs(leaf) if of_magnitudes else leaf

  integer = jnp.dtype(f"int{8 * dtype.itemsize}")
  digits = jnp.iinfo(integer).bits - 1  # all but the sign
  smallest, largest = jnp.iinfo(integer).min, jnp.iinfo(integer).max

  def count(leaves, tests):
    """Counts the entries that pass each test: [number of tests]."""
    counts = [
      jnp.stack(
        sums(*(test(ranked(leaf)).astype(count_dtype) for test in tests))
      )
      for leaf in leaves
    ]
    counts = functools.reduce(operator.add, counts)
    return (
      counts if shard_axis_name is None else lax.psum(counts, shard_axis_name)
    )

  def bits(x):
    return lax.bitcast_convert_type(x, integer)

  not_negative, nans = count(leaves, [lambda x: bits(x) >= 0, jnp.isnan])
  positive = not_negative >= k
  flip = jnp.where(positive, 0, largest).astype(integer)
  p = jnp.where(positive, 0, smallest).astype(integer)

  def settle(i, p):
    # The barrier ties x to p, so that XLA does not store the bits of x.
    now, _ = lax.optimization_barrier((leaves, p))
    # The last pass may include a bit that is known: its counts are below k.
    shift = jnp.maximum(digits - _BITS_A_PASS * (i + 1), 0).astype(integer)
    steps = [
      lax.shift_left(integer.type(j), shift) for j in range(1, 2**_BITS_A_PASS)
    ]
    reached = count(
      now, [lambda x, step=step: (bits(x) ^ flip) >= p + step for step in steps]
    )
    digit = jnp.sum(reached >= k, dtype=integer)
    return p + lax.shift_left(digit, shift)

  p = lax.fori_loop(0, -(-digits // _BITS_A_PASS), settle, p)
  valid = (nans == 0) & (k >= 1) & (k <= n)
  return jnp.where(
    valid, lax.bitcast_convert_type(p ^ flip, dtype), jnp.nan
  ).astype(dtype)


def sums(*terms: jax.Array) -> list[jax.Array]:
  r"""Sums each of several arrays of one shape and dtype, in one pass.

  .. math:: s_j = \sum_i x_{j,i}

  This is a variadic reduction. XLA fuses it with the code that computes the
  terms and reads their inputs once. It compiles faster than one sum per array.
  Where the terms are sharded under jit, each device sums its part, and the sums
  of the parts are gathered.

  Args:
    *terms: the arrays, [...].

  Returns:
    One number [] per array, of their dtype.

  Raises:
    TypeError: shapes or dtypes differ.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import order_statistics
    >>> x = jnp.float32([1.0, 2.0, 3.0])
    >>> print(*order_statistics.sums(x, x**2))
    6.0 14.0
  """
  return lax.reduce(
    list(terms),
    [jnp.zeros([], x.dtype) for x in terms],
    lambda xs, ys: [x + y for x, y in zip(xs, ys)],
    range(terms[0].ndim),
  )
