r"""Homogenized SGD (hSGD): noise that grows with the loss, and its heavy tails.

A ridge regression on n rows a_k, with the loss and its Hessian

    L(x) = ||Ax - b||^2/(2n),  f = L + (delta/2)||x||^2,
    H = A'A/n, with eigenvalues lambda_1 >= ... >= lambda_d >= 0.

SGD with batches of B rows and the learning rate gamma has noise that grows with
the loss. hSGD is a diffusion with such noise, one step a unit of time:

    dX = -gamma grad f dt + gamma sqrt((2/B) L(X) H) dW.

Far out L is quadratic, so the noise grows with the distance, and the stationary
law has a power tail, P(||X|| > x) ~ x^-eta, though every increment is Gaussian.
In the eigenbasis, y away from the ridge solution and with t_i = lambda_i^2/
(lambda_i + delta), T, M and m the sum, the largest and the smallest positive of
them, and Q = sum y_i^2 lambda_i/(lambda_i + delta), the generator of hSGD takes
Q^(p/2), far out, to a number of the sign of

    (p - 2) R - (2B/gamma - T),    R a mean of the t_i, in [m, M],

and |y_1|^p, for p > 1, to at least one of the sign of p - 1 - 2B/(gamma M). Of
the stationary law moments that decrease are finite and those that increase are
not, so that for gamma <= gamma_2 = 2B/T

    2 + (2B/gamma - T)/M <= eta <= min(1 + 2B/(gamma M), 2 + (2B/gamma - T)/m)

and beyond gamma_2, where eta is at most 2,

    2 + (2B/gamma - T)/m <= eta <= 2 + (2B/gamma - T)/M.

All of this is derived here; it agrees with what a summary of Jiao and
Keller-Ressel says, whose own proof and constants could not be read.

These are facts of hSGD, and not of SGD. Far out hSGD gives the gradient of a
step the covariance (y'Hy) H/B; on Gaussian rows it has Hyy'H/B as well, as much
again along y, and steps are not small. `streaming_tail_index` has the index of
that SGD: below hSGD's, by tens of percent even if gamma is small and by any
factor if not, but above it near the end of stationarity if d is much larger
than B. On n rows with gamma (||a_k||^2 + delta) < 2 for all of them there is no
tail at all.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.core import Tracer
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from htga_optax import checks, stable

_BLOCK = 2**21  # random numbers drawn at once by a simulator, 8 MB
_MOST_INDEX = 256  # beyond which streaming_tail_index says inf


class Bounds(NamedTuple):
  """What is known of a number.

  Attributes:
    lower: float32, of the shape of what it was asked for.
    upper: the same.
  """

  lower: jax.Array
  upper: jax.Array


def tail_index_bounds(
  eigenvalues: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Bounds:
  r"""Between which numbers the tail index of hSGD is.

  .. math::
    \eta_* = 2 + \frac{2B/\gamma - T}{M}, \qquad
    \eta^* = \min\Bigl(1 + \frac{2B}{\gamma M},\;
      2 + \frac{2B/\gamma - T}{m}\Bigr)
    \qquad (\gamma \le 2B/T)

  with :math:`t_i = \lambda_i^2/(\lambda_i + \delta)`, their sum T, largest M
  and smallest positive m; beyond :math:`\gamma_2 = 2B/T` the lower bound has m
  for M and the upper one is the line with M. At :math:`\gamma_2` both are 2; in
  one dimension, and if all positive eigenvalues are one, they are the same
  number, the exact index. It is the index of the norm and of every coordinate.

  Only gamma/B enters. The bounds are for hSGD: SGD leaves them, mostly below,
  and may diverge where hSGD does not, see :func:`streaming_tail_index`.

  Args:
    eigenvalues: of the Hessian :math:`H = A'A/n`, [d], in any order; zeros are
      directions without noise and do not count.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, positive.
    weight_decay: :math:`\delta`, at least 0. The three broadcast; each may be
      traced.

  Returns:
    The bounds, as :class:`Bounds`, of the common shape of the last three
    arguments. The lower is 0 where it says nothing, so that there may be no
    stationary law; both are nan where there is none. nan also comes of traced
    values out of range.

  Raises:
    ValueError: eigenvalues that are not one-dimensional or empty; concrete ones
      that are negative, not finite or all 0; numbers out of range.

  Examples:
    >>> from htga_optax import hsgd
    >>> for spectrum in ([1.0, 0.7], [1.0]):
    ...   lower, upper = hsgd.tail_index_bounds(spectrum, 0.6, 1, 0.1)
    ...   print(f"{lower:.2f} to {upper:.2f}")
    3.99 to 4.67
    4.67 to 4.67

  References:
    Jiao and Keller-Ressel (2024), Emergence of heavy tails in homogenized
    stochastic gradient descent, arXiv:2402.01382, read in a summary. The bounds
    are derived here, see the module; that :math:`\eta^* = 1 + 2B/(\gamma M)`
    is not the best upper one is, too.
  """
  t, rate = _parameters(eigenvalues, learning_rate, batch_size, weight_decay)
  total, most, least = _summary(t)
  excess = 2 / rate - total
  light = excess >= 0  # the second moment is finite
  lower = 2 + excess / jnp.where(light, most, least)
  upper = 2 + excess / jnp.where(light, least, most)
  upper = jnp.maximum(jnp.minimum(upper, 1 + 2 / (rate * most)), lower)
  bounds = jnp.maximum(lower, 0.0), upper
  return Bounds(*(jnp.where(upper > 0, x, jnp.nan) for x in bounds))


def critical_learning_rate(
  eigenvalues: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
  order: ArrayLike = 2.0,
) -> Bounds:
  r"""Below and beyond which learning rate hSGD has a moment of some order.

  .. math:: \gamma_p = \frac{2B}{T + (p - 2) R}, \quad R \in [m, M]

  The bounds of :func:`tail_index_bounds`, solved for the learning rate: the
  stationary moment E ||X||^p is finite for every rate below the lower one and
  infinite for every rate above the upper one. At order 2 both are
  :math:`\gamma_2 = 2B/T`, exact. Order 0 asks for a stationary law at all.

  Args:
    eigenvalues: as for :func:`tail_index_bounds`.
    batch_size: B, positive; the rates are proportional to it.
    weight_decay: :math:`\delta`, at least 0.
    order: p, at least 0.

  Returns:
    The rates, as :class:`Bounds`, of the common shape of the last three
    arguments; inf where every rate will do (in one dimension up to order 1).

  Raises:
    ValueError: as :func:`tail_index_bounds`.

  Examples:
    >>> from htga_optax import hsgd
    >>> for order in (0, 2, 4):
    ...   rates = hsgd.critical_learning_rate([1.0, 0.7], 1, 0.1, order)
    ...   print(f"{order}: {rates.lower:.2f} to {rates.upper:.2f}")
    0: 6.74 to inf
    2: 1.31 to 1.31
    4: 0.60 to 0.73
  """
  checks.check_number("order", order, lambda v: v >= 0, "be at least 0")
  t, rate = _parameters(eigenvalues, 1.0, batch_size, weight_decay)
  total, most, least = _summary(t)
  order = jnp.asarray(order, jnp.float32)

  def critical(total, of):
    beyond = total + (order - 2) * of
    solved = 2 / (rate * jnp.where(beyond > 0, beyond, 1.0))
    return jnp.where((beyond <= 0) & (rate > 0), jnp.inf, solved)

  light = order >= 2
  lower = critical(total, jnp.where(light, most, least))
  upper = critical(total, jnp.where(light, least, most))
  upper = jnp.maximum(jnp.minimum(upper, critical(most, most)), lower)
  return Bounds(*(jnp.where(order >= 0, x, jnp.nan) for x in (lower, upper)))


class Regression(NamedTuple):
  """A least-squares problem in the eigenbasis of its Hessian.

  Attributes:
    eigenvalues: of the Hessian, [d].
    solution: the minimum of L, [d]; 0 where the eigenvalue is 0.
    least_loss: L there, [].
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
    The problem, as :class:`Regression` with descending eigenvalues (those below
    1e-10 of the largest are 0), and the basis, float64 [d, d]: points x
    [..., d] of the features' space have the coordinates `x @ basis`.

  Raises:
    ValueError: shapes that do not fit, or values that are not finite.

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
  r"""The minimum of f, the mean of hSGD and of SGD, in the eigenbasis.

  .. math:: r_i = \lambda_i s_i/(\lambda_i + \delta)

  Args:
    problem: with the solution s without decay.
    weight_decay: :math:`\delta`, [].

  Returns:
    The point, float32 [d].

  Raises:
    ValueError: a problem or a weight decay that cannot be.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0, 0.5], jnp.ones(2), 0.1)
    >>> print(hsgd.ridge_solution(problem, 1.0))
    [0.5        0.33333334]
  """
  return _share(problem.eigenvalues, weight_decay) * problem.solution


class Moments(NamedTuple):
  """Of the stationary law of hSGD.

  Attributes:
    loss: E L(X), float32 [].
    variance: of each coordinate in the eigenbasis, float32 [d].
  """

  loss: jax.Array
  variance: jax.Array


def stationary_moments(
  problem: Regression,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
) -> Moments:
  r"""Loss and variances of hSGD in its stationary law, exact.

  .. math::
    E L = \frac{L(r)}{1 - \gamma T/(2B)}, \qquad
    E (x_i - r_i)^2 = \frac{\gamma}{B} \, \frac{\lambda_i}{\lambda_i + \delta}
      \, E L

  with the ridge solution r, which is the mean, and T of
  :func:`tail_index_bounds`. Derived here, by the generator. Coordinates are
  uncorrelated, but not independent: they share the loss.

  Args:
    problem: in its eigenbasis.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].

  Returns:
    The moments, as :class:`Moments`; inf from :math:`\gamma_2 = 2B/T` on, where
    they do not exist (the tail index is at most 2), with 0 for the variance of
    directions without noise.

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
  r"""The law of each coordinate of hSGD, if the others were at their mean loss.

  .. math::
    \nu_i = 1 + \frac1{a_i}, \quad a_i = \frac{\gamma t_i}{2B}, \quad
    \mu_i = s_i, \quad \sigma_i^2 = \frac{2 a_i L_i}{\lambda_i (1 + a_i)}, \quad
    \kappa_i = \frac{s_i - r_i}{\sigma_i \sqrt{a_i (1 + a_i)}}

  with the solutions s without decay and r with it, and :math:`L_i` the least
  stationary mean of the loss along coordinate i: :math:`L(s) + \tfrac12
  \sum_{j \ne i} \lambda_j ((r_j - s_j)^2 + \mathrm{Var}\, x_j)`. Without decay
  there is no skew, and the law is Student's t.

  In one dimension it is the stationary law, exactly (a Pearson diffusion,
  textbook). In more it is a proxy (derived here): mean and variance are exact,
  the tail index is that of the coordinate alone. The tail of hSGD, in every
  coordinate, is heavier or the same, between :func:`tail_index_bounds`.

  Args:
    problem: in its eigenbasis.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].

  Returns:
    The laws, as :class:`Proxy`. A direction without noise has a tail index of
    inf and a scale of 0. From :math:`\gamma_2` on, where the others have no
    mean loss, the scale is inf and the skew 0.

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
  others = ~jnp.eye(t.size, dtype=bool) & (t > 0)
  loss = least_loss + jnp.sum(
    jnp.where(others, jnp.asarray(eigenvalues) * square, 0.0) / 2, axis=-1
  )
  a = rate * t / 2
  scale = jnp.where(share == 0, 0.0, jnp.sqrt(rate * share * loss / (1 + a)))
  skew = jnp.where(offset == 0, 0.0, offset / (scale * jnp.sqrt(a * (1 + a))))
  return Proxy(1 + 1 / a, jnp.asarray(solution, jnp.float32), scale, skew)


def streaming_tail_index(
  dimension: int,
  learning_rate: float,
  batch_size: int = 1,
  weight_decay: float = 0.0,
  eigenvalue: float = 1.0,
) -> float:
  r"""The tail index of SGD itself, if every row is new and N(0, lambda I).

  The positive root p of

  .. math::
    E \Bigl[\bigl((1 - \gamma\delta) - g s\bigr)^2 + g^2 s q\Bigr]^{p/2} = 1,
    \quad g = \frac{\gamma\lambda}{B}, \quad s \sim \chi^2_B, \quad
    q \sim \chi^2_{d-1}

  (Kesten; textbook): a step multiplies the distance from the solution by
  :math:`\|(1 - \gamma\delta) e - \gamma A'A e/B\|`, whose law is the same for
  every direction e. By the trapezoidal rule in the logarithms of s and q, on
  the host; within 1e-4 (tests).

  This is what :func:`tail_index_bounds` stands for, and is off by:

  ====  ====  ======  =====  =====
  d     B     gamma   hSGD   SGD
  ====  ====  ======  =====  =====
  1     1     0.1     21.0   17.3
  5     10    0.3     63.7   43.8
  5     10    1.0     17.0   5.2
  20    2     0.19    5.2    1.4
  1000  10    0.0197  17.2   177.5
  ====  ====  ======  =====  =====

  (delta = 0.1 in the fourth row, else 0.) It needs Gaussian rows and one
  eigenvalue; SGD that draws its batches from a finite data set has another
  index, or none.

  Args:
    dimension: d, at least 1.
    learning_rate: :math:`\gamma`, positive.
    batch_size: B, at least 1.
    weight_decay: :math:`\delta`, at least 0.
    eigenvalue: :math:`\lambda`, the variance of the entries of a row, positive.

  Returns:
    The tail index, a Python float; nan where SGD has no stationary law, inf
    beyond 256.

  Raises:
    TypeError: dimension or batch_size is not an integer.
    ValueError: a number out of range.

  Examples:
    >>> from htga_optax import hsgd
    >>> print(f"{hsgd.streaming_tail_index(20, 0.18, 2, 0.1):.2f}")
    4.09
    >>> print(f"{hsgd.tail_index_bounds([1.0] * 20, 0.18, 2, 0.1).upper:.2f}")
    6.44

  References:
    Kesten (1973), Random difference equations and renewal theory for products
    of random matrices, Acta Mathematica 131. Gurbuzbalaban, Simsekli and Zhu
    (2021), The heavy-tail phenomenon in SGD, ICML, have it for SGD (from
    memory).
  """
  dimension = checks.check_size("dimension", dimension)
  batch_size = checks.check_size("batch_size", batch_size)
  _positive("learning_rate", learning_rate)
  _positive("eigenvalue", eigenvalue)
  _at_least_zero("weight_decay", weight_decay)
  s, log_weights = _chi_square(batch_size, 10**5 if dimension == 1 else 1000)
  g = learning_rate * eigenvalue / batch_size
  square = (1 - learning_rate * weight_decay - g * s) ** 2
  if dimension > 1:
    q, others = _chi_square(dimension - 1, 1000)
    square = square[:, None] + g**2 * s[:, None] * q
    log_weights = log_weights[:, None] + others
  half_log = np.log(np.maximum(square, 1e-300)) / 2
  if np.sum(np.exp(log_weights) * half_log) >= 0:
    return math.nan

  def grows(p):
    exponent = p * half_log + log_weights
    most = np.max(exponent)
    return most + np.log(np.sum(np.exp(exponent - most))) > 0

  upper = 1.0
  while not grows(upper):
    upper *= 2
    if upper > _MOST_INDEX:
      return math.inf
  lower = upper / 2 if upper > 1 else 0.0
  while upper - lower > 1e-6 * upper:
    middle = (lower + upper) / 2
    lower, upper = (lower, middle) if grows(middle) else (middle, upper)
  return upper


def simulate(
  key: ArrayLike,
  problem: Regression,
  learning_rate: ArrayLike,
  batch_size: ArrayLike = 1,
  weight_decay: ArrayLike = 0.0,
  *,
  chains: int,
  samples: int = 1,
  thin: int = 1,
  burn_in: int = 0,
  dt: ArrayLike = 0.1,
  start: ArrayLike | None = None,
) -> jax.Array:
  r"""Chains of hSGD, by Euler and Maruyama's scheme, in the eigenbasis.

  .. math::
    X \leftarrow X - \gamma\,\Delta\,[\Lambda(X - s) + \delta X]
      + \gamma \sqrt{2 \Delta L(X) \Lambda / B}\; N(0, I)

  A step of length :math:`\Delta` = dt has a tail of its own: in one dimension
  its index is the root p of :math:`E|1 - \gamma(\lambda + \delta)\Delta +
  \gamma\lambda\sqrt{\Delta/B}\,N|^p = 1`. Where that of hSGD is 3, at
  :math:`\gamma(\lambda + \delta)` = 1.21, it is 3.01 with dt = 0.08 and 1.44
  with dt = 1.

  Args:
    key: one key, typed or as uint32 key data.
    problem: what is minimised.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].
    chains: independent chains (static).
    samples: points that are kept of each (static); all that memory depends on.
    thin: steps from one kept point to the next (static).
    burn_in: steps before them (static).
    dt: :math:`\Delta`, the time of a step, positive; 1 is one step of SGD.
    start: [chains, d]; None for the ridge solution. Pass the last points on to
      go on, with another key, and show progress between calls.

  Returns:
    The points, float32 [samples, chains, d]. A chain that overflows is not
    finite from there on, which comes of rates without a stationary law and of
    steps that are too long.

  Raises:
    TypeError: a size is not an integer.
    ValueError: sizes or numbers out of range.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0], jnp.zeros(1), 0.5)
    >>> x = hsgd.simulate(jax.random.key(0), problem, 0.5, chains=4000,
    ...     burn_in=300, dt=0.05)
    >>> variance = hsgd.stationary_moments(problem, 0.5).variance[0]
    >>> print(f"{jnp.var(x):.2f} {variance:.2f}")
    0.33 0.33
  """
  problem = _problem(problem)
  rates = _rates(learning_rate, batch_size, weight_decay)
  _positive("dt", dt)
  sizes = _sizes(samples, thin, burn_in)
  start = _start(start, chains, ridge_solution(problem, weight_decay))
  return _simulate(key, problem, rates, batch_size, dt, start, sizes)


def streaming_sgd(
  key: ArrayLike,
  problem: Regression,
  learning_rate: ArrayLike,
  batch_size: int = 1,
  weight_decay: ArrayLike = 0.0,
  *,
  chains: int,
  samples: int = 1,
  thin: int = 1,
  burn_in: int = 0,
  start: ArrayLike | None = None,
) -> jax.Array:
  r"""Chains of SGD on rows that are new in every step, in the eigenbasis.

  .. math::
    x \leftarrow x - \gamma \Bigl[\frac1B \sum_{k=1}^B a_k
      (\langle a_k, x\rangle - b_k) + \delta x\Bigr], \quad
    a_k \sim N(0, \Lambda), \quad b_k \sim N(\langle a_k, s\rangle, 2 L(s))

  whose loss and Hessian are those of the problem. Its tail index, where all
  eigenvalues are one, is :func:`streaming_tail_index`.

  Args:
    key: as for :func:`simulate`.
    problem: what is minimised.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B (static).
    weight_decay: :math:`\delta`, at least 0, [].
    chains: as for :func:`simulate`, as all that follow.
    samples: points that are kept.
    thin: steps from one to the next.
    burn_in: steps before.
    start: where chains begin.

  Returns:
    The points, float32 [samples, chains, d], as of :func:`simulate`.

  Raises:
    TypeError: a size is not an integer.
    ValueError: sizes or numbers out of range.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> problem = hsgd.Regression([1.0, 0.5], jnp.ones(2), 0.5)
    >>> x = hsgd.streaming_sgd(jax.random.key(0), problem, 0.1, chains=2000,
    ...     burn_in=200)
    >>> print(jnp.mean(x, axis=(0, 1)).round(1))
    [1. 1.]
  """
  problem = _problem(problem)
  batch_size = checks.check_size("batch_size", batch_size)
  rates = _rates(learning_rate, batch_size, weight_decay)
  sizes = _sizes(samples, thin, burn_in)
  start = _start(start, chains, ridge_solution(problem, weight_decay))
  return _streaming(key, problem, rates, batch_size, start, sizes)


def minibatch_sgd(
  key: ArrayLike,
  features: ArrayLike,
  targets: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: int = 1,
  weight_decay: ArrayLike = 0.0,
  *,
  chains: int,
  samples: int = 1,
  thin: int = 1,
  burn_in: int = 0,
  start: ArrayLike | None = None,
) -> jax.Array:
  r"""Chains of SGD on a data set, batches drawn with replacement.

  The recursion of :func:`streaming_sgd` with the rows of A and b, in the basis
  of the features. Drawn without replacement, a batch's noise would have the
  variance times (n - B)/(n - 1).

  Args:
    key: as for :func:`simulate`.
    features: A, [n, d].
    targets: b, [n].
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B (static).
    weight_decay: :math:`\delta`, at least 0, [].
    chains: as for :func:`simulate`, as all that follow.
    samples: points that are kept.
    thin: steps from one to the next.
    burn_in: steps before.
    start: [chains, d]; None for 0.

  Returns:
    The points, float32 [samples, chains, d], as of :func:`simulate`.

  Raises:
    TypeError: a size is not an integer.
    ValueError: sizes, shapes, data or numbers out of range.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from htga_optax import hsgd
    >>> x = hsgd.minibatch_sgd(jax.random.key(0), 2 * jnp.eye(2),
    ...     jnp.array([2.0, 0.0]), 0.1, chains=10, burn_in=200)
    >>> print(x[0, 0].round(3))
    [1. 0.]
  """
  data = _data(features, targets)
  data = tuple(jnp.asarray(x, jnp.float32) for x in data)
  batch_size = checks.check_size("batch_size", batch_size)
  rates = _rates(learning_rate, batch_size, weight_decay)
  sizes = _sizes(samples, thin, burn_in)
  start = _start(start, chains, jnp.zeros(data[0].shape[1]))
  return _minibatch(key, *data, rates, batch_size, start, sizes)


_STATIC = ("sizes",)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _simulate(key, problem, rates, batch_size, dt, start, sizes):
  eigenvalues, solution, least_loss = problem
  rate, decay = rates
  # stable.sample at alpha = 2 is N(0, 2): the 2 of the noise is in it.
  size = rate * jnp.sqrt(dt * eigenvalues / batch_size)

  def step(x, noise):
    y = x - solution
    loss = least_loss + _excess(eigenvalues, y)
    drift = rate * dt * (eigenvalues * y + decay * x)
    return x - drift + jnp.sqrt(loss) * size * noise

  def draw(key, steps):
    return stable.sample(key, 2.0, shape=(steps, *start.shape))

  return _run(key, draw, step, start, start.size, sizes)


@functools.partial(jax.jit, static_argnames=(*_STATIC, "batch_size"))
def _streaming(key, problem, rates, batch_size, start, sizes):
  eigenvalues, solution, least_loss = problem
  d, chains = start.shape
  rate, decay = rates
  row_size = jnp.sqrt(eigenvalues / 2)
  target_size = jnp.sqrt(least_loss)

  def step(x, noise):
    rows = row_size * noise[:, :d]
    errors = target_size * noise[:, d]
    # Products, not sums: XLA of jax 0.10 sums wrongly under two nested vmaps.
    residuals = rows @ (x - solution) - errors
    gradient = residuals @ rows / batch_size
    return x - rate * (gradient + decay * x)

  def draw(key, steps):
    return stable.sample(key, 2.0, shape=(steps, batch_size, d + 1, chains))

  return _run(key, draw, step, start, batch_size * (d + 1) * chains, sizes)


@functools.partial(jax.jit, static_argnames=(*_STATIC, "batch_size"))
def _minibatch(key, features, targets, rates, batch_size, start, sizes):
  rate, decay = rates
  n, chains = len(features), start.shape[1]

  def step(x, batch):
    rows = features[batch]
    residuals = rows @ x - targets[batch]
    gradient = residuals @ rows / batch_size
    return x - rate * (gradient + decay * x)

  def draw(key, steps):
    return jax.random.randint(key, (steps, batch_size, chains), 0, n)

  return _run(key, draw, step, start, batch_size * chains, sizes)


def _run(
  key: jax.Array,
  draw: Callable[[jax.Array, int], jax.Array],
  step: Callable[[jax.Array, jax.Array], jax.Array],
  start: jax.Array,
  width: int,
  sizes: tuple[int, int, int],
) -> jax.Array:
  """Scans all chains [d, chains], with the noise of many steps drawn at once.

  Chains are the last axis, along which the processor's vectors are filled.
  `step` is of one chain. Each step writes to the place of the point that is
  next to be kept, where the last one stays; what comes before and after is
  written to a place of its own.
  """
  samples, thin, burn_in = sizes
  steps = burn_in + samples * thin
  blocks = -(-steps // max(1, min(steps, _BLOCK // width)))
  block = -(-steps // blocks)
  step = jax.vmap(step, in_axes=-1, out_axes=-1)

  def one(carry, noise):
    x, t, kept = carry
    x = step(x, noise)
    place = jnp.where(t < 0, samples, jnp.minimum(t // thin, samples))
    return (x, t + 1, lax.dynamic_update_index_in_dim(kept, x, place, 0)), None

  def many(carry, i):
    return lax.scan(one, carry, draw(jax.random.fold_in(key, i), block))

  kept = jnp.zeros((samples + 1, *start.shape), start.dtype)
  carry = (start, jnp.int32(-burn_in), kept)
  (_, _, kept), _ = lax.scan(many, carry, jnp.arange(blocks))
  return jnp.swapaxes(kept[:-1], 1, 2)


def _parameters(
  eigenvalues: ArrayLike,
  learning_rate: ArrayLike,
  batch_size: ArrayLike,
  weight_decay: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
  """The t_i [..., d] and gamma/B [...], nan where something is out of range."""
  _positive("learning_rate", learning_rate)
  _positive("batch_size", batch_size)
  share = _share(eigenvalues, weight_decay)
  values = jnp.asarray(eigenvalues, jnp.float32)
  learning_rate = jnp.asarray(learning_rate, jnp.float32)
  batch_size = jnp.asarray(batch_size, jnp.float32)
  valid = (
    (learning_rate > 0)
    & (batch_size > 0)
    & (jnp.asarray(weight_decay) >= 0)
    & _are_eigenvalues(values)
  )
  return values * share, jnp.where(valid, learning_rate / batch_size, jnp.nan)


def _share(eigenvalues: ArrayLike, weight_decay: ArrayLike) -> jax.Array:
  """lambda/(lambda + delta) [..., d], 0 where lambda is."""
  _at_least_zero("weight_decay", weight_decay)
  shape = np.shape(eigenvalues)
  if len(shape) != 1 or not shape[0]:
    raise ValueError(
      f"eigenvalues must be a vector of one or more, got shape {shape}."
    )
  if not isinstance(eigenvalues, Tracer) and not _are_eigenvalues(
    np.asarray(eigenvalues, np.float32)
  ):
    raise ValueError(
      "eigenvalues must be finite, at least 0 and not all 0, got"
      f" {np.asarray(eigenvalues).tolist()}."
    )
  values = jnp.asarray(eigenvalues, jnp.float32)
  total = values + jnp.asarray(weight_decay, jnp.float32)[..., None]
  return jnp.where(values > 0, values / jnp.where(total > 0, total, 1.0), 0.0)


def _are_eigenvalues(x: Any) -> Any:
  return ((x >= 0) & (x < math.inf)).all() & (x > 0).any()


def _summary(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """T, M and m."""
  least = jnp.min(jnp.where(t > 0, t, jnp.inf), axis=-1)
  return jnp.sum(t, axis=-1), jnp.max(t, axis=-1), least


def _excess(eigenvalues: jax.Array, y: jax.Array) -> jax.Array:
  """L(s + y) - L(s)."""
  return jnp.asarray(eigenvalues) @ y**2 / 2


def _positive(name: str, value: object) -> None:
  checks.check_number(
    name, value, lambda v: 0 < v < math.inf, "be positive and finite"
  )


def _at_least_zero(name: str, value: object) -> None:
  checks.check_number(
    name, value, lambda v: 0 <= v < math.inf, "be at least 0 and finite"
  )


def _chi_square(degrees: int, points: int) -> tuple[np.ndarray, np.ndarray]:
  """Values and log weights of an expectation, of powers up to _MOST_INDEX."""
  spread = 12 * math.sqrt(2 / degrees)
  low = math.log(degrees) - spread - 60 / degrees
  high = math.log(degrees * (1 + spread) + 4 * _MOST_INDEX + 80)
  u = np.linspace(low, high, points)
  log_density = degrees / 2 * u - np.exp(u) / 2
  weights = np.exp(log_density - np.max(log_density))
  return np.exp(u), log_density - np.max(log_density) - np.log(weights.sum())


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
      "features and targets must be finite, got some that are not."
    )
  return features, targets


def _problem(problem: Regression) -> Regression:
  """In float32; its eigenvalues are looked at by _share."""
  problem = Regression(*(jnp.asarray(x, jnp.float32) for x in problem))
  if problem.solution.shape != problem.eigenvalues.shape:
    raise ValueError(
      "a regression must have as many eigenvalues as coordinates, got shapes"
      f" {problem.eigenvalues.shape} and {problem.solution.shape}."
    )
  return problem


def _rates(learning_rate, batch_size, weight_decay):
  """Checked learning rate and weight decay."""
  _positive("learning_rate", learning_rate)
  _positive("batch_size", batch_size)
  _at_least_zero("weight_decay", weight_decay)
  return jnp.float32(learning_rate), jnp.float32(weight_decay)


def _sizes(samples: int, thin: int, burn_in: int) -> tuple[int, int, int]:
  samples = checks.check_size("samples", samples)
  thin = checks.check_size("thin", thin)
  checks.check_number("burn_in", burn_in, lambda v: v >= 0, "be at least 0")
  burn_in = burn_in and checks.check_size("burn_in", burn_in)
  steps = burn_in + samples * thin
  checks.check_number(
    "burn_in + samples * thin", steps, lambda v: v < 2**31, "be below 2^31"
  )
  return samples, thin, burn_in


def _start(
  start: ArrayLike | None, chains: int, default: jax.Array
) -> jax.Array:
  """[d, chains]."""
  shape = (checks.check_size("chains", chains), default.size)
  start = default if start is None else jnp.asarray(start, jnp.float32)
  if start.shape not in (shape, default.shape):
    raise ValueError(f"start must have shape {shape}, got {start.shape}.")
  return jnp.broadcast_to(start, shape).T
