"""Is a sample of Student's t law, or of a symmetric stable one?

Both families have a location, a scale and a shape, and are fitted by maximum
likelihood (`htga_optax.diagnostics.fits`). The distance of Kolmogorov and
Smirnov to the fitted law is taken, and its p-value is the share of samples of
that law whose distance, each to a fit of its own, is as large. The p-value of
the textbook, for a law that was not fitted, would be too large by far.

`fits.goodness` does that for one sample. Here many samples of one law share the
bootstrap: distances depend on the shape alone, which all know best together.
"""

from typing import NamedTuple

import numpy as np

from htga_optax.diagnostics import fits

FAMILIES = ("Student t", "stable")


class Verdict(NamedTuple):
  """What tests of several samples say.

  Attributes:
    fitted: the law of all samples together.
    statistics: the distance of each sample to its own law [m].
    pvalues: by the parametric bootstrap [m].
  """

  fitted: fits.Fit
  statistics: np.ndarray
  pvalues: np.ndarray


def judge(
  name: str, x: np.ndarray, seed: int, replications: int = 399
) -> Verdict:
  """Tests samples of one law [m, n], each by itself, for a family.

  The distances are compared with those of samples of the law fitted to all of
  them.
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
  """Of Kolmogorov and Smirnov, of each sample to its own law."""
  found = [
    fits.distances(fits.fit(name, sample), np.sort(sample))[0]
    for sample in samples
  ]
  return np.array(found)
