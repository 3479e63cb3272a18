"""Samples of stable laws."""

import functools
import math
import numbers
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax.stable._arguments import (
  _dtype,
  _number,
  _one_key,
  _parameters,
  _shape,
)
from htga_optax.stable._threefry import _counters, _key_words, _words

_PI = math.pi


_NO_EPSILON = 1e-12  # far below the last bit of 1; its square is a float32


_MOST = 88.0  # its exponential is finite, 1.65e38


def sample(
  key: ArrayLike,
  alpha: ArrayLike,
  beta: ArrayLike = 0.0,
  shape: tuple[int, ...] | None = None,
  dtype: Any = jnp.float32,
) -> jax.Array:
  r"""Independent samples of a standard stable law, in parametrization S0.

  .. math::
    \log E e^{itX} = -|t|^\alpha \bigl(1 + i\beta\,\mathrm{sgn}(t)
      \tan\tfrac{\pi\alpha}2 (|t|^{1-\alpha} - 1)\bigr)

  Scale and location are those of ``scipy.stats.levy_stable`` with
  ``parameterization = "S0"`` (SciPy's own default is S1, which is the same for
  beta = 0 and otherwise shifted by :math:`\beta\tan(\pi\alpha/2)`): alpha = 2
  is N(0, 2), and a sample of scale c is c times one of these. The formula is
  that of Chambers, Mallows and Stuck in the S0 form (textbook); its arrangement
  for float32 is derived here.

  Angle and exponential variable have 32 bits each, none of which is lost where
  the tail is: frequencies beyond the quantiles of 1e-6 and 1e-7 are right in
  1e9 draws (`benchmarks/stable_tails.py`). The largest sample has a probability
  of about 2e-10 on each side. Nothing is infinite or nan: what exceeds the
  dtype becomes its largest number, in float32 with a probability of about
  10^(-38 alpha), in float16 often.

  Args:
    key: one key, typed or as uint32 key data. With threefry2x32, JAX's default
      generator, the two words of which a sample is made are those that
      ``jax.random.bits(key, shape)`` returns the exclusive or of (with
      ``jax_threefry_partitionable``, the default): use a key for one or the
      other. Any other generator gives two words, by `jax.random.bits`, which
      become the key of threefry2x32.
    alpha: the tail index, in (0, 2]; smaller is heavier. It may be traced, or
      an array that broadcasts to `shape`; nan comes of a value out of range
      that could not be checked.
    beta: the skewness, in [-1, 1], as alpha; without effect at alpha = 2. The
      number 0 takes two thirds of the time of any other.
    shape: of the result (static); None for that of alpha and beta. No axis may
      have 2^32 entries, all together may.
    dtype: of the result. Samples are made in float32 and rounded to it, so that
      float64 has no more digits.

  Returns:
    The samples, `shape`, `dtype`. The words of an entry depend on the key and
    its row-major place alone, so that a sharded array is the whole one; another
    program around it may round otherwise. Under `jax.shard_map` and `jax.pmap`
    fold the device's index into the key. Gradients in alpha and beta, at fixed
    words, are finite; with beta, that in alpha is within 1e-6/|1 - alpha| of
    the true one, which close to alpha = 1 says nothing.

  Raises:
    TypeError: dtype is not a floating one.
    ValueError: alpha or beta out of range or not broadcastable to `shape`, more
      than one key, or an axis of 2^32 entries.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from htga_optax import stable
    >>> x = stable.sample(jax.random.key(0), 1.5, shape=(100_000,))
    >>> cf = jnp.mean(jnp.cos(x))  # E cos X = exp(-1)
    >>> print(f"{cf:.2f} {stable.phi(1.0, 1.5).real:.2f}")
    0.37 0.37
    >>> print(f"{jnp.max(jnp.abs(x)):.0f}")
    2600

  References:
    Chambers, Mallows and Stuck (1976), A method for simulating stable random
    variables, JASA 71(354). Nolan (2020), Univariate Stable Distributions,
    Springer. Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as
    easy as 1, 2, 3, SC'11.
  """
  symmetric = isinstance(beta, numbers.Real) and beta == 0
  alpha, beta = _parameters(alpha, beta)
  shape = _shape(shape, alpha, beta)
  return _sample(
    _key_words(key), alpha, None if symmetric else beta, shape, _dtype(dtype)
  )


def positive(
  key: ArrayLike,
  alpha: ArrayLike,
  shape: tuple[int, ...] | None = None,
  dtype: Any = jnp.float32,
) -> jax.Array:
  r"""Independent samples of the positive stable law of index alpha in (0, 1].

  .. math::
    A = \frac{\sin\alpha U}{\sin U} \Bigl(\frac{\sin\epsilon U}{W\sin U}
      \Bigr)^{\epsilon/\alpha}, \quad U \sim U(0, \pi), \;
      \epsilon = 1 - \alpha, \qquad E e^{-\lambda A} = e^{-\lambda^\alpha}

  Kanter's formula. A random variance of this law turns a Gaussian into a
  stable law, see :func:`isotropic`; at alpha = 1 it is the constant 1.

  Args:
    key: one key, as in :func:`sample`.
    alpha: the index, in (0, 1], as in :func:`sample`.
    shape: of the result (static); None for that of alpha.
    dtype: of the result, as in :func:`sample`.

  Returns:
    The samples, `shape`, `dtype`; above 0 but where the dtype rounds to 0, and
    finite.

  Raises:
    TypeError: dtype is not a floating one.
    ValueError: as in :func:`sample`.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from htga_optax import stable
    >>> a = stable.positive(jax.random.key(0), 0.75, shape=(100_000,))
    >>> print(f"{jnp.mean(jnp.exp(-a)):.2f}")  # exp(-1)
    0.37

  References:
    Kanter (1975), Stable densities under change of scale and total variation
    inequalities, Annals of Probability 3(4).
  """
  alpha = _number("alpha", alpha, lambda v: (v > 0) & (v <= 1), "be in (0, 1]")
  shape = _shape(shape, alpha)
  return _positive(_key_words(key), alpha, shape, _dtype(dtype))


def isotropic(
  key: ArrayLike,
  alpha: ArrayLike,
  shape: tuple[int, ...],
  dtype: Any = jnp.float32,
) -> jax.Array:
  r"""Vectors of a stable law that knows no direction.

  .. math::
    X = \sqrt{2A}\, G, \qquad E e^{i\langle t, X\rangle} = e^{-\|t\|^\alpha}

  with G of independent N(0, 1) and one A of the :func:`positive` law of index
  alpha/2 per vector. A coordinate alone is a sample of the symmetric law, but
  all coordinates of a vector are large together, where those of :func:`sample`
  are large one by one: the former jumps anywhere, the latter along an axis.

  Args:
    key: one key, as in :func:`sample`.
    alpha: the tail index, in (0, 2], as in :func:`sample`; it broadcasts to
      `shape` without the last axis.
    shape: of the result (static); the last axis holds the coordinates.
    dtype: of the result, as in :func:`sample`.

  Returns:
    The vectors, `shape`, `dtype`; finite. A is at most 3e38, so that entries
    beyond 1e19, of probability 10^(-19 alpha), are too small.

  Raises:
    TypeError: dtype is not a floating one.
    ValueError: as in :func:`sample`, or shape has no axis.

  Examples:
    >>> import jax
    >>> from htga_optax import stable
    >>> x = stable.isotropic(jax.random.key(0), 1.2, shape=(1000, 3))
    >>> x.shape
    (1000, 3)
  """
  if not shape:
    raise ValueError("shape must have an axis of coordinates, got ().")
  alpha, _ = _parameters(alpha, 0.0)
  key_variance, key_gaussian = jax.random.split(_one_key(key))
  variance = positive(key_variance, alpha / 2, shape[:-1])
  gaussian = sample(key_gaussian, 2.0, shape=shape)
  return _rounded(jnp.sqrt(variance)[..., None] * gaussian, _dtype(dtype))


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def _sample(
  key: jax.Array,
  alpha: jax.Array,
  beta: jax.Array | None,
  shape: tuple[int, ...],
  dtype: Any,
) -> jax.Array:
  s, w, v, exponential = _variables(key, shape)
  inverse = 1 / (exponential * _sin(w))  # times W it is 1/cos V
  if beta is None:
    e, d = jnp.abs(1 - alpha), jnp.minimum(alpha, 2 - alpha)  # e + d = 1
    n = _sin(_PI / 2 * d + e * w)  # the angle is pi/2 - e |V|
    # Of two angles whose sum is pi, the smaller is the exact one.
    odd = _sin(jnp.minimum(alpha * v, _PI / 2 * (2 - alpha) + alpha * w))
    y = jnp.minimum((1 - alpha) / alpha * _log(n * inverse), _MOST)
    return _rounded(s * odd * (exponential * inverse) * jnp.exp(y), dtype)
  eps, e, d, t = _skewed(alpha, beta)
  toward = (1 + s * beta) * _sin(jnp.minimum(e * (_PI - w), _PI * d + e * w))
  n = (toward + (1 - s * beta) * _sin(e * w)) / (2 * _sin(_PI / 2 * e))
  y = jnp.minimum(eps / alpha * _log(n * inverse), _MOST)
  odd = _sin(v) * exponential * (n * inverse) - jnp.sign(eps) * _sin(e * v)
  even = 2 * t * _sin(e / 2 * v) ** 2
  return _rounded((s * odd - even) * jnp.exp(y) + t * jnp.expm1(y), dtype)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def _positive(
  key: jax.Array, alpha: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
  s, w, _, exponential = _variables(key, shape)
  u = jnp.where(s > 0, _PI - w, w)

  def sin_of(part, rest):  # sin(part U), part + rest = 1
    return _sin(jnp.minimum(part * u, _PI * rest + part * w))

  e = jnp.maximum(1 - alpha, _NO_EPSILON)
  inverse = 1 / (exponential * _sin(w))
  y = jnp.minimum(e / alpha * _log(sin_of(e, alpha) * inverse), _MOST)
  ratio = sin_of(alpha, 1 - alpha) * (exponential * inverse)
  return _rounded(ratio * jnp.exp(y), dtype)


def _skewed(
  alpha: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns eps = 1 - alpha but never 0, |eps|, 1 - |eps|, and t = T/eps."""
  d = jnp.minimum(alpha, 2 - alpha)
  eps = 1 - alpha
  e = jnp.maximum(jnp.abs(eps), _NO_EPSILON)
  eps = jnp.where(eps < 0, -e, e)
  t = beta * jnp.sign(eps) * _sin(_PI / 2 * d) / _sin(_PI / 2 * e)
  return eps, e, d, t


def _variables(
  key: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Sign of V, w = pi/2 - |V|, |V|, and W of Exp(1), all fine about 0."""
  word, other = _words(key, _counters(shape))
  angle, r = _centred(word), _centred(other)
  # All bits but the sign flipped: one half less the angle.
  rest = _centred(word ^ np.uint32(0x7FFFFFFF))
  w, v = _PI * jnp.abs(angle), _PI * jnp.abs(rest)
  # W = -log(r mod 1), by log1p where r < 0: with what 1 + r was rounded by.
  whole = jnp.where(r < 0, 1.0, 0.0)
  u = whole + r
  return jnp.sign(angle), w, v, -(_log(u) + (r - (u - whole)))


def _centred(word: jax.Array) -> jax.Array:
  """A word as a float32 in [-1/2, 1/2], never 0, fine about 0."""
  signed = lax.bitcast_convert_type(word, jnp.int32)
  return (signed.astype(jnp.float32) + 0.5) * 2.0**-32


def _sin(x: jax.Array) -> jax.Array:
  """Sine on [0, pi/2] within 2 units in the last place, without a call."""
  z = x * x
  p = 2.60578047e-06
  for c in (-1.98096028e-04, 8.33306625e-03, -1.66666596e-01):
    p = p * z + c
  return x + x * (z * p)


def _log(x: jax.Array) -> jax.Array:
  """Logarithm of a positive normal number within 2 units in the last place.

  Of x = 2^k (1 + f), with 1 + f from sqrt(1/2) to sqrt(2). XLA's also serves
  zeros, subnormals, infinities and nan, and makes a sample a quarter dearer.
  """
  bits = lax.bitcast_convert_type(x, jnp.int32)
  k = bits - np.int32(0x3F3504F3) >> 23  # of sqrt(1/2)
  f = x * lax.bitcast_convert_type(127 - k << 23, jnp.float32) - 1
  p = 8.73258933e-02
  for c in (
    -1.43069178e-01,
    1.49184257e-01,
    -1.65706024e-01,
    1.99620440e-01,
    -2.50017524e-01,
    3.33339512e-01,
    -4.99999911e-01,
  ):
    p = p * f + c
  return k.astype(jnp.float32) * math.log(2) + (f + f * f * p)


def _rounded(x: jax.Array, dtype: Any) -> jax.Array:
  most = min(float(jnp.finfo(dtype).max), float(jnp.finfo(jnp.float32).max))
  return jnp.clip(x, -most, most).astype(dtype)
