"""Samplers of known laws: functions of a generator and a shape."""

import numpy as np
from scipy import signal, special


def normal(rng, shape):
  return rng.standard_normal(shape)


def autoregressive(phi):
  """x_t = phi x_(t-1) + noise along the last axis, of variance 1."""

  def sample(rng, shape):
    noise = rng.standard_normal((*shape[:-1], shape[-1] + 500))
    scale = np.sqrt(1 - phi**2)
    return signal.lfilter([scale], [1, -phi], noise)[..., 500:]

  return sample


def slow_and_noise(rng, shape):
  """A share of 0.3 changes slowly, the rest from step to step."""
  slow = autoregressive(0.98)(rng, shape)
  return np.sqrt(0.3) * slow + np.sqrt(0.7) * rng.standard_normal(shape)


def copula(gaussian, isf):
  """A series as dependent as the Gaussian one, that exceeds isf(q) with q."""
  return lambda rng, shape: isf(special.ndtr(-gaussian(rng, shape)))


def values(law):
  return lambda rng, shape: law.rvs(size=shape, random_state=rng)


def magnitude(law):
  return lambda rng, shape: np.abs(law.rvs(size=shape, random_state=rng))
