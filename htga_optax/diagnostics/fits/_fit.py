"""The laws by name, and the fit of one to a sample."""

import math
from typing import NamedTuple
import warnings

from jax.typing import ArrayLike
import numpy as np

from htga_optax import _checks
from htga_optax.diagnostics.fits import _stable, _student, _tails
from htga_optax.diagnostics.fits._law import Law

_FEWEST = 10  # values that can be fitted
FEW = 10  # values of a tail, below which a fit warns

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
    law: its name in :data:`LAWS`.
    shape: the shape parameters, as `LAWS[law].shapes` names them.
    loc: the location.
    scale: the scale; the threshold of a "tail".
    log_likelihood: of the values that it was fitted to.
    n: how many values it was fitted to.
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
    """Index of the heavier tail; inf if that is no power."""
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

  Args:
    law: one of :data:`LAWS`. Laws of all values are "Student t"; "skew t", the
      law of Jones and Faddy, whose tails have the indices 2a and 2b; "stable",
      symmetric, in the scale of :func:`htga_optax.stable.sample`; "lognormal".
      Laws of the k largest values, given the threshold :math:`X_{(k+1)}`, are
      "Pareto tail" (Hill's estimate); "lognormal tail", truncated at the
      threshold, which is y standard deviations above the median, with Pareto
      as the limit :math:`y\to\infty`; "exponential tail". Values equal to the
      threshold are left out. :func:`htga_optax.estimators.hill` counts them,
      with an excess of 0, and is larger by k over the number n that is left.
    x: the values, [n], in any order. What is masked is left out.
    k: how many values are the tail; a tenth of them if None. The laws of all
      values ignore it.

  Returns:
    The law, as :class:`Fit`. The search covers tail indices in [0.1, 1000] for
    t and alpha in [0.5, 2] for stable laws.

  Warns:
    UserWarning: fewer than 10 values of a tail exceed the threshold.

  Raises:
    ImportError: scipy is missing.
    ValueError: there is no such law; `x` is complex, not one-dimensional, not
      finite, has fewer than 10 values (2 in the tail), or values that the law
      cannot have; half of the values are equal.

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
  """Checks a sample and picks the values that a law is fitted to.

  Returns:
    The law; these values in ascending order, for a tail their ratios to the
    threshold; the threshold, or 1; the share of all values.
  """
  if law not in LAWS:
    raise ValueError(f"law must be one of {', '.join(LAWS)}, got {law!r}.")
  family = LAWS[law]
  values = np.asarray(_checks.check_sample("x", x), float)
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
  k = max(2, values.size // 10) if k is None else _checks.check_size("k", k)
  _checks.check_number(
    "k", k, lambda v: 2 <= v < values.size, f"be in [2, {values.size - 1}]"
  )
  threshold = float(values[-(k + 1)])
  if threshold <= 0:
    raise ValueError(f"{law} has a positive threshold, got {threshold:.3g}.")
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
  """Fits a law to what :func:`select` returned."""
  shape, loc, scale = family.fit(values)
  scale *= threshold
  found = Fit(law, shape, loc, scale, 0.0, values.size, share)
  likelihood = float(np.sum(found.logpdf(threshold * values)))
  return found._replace(log_likelihood=likelihood)
