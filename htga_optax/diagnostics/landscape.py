r"""Computes slices of a loss around a point, and the spectrum of its Hessian.

A slice is the loss at x + a d, or at x + a d + b e, for random directions d and
e. Each filter of a direction is scaled to the length of the same filter of x
(Li et al. 2018), because a network with large filters hardly reacts to a small
step::

    d_f <- d_f |x_f| / |d_f|.

The spectral density of a symmetric n x n matrix H is::

    phi(s) = 1/n sum_i delta(s - lambda_i).

It is estimated from a few Lanczos runs (Lin, Saad and Yang 2016; Ghorbani et
al. 2019). A run that starts at a random unit vector v gives a tridiagonal
matrix T with eigenvalues theta_j and eigenvectors y_j. The nodes theta_j with
the weights y_j[0]^2 are a Gauss quadrature of v' f(H) v. The mean of v' f(H) v
over v is the integral of f phi.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax import _checks, curvature


def filter_normalized(params: Any, *, key: ArrayLike) -> Any:
  """Draws a random direction whose filters are as long as those of `params`.

  A filter is one index of the last axis, which is the axis of a layer's outputs
  in Flax and Haiku. The direction is 0 in leaves of fewer than two axes
  (biases, scales of normalisation), as in the paper.

  Args:
    params: a tree of real floating-point leaves.
    key: a key of `jax.random`.

  Returns:
    The direction, a tree like `params`; it is 0 for a filter of zeros.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from htga_optax.diagnostics import landscape
    >>> params = {"w": jnp.tile(jnp.arange(3.0), [4, 1]), "b": jnp.ones(3)}
    >>> d = landscape.filter_normalized(params, key=jax.random.key(0))
    >>> print(jnp.linalg.norm(d["w"], axis=0).round(4), d["b"])
    [0. 2. 4.] [0. 0. 0.]

  References:
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the loss landscape
    of neural nets, NeurIPS (arXiv:1712.09913).
  """
  direction = curvature.sample_like(jax.random.normal, params, key=key)

  def scaled(d, x):
    if x.ndim < 2:
      return jnp.zeros_like(x)
    axes = tuple(range(x.ndim - 1))
    d, wide = d.astype(jnp.float32), x.astype(jnp.float32)
    lengths = [jnp.sqrt(jnp.sum(v * v, axes, keepdims=True)) for v in (wide, d)]
    ratio = lengths[0] / jnp.where(lengths[1] > 0, lengths[1], 1.0)
    return (d * ratio).astype(x.dtype)

  return jax.tree.map(scaled, direction, params)


def loss_slice(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  directions: Sequence[Any],
  steps: ArrayLike,
) -> jax.Array:
  """Computes the loss on a line or a square around the parameters.

  Args:
    loss_fn: (params) -> loss, []; it runs under jit, for one point at a time.
    params: the point in the middle.
    directions: one or two trees like `params`, as :func:`filter_normalized`
      returns them.
    steps: how far to go along each direction, [m], in lengths of the direction.

  Returns:
    The losses, float32 [m]; or float32 [m, m], with the second direction along
    the second axis.

  Raises:
    ValueError: the number of directions is not 1 or 2, or `steps` is not
      one-dimensional.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax.diagnostics import landscape
    >>> loss_fn = lambda x: jnp.sum(x**2)
    >>> line = landscape.loss_slice(
    ...   loss_fn, jnp.zeros(2), [jnp.ones(2)], jnp.arange(-2.0, 3)
    ... )
    >>> print(line)
    [8. 2. 0. 2. 8.]
  """
  steps = jnp.asarray(steps, jnp.float32)
  if len(directions) not in (1, 2):
    raise ValueError(f"directions must be one or two, got {len(directions)}.")
  if steps.ndim != 1:
    raise ValueError(f"steps must be one-dimensional, got {steps.shape}.")
  grid = jnp.meshgrid(*[steps] * len(directions), indexing="ij")
  places = jnp.stack([g.ravel() for g in grid], axis=1)

  def at(place):
    moved = params
    for step, direction in zip(place, directions):
      moved = jax.tree.map(
        lambda x, d, step=step: x + (step * d).astype(x.dtype),
        moved,
        direction,
      )
    return jnp.asarray(loss_fn(moved), jnp.float32)

  losses = jax.jit(lambda places: jax.lax.map(at, places))(places)
  return losses.reshape(grid[0].shape)


class Density(NamedTuple):
  """A spectral density, and the quadratures that it was computed from.

  Attributes:
    points: the eigenvalues at which the density is given, float32 [points].
    density: the density at these points, float32 [points]; its integral is 1.
    nodes: the nodes of the quadratures, float32 [probes, num_matvecs].
    weights: the weights of the nodes, float32 [probes, num_matvecs]; each row
      sums to 1.
  """

  points: jax.Array
  density: jax.Array
  nodes: jax.Array
  weights: jax.Array


def spectral_density(
  matvec: Callable[[Any], Any],
  like: Any,
  num_matvecs: int = 64,
  probes: int = 8,
  points: int = 1000,
  width: ArrayLike | None = None,
  *,
  key: ArrayLike,
) -> Density:
  """Estimates the density of a Hessian's eigenvalues by Lanczos quadrature.

  Args:
    matvec: the product of a symmetric matrix with a vector, as
      :func:`htga_optax.curvature.hessian` returns it.
    like: a tree with the shapes of these vectors.
    num_matvecs: how many products for each random vector (static). The nodes
      resolve the ends of the spectrum first.
    probes: how many random vectors (static). The weight of a share p of the
      eigenvalues has a relative error of about sqrt(2/(n p probes)).
    points: the number of points at which the density is computed (static).
    width: the standard deviation of the Gaussian around each node, as a share
      of the range of the spectrum; 1/`num_matvecs` if None. In the middle of
      the spectrum the distance of the nodes is pi/2 times this default, so a
      smaller width shows ripples.
    key: a key of `jax.random`, for the random vectors.

  Returns:
    The :class:`Density`. It does not show an eigenvalue of weight below 1/n,
    unless that is at an end of the spectrum.

  Raises:
    TypeError, ValueError: a size is not a static integer of at least 1.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from htga_optax.diagnostics import landscape
    >>> eigenvalues = jnp.float32(np.arange(400) >= 300)  # 300 zeros, 100 ones
    >>> found = landscape.spectral_density(
    ...   lambda v: eigenvalues * v,
    ...   jnp.zeros(400),
    ...   num_matvecs=4,
    ...   width=0.01,
    ...   key=jax.random.key(0),
    ... )
    >>> spacing = found.points[1] - found.points[0]
    >>> share = jnp.sum(found.density[found.points > 0.5]) * spacing
    >>> print(f"{share:.2f}")
    0.25

  References:
    Lin, Saad and Yang (2016), Approximating spectral densities of large
    matrices, SIAM Review 58(1). Ghorbani, Krishnan and Xiao (2019), An
    investigation into neural net optimization via Hessian eigenvalue density,
    ICML.
  """
  for name, size in (("probes", probes), ("points", points)):
    _checks.check_size(name, size)

  def quadrature(key):
    vector = curvature.sample_like(jax.random.normal, like, key=key)
    t = curvature.lanczos(matvec, vector, num_matvecs)
    off = t.off_diagonal[:-1]
    matrix = jnp.diag(t.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
    nodes, vectors = jnp.linalg.eigh(matrix)
    return nodes, vectors[0] ** 2

  nodes, weights = jax.lax.map(quadrature, jax.random.split(key, probes))
  # A Lanczos run that ended early has nodes of weight 0 far below the spectrum.
  used = weights > 1e-10
  low = jnp.min(jnp.where(used, nodes, jnp.inf))
  high = jnp.max(jnp.where(used, nodes, -jnp.inf))
  size = jnp.maximum(high - low, 1e-6 * jnp.maximum(jnp.abs(high), 1e-30))
  share = 1 / num_matvecs if width is None else width
  sigma = jnp.asarray(share, jnp.float32) * size
  at = jnp.linspace(low - 4 * sigma, high + 4 * sigma, points)
  z = (at[:, None] - nodes.ravel()[None]) / sigma
  bumps = jnp.exp(-(z**2) / 2) / (sigma * jnp.sqrt(2 * jnp.pi))
  density = bumps @ jnp.where(used, weights, 0.0).ravel() / probes
  return Density(at, density, nodes, weights)
