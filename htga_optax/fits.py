r"""Which law fits a sample, and how well: on the host, with scipy.

A law is fitted by maximum likelihood, and tested by the distances of Kolmogorov
and Smirnov, and of Anderson and Darling,

    D = sup_x |F_n(x) - F(x)|,
    A^2 = -n - sum_i (2i - 1)/n log[F(x_(i)) (1 - F(x_(n+1-i)))].

The p-values of the textbook are for a law that was not fitted, and too large by
far for one that was. So the p-value is the share of samples of the fitted law
whose distance, each to a fit of its own, is as large (a parametric bootstrap).
Two laws are compared by the ratio of their likelihoods (Vuong). A law that is
not rejected is not thereby right; and all of it takes the values for
independent.

The symmetric stable law has no density in closed form. With t = r e^(i phi),
phi = pi/8, its Fourier integrals converge like exponentials for every alpha,

    f(x) = 1/pi Re int_0^oo exp(i x t - t^alpha) dt,
    P(X > x) = 1/2 - phi/pi - 1/pi Im int_0^oo exp(i x t - t^alpha) dr/r,

and are two matrix products (derived here; the constant is the arc about 0).
They are tabulated once, over alpha and asinh(x), and beyond x = 1000 continued
by the series in x^-alpha. A likelihood takes two thousand weighted points at
most, the means of narrow bins, so that a fit of 1e5 values costs little more
than to sort them.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

from jax.typing import ArrayLike
import numpy as np

from htga_optax import checks

LEAST_ALPHA = 0.5  # of the stable laws that are tried
_PHI = math.pi / 8
_REACH = 1000.0  # where the series takes over from the table
_WIDTH = 0.01  # of a bin, in asinh of half interquartile ranges
_ITERATIONS = 100
_CONVERGED = 1e-5  # in units of the log-likelihood of all values, twice
_FEWEST = 10  # values that are fitted
_EDGES = -30.0, 100.0  # of y of a lognormal tail


class Law(NamedTuple):
  """A family of laws; the functions are of the standard law.

  Attributes:
    shapes: names of the shape parameters.
    support: "real", "positive", or "tail" for values above a threshold.
    fit: of an ascending sample; of a "tail", of its ratios to the threshold.
      Returns shape, location and scale.
    logpdf: (x, *shape) -> logarithm of the density.
    cdf: (x, *shape) -> probability of at most x.
    sf: (x, *shape) -> probability of more than x.
    quantile: (p, *shape) -> inverse of `cdf`.
    sample: (rng, size, *shape) -> independent values.
    tail_index: (*shape) -> of the heavier tail; inf where no power bounds it.
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


class Fit(NamedTuple):
  """A fitted law.

  Attributes:
    law: its name in :data:`LAWS`.
    shape: the shape parameters, as `LAWS[law].shapes` names them.
    loc: the location.
    scale: the scale; the threshold of a "tail".
    log_likelihood: of the values it was fitted to.
    n: how many these were.
    share: of all values, those it was fitted to: below 1 for a "tail".
  """

  law: str
  shape: tuple[float, ...]
  loc: float
  scale: float
  log_likelihood: float
  n: int
  share: float

  def logpdf(self, x: ArrayLike) -> np.ndarray:
    """Logarithm of the density, given that x is above the threshold."""
    standard = self._standard(x)
    return LAWS[self.law].logpdf(standard, *self.shape) - math.log(self.scale)

  def cdf(self, x: ArrayLike) -> np.ndarray:
    """Probability of at most x, given that it is above the threshold."""
    return LAWS[self.law].cdf(self._standard(x), *self.shape)

  def sf(self, x: ArrayLike) -> np.ndarray:
    """Probability of more than x, given that it is above the threshold."""
    return LAWS[self.law].sf(self._standard(x), *self.shape)

  def quantile(self, p: ArrayLike) -> np.ndarray:
    """The inverse of `cdf`."""
    standard = LAWS[self.law].quantile(np.asarray(p, float), *self.shape)
    return self.loc + self.scale * standard

  def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
    """Independent values, all above the threshold."""
    standard = LAWS[self.law].sample(rng, size, *self.shape)
    return self.loc + self.scale * standard

  @property
  def tail_index(self) -> float:
    """Of the heavier tail; inf where no power bounds it."""
    return LAWS[self.law].tail_index(*self.shape)

  def __str__(self) -> str:
    names = (*LAWS[self.law].shapes, "loc", "scale")
    values = (*self.shape, self.loc, self.scale)
    said = ", ".join(f"{n} {v:.3g}" for n, v in zip(names, values))
    return f"{self.law} ({said})"

  def _standard(self, x: ArrayLike) -> np.ndarray:
    return (np.asarray(x, float) - self.loc) / self.scale


def fit(law: str, x: ArrayLike, k: int | None = None) -> Fit:
  r"""Fits a law by maximum likelihood.

  Args:
    law: one of :data:`LAWS`. "Student t"; "skew t", that of Jones and Faddy,
      whose tails have the indices 2a and 2b; "stable", symmetric, in the
      scale of :func:`htga_optax.stable.sample`; "lognormal". Of the k largest
      values, given the threshold :math:`X_{(k+1)}`: "Pareto tail" (Hill's
      estimate), "lognormal tail" (truncated there; y is the threshold in
      standard deviations above the median, Pareto its limit :math:`y\to\infty`)
      and "exponential tail".
    x: the values, [n], in any order.
    k: how many are the tail; a tenth if None. Without effect on other laws.

  Returns:
    The law, as :class:`Fit`. Indices are sought in [0.1, 1000] for t, alpha in
    [0.5, 2].

  Raises:
    ImportError: scipy is missing.
    ValueError: no such law; `x` is not one-dimensional, not finite, has fewer
      than 10 values (in the tail: 2), or values that the law cannot have; half
      of them are equal.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import fits
    >>> x = np.random.default_rng(0).standard_t(3, size=100_000)
    >>> print(fits.fit("Student t", x))
    Student t (df 2.99, loc 0.00511, scale 0.998)
    >>> print(fits.fit("Pareto tail", np.abs(x), k=1000))
    Pareto tail (alpha 2.95, loc 0, scale 5.87)

  References:
    Jones and Faddy (2003), A skew extension of the t distribution, JRSS B
    65(1). Clauset, Shalizi and Newman (2009), Power-law distributions in
    empirical data, SIAM Review 51(4): tails given a threshold.
  """
  family, values, threshold, share = _selected(law, x, k)
  return _fitted(law, family, values, threshold, share)


class Goodness(NamedTuple):
  """How far a sample is from its fitted law.

  Attributes:
    fit: the law.
    ks: the distance of Kolmogorov and Smirnov.
    ks_pvalue: its p-value by the bootstrap, at least 1/(replications + 1).
    anderson_darling: the statistic of Anderson and Darling, which sees tails.
    anderson_darling_pvalue: its p-value by the bootstrap.
    replications: of the bootstrap.
  """

  fit: Fit
  ks: float
  ks_pvalue: float
  anderson_darling: float
  anderson_darling_pvalue: float
  replications: int


def goodness(
  law: str,
  x: ArrayLike,
  k: int | None = None,
  replications: int = 199,
  seed: int = 0,
) -> Goodness:
  """Fits a law and tests it, by a parametric bootstrap.

  Args:
    law: one of :data:`LAWS`.
    x: independent values, [n]; thin a dependent series, whose p-values are
      too small.
    k: as in :func:`fit`; the threshold is taken as given.
    replications: samples of the fitted law, each fitted again.
    seed: of their generator; the same seed gives the same p-values.

  Returns:
    Both distances and p-values. Where the law is right, p is below 5 % in 5 %
    of samples, nearly (`tests/test_fits.py` counts them).

  Raises:
    ImportError, ValueError: as :func:`fit`.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import fits
    >>> x = np.random.default_rng(0).standard_normal(1000) ** 3
    >>> test = fits.goodness("Student t", x, replications=99)
    >>> print(f"KS {test.ks:.3f}, p = {test.ks_pvalue:.2f}")
    KS 0.081, p = 0.01

  References:
    Stute, Gonzalez Manteiga and Presedo Quindimil (1993), Bootstrap based
    goodness-of-fit tests, Metrika 40.
  """
  checks.check_size("replications", replications)
  family, values, threshold, share = _selected(law, x, k)
  fitted = _fitted(law, family, values, threshold, share)
  found = distances(fitted, threshold * values)
  rng = np.random.default_rng(seed)
  null = []
  for _ in range(replications):
    again = np.sort(family.sample(rng, values.size, *fitted.shape))
    if family.support != "tail":
      again = fitted.loc + fitted.scale * again
    refitted = _fitted(law, family, again, 1.0, 1.0)
    null.append(distances(refitted, again))
  larger = np.sum(np.asarray(null) >= found, axis=0)
  ks_pvalue, ad_pvalue = (1 + larger) / (1 + replications)
  return Goodness(
    fitted, found[0], float(ks_pvalue), found[1], float(ad_pvalue), replications
  )


def distances(fitted: Fit, ascending: np.ndarray) -> tuple[float, float]:
  """The distances of Kolmogorov-Smirnov and Anderson-Darling to a law.

  Args:
    fitted: the law.
    ascending: the values, sorted, [n].

  Returns:
    D and A^2 of the module's head.
  """
  n = ascending.size
  cdf, sf = fitted.cdf(ascending), fitted.sf(ascending)
  ranks = np.arange(1, n + 1)
  ks = max(np.max(ranks / n - cdf), np.max(cdf - (ranks - 1) / n))
  logs = np.log(np.maximum(cdf, 1e-300)) + np.log(np.maximum(sf, 1e-300))[::-1]
  return float(ks), float(-n - np.sum((2 * ranks - 1) * logs) / n)


class Comparison(NamedTuple):
  """Which of two laws is nearer to a sample.

  Attributes:
    log_ratio: of the likelihoods; positive where the first is nearer.
    statistic: its standard score; of nested laws twice -`log_ratio`.
    pvalue: of a ratio as far from 0 as this, were both equally near; of nested
      laws, were the first right.
    nested: whether the second law contains the first.
  """

  log_ratio: float
  statistic: float
  pvalue: float
  nested: bool


def vuong(x: ArrayLike, first: Fit, second: Fit) -> Comparison:
  r"""Compares two fitted laws by their likelihoods on the same values.

  .. math:: V = \frac{\sum_i l_i}{\sqrt n\, \mathrm{sd}(l)}, \qquad
    l_i = \log\frac{f_1(x_i)}{f_2(x_i)}

  is standard normal if neither law is nearer, and the laws are not nested. A
  lognormal tail has the Pareto tail as its limit, so that its likelihood is
  never smaller; then the p-value is half that of a chi-square of one degree.

  Args:
    x: the values that both were fitted to; of tails, all values.
    first: a law.
    second: another, with the same threshold if it is a tail.

  Returns:
    The :class:`Comparison`. No correction is made for numbers of parameters.

  Raises:
    ValueError: one is a tail and the other not, or their thresholds differ.

  Examples:
    >>> import numpy as np
    >>> from htga_optax import fits
    >>> x = np.random.default_rng(0).standard_t(3, size=5000)
    >>> both = [fits.fit(law, x) for law in ("Student t", "stable")]
    >>> found = fits.vuong(x, *both)
    >>> print(f"V = {found.statistic:.1f}, p = {found.pvalue:.0e}")
    V = 3.4, p = 7e-04

  References:
    Vuong (1989), Likelihood ratio tests for model selection and non-nested
    hypotheses, Econometrica 57(2). del Castillo and Puig (1999), The best test
    of exponentiality against singly truncated normal alternatives, JASA 94.
  """
  tails = [LAWS[f.law].support == "tail" for f in (first, second)]
  if tails[0] != tails[1] or (tails[0] and first.scale != second.scale):
    raise ValueError(
      "vuong takes two laws of the same values, got"
      f" {first.law} above {first.scale:.3g} and {second.law} above"
      f" {second.scale:.3g}."
    )
  x = np.asarray(x, float)
  if tails[0]:
    x = x[x > first.scale]
  ratios = first.logpdf(x) - second.logpdf(x)
  total, spread = float(np.sum(ratios)), float(np.std(ratios))
  if (first.law, second.law) == ("Pareto tail", "lognormal tail"):
    statistic = max(-2 * total, 0.0)
    pvalue = math.erfc(math.sqrt(statistic / 2)) / 2 if statistic else 1.0
    return Comparison(total, statistic, pvalue, True)
  statistic = total / (math.sqrt(x.size) * spread) if spread else 0.0
  pvalue = math.erfc(abs(statistic) / math.sqrt(2))
  return Comparison(total, statistic, pvalue, False)


def _selected(
  law: str, x: ArrayLike, k: int | None
) -> tuple[Law, np.ndarray, float, float]:
  """The law, the ascending values (ratios), the threshold, and the share."""
  if law not in LAWS:
    raise ValueError(f"law must be one of {', '.join(LAWS)}, got {law!r}.")
  family, values = LAWS[law], np.asarray(x, float)
  if values.ndim != 1 or values.size < _FEWEST:
    raise ValueError(
      f"x must be one-dimensional, of at least {_FEWEST} values, got shape"
      f" {values.shape}."
    )
  if not np.all(np.isfinite(values)):
    bad = int(np.sum(~np.isfinite(values)))
    raise ValueError(f"x must be finite, got {bad} values that are not.")
  values = np.sort(values)
  if family.support == "positive" and values[0] <= 0:
    raise ValueError(f"{law} has positive values, got {values[0]:.3g}.")
  if family.support != "tail":
    return family, values, 1.0, 1.0
  k = max(2, values.size // 10) if k is None else checks.check_size("k", k)
  checks.check_number(
    "k", k, lambda v: 2 <= v < values.size, f"be in [2, {values.size - 1}]"
  )
  threshold = float(values[-(k + 1)])
  if threshold <= 0:
    raise ValueError(f"{law} has a positive threshold, got {threshold:.3g}.")
  ratios = values[values > threshold] / threshold
  if ratios.size < 2:
    raise ValueError(f"{law}: fewer than 2 values exceed {threshold:.3g}.")
  return family, ratios, threshold, ratios.size / values.size


def _fitted(
  law: str, family: Law, values: np.ndarray, threshold: float, share: float
) -> Fit:
  shape, loc, scale = family.fit(values)
  scale *= threshold
  found = Fit(law, shape, loc, scale, 0.0, values.size, share)
  likelihood = float(np.sum(found.logpdf(threshold * values)))
  return found._replace(log_likelihood=likelihood)


# -- laws with a location, a scale and shapes --------------------------------


def _nodes(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The means of narrow bins, and how many values are in each."""
  bins = np.floor(np.arcsinh(ascending) / _WIDTH)
  first = np.flatnonzero(np.diff(bins, prepend=-np.inf))
  counts = np.diff(first, append=ascending.size)
  return np.add.reduceat(ascending, first) / counts, counts / ascending.size


@functools.cache
def _starts(law: str) -> list[tuple[tuple[float, ...], float]]:
  """Shapes to begin with, and the scale that gives quartiles of -1 and 1."""
  grid = {
    "Student t": [(1.0,), (2.0,), (5.0,), (30.0,)],
    "skew t": [(1.0, 1.0), (3.0, 3.0), (1.0, 2.0), (2.0, 1.0), (15.0, 15.0)],
    "stable": [(0.7,), (1.0,), (1.4,), (1.7,), (1.9,)],
  }[law]
  quartiles = [LAWS[law].quantile(np.array([0.25, 0.75]), *s) for s in grid]
  return [(s, 2 / float(q[1] - q[0])) for s, q in zip(grid, quartiles)]


def _maximum(
  law: str, bounds: tuple[float, float], ascending: np.ndarray
) -> tuple[tuple[float, ...], float, float]:
  """Maximum likelihood of shapes, location and scale.

  By scoring: the mean outer product of the scores, by central differences, is
  the curvature of the likelihood where the law is right. Shapes are sought in
  their logarithms, and begin at the best of a few.
  """
  low, middle, high = np.quantile(ascending, [0.25, 0.5, 0.75])
  size = float(high - low) / 2
  if size <= 0:
    raise ValueError(f"{law}: half of the values are equal to {middle:.3g}.")
  x, weights = _nodes((ascending - middle) / size)
  family = LAWS[law]

  def logpdf(at):
    *shape, loc, log_scale = at
    z = (x - loc) * math.exp(-log_scale)
    return family.logpdf(z, *np.exp(shape)) - log_scale

  shapes = np.log(bounds)[:, None] * np.ones(len(family.shapes))
  lower, upper = np.append(shapes, [[-3.0, -5.0], [3.0, 5.0]], axis=1)
  starts = [
    np.array([*np.log(shape), 0.0, math.log(scale)])
    for shape, scale in _starts(law)
  ]
  at = max(starts, key=lambda start: weights @ logpdf(start))
  likelihood = weights @ logpdf(at)
  steps = 1e-4 * np.eye(at.size)
  for _ in range(_ITERATIONS):
    ahead, behind = np.minimum(at + steps, upper), np.maximum(at - steps, lower)
    scores = [
      (logpdf(more) - logpdf(less)) / np.max(more - less)
      for more, less in zip(ahead, behind)
    ]
    scores = np.stack(scores)
    slope = scores @ weights
    free = np.where(slope > 0, at < upper, at > lower)
    scores = scores[free]
    information = (scores * weights) @ scores.T + 1e-9 * np.eye(len(scores))
    step = np.zeros_like(at)
    step[free] = np.linalg.solve(information, slope[free])
    if ascending.size * (slope @ step) < _CONVERGED:
      break
    step /= max(1.0, np.max(np.abs(step)))
    for _ in range(10):
      trial = np.clip(at + step, lower, upper)
      found = weights @ logpdf(trial)
      if found > likelihood:
        at, likelihood = trial, found
        break
      step /= 2
    else:
      break
  *shape, loc, log_scale = at
  return (
    tuple(float(s) for s in np.exp(shape)),
    float(middle + size * loc),
    float(size * math.exp(log_scale)),
  )


def _special() -> Any:
  return checks.optional_module("scipy.special")


def _t_logpdf(x: np.ndarray, df: float) -> np.ndarray:
  constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
  constant -= math.log(math.pi * df) / 2
  return constant - (df + 1) * np.log(np.hypot(1, x / math.sqrt(df)))


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
  upper = _special().betaincinv(b, a, 1 - p)  # (1 - w)/2
  lower = _special().betaincinv(a, b, p)
  return math.sqrt(a + b) * (lower - upper) / (2 * np.sqrt(lower * upper))


def _skew_sample(
  rng: np.random.Generator, size: int, a: float, b: float
) -> np.ndarray:
  # Beta's two ends from Gammas, so that neither is rounded to 0.
  u, v = rng.gamma(a, size=size), rng.gamma(b, size=size)
  u, v = np.maximum(u, 1e-100), np.maximum(v, 1e-100)
  return math.sqrt(a + b) * (u - v) / (2 * np.sqrt(u * v))


# -- the symmetric stable law ------------------------------------------------


@functools.cache
def _stable_tables() -> tuple[Any, Any]:
  """Splines in alpha of density and tail over asinh(x), without their powers.

  That is f (1 + x^2)^((alpha+1)/2) and P(X > x) (1 + x^2)^(alpha/2), and their
  slopes: [2, points].
  """
  interpolate = checks.optional_module("scipy.interpolate")
  alphas = np.linspace(LEAST_ALPHA, 2, 76)[:, None]
  points = np.linspace(0, math.asinh(_REACH), 400)
  log_r = np.arange(-75, 9, 0.05)
  t = np.exp(log_r + 1j * _PHI)
  decay = np.exp(-np.exp(alphas * (log_r + 1j * _PHI)))
  x = np.sinh(points)
  wave = np.exp(1j * x * t[:, None])
  density = np.real((decay * t) @ wave) * 0.05 / math.pi
  tail = 0.5 - _PHI / math.pi - np.imag(decay @ wave) * 0.05 / math.pi
  density[-1] = np.exp(-(x**2) / 4) / math.sqrt(4 * math.pi)
  tail[-1] = _special().ndtr(-x / math.sqrt(2))
  power = np.sqrt(1 + x**2) ** alphas
  splines = []
  for table in (density * power * np.sqrt(1 + x**2), tail * power):
    slopes = interpolate.CubicSpline(points, table, axis=1)(points, 1)
    both = np.stack([table, slopes * points[1]], axis=1)
    splines.append(interpolate.CubicSpline(alphas[:, 0], both))
  return splines[0], splines[1]


@functools.lru_cache(maxsize=8)
def _stable_row(alpha: float, is_tail: bool) -> np.ndarray:
  return _stable_tables()[is_tail](alpha)


def _stable(x: np.ndarray, alpha: float, is_tail: bool) -> np.ndarray:
  """P(X > |x|), or the density: both without their power of 1 + x^2."""
  x = np.abs(x)
  near = np.minimum(x, _REACH)
  values, slopes = _stable_row(float(alpha), is_tail)
  place = np.arcsinh(near) * ((values.size - 1) / math.asinh(_REACH))
  i = np.minimum(place.astype(int), values.size - 2)
  u, step = place - i, np.diff(values)[i]
  start, end = slopes[i], slopes[i + 1]
  cubic = 3 * step - 2 * start - end + u * (start + end - 2 * step)
  found = values[i] + u * (start + u * cubic)
  far = np.flatnonzero(x > _REACH)
  if far.size:
    k = np.arange(1, 11)
    gammas = _special().gamma(k * alpha + (not is_tail)) / _special().gamma(
      k + 1
    )
    signs = -((-1.0) ** k) * np.sin(k * math.pi * alpha / 2) / math.pi
    # The terms over x^-alpha (and 1/x), which 1 + x^2 is in this distance.
    terms = gammas * signs * x[far, None] ** (-alpha * (k - 1))
    found[far] = np.sum(terms, axis=1)
  return np.maximum(found, 1e-30)


def _stable_logpdf(x: np.ndarray, alpha: float) -> np.ndarray:
  power = (alpha + 1) * np.log(np.hypot(1, x))
  return np.log(_stable(x, alpha, False)) - power


def _stable_sf(x: np.ndarray, alpha: float) -> np.ndarray:
  beyond = _stable(x, alpha, True) * np.hypot(1, x) ** -alpha
  return np.where(x < 0, 1 - beyond, beyond)


def _stable_quantile(p: np.ndarray, alpha: float) -> np.ndarray:
  points = np.sinh(np.linspace(0, 60, 6000))
  tail = np.log(_stable_sf(points, alpha))
  rarity = -np.log(np.minimum(p, 1 - p))
  y = np.interp(rarity, np.maximum.accumulate(-tail), np.arcsinh(points))
  return np.sign(p - 0.5) * np.sinh(y)


def _stable_sample(
  rng: np.random.Generator, size: int, alpha: float
) -> np.ndarray:
  """Chambers, Mallows and Stuck."""
  v = rng.uniform(-math.pi / 2, math.pi / 2, size)
  w = rng.exponential(size=size)
  y = np.cos((1 - alpha) * v) / (w * np.cos(v))
  return np.sin(alpha * v) * w * y ** (1 / alpha) / np.cos((1 - alpha) * v)


# -- laws of positive values and of tails ------------------------------------


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
  """Of T - y, T normal given T > y: E[.^2]/E[.]^2, y, and E[.]; ascending."""
  y = np.linspace(*_EDGES, 13001)
  mean = _hazard(y) - y
  return (1 - y * mean) / mean**2, y, mean


def _hazard(y: np.ndarray) -> np.ndarray:
  return math.sqrt(2 / math.pi) / _special().erfcx(y / math.sqrt(2))


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
  erfcx = _special().erfcx
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
  log_tail = np.log1p(-p) + _special().log_ndtr(-y)
  return np.exp(sigma * (-_special().ndtri_exp(log_tail) - y))


LAWS = {
  "Student t": Law(
    shapes=("df",),
    support="real",
    fit=functools.partial(_maximum, "Student t", (0.1, 1e3)),
    logpdf=_t_logpdf,
    cdf=lambda x, df: _special().stdtr(df, x),
    sf=lambda x, df: _special().stdtr(df, -x),
    quantile=lambda p, df: _special().stdtrit(df, p),
    sample=lambda rng, n, df: rng.standard_t(df, n),
    tail_index=lambda df: df,
  ),
  "skew t": Law(
    shapes=("a", "b"),
    support="real",
    fit=functools.partial(_maximum, "skew t", (0.05, 500)),
    logpdf=_skew_logpdf,
    cdf=lambda x, a, b: _special().betainc(a, b, _skew_parts(x, a, b)[1] / 2),
    sf=lambda x, a, b: _special().betainc(b, a, _skew_parts(x, a, b)[0] / 2),
    quantile=_skew_quantile,
    sample=_skew_sample,
    tail_index=lambda a, b: 2 * min(a, b),
  ),
  "stable": Law(
    shapes=("alpha",),
    support="real",
    fit=functools.partial(_maximum, "stable", (LEAST_ALPHA, 2.0)),
    logpdf=_stable_logpdf,
    cdf=lambda x, alpha: _stable_sf(-x, alpha),
    sf=_stable_sf,
    quantile=_stable_quantile,
    sample=_stable_sample,
    tail_index=lambda alpha: alpha if alpha < 2 else math.inf,
  ),
  "lognormal": Law(
    shapes=("sigma",),
    support="positive",
    fit=_fit_lognormal,
    logpdf=_lognormal_logpdf,
    cdf=lambda x, sigma: _special().ndtr(np.log(x) / sigma),
    sf=lambda x, sigma: _special().ndtr(-np.log(x) / sigma),
    quantile=lambda p, sigma: np.exp(sigma * _special().ndtri(p)),
    sample=lambda rng, n, sigma: np.exp(sigma * rng.standard_normal(n)),
    tail_index=lambda sigma: math.inf,
  ),
  "Pareto tail": Law(
    shapes=("alpha",),
    support="tail",
    fit=lambda r: ((1 / float(np.mean(np.log(r))),), 0.0, 1.0),
    logpdf=lambda x, alpha: math.log(alpha) - (alpha + 1) * np.log(x),
    cdf=lambda x, alpha: -np.expm1(-alpha * np.log(np.maximum(x, 1.0))),
    sf=lambda x, alpha: np.maximum(x, 1.0) ** -alpha,
    quantile=lambda p, alpha: (1 - p) ** (-1 / alpha),
    sample=lambda rng, n, alpha: np.exp(rng.exponential(size=n) / alpha),
    tail_index=lambda alpha: alpha,
  ),
  "lognormal tail": Law(
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
  ),
  "exponential tail": Law(
    shapes=("rate",),
    support="tail",
    fit=lambda r: ((1 / float(np.mean(r - 1)),), 0.0, 1.0),
    logpdf=lambda x, rate: math.log(rate) - rate * (x - 1),
    cdf=lambda x, rate: -np.expm1(-rate * np.maximum(x - 1, 0.0)),
    sf=lambda x, rate: np.exp(-rate * np.maximum(x - 1, 0.0)),
    quantile=lambda p, rate: 1 - np.log1p(-p) / rate,
    sample=lambda rng, n, rate: 1 + rng.exponential(size=n) / rate,
    tail_index=lambda rate: math.inf,
  ),
}
