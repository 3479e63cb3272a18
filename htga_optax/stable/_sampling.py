"""Draws samples of stable laws."""

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


_NO_EPSILON = 1e-12  # far below the last bit of 1; its square fits in float32


_MOST = 88.0  # its exponential is finite, 1.65e38


def sample(
  key: ArrayLike,
  alpha: ArrayLike,
  beta: ArrayLike = 0.0,
  shape: tuple[int, ...] | None = None,
  dtype: Any = jnp.float32,
) -> jax.Array:
  r"""Draws independent samples of a standard stable law, in parametrization S0.

  .. math::
    \log E e^{itX} = -|t|^\alpha \bigl(1 + i\beta\,\mathrm{sgn}(t)
      \tan\tfrac{\pi\alpha}2 (|t|^{1-\alpha} - 1)\bigr)

  Scale and location are those of ``scipy.stats.levy_stable`` with
  ``parameterization = "S0"``. (SciPy's default is S1, which is the same for
  beta = 0 and otherwise shifted by :math:`\beta\tan(\pi\alpha/2)`.) At
  alpha = 2 the law is N(0, 2). A sample of scale c is c times a standard one.
  The formula is that of Chambers, Mallows and Stuck in the S0 form (textbook);
  its arrangement for float32 is derived here
  (:ref:`derivation-stable-sampler`).

  The angle and the exponential variable have 32 bits each, and keep all of them
  in the tail. In 1e9 draws, the frequencies beyond the quantiles of 1e-6 and
  1e-7 agree with the law (`benchmarks/README.md`). The largest sample has a
  probability of about 2e-10 on each side. Samples are never infinite or nan: a
  value beyond the dtype becomes its largest number. In float32 this has a
  probability of about 10^(-38 alpha); in float16 it is frequent.

  Args:
    key: one key, typed or as uint32 key data. A sample is made of two words of
      threefry2x32, JAX's default generator. ``jax.random.bits(key, shape)``
      returns the exclusive or of the same two words (with
      ``jax_threefry_partitionable``, the default), so do not use one key for
      both. Another generator gives two words by `jax.random.bits`, which become
      the key of threefry2x32.
    alpha: the tail index, in (0, 2]; smaller is heavier. It may be traced, or
      an array that broadcasts to `shape`. A value out of range gives nan if it
      could not be checked.
    beta: the skewness, in [-1, 1], traced or an array, as alpha; without effect
      at alpha = 2. The number 0 takes two thirds of the time of any other.
    shape: the shape of the result (static); None for that of alpha and beta. No
      axis may have 2^32 entries, but all together may.
    dtype: the dtype of the result. Samples are made in float32 and then
      rounded, so float64 has no more digits.

  Returns:
    The samples, `shape`, `dtype`. The words of an entry depend only on the key
    and on its row-major place, so a sharded array equals the whole one. In
    another program the rounding may differ. Under `jax.shard_map` and
    `jax.pmap`, fold the device's index into the key. Gradients in alpha and
    beta, at fixed words, are finite. With beta, the gradient in alpha is within
    ``1e-6/|1 - alpha|`` of the true one; close to alpha = 1 it is meaningless.

  Raises:
    TypeError: `dtype` is not floating point.
    ValueError: alpha or beta is out of range or does not broadcast to `shape`;
      there is more than one key, or an axis of 2^32 entries.

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
  r"""Draws independent samples of the positive stable law, alpha in (0, 1].

  .. math::
    A = \frac{\sin\alpha U}{\sin U} \Bigl(\frac{\sin\epsilon U}{W\sin U}
      \Bigr)^{\epsilon/\alpha}, \quad U \sim U(0, \pi), \;
      \epsilon = 1 - \alpha, \qquad E e^{-\lambda A} = e^{-\lambda^\alpha}

  This is Kanter's formula. A Gaussian with a random variance of this law has a
  stable law, see :func:`isotropic`. At alpha = 1 the sample is the constant 1.

  Args:
    key: one key, as in :func:`sample`.
    alpha: the index, in (0, 1], as in :func:`sample`.
    shape: the shape of the result (static); None for that of alpha.
    dtype: the dtype of the result, as in :func:`sample`.

  Returns:
    The samples, `shape`, `dtype`; finite and above 0, except where the dtype
    rounds to 0.

  Raises:
    TypeError: `dtype` is not floating point.
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
  r"""Draws vectors of a stable law that is the same in all directions.

  .. math::
    X = \sqrt{2A}\, G, \qquad E e^{i\langle t, X\rangle} = e^{-\|t\|^\alpha}

  G has independent N(0, 1) entries. Each vector has one A, of the
  :func:`positive` law of index alpha/2. A single coordinate is a sample of the
  symmetric law. All coordinates of a vector are large together, so it jumps in
  any direction. The entries of :func:`sample` are large one by one, so a vector
  of them jumps along an axis.

  Args:
    key: one key, as in :func:`sample`.
    alpha: the tail index, in (0, 2], as in :func:`sample`; it broadcasts to
      `shape` without the last axis.
    shape: the shape of the result (static); the last axis holds the
      coordinates.
    dtype: the dtype of the result, as in :func:`sample`.

  Returns:
    The vectors, `shape`, `dtype`; finite. A is at most 3e38, so entries beyond
    1e19 are too small; their probability is 10^(-19 alpha).

  Raises:
    TypeError: `dtype` is not floating point.
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
    # Two angles whose sum is pi have one sine; the smaller angle is exact.
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
  """Returns eps = 1 - alpha (never 0), its size e, 1 - e, and t = T/eps."""
  d = jnp.minimum(alpha, 2 - alpha)
  eps = 1 - alpha
  e = jnp.maximum(jnp.abs(eps), _NO_EPSILON)
  eps = jnp.where(eps < 0, -e, e)
  t = beta * jnp.sign(eps) * _sin(_PI / 2 * d) / _sin(_PI / 2 * e)
  return eps, e, d, t


def _variables(
  key: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Sign of V, w = pi/2 - v, v = abs(V), W of Exp(1); all precise near 0."""
  word, other = _words(key, _counters(shape))
  angle, r = _centred(word), _centred(other)
  # With all bits but the sign flipped it is one half minus the angle.
  rest = _centred(word ^ np.uint32(0x7FFFFFFF))
  w, v = _PI * jnp.abs(angle), _PI * jnp.abs(rest)
  # W = -log(r mod 1). Where r < 0, it adds the rounding error of 1 + r.
  whole = jnp.where(r < 0, 1.0, 0.0)
  u = whole + r
  return jnp.sign(angle), w, v, -(_log(u) + (r - (u - whole)))


def _centred(word: jax.Array) -> jax.Array:
  """A word as a float32 in [-1/2, 1/2], never 0, precise near 0."""
  signed = lax.bitcast_convert_type(word, jnp.int32)
  return (signed.astype(jnp.float32) + 0.5) * 2.0**-32


def _sin(x: jax.Array) -> jax.Array:
  """Sine on [0, pi/2], within 2 units in the last place, without a call."""
  z = x * x
  p = 2.60578047e-06
  for c in (-1.98096028e-04, 8.33306625e-03, -1.66666596e-01):
    p = p * z + c
  return x + x * (z * p)


def _log(x: jax.Array) -> jax.Array:
  """Logarithm of a positive normal number, within 2 units in the last place.

  x = 2^k (1 + f), with 1 + f from sqrt(1/2) to sqrt(2). XLA's logarithm also
  handles zeros, subnormals, infinities and nan; with it a sample would cost a
  quarter more.
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
