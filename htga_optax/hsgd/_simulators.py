"""Simulates many chains of hSGD and of SGD at once."""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks, stable
from htga_optax.hsgd._arguments import _excess, _positive, _rates
from htga_optax.hsgd._regression import (
  Regression,
  _data,
  _problem,
  ridge_solution,
)

_BLOCK = 2**21  # how many random numbers a simulator draws at once, 8 MB


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
  r"""Simulates chains of hSGD by the Euler-Maruyama scheme, in the eigenbasis.

  .. math::
    X \leftarrow X - \gamma\,\Delta\,[\Lambda(X - s) + \delta X]
      + \gamma \sqrt{2 \Delta L(X) \Lambda / B}\; N(0, I)

  The time step :math:`\Delta` = dt changes the tail index. In one dimension the
  index of the scheme is the root p of :math:`E|1 - \gamma(\lambda +
  \delta)\Delta + \gamma\lambda\sqrt{\Delta/B}\,N|^p = 1`. For example, at
  :math:`\gamma(\lambda + \delta)` = 1.21 the index of hSGD is 3; that of the
  scheme is 3.01 with dt = 0.08 and 1.44 with dt = 1.

  Args:
    key: one key, typed or as uint32 key data.
    problem: the problem to minimise.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B, positive, [].
    weight_decay: :math:`\delta`, at least 0, [].
    chains: the number of independent chains (static).
    samples: how many points to keep of each chain (static). The memory depends
      on this alone.
    thin: how many steps from one kept point to the next (static).
    burn_in: how many steps before the kept points (static).
    dt: :math:`\Delta`, the time of a step, positive; 1 is one step of SGD.
    start: where the chains begin, [chains, d]; None for the ridge solution. To
      continue a simulation (and show progress between calls), pass the last
      points and another key.

  Returns:
    The points, float32 [samples, chains, d]. A chain that overflows is not
    finite from there on. This happens at learning rates without a stationary
    law and with time steps that are too long.

  Raises:
    TypeError: a size is not an integer.
    ValueError: a size or a number is out of range.

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
  r"""Simulates SGD on rows that are new in each step, in the eigenbasis.

  .. math::
    x \leftarrow x - \gamma \Bigl[\frac1B \sum_{k=1}^B a_k
      (\langle a_k, x\rangle - b_k) + \delta x\Bigr], \quad
    a_k \sim N(0, \Lambda), \quad b_k \sim N(\langle a_k, s\rangle, 2 L(s))

  These rows have the loss and the Hessian of the problem. If all eigenvalues
  are equal, :func:`streaming_tail_index` computes the tail index.

  Args:
    key: as in :func:`simulate`.
    problem: the problem to minimise.
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B (static).
    weight_decay: :math:`\delta`, at least 0, [].
    chains: as in :func:`simulate`.
    samples: as in :func:`simulate`.
    thin: as in :func:`simulate`.
    burn_in: as in :func:`simulate`.
    start: as in :func:`simulate`.

  Returns:
    The points, float32 [samples, chains, d], as in :func:`simulate`.

  Raises:
    TypeError: a size is not an integer.
    ValueError: a size or a number is out of range.

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
  batch_size = _checks.check_size("batch_size", batch_size)
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
  r"""Simulates chains of SGD on a data set.

  This is the recursion of :func:`streaming_sgd` on the rows of A and b, in the
  basis of the features. Batches are drawn with replacement. Without replacement
  the variance of their noise would be smaller by the factor (n - B)/(n - 1).

  Args:
    key: as in :func:`simulate`.
    features: A, [n, d].
    targets: b, [n].
    learning_rate: :math:`\gamma`, positive, [].
    batch_size: B (static).
    weight_decay: :math:`\delta`, at least 0, [].
    chains: as in :func:`simulate`.
    samples: as in :func:`simulate`.
    thin: as in :func:`simulate`.
    burn_in: as in :func:`simulate`.
    start: where the chains begin, [chains, d]; None for 0.

  Returns:
    The points, float32 [samples, chains, d], as in :func:`simulate`.

  Raises:
    TypeError: a size is not an integer.
    ValueError: a size or a number is out of range, the shapes do not match, or
      the data are not finite.

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
  batch_size = _checks.check_size("batch_size", batch_size)
  rates = _rates(learning_rate, batch_size, weight_decay)
  sizes = _sizes(samples, thin, burn_in)
  start = _start(start, chains, jnp.zeros(data[0].shape[1]))
  return _minibatch(key, *data, rates, batch_size, start, sizes)


_STATIC = ("sizes",)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _simulate(key, problem, rates, batch_size, dt, start, sizes):
  eigenvalues, solution, least_loss = problem
  rate, decay = rates
  # stable.sample at alpha = 2 is N(0, 2), so it includes the 2 of the noise.
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
    rows = row_size[None] * noise[:, :d]
    errors = target_size * noise[:, d]
    # Products instead of sums: under two nested vmaps, XLA of jax 0.10 computes
    # these sums wrongly.
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
  """Scans all chains [d, chains], and draws the noise of many steps at once.

  Chains are the last axis, which fills the vector registers of the processor.
  `step` takes one chain. Every step writes its point to the place of the next
  kept point, so the last of these points stays there. Points before and after
  the kept ones are written to an additional place, which is dropped.
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


def _sizes(samples: int, thin: int, burn_in: int) -> tuple[int, int, int]:
  samples = _checks.check_size("samples", samples)
  thin = _checks.check_size("thin", thin)
  _checks.check_number("burn_in", burn_in, lambda v: v >= 0, "be at least 0")
  burn_in = burn_in and _checks.check_size("burn_in", burn_in)
  steps = burn_in + samples * thin
  _checks.check_number(
    "burn_in + samples * thin", steps, lambda v: v < 2**31, "be below 2^31"
  )
  return samples, thin, burn_in


def _start(
  start: ArrayLike | None, chains: int, default: jax.Array
) -> jax.Array:
  """The first points, [d, chains]."""
  shape = (_checks.check_size("chains", chains), default.size)
  start = default if start is None else jnp.asarray(start, jnp.float32)
  if start.shape not in (shape, default.shape):
    raise ValueError(f"start must have shape {shape}, got {start.shape}.")
  return jnp.broadcast_to(start, shape).T
