"""Implements the lognormal law, and laws of the values above a threshold.

A law of a tail is a law of the ratios of the values to the threshold.
"""

import functools
import math

import numpy as np

from htga_optax.diagnostics.fits._law import Law, special

_EDGES = -30.0, 100.0  # the range of the search for y of a lognormal tail


def _fit_lognormal(
  ascending: np.ndarray,
) -> tuple[tuple[float, ...], float, float]:
  logs = np.log(ascending)
  if not np.std(logs):
    raise ValueError(f"lognormal: all values are {ascending[0]:.3g}.")
  return (float(np.std(logs)),), 0.0, math.exp(float(np.mean(logs)))


def _lognormal_logpdf(x: np.ndarray, sigma: float) -> np.ndarray:
  logs = np.log(x)
  constant = math.log(sigma) + math.log(2 * math.pi) / 2
  return -((logs / sigma) ** 2) / 2 - constant - logs


@functools.cache
def _truncated_normals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A table of moments of U = T - y over y, with T normal given T > y.

  Returns:
    E[U^2]/E[U]^2 (ascending), y, and E[U].
  """
  y = np.linspace(*_EDGES, 13001)
  mean = _hazard(y) - y
  return (1 - y * mean) / mean**2, y, mean


def _hazard(y: np.ndarray) -> np.ndarray:
  return math.sqrt(2 / math.pi) / special().erfcx(y / math.sqrt(2))


def _fit_lognormal_tail(
  ratios: np.ndarray,
) -> tuple[tuple[float, ...], float, float]:
  logs = np.log(ratios)
  mean = float(np.mean(logs))
  of, y, means = _truncated_normals()
  found = float(np.interp(np.mean(logs**2) / mean**2, of, y))
  return (found, mean / float(np.interp(found, y, means))), 0.0, 1.0


def _lognormal_tail_sf(x: np.ndarray, y: float, sigma: float) -> np.ndarray:
  t = np.log(np.maximum(x, 1.0)) / sigma
  erfcx = special().erfcx
  beyond = erfcx((t + y) / math.sqrt(2)) / erfcx(y / math.sqrt(2))
  return beyond * np.exp(-t * (t / 2 + y))


def _lognormal_tail_logpdf(x: np.ndarray, y: float, sigma: float) -> np.ndarray:
  logs = np.log(x)
  t = logs / sigma
  constant = math.log(float(_hazard(np.asarray(y))) / sigma)
  return constant - t * (t / 2 + y) - logs


def _lognormal_tail_quantile(
  p: np.ndarray, y: float, sigma: float
) -> np.ndarray:
  log_tail = np.log1p(-p) + special().log_ndtr(-y)
  return np.exp(sigma * (-special().ndtri_exp(log_tail) - y))


LOGNORMAL = Law(
  shapes=("sigma",),
  support="positive",
  fit=_fit_lognormal,
  logpdf=_lognormal_logpdf,
  cdf=lambda x, sigma: special().ndtr(np.log(x) / sigma),
  sf=lambda x, sigma: special().ndtr(-np.log(x) / sigma),
  quantile=lambda p, sigma: np.exp(sigma * special().ndtri(p)),
  sample=lambda rng, n, sigma: np.exp(sigma * rng.standard_normal(n)),
  tail_index=lambda sigma: math.inf,
)

PARETO_TAIL = Law(
  shapes=("alpha",),
  support="tail",
  fit=lambda r: ((1 / float(np.mean(np.log(r))),), 0.0, 1.0),
  logpdf=lambda x, alpha: math.log(alpha) - (alpha + 1) * np.log(x),
  cdf=lambda x, alpha: -np.expm1(-alpha * np.log(np.maximum(x, 1.0))),
  sf=lambda x, alpha: np.maximum(x, 1.0) ** -alpha,
  quantile=lambda p, alpha: (1 - p) ** (-1 / alpha),
  sample=lambda rng, n, alpha: np.exp(rng.exponential(size=n) / alpha),
  tail_index=lambda alpha: alpha,
)

LOGNORMAL_TAIL = Law(
  shapes=("y", "sigma"),
  support="tail",
  fit=_fit_lognormal_tail,
  logpdf=_lognormal_tail_logpdf,
  cdf=lambda x, y, sigma: 1 - _lognormal_tail_sf(x, y, sigma),
  sf=_lognormal_tail_sf,
  quantile=_lognormal_tail_quantile,
  sample=lambda rng, n, y, sigma: _lognormal_tail_quantile(
    rng.random(n), y, sigma
  ),
  tail_index=lambda y, sigma: math.inf,
)

EXPONENTIAL_TAIL = Law(
  shapes=("rate",),
  support="tail",
  fit=lambda r: ((1 / float(np.mean(r - 1)),), 0.0, 1.0),
  logpdf=lambda x, rate: math.log(rate) - rate * (x - 1),
  cdf=lambda x, rate: -np.expm1(-rate * np.maximum(x - 1, 0.0)),
  sf=lambda x, rate: np.exp(-rate * np.maximum(x - 1, 0.0)),
  quantile=lambda p, rate: 1 - np.log1p(-p) / rate,
  sample=lambda rng, n, rate: 1 + rng.exponential(size=n) / rate,
  tail_index=lambda rate: math.inf,
)
