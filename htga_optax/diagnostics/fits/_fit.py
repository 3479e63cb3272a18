"""Lists the laws by name, and fits a law to a sample."""

import math
from typing import NamedTuple
import warnings

from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.diagnostics.fits import _stable, _student, _tails
from htga_optax.diagnostics.fits._law import Law

_FEWEST = 10  # how many values a fit needs
FEW = 10  # a fit to fewer values of a tail warns

LAWS = {
  "Student t": _student.STUDENT_T,
  "skew t": _student.SKEW_T,
  "stable": _stable.STABLE,
  "lognormal": _tails.LOGNORMAL,
  "Pareto tail": _tails.PARETO_TAIL,
  "lognormal tail": _tails.LOGNORMAL_TAIL,
  "exponential tail": _tails.EXPONENTIAL_TAIL,
}


class Fit(NamedTuple):
  """A fitted law.

  Attributes:
    law: the name of the law in :data:`LAWS`.
    shape: the shape parameters, in the order of `LAWS[law].shapes`.
    loc: the location.
    scale: the scale; for a "tail" the threshold.
    log_likelihood: the logarithm of the likelihood of the fitted values.
    n: the number of values that the law was fitted to.
    share: n over the size of the sample; below 1 for a "tail".
  """

  law: str
  shape: tuple[float, ...]
  loc: float
  scale: float
  log_likelihood: float
  n: int
  share: float

  def logpdf(self, x: ArrayLike) -> np.ndarray:
    """The logarithm of the density, given that x is above the threshold."""
    standard = self._standard(x)
    return LAWS[self.law].logpdf(standard, *self.shape) - math.log(self.scale)

  def cdf(self, x: ArrayLike) -> np.ndarray:
    """The probability of at most x, given a value above the threshold."""
    return LAWS[self.law].cdf(self._standard(x), *self.shape)

  def sf(self, x: ArrayLike) -> np.ndarray:
    """The probability of more than x, given a value above the threshold."""
    return LAWS[self.law].sf(self._standard(x), *self.shape)

  def quantile(self, p: ArrayLike) -> np.ndarray:
    """The inverse of `cdf`."""
    standard = LAWS[self.law].quantile(np.asarray(p, float), *self.shape)
    return self.loc + self.scale * standard

  def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws independent values; those of a tail are above the threshold."""
    standard = LAWS[self.law].sample(rng, size, *self.shape)
    return self.loc + self.scale * standard

  @property
  def tail_index(self) -> float:
    """The index of the heavier tail; inf if that is not a power law."""
    return LAWS[self.law].tail_index(*self.shape)

  def __str__(self) -> str:
    names = (*LAWS[self.law].shapes, "loc", "scale")
    values = (*self.shape, self.loc, self.scale)
    parameters = ", ".join(f"{n} {v:.3g}" for n, v in zip(names, values))
    return f"{self.law} ({parameters})"

  def _standard(self, x: ArrayLike) -> np.ndarray:
    return (np.asarray(x, float) - self.loc) / self.scale


def fit(law: str, x: ArrayLike, k: int | None = None) -> Fit:
  r"""Fits a law by maximum likelihood.

  These are laws of all values:

  * "Student t".
  * "skew t": the law of Jones and Faddy; its tails have the indices 2a and 2b.
  * "stable": symmetric, in the scale of :func:`htga_optax.stable.sample`.
  * "lognormal".

  These are laws of the k largest values, given the threshold
  :math:`X_{(k+1)}`:

  * "Pareto tail": Hill's estimate.
  * "lognormal tail": truncated at the threshold, which is y standard deviations
    above the median. Pareto is the limit :math:`y\to\infty`.
  * "exponential tail".

  Values equal to the threshold are left out. If n values remain, the index of
  the Pareto tail is n/k times that of :func:`htga_optax.estimators.hill`, which
  counts the equal values with an excess of 0.

  Args:
    law: the name of a law in :data:`LAWS`.
    x: the values, [n], in any order. Masked values are left out.
    k: how many of the largest values form the tail; a tenth of all if None. The
      laws of all values ignore it.

  Returns:
    The law, as :class:`Fit`. The search covers tail indices in [0.1, 1000] for
    t and alpha in [0.5, 2] for stable laws.

  Warns:
    UserWarning: fewer than 10 values of a tail exceed the threshold.

  Raises:
    ImportError: scipy is missing.
    ValueError: there is no such law; `x` is complex, not one-dimensional or not
      finite; it has fewer than 10 values (2 in the tail), or values that are
      impossible under the law; or half of its values are equal.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import fits
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
  family, values, threshold, share = select(law, x, k)
  return fit_selected(law, family, values, threshold, share)


def select(
  law: str, x: ArrayLike, k: int | None
) -> tuple[Law, np.ndarray, float, float]:
  """Checks a sample and selects the values that a law is fitted to.

  Returns:
    The law; the selected values in ascending order, for a tail their ratios to
    the threshold; the threshold, or 1; the share of the selected values.
  """
  if law not in LAWS:
    raise ValueError(f"law must be one of {', '.join(LAWS)}, got {law!r}.")
  family = LAWS[law]
  values = np.asarray(_checks.check_sample("x", x), float)
  if values.ndim != 1 or values.size < _FEWEST:
    raise ValueError(
      f"x must be one-dimensional with at least {_FEWEST} values, got shape"
      f" {values.shape}."
    )
  if not np.all(np.isfinite(values)):
    bad = int(np.sum(~np.isfinite(values)))
    raise ValueError(f"x must be finite, got {bad} nan or infinite values.")
  values = np.sort(values)
  if family.support == "positive" and values[0] <= 0:
    raise ValueError(f"{law} needs positive values, got {values[0]:.3g}.")
  if family.support != "tail":
    return family, values, 1.0, 1.0
  k = max(2, values.size // 10) if k is None else _checks.check_size("k", k)
  _checks.check_number(
    "k", k, lambda v: 2 <= v < values.size, f"be in [2, {values.size - 1}]"
  )
  threshold = float(values[-(k + 1)])
  if threshold <= 0:
    raise ValueError(f"{law} needs a positive threshold, got {threshold:.3g}.")
  ratios = values[values > threshold] / threshold
  if ratios.size < 2:
    raise ValueError(f"{law}: fewer than 2 values exceed {threshold:.3g}.")
  if ratios.size < FEW:
    warnings.warn(
      f"{law}: the fit rests on {ratios.size} values above {threshold:.3g},"
      f" fewer than {FEW}.",
      stacklevel=3,
    )
  return family, ratios, threshold, ratios.size / values.size


def fit_selected(
  law: str, family: Law, values: np.ndarray, threshold: float, share: float
) -> Fit:
  """Fits a law to the values that :func:`select` returned."""
  shape, loc, scale = family.fit(values)
  scale *= threshold
  found = Fit(law, shape, loc, scale, 0.0, values.size, share)
  likelihood = float(np.sum(found.logpdf(threshold * values)))
  return found._replace(log_likelihood=likelihood)
