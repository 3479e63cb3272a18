"""Slow, obvious NumPy twins of every algorithm: loops over lists of floats."""

import math

import numpy as np
from scipy import stats


def hill(x, k):
  """Hill's estimator, written as the formula."""
  x = sorted(map(float, x), reverse=True)
  excess = [math.log(x[i] / x[k]) for i in range(k)]
  return 1 / (sum(excess) / k)


def hill_interval(tail_index, k, z=1.959964):
  """Quantiles of Gamma(k)/k by Wilson and Hilferty."""
  center, spread = 1 - 1 / (9 * k), z / (3 * math.sqrt(k))
  return [tail_index * max(center + s * spread, 0) ** 3 for s in (-1, 1)]


def inverse(xi):
  """The tail index of an extreme-value index."""
  return 1 / xi if xi > 0 else math.inf


def read(tail_index):
  """The reading of a streaming estimate: 0 for nan, and 1e6 at most."""
  return np.minimum(np.nan_to_num(tail_index, nan=0.0, posinf=1e6), 1e6)


def pickands(x, k):
  """Pickands' estimator, from the order statistics k, 2k and 4k."""
  x = sorted(map(float, x), reverse=True)
  a, b, c = x[k - 1], x[2 * k - 1], x[4 * k - 1]
  return inverse(math.log((a - b) / (b - c)) / math.log(2))


def moment(x, k):
  """The estimator of Dekkers, Einmahl and de Haan, written as the formula."""
  x = sorted(map(float, x), reverse=True)
  excess = [math.log(x[i] / x[k]) for i in range(k)]
  m1, m2 = sum(excess) / k, sum(e**2 for e in excess) / k
  return inverse(m1 + 1 - 0.5 / (1 - m1**2 / m2))


def generalized_pareto_fit(excesses):
  """Zhang and Stephens' mean over the grid of theta: xi and sigma."""
  y = sorted(map(float, excesses))
  k, quartile = len(y), y[int(len(y) / 4 + 0.5) - 1]
  m = 30 + int(math.sqrt(k))

  def xi_of(theta):
    return sum(math.log1p(-theta * v) for v in y) / k

  thetas, logs = [], []
  for j in range(1, m + 1):
    theta = 1 / y[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile)
    xi = xi_of(theta)
    thetas.append(theta)
    logs.append(k * (math.log(-theta / xi) - xi - 1))
  weights = [math.exp(v - max(logs)) for v in logs]
  theta = sum(w * t for w, t in zip(weights, thetas)) / sum(weights)
  return xi_of(theta), -xi_of(theta) / theta


def spread(x):
  """Ascending values; equal values are spread evenly over an interval.

  The interval is as long as the distance to the nearest other value.
  """
  x = sorted(map(float, x))
  spread = []
  for v in sorted(set(x)):
    c = x.count(v)
    others = [abs(v - w) for w in x if w != v]
    h = min(others) if others else 0.0
    spread += [v + h * ((j + 0.5) / c - 0.5) for j in range(c)]
  return spread


def generalized_pareto(x, k):
  """The tail index of the fit to the excesses over the threshold."""
  x = sorted(map(float, x), reverse=True)
  return inverse(generalized_pareto_fit([v - x[k] for v in x[:k]])[0])


def pareto_k_diagnostic(x, k=None):
  """Pareto k, its threshold, the verdict, and a sufficient sample size."""
  n = len(x)
  if k is None:
    k = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
  xi = 1 / generalized_pareto(x, k)
  threshold = min(1 - 1 / math.log10(n), 0.7)
  return (
    xi,
    threshold,
    xi < threshold,
    10 ** (1 / (1 - xi)) if xi < 1 else math.inf,
  )


def log_moment(x):
  """The tail index from the variance of log|x|."""
  logs = [math.log(abs(v)) for v in map(float, x)]
  mean = sum(logs) / len(logs)
  variance = sum((v - mean) ** 2 for v in logs) / (len(logs) - 1)
  return inverse(6 * variance / math.pi**2 - 0.5) ** 0.5


def block_log_moment(x, block_size):
  """The tail index from the growth of log|x| when blocks are summed."""
  x = list(map(float, x))[: len(x) // block_size * block_size]
  sums = [sum(x[i : i + block_size]) for i in range(0, len(x), block_size)]
  growth = sum(math.log(abs(y)) for y in sums) / len(sums)
  growth -= sum(math.log(abs(v)) for v in x) / len(x)
  return inverse(growth / math.log(block_size))


def characteristic_function(x):
  """The tail index from |characteristic function| at 0.2 and 1."""
  low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
  z = [1.95 * (float(v) - middle) / (high - low) for v in x]

  def modulus(t):
    cosine = sum(math.cos(t * v) for v in z) / len(z)
    sine = sum(math.sin(t * v) for v in z) / len(z)
    return math.hypot(cosine, sine)

  ratio = math.log(modulus(0.2)) / math.log(modulus(1.0))
  tail_index = math.log(ratio) / math.log(0.2)
  return min(tail_index, 2.0) if tail_index > 0 else math.nan


def copula_correlation(rho, p, is_excess, points=80):
  """The correlation of psi(g) and psi(h), for normals of correlation rho.

  psi is 0 below the upper p-quantile. The double integral of psi(g) psi(h) runs
  over the density of g and that of h given g.
  """
  if rho >= 1:
    return 1.0
  threshold, scale = stats.norm.isf(p), math.sqrt(1 - rho**2)
  nodes, weights = np.polynomial.legendre.leggauss(points)

  def psi(g):
    return math.log(p) - stats.norm.logsf(g) - 1 if is_excess else 1.0

  half = (9 - threshold) / 2
  g = threshold + half * (nodes + 1)
  start = np.clip((threshold - rho * g) / scale, -9, 9)
  half_z = (9 - start) / 2
  z = start[:, None] + half_z[:, None] * (nodes + 1)
  inner = psi(rho * g[:, None] + scale * z) * stats.norm.pdf(z)
  inner = half_z * np.sum(weights * inner, axis=1)
  product = half * np.sum(weights * psi(g) * stats.norm.pdf(g) * inner)
  return product / p if is_excess else (product - p**2) / (p * (1 - p))


def rank_scores(x):
  """The mean normal quantile of the class of a value, of 32 classes by rank."""
  n, ordered = len(x), sorted(x)
  classes = min(n, 32)
  starts = [i * n // classes for i in range(classes)]
  levels = [
    np.mean([stats.norm.ppf((r + 0.5) / n) for r in range(start, stop)])
    for start, stop in zip(starts, [*starts[1:], n])
  ]
  # All equal values are in the highest class that starts with that value.
  scores = [
    levels[max(i for i in range(classes) if i == 0 or v >= ordered[starts[i]])]
    for v in x
  ]
  return np.array(scores) - np.mean(scores)


def inflation(scores, k, is_excess):
  """1 + 2 sum_h (1 - h/n) C(rho_h), with C linear between twelve lags."""
  n = len(scores)
  longest = max(n // 4, 1)
  lags = sorted({round(v) for v in np.geomspace(1, longest, min(12, longest))})
  if np.ptp(scores) < 1e-9:
    return 1.0
  correlations, least = [], 1.0
  for h in lags:
    rho = sum(scores[t] * scores[t + h] for t in range(n - h))
    least = min(least, max(rho / sum(s**2 for s in scores), 0.0))
    correlations.append(
      copula_correlation(least, k / n, is_excess) if least > 1e-6 else 0.0
    )
  every = range(1, longest + 1)
  between = np.interp(every, lags, correlations)
  return 1 + 2 * sum((1 - h / n) * c for h, c in zip(every, between))


def second_order_bias(x, k):
  """1/(1 - beta k/(2n)), with beta from the n/2 largest values."""
  n, x = len(x), sorted(map(float, x), reverse=True)
  size = n // 2
  if size <= k:
    return 1.0
  logs = [math.log(max(v, 1e-37)) for v in x[: size + 1]]
  weights = [i / size for i in range(1, size + 1)]
  spacings = [i * (logs[i - 1] - logs[i]) for i in range(1, size + 1)]
  d = np.mean(weights)
  d0, d1, d2 = (
    np.mean([w**j * s for w, s in zip(weights, spacings)]) for j in range(3)
  )
  if d * d1 == d2:
    return 1.0
  beta = n / size * (d * d0 - d1) / (d * d1 - d2)
  return 1 / (1 - min(max(beta, -2.0), 2.0) * k / (2 * n))


def series(x, k):
  """Variance inflation, bias and drift of a window in order of time."""
  n, threshold = len(x), sorted(x)[-k - 1]
  scores, time = rank_scores(x), np.arange(n) - (n - 1) / 2
  trends = np.stack([time, rank_scores(range(n))], axis=1)
  rest = scores - trends @ np.linalg.lstsq(trends, scores, rcond=1e-9)[0]
  top = [t for v, t in zip(x, time) if v > threshold]
  variance = len(top) * (1 - len(top) / n) * np.var(time)
  drift = 0.0
  if top:
    drift = sum(top) / math.sqrt(inflation(rest, k, False) * variance)
  return inflation(scores, k, True), second_order_bias(x, k), drift


def series_interval(tail_index, k, inflation, bias):
  """The interval for the effective size that covers both estimates."""
  size = max(k / inflation, 0.12)
  ends = hill_interval(tail_index, size)
  ends += hill_interval(bias * tail_index, size)
  return [min(ends), max(ends)]


class WindowedHill:
  """Values and held-out scores in lists; `series` every W/8 values."""

  def __init__(self, window_size, k):
    self.window_size, self.k = window_size, k
    self.values, self.scores, self.since = [], [], 0
    self.series = 1.0, 1.0, 0.0

  def tail_index(self):
    top = sorted(self.values)[-(self.k + 1) :]
    if len(self.values) < self.window_size or top[0] <= 0:
      return 0.0
    return hill(self.values, self.k) if top[0] < top[-1] else 1e6

  def update(self, x):
    if not math.isfinite(x):
      return
    tail_index, size = self.tail_index(), self.k / self.series[0]
    if 0 < tail_index < 1e6:
      threshold = sorted(self.values)[-(self.k + 1)]
      if x > threshold:
        survival = (1 + tail_index / size * math.log(x / threshold)) ** -size
        self.scores.append(survival - 0.5)
    self.values = [*self.values, float(x)][-self.window_size :]
    if len(self.values) == self.window_size:
      if self.since == 0:
        self.series = series(self.values, self.k)
      self.since = (self.since + 1) % max(self.window_size // 8, 1)

  def estimate(self):
    tail_index = self.tail_index()
    inflation, bias, drift = self.series
    fade = 1 - 1 / (8 * self.k)
    weights = [fade**i for i in range(len(self.scores))][::-1]
    weight = sum(w**2 for w in weights)
    variance = (weight / 48 + min(weight, self.k) / 16) * inflation
    misfit = sum(w * s for w, s in zip(weights, self.scores))
    return (
      tail_index,
      series_interval(tail_index, self.k, inflation, bias),
      drift,
      misfit / math.sqrt(max(variance, 1 / 12)),
    )


class Tracker:
  """Norms divided by their level, in a list.

  The reading is 0 without an estimate and 1e6 for equal norms.
  """

  def __init__(self, window_size, k, level_decay=0.97):
    self.window_size, self.k = window_size, k
    self.norms, self.tail_index, self.nonfinite_count = [], 0.0, 0
    self.level = Level(level_decay)

  def update(self, r):
    if not math.isfinite(r):
      self.nonfinite_count += 1
      return self.tail_index
    self.norms = [*self.norms, r / self.level.scale(r)][-self.window_size :]
    self.level.update(r)
    if len(self.norms) == self.window_size:
      top = sorted(self.norms)[-(self.k + 1) :]
      self.tail_index = 0.0
      if top[0] > 0:
        is_flat = top[0] == top[-1]
        self.tail_index = 1e6 if is_flat else hill(self.norms, self.k)
    return self.tail_index


def gradient_moments(a, b, n_a, n_b, n_ab):
  """tr(Sigma) and |G|^2 from the mean gradients of two batches, as lists."""
  difference = sum(abs(x - y) ** 2 for x, y in zip(a, b))
  product = sum((np.conj(x) * y).real for x, y in zip(a, b))
  trace = difference / (1 / n_a + 1 / n_b - 2 * n_ab / (n_a * n_b))
  return trace, product - trace * n_ab / (n_a * n_b)


class NoiseTracker:
  """Weighted means of the moments of all steps that were finite."""

  def __init__(self, n_a, n_b, n_ab, decay):
    self.sizes, self.decay = (n_a, n_b, n_ab), decay
    self.steps, self.noise_norm = [], 0.0

  def update(self, a, b):
    if np.all(np.isfinite([a, b])):
      trace, square = gradient_moments(a, b, *self.sizes)
      self.steps.append((trace, square))
      self.noise_norm = math.sqrt(trace / self.sizes[0])
    weights = [self.decay**i for i in range(len(self.steps))][::-1]
    mean = [
      sum(w * step[i] for w, step in zip(weights, self.steps))
      / (sum(weights) or 1.0)
      for i in range(2)
    ]
    return (mean[0] / mean[1] if mean[1] > 0 else 0.0), *mean


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


class TailClipper:
  """clip_by_tail_quantile on norms: the clipped norm, quantile and count."""

  def __init__(
    self,
    p,
    window_size,
    k,
    skip=False,
    max_norm=math.inf,
    history=(),
    level_decay=0.97,
  ):
    self.p, self.window_size, self.k, self.skip = p, window_size, k, skip
    self.max_norm, self.ratios, self.count = max_norm, [], 0
    self.level = Level(level_decay)
    for r in history:
      self.ratios.append(r / self.level.scale(r))
      self.level.update(r)
    self.ratios = self.ratios[-window_size:]

  def quantile(self):
    n = len(self.ratios)
    k = n * self.k // self.window_size
    if n < min(64, self.window_size) or k < 5:
      return 0.0
    largest = sorted(self.ratios)[-(self.k + 1) :]
    if largest[0] == largest[-1]:
      return largest[0] if min(self.ratios) < largest[0] else 0.0
    *_, u = spread(largest)[: len(largest) - k]
    excesses = [v - u for v in spread(largest)[-k:]]
    xi, sigma = generalized_pareto_fit(excesses)
    t = math.log(k / (n * self.p))
    # The errors of sigma and xi at xi = 0, and their effect on the quantile.
    covariance = np.array([[2, -1], [-1, 1]]) / k
    slopes = np.array([t, t**2 / 2])
    variance = slopes @ covariance @ slopes + 1 / k
    q = self.p / (1 + variance / 2) * n / k
    return u + sigma / xi * (q**-xi - 1)

  def update(self, r):
    ratio = self.quantile()
    scale = self.level.scale(r if math.isfinite(r) else 1.0)
    q = ratio * scale
    if not math.isfinite(r):
      self.count += 1
      return 0.0, q, self.count
    clipped, kept = r, r / scale
    most = min(q if q > 0 else math.inf, self.max_norm)
    if r > most:
      self.count += 1
      clipped = 0.0 if self.skip else most
    if q > 0:
      kept = min(kept, 1.5 * ratio)
    self.ratios = [*self.ratios, kept][-self.window_size :]
    self.level.update(r)
    return clipped, q, self.count


class Level:
  """The level of norms: an average of logarithms, which moves by 1 at most."""

  def __init__(self, decay):
    self.decay, self.log, self.count = decay, None, 0

  def scale(self, r):
    if self.decay is None:
      return 1.0
    return r if self.log is None else math.exp(self.log)

  def update(self, r):
    if self.decay is None or r == 0:
      return
    self.count += 1
    if self.log is None:
      self.log = math.log(r)
    step = (1 - self.decay) / (1 - self.decay**self.count)
    self.log += step * min(max(math.log(r) - self.log, -1), 1)


def over_level(norms, decay=0.97):
  """Each norm divided by the level of those before it; nan and inf stay."""
  level, ratios = Level(decay), []
  for r in map(float, norms):
    ratios.append(r / level.scale(r) if math.isfinite(r) else r)
    if math.isfinite(r):
      level.update(r)
  return np.array(ratios)


def hill_all(x):
  """Hill's estimate at every k, one after the other."""
  return [hill(x, k) for k in range(1, len(x))]


def automatic_k(x, max_k, min_k):
  """The k with the smallest estimated error, by trying each."""
  x = sorted(map(float, x), reverse=True)

  def error(k):
    excess = [math.log(v / x[k]) for v in x[:k]]
    m1, m2 = sum(excess) / k, sum(e**2 for e in excess) / k
    return (1 + 4 * max(k * (m2 / (2 * m1**2) - 1) ** 2 - 1, 0)) / k

  return min(range(min_k, max_k + 1), key=error)


def fading(values, decay):
  """The weighted mean (newest value last) and the effective sample size."""
  weights = [decay**i for i in range(len(values))][::-1]
  mean = sum(w * v for w, v in zip(weights, values)) / sum(weights)
  return mean, sum(weights) ** 2 / sum(w**2 for w in weights)


class Windowed:
  """An estimator on the last values of a list."""

  def __init__(self, estimator, window_size):
    self.estimator, self.window_size, self.values = estimator, window_size, []

  def update(self, x):
    self.values.append(float(x))
    last = self.values[-self.window_size :]
    return self.estimator(last) if len(last) == self.window_size else math.nan


class ExponentialHill:
  """Each excess over the threshold at its time; new weights in each step.

  A value of zero is below every threshold.
  """

  def __init__(self, decay, tail_fraction):
    self.decay, self.p, self.q = decay, tail_fraction, None
    self.excesses, self.distance = [], 0.0

  def update(self, x):
    log_x = math.log(x) if x > 0 else -math.inf
    if self.q is None:
      self.q = log_x
    excess = log_x - self.q
    self.excesses.append(max(excess, 0.0))
    weights = [self.decay**i for i in range(len(self.excesses))][::-1]
    step = 1 / sum(weights)
    if x > 0:
      self.distance += step * (abs(excess) - self.distance)
    above = [w * (e > 0) for w, e in zip(weights, self.excesses)]
    total = sum(w * e for w, e in zip(weights, self.excesses))
    mean_excess = (total + 0.5 * self.distance) / (sum(above) + 0.5)
    self.q += step * mean_excess / self.p * ((excess > 0) - self.p)
    if not any(above):
      return math.nan, math.nan, math.nan
    k = sum(above) ** 2 / sum(w**2 for w in above)
    n = sum(weights) ** 2 / sum(w**2 for w in weights)
    drift = sum(above) / sum(weights) - self.p
    drift /= math.sqrt(self.p * (1 - self.p) / n)
    enough = self.p * (1 + self.decay) / (1 - self.decay) / 2
    return sum(above) / total if k >= enough else math.nan, k, drift


class ExponentialLogMoment:
  """The weighted variance of all logarithms, recomputed in each step."""

  def __init__(self, decay):
    self.decay, self.logs = decay, []

  def update(self, x):
    self.logs.append(math.log(abs(x)))
    mean, n = fading(self.logs, self.decay)
    if n < (1 + self.decay) / (1 - self.decay) / 2:
      return math.nan, n
    variance, _ = fading([(v - mean) ** 2 for v in self.logs], self.decay)
    return inverse(6 / math.pi**2 * variance / (1 - 1 / n) - 0.5) ** 0.5, n


class ExponentialCharacteristicFunction:
  """Weighted averages of all phases, each with the scale at its time."""

  def __init__(self, decay):
    self.decay, self.m, self.logs, self.z = decay, None, [], []

  def update(self, x):
    if self.m is None:
      self.m = x
      return math.nan, 0.0
    self.logs.append(math.log(abs(x - self.m)))
    log_scale, n = fading(self.logs, self.decay)
    scale = math.exp(log_scale)
    self.z.append((x - self.m) / scale)
    step = (1 - self.decay) / (1 - self.decay ** len(self.z))
    self.m += step * math.e * scale * math.sin(self.z[-1])

    def log_modulus(t):
      cosine, _ = fading([math.cos(t * z) for z in self.z], self.decay)
      sine, _ = fading([math.sin(t * z) for z in self.z], self.decay)
      return math.log(math.hypot(cosine, sine))

    if n < (1 + self.decay) / (1 - self.decay) / 2:
      return math.nan, n
    ratio = log_modulus(0.2) / log_modulus(1.0)
    tail_index = math.log(ratio) / math.log(0.2)
    return (min(tail_index, 2.0) if tail_index > 0 else math.nan), n


def truncate(step, threshold):
  """A step of lists, scaled to the threshold if it is longer."""
  length = math.sqrt(sum(float(v) ** 2 for leaf in step for v in leaf))
  factor = min(1.0, threshold / length) if length > 0 else 1.0
  return [[factor * float(v) for v in leaf] for leaf in step]


def stable_noise(updates, xi, alpha, scale, **options):
  """Adds given standard samples to the updates; both are lists of lists."""
  noisy = []
  for leaf, draws in zip(updates, xi):
    s = scale
    if options.get("learning_rate") is not None:
      s *= options["learning_rate"] ** (1 / alpha)
    if options.get("relative"):
      s *= math.sqrt(sum(float(v) ** 2 for v in leaf) / len(leaf))
    most = options.get("max_jump", math.inf)
    jumps = [min(max(float(x), -most), most) for x in draws]
    noisy.append([float(u) + s * x for u, x in zip(leaf, jumps)])
  return noisy


def truncated_heavy_tailed_sgd(params, batches, factors, rate, threshold):
  """The parameters after batches of (g_SB, g_SB* - g_LB), with factors Z."""
  for (gradient, noise), z in zip(batches, factors):
    step = [-rate * (float(g) + z * float(n)) for g, n in zip(gradient, noise)]
    (step,) = truncate([step], threshold)
    params = [p + v for p, v in zip(params, step)]
  return params


def geometric_means(values, decay, slow_decay, floor=1e-6):
  """Pairs of the fast geometric mean and its ratio to the slow one."""
  out, means, weights = [(0.0, 0.0)], [0.0, 0.0], [0.0, 0.0]
  for value in values:
    if math.isfinite(value):
      for i, d in enumerate((decay, slow_decay)):
        means[i] = d * means[i] + (1 - d) * math.log(max(value, floor))
        weights[i] = d * weights[i] + (1 - d)
      fast, slow = (m / w for m, w in zip(means, weights))
      out.append((math.exp(fast), math.exp(fast - slow)))
    else:
      out.append(out[-1])
  return out[1:]


def sharpness_alpha(sharpness, response, center, steepness, alpha_min):
  """The three responses, written as their formulas."""
  s = 1 / (1 + math.exp(-steepness * (math.log(sharpness) - center)))
  alpha = 1 + s if response == "rising" else 2 - s
  return max(alpha, alpha_min)


# The rules of diagnostics.spike_rules. Each returns the norms after clipping.


def mean_and_deviations(norms, deviations, skip, window_size=128):
  after = []
  for t, r in enumerate(norms):
    last = norms[max(t - window_size, 0) : t]
    after.append(r)
    if len(last) >= window_size // 2:
      most = np.mean(last) + deviations * max(np.std(last, ddof=1), 1e-6)
      if r > most:
        after[-1] = 0.0 if skip else most
  return after


def zclip(norms, max_norm=math.inf):
  after = [min(r, max_norm) for r in norms[:25]]
  mean, variance = np.mean(norms[:25]), np.var(norms[:25])
  for r in norms[25:]:
    z = (r - mean) / (math.sqrt(variance) + 1e-6)
    if z > 2.5:
      r = mean + 2.5 * math.sqrt(variance) / (z / 2.5)
    after.append(min(r, max_norm))
    mean = 0.97 * mean + 0.03 * r
    variance = 0.97 * variance + 0.03 * (r - mean) ** 2
  return after


def adagc(norms):
  after, level = [], math.inf
  for step, r in enumerate(norms, start=1):
    if step < 100:
      after.append(min(r, 1.0))
      level = min(level, after[-1])
    else:
      after.append(min(r, 1.05 * level))
      level = 0.98 * level + 0.02 * after[-1]
  return after


def autoclip(norms, percentile=10):
  return [
    min(r, np.percentile(norms[: t + 1], percentile))
    for t, r in enumerate(norms)
  ]


def moving_mean(norms):
  """The mean with weights .99^i of the norms that were not skipped."""
  after, taken = [], []
  for r in norms:
    weights = [0.99**i for i in range(len(taken))][::-1]
    mean = np.dot(weights, taken) / sum(weights) if taken else 1.0
    after.append(r if r < 20 * mean else 0.0)
    taken += [r] if after[-1] else []
  return after


def pl_alpha_hill(eigenvalues):
  """The exponent of the density of the upper half, written as the formula."""
  x = sorted(map(float, eigenvalues))
  i = len(x) // 2
  return 1 + (len(x) - i) / sum(math.log(v / x[i]) for v in x[i:])


def power_law_fit(eigenvalues):
  """Tries every threshold: exponent, threshold, distance of the best one."""
  x, best = sorted(float(v) for v in eigenvalues if v > 0), None
  for i in range(len(x) - 1):
    n, total = len(x) - i, sum(math.log(v / x[i]) for v in x[i:])
    if not total:
      continue
    alpha = 1 + n / total
    distance = max(
      abs(1 - (v / x[i]) ** (1 - alpha) - j / n) for j, v in enumerate(x[i:])
    )
    if best is None or distance < best[2]:
      best = alpha, x[i], distance, n
  return best


def linear_map(readings, low, high):
  """np.interp from the range of the known readings; 1 where unknown."""
  known = [v for v in readings if v > 0]
  if len(set(known)) < 2:
    return [1.0] * len(readings)
  ends = [min(known), max(known)]
  return [
    float(np.interp(v, ends, [low, high])) if v > 0 else 1.0 for v in readings
  ]
