"""Checks the far tails of `stable.sample`, and that every sample is finite.

    python benchmarks/stable_tails.py [draws for each law, 1e9]

The script draws in chunks inside one jitted loop, counts how many samples are
beyond the two-sided quantiles of 1e-6, 1e-7 and 1e-8, and prints a Markdown
table. The column z is the difference to the expected count, in standard errors.
The counts beyond the quantile of 1e-8 are too small for a test.

The quantiles are those of the tail series (Bergstrom 1952; Gauss at alpha = 2),

    P(|X| > x) = 2/pi sum_k (-1)^(k+1) Gamma(alpha k)/k! sin(pi alpha k/2)
                 x^(-alpha k).

SciPy's `levy_stable.sf` cannot be used: it is 1 - cdf, and this is 0 so far
out. As a check, Zolotarev's integral, which SciPy evaluates, is computed at the
1e-6 quantile in the variable log(pi/2 - theta). For beta other than 0 the first
term of the series is shifted by beta tan(pi alpha/2), and the integral is left
out.
"""

import functools
import math
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize, special

from htga_optax import stable

CHUNK = 2000, 2000
LEVELS = 1e-6, 1e-7, 1e-8
LAWS = [
  (alpha, 0.0) for alpha in (0.5, 0.8, 1.0, 1.05, 1.2, 1.5, 1.8, 1.9, 2.0)
] + [(1.05, 1.0), (1.2, 0.5), (1.5, -1.0), (1.9, 1.0)]


def two_sided(x, alpha, beta=0.0, terms=4):
  """P(|X| > x) for large x."""
  if alpha == 2:
    return special.erfc(x / 2)
  k = np.arange(1, terms + 1)
  weights = (-1.0) ** (k + 1) * special.gamma(alpha * k) / special.factorial(k)
  weights *= 2 / math.pi * np.sin(math.pi * alpha * k / 2)
  if beta == 0:
    return np.sum(weights * float(x) ** (-alpha * k))
  t = beta * math.tan(math.pi * alpha / 2)  # X + t has the law of S1
  up, down = (1 + beta) / 2, (1 - beta) / 2
  return weights[0] * (up * (x + t) ** -alpha + down * (x - t) ** -alpha)


def integral(x, alpha):
  """P(|X| > x) for beta = 0, computed by an integral over the angle."""
  if alpha == 1:
    return 2 / math.pi * math.atan(1 / x)

  def integrand(log_w):  # P(|X| > x, given the angle), times dtheta
    w = math.exp(log_w)
    theta = math.pi / 2 - w
    log_r = math.log(math.sin(alpha * theta)) - math.log(math.sin(w)) / alpha
    log_r += (1 / alpha - 1) * math.log(math.cos((1 - alpha) * theta))
    w_at_x = math.exp(min((log_r - math.log(x)) * alpha / (1 - alpha), 700.0))
    return w * (-math.expm1(-w_at_x) if alpha < 1 else math.exp(-w_at_x))

  ends = math.log(1e-14), math.log(math.pi / 2 - 1e-9)
  value, _ = integrate.quad(integrand, *ends, limit=1000, epsabs=0)
  return 2 / math.pi * value


def quantile(level, alpha, beta=0.0):
  """The x with P(|X| > x) = level."""
  f = lambda log_x: math.log(two_sided(math.exp(log_x), alpha, beta) / level)
  low = 1.0 if alpha == 2 else 3.0
  high = 3.0 if alpha == 2 else 80.0
  return math.exp(optimize.brentq(f, low, high, xtol=1e-14))


@functools.partial(jax.jit, static_argnames=("beta", "chunks"))
def count(key, alpha, beta, quantiles, chunks):
  """Counts the samples that are not finite, and those beyond each quantile."""

  def step(counts, i):
    x = stable.sample(jax.random.fold_in(key, i), alpha, beta, CHUNK)
    size = jnp.where(jnp.isfinite(x), jnp.abs(x), -1.0)
    found = [size < 0, *(size > q for q in quantiles)]
    found = jnp.stack([jnp.sum(y, dtype=jnp.int32) for y in found])
    return counts + found, None

  zero = jnp.zeros([1 + len(LEVELS)], jnp.int32)
  return lax.scan(step, zero, jnp.arange(chunks))[0]


def main():
  draws = float(sys.argv[1]) if len(sys.argv) > 1 else 1e9
  chunks = math.ceil(draws / math.prod(CHUNK))
  n = chunks * math.prod(CHUNK)
  print(f"{n:,} draws of each law, JAX {jax.__version__}\n")
  print(
    "| alpha | beta | not finite | beyond 1e-6 | z | beyond 1e-7 | z"
    " | beyond 1e-8 | z | integral at the first quantile |"
  )
  print("|" + "---|" * 10)
  worst = 0.0
  for i, (alpha, beta) in enumerate(LAWS):
    quantiles = [quantile(level, alpha, beta) for level in LEVELS]
    bad, *beyond = count(
      jax.random.key(i), alpha, beta, tuple(quantiles), chunks
    )
    cells = [f"{alpha}", f"{beta}", f"{bad}"]
    for found, level in zip(beyond, LEVELS):
      z = (found - n * level) / math.sqrt(n * level)
      worst = max(worst, abs(z)) if level > 5e-8 else worst
      cells += [f"{found}", f"{z:+.1f}"]
    cells.append("" if beta else f"{integral(quantiles[0], alpha):.4e}")
    print("| " + " | ".join(cells) + " |", flush=True)
    assert bad == 0
  assert worst <= 4, worst


if __name__ == "__main__":
  main()
