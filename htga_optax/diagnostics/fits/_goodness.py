"""Tests a fitted law, and compares two laws."""

import math
from typing import NamedTuple

from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.diagnostics.fits import _fit
from htga_optax.diagnostics.fits._fit import LAWS, Fit


class Goodness(NamedTuple):
  """How far a sample is from its fitted law.

  Attributes:
    fit: the fitted law.
    ks: the distance of Kolmogorov and Smirnov.
    ks_pvalue: the p-value of `ks` by the bootstrap, at least
      1/(replications + 1).
    anderson_darling: the statistic of Anderson and Darling, which is more
      sensitive to the tails.
    anderson_darling_pvalue: the p-value of `anderson_darling` by the bootstrap.
    replications: the number of samples of the bootstrap.
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
    law: the name of a law in :data:`LAWS`.
    x: independent values, [n]. The p-values of a dependent series are too
      small; thin it first.
    k: as in :func:`fit`. The bootstrap keeps the threshold.
    replications: how many samples are drawn from the fitted law. The law is
      fitted again to each of them.
    seed: the seed of the generator; the same seed gives the same p-values.

  Returns:
    Both distances and p-values. If the law is right, p is below 5 % in nearly
    5 % of samples (`tests/test_fits.py` counts them).

  Warns:
    UserWarning: as in :func:`fit`.

  Raises:
    ImportError, ValueError: as in :func:`fit`.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import fits
    >>> x = np.random.default_rng(0).standard_normal(1000) ** 3
    >>> test = fits.goodness("Student t", x, replications=99)
    >>> print(f"KS {test.ks:.3f}, p = {test.ks_pvalue:.2f}")
    KS 0.081, p = 0.01

  References:
    Stute, Gonzalez Manteiga and Presedo Quindimil (1993), Bootstrap based
    goodness-of-fit tests, Metrika 40.
  """
  _checks.check_size("replications", replications)
  family, values, threshold, share = _fit.select(law, x, k)
  fitted = _fit.fit_selected(law, family, values, threshold, share)
  found = distances(fitted, threshold * values)
  rng = np.random.default_rng(seed)
  null = []
  for _ in range(replications):
    again = np.sort(family.sample(rng, values.size, *fitted.shape))
    if family.support != "tail":
      again = fitted.loc + fitted.scale * again
    refitted = _fit.fit_selected(law, family, again, 1.0, 1.0)
    null.append(distances(refitted, again))
  larger = np.sum(np.asarray(null) >= found, axis=0)
  ks_pvalue, ad_pvalue = (1 + larger) / (1 + replications)
  return Goodness(
    fitted, found[0], float(ks_pvalue), found[1], float(ad_pvalue), replications
  )


def distances(fitted: Fit, ascending: np.ndarray) -> tuple[float, float]:
  """Computes the distances of Kolmogorov-Smirnov and Anderson-Darling.

  Args:
    fitted: the law.
    ascending: the values in ascending order, [n].

  Returns:
    D and A^2 of :mod:`htga_optax.diagnostics.fits`.
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
    log_ratio: the logarithm of the ratio of the likelihoods; positive if the
      first law is nearer.
    statistic: the standard score of `log_ratio`; for nested laws -2
      `log_ratio`.
    pvalue: the probability of a ratio this far from 0 if both laws are equally
      near; for nested laws, if the first law is right.
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

  V is standard normal if both laws are equally near and neither contains the
  other. The lognormal tail contains the Pareto tail as a limit, so its
  likelihood is never smaller. The p-value of that pair is half that of a
  chi-square with one degree of freedom.

  Args:
    x: the sample that both laws were fitted to; for tails, the whole sample.
    first: a law.
    second: another law; if it is a tail, with the same threshold.

  Returns:
    The :class:`Comparison`. It does not correct for the number of parameters.

  Raises:
    ValueError: one law is a tail and the other is not, or their thresholds
      differ.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import fits
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
      "vuong compares two laws of the same values, got"
      f" {first.law} above {first.scale:.3g} and {second.law} above"
      f" {second.scale:.3g}."
    )
  x = np.asarray(_checks.check_sample("x", x), float)
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
