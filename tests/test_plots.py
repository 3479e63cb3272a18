"""The content of the plots. How they look is checked by eye."""

import sys

import numpy as np
import pytest

from htga_optax import estimators, hsgd, intervals, order_statistics
from htga_optax.diagnostics import fits, plots
from htga_optax.diagnostics.plots import _style, _tails

X = np.random.default_rng(0).pareto(1.5, 600) + 1


def drawn(ax):
  """Draws the figure, so that a layout warning becomes an error."""
  ax.figure.canvas.draw()
  assert ax.get_xlabel() and ax.get_ylabel()
  return ax


def labels(ax):
  return [text.get_text() for text in ax.get_legend().get_texts()]


def test_ccdf_has_laws_and_bounds():
  laws = [fits.fit(name, X) for name in ("lognormal", "Pareto tail")]
  bounds = hsgd.tail_index_bounds([1.0, 0.5], 0.5)
  ax = drawn(plots.ccdf(X, laws, tuple(map(float, bounds)), unit="1"))
  assert labels(ax)[0] == "600 values" and len(labels(ax)) == 4
  assert ax.get_xlabel() == "|x| (1)"
  data, lognormal, pareto = ax.lines
  assert np.max(data.get_ydata()) == 1 and np.min(data.get_ydata()) == 1 / 600
  # A tail starts at its threshold, with the share of values beyond it.
  assert pareto.get_xdata()[0] == pytest.approx(laws[1].scale)
  assert pareto.get_ydata()[0] == pytest.approx(0.1)
  at = lognormal.get_xdata()
  np.testing.assert_allclose(lognormal.get_ydata(), laws[0].sf(at))


def test_ccdf_of_signed_values_has_both_tails():
  x = np.random.default_rng(0).standard_t(3, 500)
  law = fits.fit("Student t", x)
  ax = drawn(plots.ccdf(x, [law]))
  at, height = ax.lines[1].get_data()
  np.testing.assert_allclose(height, law.sf(at) + law.cdf(-at))
  with pytest.raises(ValueError, match="all values are 0"):
    plots.ccdf(np.zeros(20))


@pytest.mark.parametrize("name", fits.LAWS)
def test_qq_of_every_law_is_near_its_line(name):
  rng = np.random.default_rng(0)
  if fits.LAWS[name].support == "real":
    x = rng.standard_t(3, 2000)
  else:
    x = np.exp(rng.standard_normal(2000))
  ax = drawn(plots.qq(x, fits.fit(name, x)))
  line, points = ax.lines
  assert line.get_xdata()[0] == line.get_ydata()[0]
  across, up = points.get_data()
  if name in ("Student t", "skew t", "lognormal", "lognormal tail"):
    assert np.corrcoef(np.arcsinh(across), np.arcsinh(up))[0, 1] > 0.99


def test_hill_plot_is_hills_and_marks_k():
  ax = drawn(plots.hill_plot(1e30 * X, k=60))
  curve, used, automatic = ax.lines
  k, alpha = curve.get_data()
  np.testing.assert_allclose(alpha, estimators.hill_all(X)[k - 1], rtol=1e-4)
  assert used.get_xdata()[0] == 60
  found = int(estimators.automatic_k(X, 240))
  assert automatic.get_xdata()[0] == found
  assert f"automatic k, {found}" in labels(ax)
  with pytest.raises(ValueError, match=r"most must be in \[60, 599\], got 5."):
    plots.hill_plot(X, k=60, most=5)


def test_hill_plot_has_the_interval_at_k():
  curve = _tails._hill_curve(X, 60, 240)
  expected = intervals.examine(
    order_statistics.sorted_window(X), 60
  ).variance_inflation
  alpha = estimators.hill(X, 60)
  ends = estimators.hill_interval(alpha, 60 / expected)
  np.testing.assert_allclose(curve[1][59], ends, rtol=1e-4)


def test_tail_index_leaves_out_what_is_not_there():
  steps, alphas = np.arange(5), np.array([0.0, np.nan, 1.5, 1.6, 1.7])
  ax = plots.tail_index(steps, alphas, alphas - 0.5, alphas + 0.5, (1.2, 3.0))
  ax = drawn(plots.tail_index(steps, alphas + 1, label="other", ax=ax))
  np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 3, 4])
  assert labels(ax) == ["95 %", "tail index", "bounds from theory", "other"]
  assert ax.lines[0].get_color() != ax.lines[-1].get_color()


def test_a_long_series_keeps_its_spikes():
  y = np.ones(100_000)
  y[[50_000, 60_000]] = 1e6, np.nan
  ax = drawn(plots.series(np.arange(y.size), {"norm": y}, "norm"))
  (band,) = ax.collections
  assert np.max(band.get_paths()[0].vertices[:, 1]) == 1e6
  assert ax.lines[0].get_xdata().size <= 2000


def test_step_size_is_the_product():
  steps = np.arange(10)
  ax = drawn(plots.step_size(steps, 0.1, {"amplification": 1.0 + steps}))
  rate, effective = ax.lines
  np.testing.assert_allclose(rate.get_ydata(), 0.1)
  np.testing.assert_allclose(effective.get_ydata(), 0.1 * (1 + steps))


def test_norm_histograms_share_their_scale():
  axes = plots.norm_histograms(
    {"early": (X, 0.5 * X), "late": (X[:300], np.append(X[:300], np.nan))},
    unit="1",
  )
  axes[0, 0].figure.canvas.draw()
  assert axes.shape == (1, 2)
  assert axes[0, 0].get_ylim() == axes[0, 1].get_ylim()
  assert axes[0, 0].get_title(loc="left") == "early"
  with pytest.raises(ValueError, match="no positive and finite norm"):
    plots.norm_histograms({"early": (np.zeros(3), np.zeros(3))})


def test_landscapes_and_spectra():
  steps = np.linspace(-1, 1, 11)
  drawn(plots.loss_slice(steps, steps**2))
  square = steps[:, None] ** 2 + 3 * steps**2
  square[0, 0] = np.inf
  ax = drawn(plots.loss_slice(steps, square))
  assert len(ax.figure.axes) == 2  # with its colour bar
  points = np.linspace(-5, 5, 100)
  ax = drawn(plots.spectral_density(points, np.exp(-(points**2) * 4)))
  low, high = ax.get_ylim()
  assert low == pytest.approx(1e-6, rel=0.1) and high >= 1


def test_colours_and_dashes_differ():
  looks = [tuple(_style.line(i).items()) for i in range(6)]
  assert len({str(look) for look in looks}) == 6


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  with pytest.raises(ImportError, match=r'pip install "htga_optax\[diagn'):
    plots.panels()
