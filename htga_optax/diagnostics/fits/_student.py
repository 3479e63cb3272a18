"""Implements Student's t law, and the skew t law of Jones and Faddy."""

import functools
import math

import numpy as np

from htga_optax.diagnostics.fits import _scoring
from htga_optax.diagnostics.fits._law import Law, special


def _t_logpdf(x: np.ndarray, df: float) -> np.ndarray:
  constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
  constant -= math.log(math.pi * df) / 2
  return constant - (df + 1) * np.log(np.hypot(1, x / math.sqrt(df)))


def _t_quantile(p: np.ndarray, df: float) -> np.ndarray:
  return special().stdtrit(df, p)


def _skew_parts(
  x: np.ndarray, a: float, b: float
) -> tuple[np.ndarray, np.ndarray]:
  """1 - w and 1 + w, w = x/sqrt(a + b + x^2), without cancellation."""
  unit = math.sqrt(a + b)
  root = np.hypot(unit, x)
  small = np.maximum(unit / root * (unit / (root + np.abs(x))), 1e-300)
  return np.where(x > 0, small, 2 - small), np.where(x > 0, 2 - small, small)


def _skew_logpdf(x: np.ndarray, a: float, b: float) -> np.ndarray:
  below, above = _skew_parts(x, a, b)
  constant = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
  constant += (a + b - 1) * math.log(2) + math.log(a + b) / 2
  powers = (a + 0.5) * np.log(above) + (b + 0.5) * np.log(below)
  return powers - constant


def _skew_quantile(p: np.ndarray, a: float, b: float) -> np.ndarray:
  upper = special().betaincinv(b, a, 1 - p)  # (1 - w)/2
  lower = special().betaincinv(a, b, p)
  return math.sqrt(a + b) * (lower - upper) / (2 * np.sqrt(lower * upper))


def _skew_sample(
  rng: np.random.Generator, size: int, a: float, b: float
) -> np.ndarray:
  # Both ends of a beta variable from gamma variables, so that neither end is
  # rounded to 0.
  u, v = rng.gamma(a, size=size), rng.gamma(b, size=size)
  u, v = np.maximum(u, 1e-100), np.maximum(v, 1e-100)
  return math.sqrt(a + b) * (u - v) / (2 * np.sqrt(u * v))


STUDENT_T = Law(
  shapes=("df",),
  support="real",
  fit=functools.partial(
    _scoring.maximum,
    "Student t",
    _t_logpdf,
    _t_quantile,
    ((1.0,), (2.0,), (5.0,), (30.0,)),
    (0.1, 1e3),
  ),
  logpdf=_t_logpdf,
  cdf=lambda x, df: special().stdtr(df, x),
  sf=lambda x, df: special().stdtr(df, -x),
  quantile=_t_quantile,
  sample=lambda rng, n, df: rng.standard_t(df, n),
  tail_index=lambda df: df,
)

SKEW_T = Law(
  shapes=("a", "b"),
  support="real",
  fit=functools.partial(
    _scoring.maximum,
    "skew t",
    _skew_logpdf,
    _skew_quantile,
    ((1.0, 1.0), (3.0, 3.0), (1.0, 2.0), (2.0, 1.0), (15.0, 15.0)),
    (0.05, 500.0),
  ),
  logpdf=_skew_logpdf,
  cdf=lambda x, a, b: special().betainc(a, b, _skew_parts(x, a, b)[1] / 2),
  sf=lambda x, a, b: special().betainc(b, a, _skew_parts(x, a, b)[0] / 2),
  quantile=_skew_quantile,
  sample=_skew_sample,
  tail_index=lambda a, b: 2 * min(a, b),
)
