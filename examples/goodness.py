"""Is a sample of Student's t law, or of a symmetric stable one?

Both families have a location, a scale and a shape. Each is fitted, the distance
of Kolmogorov and Smirnov to the fitted law is taken, and its p-value is the
share of samples of that law whose distance, each to a fit of its own, is as
large. The p-value of the textbook, for a law that was not fitted, would be too
large by far.

Student's law is fitted by maximum likelihood (ECME), the stable one to the
empirical characteristic function, with the median as its location. A better fit
of the latter may be nearer to the sample; the p-value is right for this one.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import gammaln
import numpy as np
from scipy import stats

from htga_optax import stable

LEAST, MOST = 1.01, 2.0  # alpha of the stable laws that are tried
REACH = 1e6  # where the tables of stable laws end
FREQUENCIES = np.float32([0.2, 0.4, 0.6, 0.8, 1.0])


class Fit(NamedTuple):
  """A fitted law: degrees of freedom or alpha, median and scale [...]."""

  shape: jax.Array
  loc: jax.Array
  scale: jax.Array


class Family(NamedTuple):
  """A family of laws.

  Attributes:
    fit: of samples [n], a `Fit`.
    sample: of a key, a shape parameter and a size, standard samples.
    cdf: of standardised points and a shape parameter, on the host.
    quantile: of probabilities and a shape parameter, on the host.
  """

  fit: Callable[[jax.Array], Fit]
  sample: Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]
  cdf: Callable[[np.ndarray, float], np.ndarray]
  quantile: Callable[[np.ndarray, float], np.ndarray]


def fit_student(x: jax.Array) -> Fit:
  """Maximum likelihood of location, scale and degrees of freedom in [.5, 200].

  ECME (Liu and Rubin 1994): location and scale by the weights of EM, the
  degrees of freedom by a step of Newton's on the likelihood itself.
  """

  def likelihood(log_df, z2):
    df = jnp.exp(log_df)
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - jnp.log(df) / 2
    return constant - (df + 1) / 2 * jnp.mean(jnp.log1p(z2 / df))

  slope = jax.grad(likelihood)
  curvature = jax.grad(slope)

  def step(carry, _):
    log_df, loc, scale = carry
    df = jnp.exp(log_df)
    weights = (df + 1) / (df + ((x - loc) / scale) ** 2)
    loc = jnp.sum(weights * x) / jnp.sum(weights)
    scale = jnp.sqrt(jnp.mean(weights * (x - loc) ** 2))
    z2 = ((x - loc) / scale) ** 2
    bend = -jnp.maximum(-curvature(log_df, z2), 1e-3)
    change = jnp.clip(-slope(log_df, z2) / bend, -0.5, 0.5)
    log_df = jnp.clip(log_df + change, math.log(0.5), math.log(200.0))
    return (log_df, loc, scale), None

  low, middle, high = jnp.quantile(x, jnp.float32([0.25, 0.5, 0.75]))
  start = jnp.log(jnp.float32(5.0)), middle, (high - low) / 1.45
  (log_df, loc, scale), _ = lax.scan(step, start, length=60)
  return Fit(jnp.exp(log_df), loc, scale)


def fit_stable(x: jax.Array) -> Fit:
  """Alpha in [LEAST, MOST] and scale from |phi(t)| = exp(-(c t)^alpha).

  log(-log|phi(t)|) is a line in log t with the slope alpha, fitted by least
  squares at five t after the median and the quartiles have been taken out.
  """
  low, middle, high = jnp.quantile(x, jnp.float32([0.25, 0.5, 0.75]))
  size = (high - low) / 1.95  # of its quartiles, at every alpha nearly
  z = (x - middle) / size
  phi = jnp.mean(jnp.cos(FREQUENCIES[:, None] * z), axis=1)
  y = jnp.log(-jnp.log(jnp.clip(phi, 1e-3, 1 - 1e-6)))
  t = jnp.log(FREQUENCIES)
  alpha = jnp.sum((t - t.mean()) * y) / jnp.sum((t - t.mean()) ** 2)
  alpha = jnp.clip(alpha, LEAST, MOST)
  return Fit(alpha, middle, size * jnp.exp(y.mean() / alpha - t.mean()))


@functools.cache
def stable_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Alphas [m], asinh of points [k], probabilities of exceeding them [m, k].

  For x > 0 and alpha > 1, with Zolotarev's integral (Nolan 1997),

      P(X > x) = 1/pi int_0^(pi/2) exp(-x^(a/(a-1)) V(t)) dt,
      V(t) = (cos t / sin(a t))^(a/(a-1)) cos((a-1) t)/cos t.
  """
  alphas = np.linspace(LEAST, MOST, 100)
  points = np.linspace(0, np.arcsinh(REACH), 400)
  nodes, weights = np.polynomial.legendre.leggauss(30)
  # In octaves of w = pi/2 - t, to which the integrand retreats for large x.
  s = np.concatenate([(nodes + 1) / 2 + i for i in range(26)])
  w = math.pi / 2 * 2.0**-s
  dw = w * math.log(2) * np.tile(weights / 2, 26)
  log_x = np.log(np.maximum(np.sinh(points), 1e-12))
  tail = np.empty((len(alphas), len(points)))
  for i, a in enumerate(alphas):
    t, power = math.pi / 2 - w, a / (a - 1)
    log_v = power * (np.log(np.sin(w)) - np.log(np.sin(a * t)))
    log_v += np.log(np.cos((a - 1) * t)) - np.log(np.sin(w))
    exponent = np.clip(power * log_x[:, None] + log_v, -700, 7)
    tail[i] = np.exp(-np.exp(exponent)) @ dw / math.pi
  return alphas, points, tail


def stable_row(alpha: float) -> tuple[np.ndarray, np.ndarray]:
  """The points and probabilities of one alpha, by interpolation."""
  alphas, points, tail = stable_table()
  place = np.clip((alpha - LEAST) / (MOST - LEAST), 0, 1) * (len(alphas) - 1)
  i = min(int(place), len(alphas) - 2)
  return points, tail[i] + (place - i) * (tail[i + 1] - tail[i])


def stable_cdf(x: np.ndarray, alpha: float) -> np.ndarray:
  """Of a standard symmetric law, within 1e-3."""
  beyond = np.interp(np.arcsinh(np.abs(x)), *stable_row(alpha))
  return np.where(x < 0, beyond, 1 - beyond)


def stable_quantile(p: np.ndarray, alpha: float) -> np.ndarray:
  """The inverse of `stable_cdf`, up to REACH."""
  points, beyond = stable_row(alpha)
  at = np.interp(-np.minimum(p, 1 - p), -beyond, points)
  return np.where(p < 0.5, -1, 1) * np.sinh(at)


def sample_student(
  key: jax.Array, df: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Standard samples of Student's law."""
  return jax.random.t(key, df, shape)


def sample_stable(
  key: jax.Array, alpha: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Standard samples of a symmetric stable law."""
  return stable.sample(key, alpha, shape=shape)


FAMILIES = {
  "Student t": Family(fit_student, sample_student, stats.t.cdf, stats.t.ppf),
  "stable": Family(fit_stable, sample_stable, stable_cdf, stable_quantile),
}


@functools.partial(jax.jit, static_argnums=0)
def fit(name: str, x: jax.Array) -> Fit:
  """Fits a law of `FAMILIES` to each sample [m, n]."""
  return jax.vmap(FAMILIES[name].fit)(x)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def resample(name, key, shape, m, n):
  """Samples [m, n] of the standard law of a shape parameter."""
  return FAMILIES[name].sample(key, shape, (m, n))


def distance(name: str, x: np.ndarray, fitted: Fit) -> np.ndarray:
  """Of Kolmogorov and Smirnov, of each sample [m, n] to its law [m]."""
  n = x.shape[1]
  found = np.empty(len(x))
  for i, (shape, loc, scale) in enumerate(np.transpose(fitted)):
    p = FAMILIES[name].cdf((np.sort(x[i]) - loc) / scale, shape)
    above = np.arange(1, n + 1) / n - p
    found[i] = max(np.max(above), np.max(1 / n - above))
  return found


class Verdict(NamedTuple):
  """What tests of several samples say.

  Attributes:
    fitted: the law of all samples together.
    statistics: the distance of each sample to its own law [m].
    pvalues: by the parametric bootstrap [m].
  """

  fitted: Fit
  statistics: np.ndarray
  pvalues: np.ndarray


def judge(
  name: str, x: np.ndarray, key: jax.Array, replications: int = 399
) -> Verdict:
  """Tests samples of one law [m, n], each by itself, for a family.

  The distances are compared with those of samples of the law fitted to all of
  them: they depend on its shape alone, which all together know best.
  """
  x = np.asarray(x, np.float32)
  fitted = Fit(*(float(v[0]) for v in fit(name, x.reshape(1, -1))))
  again = resample(name, key, fitted.shape, replications, x.shape[1])
  null = distance(name, np.asarray(again), fit(name, again))
  statistics = distance(name, x, fit(name, x))
  larger = np.sum(null >= statistics[:, None], axis=1)
  return Verdict(fitted, statistics, (1 + larger) / (1 + replications))
