"""Defines what a family of laws consists of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from htga_optax.diagnostics import _optional


class Law(NamedTuple):
  """A family of laws, given by functions for location 0 and scale 1.

  Attributes:
    shapes: the names of the shape parameters.
    support: "real", "positive", or "tail" for values above a threshold.
    fit: ``(ascending values) -> (shape, location, scale)``; a "tail" takes the
      ratios of its values to the threshold.
    logpdf: ``(x, *shape) ->`` logarithm of the density.
    cdf: ``(x, *shape) ->`` probability of at most x.
    sf: ``(x, *shape) ->`` probability of more than x.
    quantile: ``(p, *shape) ->`` inverse of `cdf`.
    sample: ``(rng, size, *shape) ->`` independent values.
    tail_index: ``(*shape) ->`` index of the heavier tail; inf if that is not a
      power law.
  """

  shapes: tuple[str, ...]
  support: str
  fit: Callable[[np.ndarray], tuple[tuple[float, ...], float, float]]
  logpdf: Callable[..., np.ndarray]
  cdf: Callable[..., np.ndarray]
  sf: Callable[..., np.ndarray]
  quantile: Callable[..., np.ndarray]
  sample: Callable[..., np.ndarray]
  tail_index: Callable[..., float]


def special() -> Any:
  """The module `scipy.special`, imported when a law needs it."""
  return _optional.load("scipy.special")
