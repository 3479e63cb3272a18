"""Maximises the likelihood of laws with shapes, a location and a scale.

The method is scoring. If the law is right, the mean outer product of the scores
s_i is the curvature of the likelihood. Therefore a step of the search is::

    (mean s_i s_i')^-1 mean s_i.

It is halved until the likelihood grows. The coordinates are the logarithms of
the shapes, the location and the logarithm of the scale. The scores are central
differences. The search begins at the best of a few shapes.
"""

from collections.abc import Callable
import functools
import math

import numpy as np

_WIDTH = 0.01  # of a bin, in asinh(x), with x in half interquartile ranges
_ITERATIONS = 100
_CONVERGED = 1e-5  # in units of twice the log-likelihood of all values

Shape = tuple[float, ...]
Shapes = tuple[Shape, ...]


def _nodes(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The means of narrow bins, and the share of values in each."""
  bins = np.floor(np.arcsinh(ascending) / _WIDTH)
  first = np.flatnonzero(np.diff(bins, prepend=-np.inf))
  counts = np.diff(first, append=ascending.size)
  return np.add.reduceat(ascending, first) / counts, counts / ascending.size


@functools.cache
def _starts(quantile: Callable, shapes: Shapes) -> list[tuple[Shape, float]]:
  """Each shape, with the scale at which the quartiles have distance 2."""
  quartiles = [quantile(np.array([0.25, 0.75]), *shape) for shape in shapes]
  return [(s, 2 / float(q[1] - q[0])) for s, q in zip(shapes, quartiles)]


def maximum(
  name: str,
  logpdf: Callable[..., np.ndarray],
  quantile: Callable[..., np.ndarray],
  shapes: Shapes,
  bounds: tuple[float, float],
  ascending: np.ndarray,
) -> tuple[Shape, float, float]:
  """Finds the shapes, the location and the scale of largest likelihood.

  Args:
    name: the name of the law, for the error message.
    logpdf: ``(x, *shape) ->`` logarithm of the standard density.
    quantile: ``(p, *shape) ->`` quantile of the standard law.
    shapes: the shapes that the search tries first.
    bounds: the smallest and the largest value of every shape parameter.
    ascending: the values in ascending order, [n].

  Returns:
    Shape, location and scale.

  Raises:
    ValueError: half of the values are equal.
  """
  low, middle, high = np.quantile(ascending, [0.25, 0.5, 0.75])
  size = float(high - low) / 2
  if size <= 0:
    raise ValueError(f"{name}: half of the values are equal to {middle:.3g}.")
  x, weights = _nodes((ascending - middle) / size)

  def log_density(at):
    *shape, loc, log_scale = at
    z = (x - loc) * math.exp(-log_scale)
    return logpdf(z, *np.exp(shape)) - log_scale

  limits = np.log(bounds)[:, None] * np.ones(len(shapes[0]))
  lower, upper = np.append(limits, [[-3.0, -5.0], [3.0, 5.0]], axis=1)
  starts = [
    np.array([*np.log(shape), 0.0, math.log(scale)])
    for shape, scale in _starts(quantile, shapes)
  ]
  at = max(starts, key=lambda start: weights @ log_density(start))
  likelihood = weights @ log_density(at)
  steps = 1e-4 * np.eye(at.size)
  for _ in range(_ITERATIONS):
    ahead, behind = np.minimum(at + steps, upper), np.maximum(at - steps, lower)
    scores = [
      (log_density(more) - log_density(less)) / np.max(more - less)
      for more, less in zip(ahead, behind)
    ]
    scores = np.stack(scores)
    slope = scores @ weights
    free = np.where(slope > 0, at < upper, at > lower)
    scores = scores[free]
    information = (scores * weights) @ scores.T + 1e-9 * np.eye(len(scores))
    step = np.zeros_like(at)
    step[free] = np.linalg.solve(information, slope[free])
    if ascending.size * (slope @ step) < _CONVERGED:
      break
    step /= max(1.0, np.max(np.abs(step)))
    for _ in range(10):
      trial = np.clip(at + step, lower, upper)
      found = weights @ log_density(trial)
      if found > likelihood:
        at, likelihood = trial, found
        break
      step /= 2
    else:
      break
  *shape, loc, log_scale = at
  return (
    tuple(float(s) for s in np.exp(shape)),
    float(middle + size * loc),
    float(size * math.exp(log_scale)),
  )
