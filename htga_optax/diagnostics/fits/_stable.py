r"""Computes the symmetric stable law, whose density has no closed form.

With t = r e^(i phi) and phi = pi/8, its Fourier integrals converge
exponentially for every alpha::

    f(x) = 1/pi Re int_0^oo exp(i x t - t^alpha) dt,
    P(X > x) = 1/2 - phi/pi - 1/pi Im int_0^oo exp(i x t - t^alpha) dr/r.

They are computed as two matrix products (derived here:
:ref:`derivation-stable-density`; the constant phi/pi comes from the arc about
0). They are tabulated once, over alpha and asinh(x). Beyond x = 1000 the series
in x^-alpha is used instead.
"""

import functools
import math
from typing import Any

import numpy as np

from htga_optax.diagnostics import _optional
from htga_optax.diagnostics.fits import _scoring
from htga_optax.diagnostics.fits._law import Law, special

_LEAST_ALPHA = 0.5  # the table and the search begin here
_PHI = math.pi / 8
_REACH = 1000.0  # the largest x of the table


@functools.cache
def _tables() -> tuple[Any, Any]:
  """Two splines in alpha, one of the density and one of the tail.

  Each returns the values and the slopes of a function over asinh(x), as
  [2, points]. The functions are f(x) (1 + x^2)^((alpha+1)/2) for the density
  and P(X > x) (1 + x^2)^(alpha/2) for the tail.
  """
  interpolate = _optional.load("scipy.interpolate")
  alphas = np.linspace(_LEAST_ALPHA, 2, 76)[:, None]
  points = np.linspace(0, math.asinh(_REACH), 400)
  log_r = np.arange(-75, 9, 0.05)
  t = np.exp(log_r + 1j * _PHI)
  decay = np.exp(-np.exp(alphas * (log_r + 1j * _PHI)))
  x = np.sinh(points)
  wave = np.exp(1j * x * t[:, None])
  density = np.real((decay * t) @ wave) * 0.05 / math.pi
  tail = 0.5 - _PHI / math.pi - np.imag(decay @ wave) * 0.05 / math.pi
  density[-1] = np.exp(-(x**2) / 4) / math.sqrt(4 * math.pi)
  tail[-1] = special().ndtr(-x / math.sqrt(2))
  power = np.sqrt(1 + x**2) ** alphas
  splines = []
  for table in (density * power * np.sqrt(1 + x**2), tail * power):
    slopes = interpolate.CubicSpline(points, table, axis=1)(points, 1)
    both = np.stack([table, slopes * points[1]], axis=1)
    splines.append(interpolate.CubicSpline(alphas[:, 0], both))
  return splines[0], splines[1]


@functools.lru_cache(maxsize=8)
def _row(alpha: float, is_tail: bool) -> np.ndarray:
  return _tables()[is_tail](alpha)


def _reduced(x: np.ndarray, alpha: float, is_tail: bool) -> np.ndarray:
  """The tabulated function: ``P(X > |x|)`` or f(x) times a power of 1 + x^2."""
  x = np.abs(x)
  near = np.minimum(x, _REACH)
  values, slopes = _row(float(alpha), is_tail)
  place = np.arcsinh(near) * ((values.size - 1) / math.asinh(_REACH))
  i = np.minimum(place.astype(int), values.size - 2)
  u, step = place - i, np.diff(values)[i]
  start, end = slopes[i], slopes[i + 1]
  cubic = 3 * step - 2 * start - end + u * (start + end - 2 * step)
  found = values[i] + u * (start + u * cubic)
  far = np.flatnonzero(x > _REACH)
  if far.size:
    k = np.arange(1, 11)
    gammas = special().gamma(k * alpha + (not is_tail)) / special().gamma(k + 1)
    signs = -((-1.0) ** k) * np.sin(k * math.pi * alpha / 2) / math.pi
    # Here 1 + x^2 is x^2, and its power cancels that of the first term.
    terms = gammas * signs * x[far, None] ** (-alpha * (k - 1))
    found[far] = np.sum(terms, axis=1)
  return np.maximum(found, 1e-30)


def _logpdf(x: np.ndarray, alpha: float) -> np.ndarray:
  power = (alpha + 1) * np.log(np.hypot(1, x))
  return np.log(_reduced(x, alpha, False)) - power


def _sf(x: np.ndarray, alpha: float) -> np.ndarray:
  beyond = _reduced(x, alpha, True) * np.hypot(1, x) ** -alpha
  return np.where(x < 0, 1 - beyond, beyond)


def _quantile(p: np.ndarray, alpha: float) -> np.ndarray:
  points = np.sinh(np.linspace(0, 60, 6000))
  tail = np.log(_sf(points, alpha))
  rarity = -np.log(np.minimum(p, 1 - p))
  y = np.interp(rarity, np.maximum.accumulate(-tail), np.arcsinh(points))
  return np.sign(p - 0.5) * np.sinh(y)


def _sample(rng: np.random.Generator, size: int, alpha: float) -> np.ndarray:
  """Draws values by the method of Chambers, Mallows and Stuck."""
  v = rng.uniform(-math.pi / 2, math.pi / 2, size)
  w = rng.exponential(size=size)
  y = np.cos((1 - alpha) * v) / (w * np.cos(v))
  return np.sin(alpha * v) * w * y ** (1 / alpha) / np.cos((1 - alpha) * v)


STABLE = Law(
  shapes=("alpha",),
  support="real",
  fit=functools.partial(
    _scoring.maximum,
    "stable",
    _logpdf,
    _quantile,
    ((0.7,), (1.0,), (1.4,), (1.7,), (1.9,)),
    (_LEAST_ALPHA, 2.0),
  ),
  logpdf=_logpdf,
  cdf=lambda x, alpha: _sf(-x, alpha),
  sf=_sf,
  quantile=_quantile,
  sample=_sample,
  tail_index=lambda alpha: alpha if alpha < 2 else math.inf,
)
