"""Times a fit on the host, against scipy."""

from scipy import stats

from htga_optax.diagnostics import fits


def test_stable_over_scipy(race):
  """Both maximise the likelihood of a symmetric law."""
  x = stats.levy_stable.rvs(1.5, 0, size=50, random_state=0)
  race(
    "a stable law fitted to 50 values, over `levy_stable.fit(x, fbeta=0)`",
    lambda: fits.fit("stable", x),
    lambda: stats.levy_stable.fit(x, fbeta=0),
    0.02,
    rounds=1,
  )
