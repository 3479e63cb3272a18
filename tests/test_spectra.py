"""The tail of a spectrum: published rules, untrained matrices, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import integrate

from htga_optax import estimators, spectra
from htga_optax.spectra import _tails

RNG = np.random.default_rng(0)
# Shape, and the PL_Alpha_Hill that others measured on Gaussian matrices.
SHAPES = {
  (256, 256): 2.14,
  (512, 256): 2.72,
  (512, 128): 3.45,
  (512, 64): 4.54,
}


def spectrum(w):
  return np.linalg.svd(np.asarray(w, float), compute_uv=False) ** 2


@pytest.mark.parametrize("shape", [(60, 60), (61, 90), (90, 61), (64, 512)])
def test_eigenvalues_are_those_of_numpy(shape):
  w = RNG.standard_normal(shape)
  expected = spectrum(w)[::-1]
  np.testing.assert_allclose(
    spectra.eigenvalues(w), expected, rtol=1e-4, atol=1e-5 * expected[-1]
  )


def test_both_ways_to_the_eigenvalues_agree():
  """Those of CPU and of other platforms, also for complex matrices."""
  for w in (RNG.standard_normal((70, 50)), RNG.standard_normal((50, 70))):
    for z in (w, w + 1j * w[::-1]):
      z = jnp.asarray(z, jnp.complex64 if np.iscomplexobj(z) else jnp.float32)
      one, other = _tails._by_svd(z), _tails._by_gram(z)
      np.testing.assert_allclose(one, other, atol=1e-5 * float(one[-1]))
      np.testing.assert_allclose(
        _tails._upper_half(one)[0], _tails._upper_half(other)[0], rtol=1e-4
      )


@pytest.mark.parametrize("n", [3, 50, 101])
def test_pl_alpha_hill_is_the_formula(n):
  x = RNG.pareto(1.5, n) + 1
  expected = reference.pl_alpha_hill(x)
  np.testing.assert_allclose(spectra.pl_alpha_hill(x), expected, rtol=1e-4)
  np.testing.assert_allclose(
    spectra.pl_alpha_hill(1e60 * x), expected, rtol=1e-4
  )
  above = n - n // 2
  hill = estimators.hill(x, above - 1)
  np.testing.assert_allclose(
    1 + hill * above / (above - 1), expected, rtol=1e-4
  )


@pytest.mark.parametrize("case", ["pareto", "gaussian matrix", "zeros", "two"])
def test_power_law_fit_is_the_loop(case):
  x = {
    "pareto": lambda: RNG.pareto(1.5, 200) + 1,
    "gaussian matrix": lambda: spectrum(RNG.standard_normal((120, 80))),
    "zeros": lambda: np.r_[np.zeros(5), RNG.pareto(2.0, 60) + 1],
    "two": lambda: np.asarray([1.0, 2.0]),
  }[case]()
  alpha, xmin, distance, size = reference.power_law_fit(x)
  found = spectra.power_law_fit(x)
  np.testing.assert_allclose(found.alpha, alpha, rtol=1e-4)
  np.testing.assert_allclose(found.xmin, xmin, rtol=1e-5)
  np.testing.assert_allclose(found.distance, distance, atol=1e-5)
  assert found.size == size


@pytest.mark.slow
def test_power_law_fit_is_that_of_weightwatcher():
  ww = pytest.importorskip("weightwatcher.WW_powerlaw")
  rng = np.random.default_rng(2)
  for w in (
    rng.standard_normal((300, 300)),
    rng.standard_normal((400, 100)),
    rng.standard_t(1.5, (200, 200)),
    rng.standard_normal((200, 200)) + 3 * np.outer(*rng.normal(size=(2, 200))),
  ):
    x = spectrum(w)
    theirs, ours = ww.pl_fit(x, xmax=np.max(x)), spectra.power_law_fit(x)
    np.testing.assert_allclose(ours.alpha, theirs.alpha, rtol=1e-4)
    np.testing.assert_allclose(ours.xmin, theirs.xmin, rtol=1e-4)
    np.testing.assert_allclose(ours.distance, theirs.D, atol=1e-4)


@pytest.mark.parametrize("rows, columns", [(80, 80), (200, 50), (50, 90)])
def test_quantiles_are_those_of_the_density(rows, columns):
  q = min(rows, columns) / max(rows, columns)
  a, b = (1 - np.sqrt(q)) ** 2, (1 + np.sqrt(q)) ** 2
  density = lambda x: np.sqrt((b - x) * (x - a)) / (2 * np.pi * q * x)
  x = spectra.marchenko_pastur_quantiles(rows, columns)
  for j in (0, 10, x.size // 2, x.size - 1):
    share = integrate.quad(density, a, x[j], limit=200)[0]
    assert share == pytest.approx((j + 0.5) / x.size, abs=1e-5)
  inner = x[1:-1]
  np.testing.assert_allclose(
    spectra.marchenko_pastur_density(inner, rows, columns), density(inner)
  )
  outside = spectra.marchenko_pastur_density(
    [0.99 * a, 1.01 * b], rows, columns
  )
  assert not np.any(outside)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_untrained_matrix_reads_the_null_of_its_shape(shape):
  """The mean of 20 matrices has an error below 1 percent at all shapes.

  The limit law is 1 to 2 percent off at 64 eigenvalues, which fluctuate.
  """
  rng = np.random.default_rng(3)
  alphas = [
    reference.pl_alpha_hill(spectrum(rng.standard_normal(shape)))
    for _ in range(20)
  ]
  null = spectra.null_alpha(*shape)
  assert null == pytest.approx(np.mean(alphas), rel=0.025)
  assert null == pytest.approx(SHAPES[shape], rel=0.02)
  assert spectra.null_alpha(*shape[::-1]) == null


def test_the_ratio_of_an_untrained_matrix_is_one_at_every_shape():
  """The raw numbers differ by a factor of 3; 8 of them have an error of 2 %."""
  ratios = jax.jit(jax.vmap(lambda w: spectra.tail(w).tail_ratio))
  for rows in (100, 200, 400, 800):
    w = np.random.default_rng(4).standard_normal((8, rows, 100))
    assert np.mean(ratios(jnp.asarray(w, jnp.float32))) == pytest.approx(
      1, abs=0.05
    )


def test_a_heavier_spectrum_has_a_smaller_ratio():
  heavy = np.random.default_rng(5).standard_t(1.5, (200, 100))
  found = spectra.tail(heavy)
  expected = reference.pl_alpha_hill(spectrum(heavy))
  np.testing.assert_allclose(1 + found.tail_index, expected, rtol=1e-3)
  np.testing.assert_allclose(
    found.tail_ratio,
    (expected - 1) / (spectra.null_alpha(200, 100) - 1),
    rtol=1e-3,
  )
  assert found.tail_ratio < 0.7


LOW_RANK = RNG.standard_normal((60, 29)) @ RNG.standard_normal((29, 60))
UNKNOWN = {
  "rank one": np.outer(RNG.standard_normal(60), RNG.standard_normal(60)),
  "less than half the rank": LOW_RANK,
  "zeros": np.zeros((60, 60)),
  "nan": np.full((60, 60), np.nan),
  "one nan": np.where(np.arange(60) == 3, np.nan, np.ones((60, 60))),
  "inf": np.full((60, 60), np.inf),
  "one row": np.ones((1, 5)),
  "one column": np.ones((5, 1)),
  "one entry": np.ones((1, 1)),
  "orthogonal": np.linalg.qr(RNG.standard_normal((60, 60)))[0],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_matrix_without_information_is_nan(name):
  w = UNKNOWN[name]
  assert all(np.isnan(spectra.tail(w)))
  found, known = _tails.known_tail(w)
  assert not known and np.all(np.isfinite(found))
  assert np.isnan(spectra.pl_alpha_hill(spectra.eigenvalues(w)))


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_the_unit_of_a_matrix_does_not_matter(size):
  w = np.random.default_rng(6).standard_normal((60, 80)).astype(np.float32)
  np.testing.assert_allclose(
    spectra.tail(np.float32(size) * w), spectra.tail(w), rtol=1e-4
  )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
  w = np.random.default_rng(7).standard_normal((60, 80))
  expected = reference.pl_alpha_hill(spectrum(jnp.asarray(w, dtype)))
  found = spectra.tail(jnp.asarray(w, dtype)).tail_index
  np.testing.assert_allclose(1 + found, expected, rtol=1e-3)


def test_a_fit_without_a_threshold_is_nan():
  for x in (np.zeros(9), np.ones(9), [1.0], [np.nan, 1.0, 2.0]):
    found = spectra.power_law_fit(x)
    assert np.isnan(found.alpha) and np.isnan(found.xmin) and not found.size


def test_bad_input_is_one_sentence():
  with pytest.raises(ValueError, match=r"two axes.*got shape \(3,\)"):
    spectra.tail(np.ones(3))
  with pytest.raises(ValueError, match=r"at least one entry.*\(0, 3\)"):
    spectra.tail(np.ones((0, 3)))
  with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 2\)"):
    spectra.pl_alpha_hill(np.ones((2, 2)))
  with pytest.raises(ValueError, match="eigenvalues must be positive, got 0"):
    spectra.power_law_fit([])
  with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
    spectra.null_alpha(0, 3)


def test_kernels_by_name_and_shape():
  assert spectra.kernel_rows("dense/kernel", (512, 64)) == 1
  assert spectra.kernel_rows("conv/kernel", (3, 3, 16, 64)) == 3
  assert spectra.kernel_rows("attention/key/kernel", (64, 8, 64)) == 1
  assert spectra.kernel_rows("attention/key/kernel/value", (64, 8, 64)) == 1
  assert spectra.kernel_rows("attention/out/kernel", (8, 64, 512)) == 2
  assert spectra.kernel_rows("features.0.weight", (64, 16, 3, 3)) == 1
  assert spectra.kernel_rows("dense/bias", (512,)) is None
  assert spectra.kernel_rows("dense/kernel", (512, 49)) is None
  assert spectra.kernel_rows("Embed_0/embedding", (512, 512)) is None
