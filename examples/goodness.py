"""Tests whether samples follow Student's t law or a symmetric stable law.

Both families have a location, a scale and a shape. Maximum likelihood fits them
(`htga_optax.diagnostics.fits`). The test statistic is the Kolmogorov-Smirnov
distance between the sample and the law fitted to it. A parametric bootstrap
gives the p-value: it draws samples of the fitted law, fits the family to each,
and counts the samples whose distance to their own fit is at least as large. The
textbook p-value is for a law that was not fitted, and would be much too large.

`fits.goodness` tests one sample. Here many samples of one law share the
bootstrap, because the distribution of the distance depends on the shape alone,
and all samples together give the best estimate of the shape.
"""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import fits

FAMILIES = ("Student t", "stable")


class Verdict(NamedTuple):
  """The results of the tests of several samples.

  Attributes:
    fitted: the law fitted to all samples together.
    statistics: the distance of each sample to its own fitted law [m].
    pvalues: the p-values of the parametric bootstrap [m].
  """

  fitted: fits.Fit
  statistics: np.ndarray
  pvalues: np.ndarray


def judge(
  name: str, x: np.ndarray, seed: int, replications: int = 399
) -> Verdict:
  """Tests whether each of several samples of one law follows a family.

  Args:
    name: the family, one of `FAMILIES`.
    x: the samples [m, n].
    seed: the seed of the bootstrap.
    replications: the number of bootstrap samples. They are drawn from the law
      that is fitted to all samples together.

  Returns:
    The verdict.
  """
  x = np.asarray(x, float)
  fitted = fits.fit(name, x.ravel())
  rng = np.random.default_rng(seed)
  null = distances(
    name, (fitted.sample(rng, x.shape[1]) for _ in range(replications))
  )
  statistics = distances(name, x)
  larger = np.sum(null >= statistics[:, None], axis=1)
  return Verdict(fitted, statistics, (1 + larger) / (1 + replications))


def distances(name: str, samples) -> np.ndarray:
  """The Kolmogorov-Smirnov distance of each sample to its own fitted law."""
  found = [
    fits.distances(fits.fit(name, sample), np.sort(sample))[0]
    for sample in samples
  ]
  return np.array(found)
