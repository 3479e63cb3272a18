r"""Measures the noise of a mini-batch gradient, from two mini-batches.

The gradient of a batch of n independent examples is the mean of n gradients of
one example, which have expectation G and covariance Sigma:

    g = G + noise,    Cov(noise) = Sigma/n.

A single gradient does not separate the noise from G. Two gradients do. If they
are on n_a and n_b examples with n_ab in common, Cov(g_a, g_b) =
Sigma n_ab/(n_a n_b), and therefore

    E ||g_a - g_b||^2 = tr(Sigma) (n_a + n_b - 2 n_ab)/(n_a n_b)
    E <g_a, g_b>      = |G|^2 + tr(Sigma) n_ab/(n_a n_b).

Both moments thus have unbiased estimates, from independent batches (n_ab = 0)
and also from a batch and a part of it (n_ab = n_b). Their ratio is the simple
gradient noise scale,

    B = tr(Sigma)/|G|^2,

the batch size at which the noise is as large as G. All of this assumes that
Sigma exists. It does not exist if the tail index of the gradients is below 2,
and G does not exist if it is below 1. The Pareto-k diagnostic checks whether
the mean of a sample is reliable.
"""

import math
import numbers
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks, estimators, norms

# A smaller square is computed again after rescaling, as in norms.
_SMALLEST_SQUARE = 1e-20


def noise_norm(gradient: Any, other: Any) -> jax.Array:
  r"""Computes one draw of the norm of the noise of a mini-batch gradient.

  .. math:: \|g_a - g_b\| / \sqrt2

  The two batches must be independent and of the same size. The mean square of
  this norm is that of the noise, :math:`\operatorname{tr}(\Sigma)/n`, and its
  tail index is that of the noise, since G cancels in the difference. (G does
  not cancel in :math:`\|g_a\|`.) To estimate the tail index of the noise, give
  this norm to an estimator.

  Args:
    gradient: :math:`g_a`, a tree of real or complex floating-point leaves;
      None leaves are left out.
    other: :math:`g_b`, a tree of the same structure and shapes; dtypes may
      differ.

  Returns:
    The norm, float32 []. It is right even if the squares overflow or vanish, as
    in :func:`htga_optax.norms.norm`.

  Raises:
    TypeError: a leaf is not floating point.
    ValueError: the trees differ in structure or in a shape.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import gradient_noise
    >>> a, b = jnp.float16([3e4, -4e4]), jnp.float16([-3e4, 4e4])
    >>> print(f"{gradient_noise.noise_norm(a, b):.0f}")  # 1e5/sqrt(2)
    70711
  """
  square, _ = _products(gradient, other)

  def rescaled():  # only this branch writes the difference to memory
    difference = jax.tree.map(lambda x, y: _wide(x) - _wide(y), gradient, other)
    return norms.norm(difference)

  plain = (square > _SMALLEST_SQUARE) & (square < jnp.inf)
  norm = lax.cond(plain, lambda: jnp.sqrt(square), rescaled)
  return norm / math.sqrt(2)


class Moments(NamedTuple):
  """The squared norms of the noise and of the true gradient.

  Attributes:
    covariance_trace: tr(Sigma) of the gradient of one example, float32 [].
    squared_gradient_norm: the square :math:`|G|^2`, float32 []; an estimate may
      be negative.
  """

  covariance_trace: jax.Array
  squared_gradient_norm: jax.Array


def moments(
  gradient: Any,
  other: Any,
  batch_size: ArrayLike,
  other_batch_size: ArrayLike | None = None,
  shared_size: ArrayLike = 0,
) -> Moments:
  r"""Estimates tr(Sigma) and the square of the true gradient, without bias.

  .. math::
    \hat s = \|g_a - g_b\|^2 \frac{n_a n_b}{n_a + n_b - 2 n_{ab}}, \qquad
    \widehat{|G|^2} = \langle g_a, g_b \rangle - \frac{n_{ab}}{n_a n_b} \hat s

  The ratio of the two estimates from one pair has no meaning: if the noise is
  large, :math:`\widehat{|G|^2}` is near zero and of either sign. Average each
  estimate over many pairs and then divide, as
  :func:`htga_optax.track_gradient_noise` does.

  Args:
    gradient: :math:`g_a`, the mean (not the sum) of the gradients of a batch, a
      tree as for :func:`noise_norm`.
    other: :math:`g_b`, the mean for another batch or for a part of the same
      batch.
    batch_size: :math:`n_a`, the number of examples in the first batch.
    other_batch_size: :math:`n_b`, in the second; None for `batch_size`.
    shared_size: :math:`n_{ab}`, the number of examples in both: 0 for
      independent batches, `other_batch_size` if the second is a part of the
      first.

  Returns:
    The estimates, as :class:`Moments`. They are squares in float32: inf for
    gradients beyond 1e19, and without correct digits below 1e-19.

  Raises:
    TypeError: a leaf is not floating point.
    ValueError: the sizes are invalid, or the trees differ in structure or in a
      shape.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import gradient_noise
    >>> rng = np.random.default_rng(0)  # tr(Sigma) = 1000, |G|^2 = 40
    >>> examples = rng.normal(0.2, 1.0, size=(64, 1000))
    >>> batch, part, rest = examples, examples[:16], examples[16:]
    >>> s, square = gradient_noise.moments(
    ...     part.mean(axis=0), rest.mean(axis=0), 16, 48)
    >>> print(f"{s:.0f} {square:.0f}")
    1039 40
    >>> s, square = gradient_noise.moments(
    ...     batch.mean(axis=0), part.mean(axis=0), 64, 16, shared_size=16)
    >>> print(f"{s:.0f} {square:.0f}")
    1039 40

  References:
    McCandlish, Kaplan, Amodei and the OpenAI Dota team (2018), An empirical
    model of large-batch training, arXiv:1812.06162, appendix A. The paper uses
    the norms at two batch sizes; the mean of the estimates here over all
    choices of the part gives the same. The form with common examples is
    derived here: :ref:`derivation-gradient-noise`.
  """
  check_sizes(batch_size, other_batch_size, shared_size)
  if other_batch_size is None:
    other_batch_size = batch_size
  n_a, n_b, n_ab = (
    jnp.asarray(n, jnp.float32)
    for n in (batch_size, other_batch_size, shared_size)
  )
  square, inner = _products(gradient, other)
  square /= n_a + n_b - 2 * n_ab  # the examples that are in one batch only
  return Moments(square * n_a * n_b, inner - square * n_ab)


class ParetoKDiagnostic(NamedTuple):
  """The result of :func:`pareto_k_diagnostic`.

  Attributes:
    pareto_k: the extreme-value index xi = 1/alpha, float32 []; 0 for a tail
      lighter than every power law, nan if the sample has no estimate.
    threshold: the upper bound of pareto_k for a reliable mean, float32 [].
    mean_is_reliable: whether pareto_k is below the threshold, bool []; False
      if pareto_k is nan.
    sufficient_size: the sample size that would be enough, float32 []; inf if no
      size is.
  """

  pareto_k: jax.Array
  threshold: jax.Array
  mean_is_reliable: jax.Array
  sufficient_size: jax.Array


def pareto_k_diagnostic(
  x: ArrayLike, k: int | None = None
) -> ParetoKDiagnostic:
  r"""Checks whether the mean of a sample is reliable, and which size is enough.

  .. math::
    \hat\xi < \min\Bigl(1 - \frac{1}{\log_{10} n}, 0.7\Bigr), \qquad
    n_{enough} = 10^{1/(1 - \hat\xi)}

  :math:`\hat\xi = 1/\hat\alpha` comes from
  :func:`estimators.generalized_pareto` and is not below 0. The mean is reliable
  if the first condition holds. It is the second equation solved for
  :math:`\xi`, with an upper bound of 0.7, since the estimate of :math:`\xi`
  itself is not reliable beyond that bound. For :math:`\xi \ge 1` the mean does
  not exist, and no batch is large enough.

  Give it the norms of the gradients of the n examples in a batch. It then tells
  whether averaging works in this batch, and therefore which batch is worth its
  cost. For n noise norms it tells the same about n mini-batches. It does not
  tell whether the noise is small compared with G; use the noise scale for that.

  Both numbers are stated for the Pareto-smoothed mean. For plain means of
  :math:`n_{enough}` values of a Pareto law, with any :math:`\xi` from 0.5 to
  0.7, half of the means are within 10 percent of the truth and nine in ten
  within 20 percent. On :math:`|t_2|` nine in ten are within 30 percent. (All of
  these are measured.) The mean square error of plain means is infinite for
  :math:`\xi \ge 0.5`. The standard error of pareto_k is about
  :math:`(1 + \xi)/\sqrt{k}`: a value near the threshold decides nothing, and
  the sufficient size is an order of magnitude.

  Args:
    x: the sample, [n], independent values such as the norms of the gradients
      of single examples (`jax.vmap(jax.grad(loss))`).
    k: how many order statistics form the tail (static); None for
      :math:`\lceil\min(n/5, 3\sqrt{n})\rceil`.

  Returns:
    The diagnostic, as :class:`ParetoKDiagnostic`.

  Raises:
    TypeError: k is not a static integer.
    ValueError: `x` is not one-dimensional, or k is not in [5, n - 1] (without k
      the sample must have at least 21 values).

  Examples:
    >>> import numpy as np
    >>> from htga_optax import gradient_noise
    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> for alpha in (4.0, 1.25, 0.8):  # the quantiles of Pareto laws
    ...   k, bound, yes, enough = gradient_noise.pareto_k_diagnostic(
    ...       u ** (-1 / alpha))
    ...   print(f"{k:.2f} {bound:.2f} {yes} {enough:.3g}")
    0.26 0.67 True 22.2
    0.78 0.67 False 4.38e+04
    1.22 0.67 False inf

  References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance
    sampling, JMLR 25(72), section 3.2. The fit in the paper has a weak prior
    that draws xi to 1/2; the fit here does not.
  """
  x = jnp.asarray(x, jnp.float32)
  n = x.size
  if k is None:
    k = math.ceil(min(n / 5, 3 * math.sqrt(n)))
  xi = 1 / estimators.generalized_pareto(x, k)
  threshold = jnp.asarray(min(1 - 1 / math.log10(n), 0.7), jnp.float32)
  endless = xi > 1 - 1 / 38  # float32 ends near 10^38
  enough = 10 ** (1 / (1 - jnp.where(endless, 0.0, xi)))
  return ParetoKDiagnostic(
    pareto_k=xi,
    threshold=threshold,
    mean_is_reliable=xi < threshold,
    sufficient_size=jnp.where(endless, jnp.inf, enough),
  )


def check_sizes(
  batch_size: Any, other_batch_size: Any, shared_size: Any
) -> None:
  """Raises ValueError unless two different batches can have these sizes."""
  if other_batch_size is None:
    other_batch_size = batch_size
  sizes = {"batch_size": batch_size, "other_batch_size": other_batch_size}
  for name, size in sizes.items():
    _checks.check_number(name, size, lambda v: 0 < v < math.inf, "be positive")
  if all(isinstance(size, numbers.Real) for size in sizes.values()):
    small, large = sorted(sizes.values())
    _checks.check_number(
      "shared_size",
      shared_size,
      lambda v: 0 <= v <= small and v < large,
      f"be at least 0, at most {small} and below {large}",
    )


def _products(gradient: Any, other: Any) -> tuple[jax.Array, jax.Array]:
  """||g_a - g_b||^2 and the real part of <g_a, g_b>, float32 []."""

  def leaf(x, y):
    if jnp.shape(x) != jnp.shape(y):
      raise ValueError(
        "the two gradients must have the same shapes, got"
        f" {jnp.shape(x)} and {jnp.shape(y)}."
      )
    x, y = _wide(x), _wide(y)
    return _inner(x - y, x - y), _inner(x, y)

  pairs = jax.tree.leaves(jax.tree.map(leaf, gradient, other))
  zero = jnp.zeros([], jnp.float32)
  return sum(pairs[::2], start=zero), sum(pairs[1::2], start=zero)


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.sum(jnp.real(jnp.conj(x) * y)).astype(jnp.float32)


def _wide(x: ArrayLike) -> jax.Array:
  """Converts floats of less than 32 bits to float32."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    raise TypeError(f"gradients must be floating point, got {x.dtype}.")
  return x.astype(norms.wide_dtype(x))
