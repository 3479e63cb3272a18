"""Samples known laws, by functions of a generator and a shape."""

import numpy as np
from scipy import signal, special


def normal(rng, shape):
  return rng.standard_normal(shape)


def autoregressive(phi):
  """A sampler of x_t = phi x_(t-1) + noise along the last axis; variance 1."""

  def sample(rng, shape):
    noise = rng.standard_normal((*shape[:-1], shape[-1] + 500))
    scale = np.sqrt(1 - phi**2)
    return signal.lfilter([scale], [1, -phi], noise)[..., 500:]

  return sample


def slow_and_noise(rng, shape):
  """A Gaussian series; 0.3 of its variance is slow, the rest is noise."""
  slow = autoregressive(0.98)(rng, shape)
  return np.sqrt(0.3) * slow + np.sqrt(0.7) * rng.standard_normal(shape)


def copula(gaussian, isf):
  """A series with the dependence of a Gaussian one and the law given by isf."""
  return lambda rng, shape: isf(special.ndtr(-gaussian(rng, shape)))


def values(law):
  return lambda rng, shape: law.rvs(size=shape, random_state=rng)


def magnitude(law):
  return lambda rng, shape: np.abs(law.rvs(size=shape, random_state=rng))
