"""Slow, obvious NumPy twins of every algorithm: loops over lists of floats."""

import math

import numpy as np


def hill(x, k):
  """Hill's estimator, as the formula reads."""
  x = sorted(map(float, x), reverse=True)
  excess = [math.log(x[i] / x[k]) for i in range(k)]
  return 1 / (sum(excess) / k)


def hill_interval(tail_index, k, z=1.959964):
  """Quantiles of Gamma(k)/k by Wilson and Hilferty."""
  center, spread = 1 - 1 / (9 * k), z / (3 * math.sqrt(k))
  return [tail_index * (center + s * spread) ** 3 for s in (-1, 1)]


class Tracker:
  """Norms in a list; the last finite estimate stays."""

  def __init__(self, window_size, k):
    self.window_size, self.k = window_size, k
    self.norms, self.tail_index, self.nonfinite_count = [], 0.0, 0

  def update(self, r):
    if not math.isfinite(r):
      self.nonfinite_count += 1
      return self.tail_index
    self.norms = [*self.norms, r][-self.window_size :]
    if len(self.norms) == self.window_size:
      top = sorted(self.norms)[-(self.k + 1) :]
      if top[0] > 0 and top[0] < top[-1]:
        self.tail_index = hill(self.norms, self.k)
    return self.tail_index


def sigmoid_exponent(tail_index, target, beta, gamma_min, gamma_max):
  s = 1 / (1 + math.exp(-beta * (target - tail_index)))
  return gamma_max * s + gamma_min * (1 - s)


def ratio_exponent(tail_index, target, gamma_min, gamma_max):
  return min(max(tail_index / target, gamma_min), gamma_max)


class Amplifier:
  """g' = tau (r/tau)^gamma g/r, tau fixed or a debiased geometric mean."""

  def __init__(self, exponent, tau=None, tau_decay=0.99):
    self.exponent, self.tau, self.tau_decay = exponent, tau, tau_decay
    self.mean_log, self.seen = 0.0, 0

  def update(self, g, tail_index):
    r = math.sqrt(sum(abs(x) ** 2 for x in np.ravel(g)))
    if not math.isfinite(r):
      return 0 * np.nan_to_num(g)
    if r == 0:
      return g
    self.seen += 1
    self.mean_log *= self.tau_decay
    self.mean_log += (1 - self.tau_decay) * math.log(r)
    tau = self.tau
    if tau is None:
      tau = math.exp(self.mean_log / (1 - self.tau_decay**self.seen))
    gamma = self.exponent(tail_index) if tail_index > 0 else 1.0
    return tau * (r / tau) ** gamma * g / r


def momentum_sgd(updates, learning_rate, momentum):
  """Heavy-ball steps from a list of (modified) gradients."""
  velocity, steps = 0.0, []
  for g in updates:
    velocity = g + momentum * velocity
    steps.append(-learning_rate * velocity)
  return steps
