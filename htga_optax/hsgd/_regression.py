"""Diagonalises a ridge regression, and computes the stationary law of hSGD."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax.hsgd._arguments import _excess, _parameters, _share


class Regression(NamedTuple):
  """A least-squares problem in the eigenbasis of its Hessian.

  Attributes:
    eigenvalues: the eigenvalues of the Hessian, [d].
    solution: the minimiser s of L, [d]; 0 where the eigenvalue is 0.
    least_loss: L(s), [].
  """

  eigenvalues: jax.Array
  solution: jax.Array
  least_loss: jax.Array


def regression(
  features: ArrayLike, targets: ArrayLike
) -> tuple[Regression, np.ndarray]:
  """Diagonalises a data set, on the host in float64.

  Args:
    features: A, [n, d].
    targets: b, [n].

  Returns:
    The problem and the basis. The problem is a :class:`Regression` with
    descending eigenvalues; those below 1e-10 of the largest are set to 0. The
    basis is float64 [d, d]: a point x [..., d] in the space of the features has
    the coordinates `x @ basis`.

  Raises:
    ValueError: the shapes do not match, or a value is not finite.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import hsgd
    >>> problem, basis = hsgd.regression(2 * np.eye(2), [2.0, 0.0])
    >>> print(problem.eigenvalues, basis @ problem.solution)
    [2. 2.] [1. 0.]
  """
  features, targets = _data(features, targets)
  n = len(features)
  eigenvalues, basis = np.linalg.eigh(features.T @ features / n)
  eigenvalues, basis = eigenvalues[::-1], basis[:, ::-1]
  some = eigenvalues > 1e-10 * max(eigenvalues[0], 0.0)
  eigenvalues = np.where(some, eigenvalues, 0.0)
  projected = basis.T @ (features.T @ targets) / n
  solution = np.where(some, projected / np.where(some, eigenvalues, 1.0), 0.0)
  least_loss = np.mean((features @ (basis @ solution) - targets) ** 2) / 2
  values = (eigenvalues, solution, least_loss)
  return Regression(*(jnp.asarray(x, jnp.float32) for x in values)), basis


def ridge_solution(problem: Regression, weight_decay: ArrayLike) -> jax.Array:
  r"""Computes the minimiser of f in the eigenbasis.

  .. math:: r_i = \lambda_i s_i/(\lambda_i + \delta)

  It is the mean of hSGD and of SGD.

  Args:
    problem: the problem; its solution s is the one without weight decay.
    weight_decay: :math:`\delta`, at least 0, [].

  Returns:
    The ridge solution r, float32 [d].

  Raises:
    ValueError: invalid eigenvalues or an invalid weight decay; the message
      contains the value.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0, 0.5], jnp.ones(2), 0.1)
    >>> print(hsgd.ridge_solution(problem, 1.0))
    [0.5        0.33333334]
  """
  return _share(problem.eigenvalues, weight_decay) * problem.solution


class Moments(NamedTuple):
  """Moments of the stationary law of hSGD.

  Attributes:
    loss: the mean loss E L(X), float32 [].
    variance: the variance of each coordinate in the eigenbasis, float32 [d].
  """

  loss: jax.Array
  variance: jax.Array


def stationary_moments(
  problem: Regression,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Moments:
  r"""Computes the exact mean loss and variances of the stationary law of hSGD.

  .. math::
    E L = \frac{L(r)}{1 - \gamma T/(2B)}, \qquad
    E (x_i - r_i)^2 = \frac{\gamma}{B} \, \frac{\lambda_i}{\lambda_i + \delta}
      \, E L

  Here r is the ridge solution, which is the mean, and T is that of
  :func:`tail_index_bounds`. The formulas are derived here, from the generator
  (:ref:`derivation-hsgd-moments`). The coordinates are uncorrelated but not
  independent, because they share the loss.

  Args:
    problem: the problem in its eigenbasis.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].

  Returns:
    The :class:`Moments`. For :math:`\gamma \ge \gamma_2 = 2B/T` they do not
    exist (the tail index is at most 2) and are inf. The variance of a direction
    without noise is always 0.

  Raises:
    ValueError: as :func:`tail_index_bounds`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0, 0.5], jnp.zeros(2), 0.5)
    >>> loss, variance = hsgd.stationary_moments(problem, 0.4, 1, 0.0)
    >>> print(f"{loss:.3f} {variance.round(3)}")
    0.714 [0.286 0.286]
  """
  eigenvalues, solution, least_loss = problem
  t, rate = _parameters(eigenvalues, learning_rate, batch_size, weight_decay)
  share = _share(eigenvalues, weight_decay)
  ridge_loss = least_loss + _excess(eigenvalues, solution - share * solution)
  left = 1 - rate * jnp.sum(t) / 2
  loss = jnp.where(left <= 0, jnp.inf, ridge_loss / jnp.abs(left))
  variance = jnp.where(share == 0, 0.0, rate * share * loss)
  return Moments(loss, variance)


class Proxy(NamedTuple):
  r"""A skew t law (Pearson IV) for each coordinate in the eigenbasis.

  .. math::
    p(x) \propto (1 + z^2/\nu)^{-(\nu+1)/2}
      \exp(-\kappa \arctan(z/\sqrt\nu)), \quad z = (x - \mu)/\sigma

  Student's t with :math:`\nu` degrees of freedom where :math:`\kappa = 0`.

  Attributes:
    tail_index: :math:`\nu`, float32 [d].
    loc: :math:`\mu`, float32 [d].
    scale: :math:`\sigma`, float32 [d].
    skew: :math:`\kappa`, float32 [d].
  """

  tail_index: jax.Array
  loc: jax.Array
  scale: jax.Array
  skew: jax.Array


def proxy(
  problem: Regression,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Proxy:
  r"""Approximates the stationary law of each coordinate by a skew t law.

  .. math::
    \nu_i = 1 + \frac1{a_i}, \quad a_i = \frac{\gamma t_i}{2B}, \quad
    \mu_i = s_i, \quad \sigma_i^2 = \frac{2 a_i L_i}{\lambda_i (1 + a_i)}, \quad
    \kappa_i = \frac{s_i - r_i}{\sigma_i \sqrt{a_i (1 + a_i)}}

  It is the law that the coordinate would have if the loss of the others were
  fixed at its mean. Here s is the solution without weight decay and r the
  solution with it. :math:`L_i` is the least stationary mean of the loss along
  coordinate i: :math:`L(s) + \tfrac12 \sum_{j \ne i} \lambda_j ((r_j - s_j)^2 +
  \mathrm{Var}\, x_j)`. Without weight decay there is no skew, and the law is
  Student's t.

  In one dimension it is exactly the stationary law (a Pearson diffusion,
  textbook). In more dimensions it is a proxy (derived here:
  :ref:`derivation-hsgd-proxy`): mean and variance are exact, and the tail index
  is that of the coordinate alone. In every coordinate the tail of hSGD is at
  least as heavy; its index is between the :func:`tail_index_bounds`.

  Args:
    problem: the problem in its eigenbasis.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].

  Returns:
    The laws, as :class:`Proxy`. A direction without noise has a tail index of
    inf and a scale of 0. For :math:`\gamma \ge \gamma_2` the others have no
    mean loss; then the scale is inf and the skew is 0.

  Raises:
    ValueError: as :func:`tail_index_bounds`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0], jnp.zeros(1), 0.5)
    >>> law = hsgd.proxy(problem, learning_rate=1.1, weight_decay=0.1)
    >>> print(f"t({law.tail_index[0]:.2f}), scale {law.scale[0]:.3f}")
    t(3.00), scale 0.577

  References:
    Jiao and Keller-Ressel (2024), arXiv:2402.01382, propose (skew) Student t
    laws. Forman and Sorensen (2008), The Pearson diffusions, Scandinavian
    Journal of Statistics 35(3).
  """
  eigenvalues, solution, least_loss = problem
  t, rate = _parameters(eigenvalues, learning_rate, batch_size, weight_decay)
  _, variance = stationary_moments(
    problem, learning_rate, batch_size, weight_decay
  )
  share = _share(eigenvalues, weight_decay)
  offset = solution - share * solution
  square = offset**2 + variance  # inf only where t > 0
  others = ~jnp.eye(t.size, dtype=bool) & (t > 0)[None]
  loss = least_loss + jnp.sum(
    jnp.where(others, (jnp.asarray(eigenvalues) * square)[None], 0.0) / 2,
    axis=-1,
  )
  a = rate * t / 2
  scale = jnp.where(share == 0, 0.0, jnp.sqrt(rate * share * loss / (1 + a)))
  skew = jnp.where(offset == 0, 0.0, offset / (scale * jnp.sqrt(a * (1 + a))))
  return Proxy(1 + 1 / a, jnp.asarray(solution, jnp.float32), scale, skew)


def _data(
  features: ArrayLike, targets: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  features = np.asarray(features, np.float64)
  targets = np.asarray(targets, np.float64)
  if (
    features.ndim != 2
    or not features.size
    or targets.shape != features.shape[:1]
  ):
    raise ValueError(
      "features must be [n, d] and targets [n], got shapes"
      f" {features.shape} and {targets.shape}."
    )
  if not (np.isfinite(features).all() and np.isfinite(targets).all()):
    raise ValueError(
      "features and targets must be finite, got nan or infinite values."
    )
  return features, targets


def _problem(problem: Regression) -> Regression:
  """Converts a problem to float32; :func:`_share` checks its eigenvalues."""
  problem = Regression(*(jnp.asarray(x, jnp.float32) for x in problem))
  if problem.solution.shape != problem.eigenvalues.shape:
    raise ValueError(
      "a regression must have as many eigenvalues as coordinates, got shapes"
      f" {problem.eigenvalues.shape} and {problem.solution.shape}."
    )
  return problem
