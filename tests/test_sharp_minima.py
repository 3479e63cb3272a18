"""The example of sharp minima: its landscapes, a short run, errors."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.long_run

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

for package in ("matplotlib", "rich"):
  pytest.importorskip(package)


@pytest.fixture
def example(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import sharp_minima

  return sharp_minima


def slow_curve(x):
  """The landscape in float64, written as its formula."""
  y = (x + 1.6) * (x + 1.3) ** 2 * (x - 0.2) ** 2 * (x - 0.7) ** 2 * (x - 1.6)
  y = y * (0.05 * abs(1.65 - x)) ** 0.6
  y = y * (1 + 1 / (0.01 + 4 * (x - 0.5) ** 2))
  y = y * (1 + 1 / (0.1 + 4 * (x + 1.5) ** 2))
  return y * (1 - 0.25 * np.exp(-5 * (x + 0.8) ** 2))


def test_the_curve_has_its_gradient_and_minima(example):
  x = np.linspace(-1.59, 1.59, 1001)
  gradient = jax.vmap(jax.grad(example.ONE.loss))(np.float32(x)[:, None])[:, 0]
  h = 1e-6
  expected = (slow_curve(x + h) - slow_curve(x - h)) / (2 * h)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)
  x = np.linspace(-1.6, 1.6, 320_001)
  y = slow_curve(x)
  lower = (y[1:-1] < y[:-2]) & (y[1:-1] < y[2:])
  higher = (y[1:-1] > y[:-2]) & (y[1:-1] > y[2:])
  minima = [-1.5115, -0.6993, 0.4962, 1.3221]
  np.testing.assert_allclose(x[1:-1][lower], minima, atol=1e-4)
  np.testing.assert_allclose(example.ONE.minima[:, 0], minima)
  np.testing.assert_allclose(x[1:-1][higher], example.MAXIMA, atol=1e-4)


def test_the_plane_has_its_minima_and_hessians(example):
  two = example.TWO
  gradients = jax.vmap(jax.grad(two.loss))(two.minima)
  np.testing.assert_allclose(gradients, 0, atol=1e-6)
  hessians = jax.vmap(jax.hessian(two.loss))(two.minima)
  expected = example.CURVATURES[:, None, None] * np.eye(2)
  np.testing.assert_allclose(hessians, expected, rtol=1e-6)


def test_chains_start_in_a_sharp_basin(example):
  for landscape in example.LANDSCAPES:
    basins = jax.vmap(landscape.basin)(landscape.minima)
    np.testing.assert_array_equal(basins, np.arange(4))
    assert landscape.sharp[int(landscape.basin(landscape.start))]
  assert [well.jumps for well in example.WELLS] == [1, 2]


@pytest.mark.parametrize("d", [1, 2])
def test_the_noise_has_its_tail_and_no_preferred_direction(example, d):
  z = np.asarray(example.lomax(jax.random.key(0), (200_000, d)))
  length = np.linalg.norm(z, axis=1)
  for x in (0.1, 1.0, 10.0, 100.0):
    p = (1 + x) ** -example.ALPHA
    error = np.sqrt(p * (1 - p) / len(z))
    assert abs(np.mean(length > x) - p) < 4 * error, x
  signs = np.mean(np.sign(z), axis=0)
  assert np.all(abs(signs) < 4 / np.sqrt(len(z)))


def test_a_short_run_prefers_wide_minima_if_truncated(example):
  wide = {}
  for name in example.LAWS:
    done = example.occupy(0, name, 50, 800, jax.random.key(0))
    shares, positions = map(np.asarray, done)
    assert shares.shape == (50, 4) and positions.shape == (800, 50, 1)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert np.max(abs(positions)) <= np.float32(1.6)
    wide[name] = shares.mean(axis=0)[1::2].sum()
  assert wide["heavy, truncated"] > 0.85 and wide["Gaussian"] == 0
  steps = abs(np.diff(positions, axis=0))  # for Gaussian noise
  assert np.max(steps[10:]) < 0.01


def test_a_power_is_fitted(example):
  well = example.WELLS[0]
  times = 3 * np.array(well.etas) ** -1.5
  exits = np.array([400, 100, 5, 200, 50])
  done = example.fit(well, times * exits, exits)
  np.testing.assert_allclose(done.times, times)
  np.testing.assert_allclose([done.slope, done.constant], [1.5, np.log(3)])
  x, w = np.log(well.etas)[exits >= 10], exits[exits >= 10]
  covariance = np.linalg.inv(np.array([[w.sum(), w @ x], [w @ x, w @ x**2]]))
  np.testing.assert_allclose(done.error, covariance[1, 1] ** 0.5)
  few = example.fit(well, times, np.array([9, 9, 9, 20, 20]))
  assert np.isnan(few.slope)


@pytest.mark.slow
def test_the_command_writes_a_picture_and_tables(tmp_path):
  command = [sys.executable, str(EXAMPLES / "sharp_minima.py")]
  command += ["--chains", "2", "--steps", "150"]
  done = subprocess.run(
    command,
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "heavy, truncated" in done.stdout and "theory" in done.stdout
  assert "Too few exits" in done.stdout
  picture = (tmp_path / "sharp_minima.png").read_bytes()
  assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--chains", "0"], "must be 1, 2, ..., got 0"),
    (["--steps", "many"], "must be 1, 2, ..., got many"),
    (["--seed", "-1"], "must be 0, 1, ..., got -1"),
    (["--output", "no/such/folder/a.png"], "cannot write no/such/folder/a.png"),
    (["--output", "a.txt"], "must end in .png, got a.txt"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
  ],
)
def test_bad_arguments_are_one_line(example, argv, said):
  with pytest.raises(SystemExit) as stopped:
    example.main(argv)
  message = stopped.value.code  # printed to stderr, with status 1
  assert isinstance(message, str), message
  assert message.startswith("sharp_minima: ") and "\n" not in message
  assert said in message


@pytest.mark.slow
def test_the_predictions_of_the_theory(example, tmp_path):
  args = ["--seed", "1", "--output", str(tmp_path / "a.png")]
  results = example.run(example.parse(args))
  assert example.missed(results) == []
  assert (tmp_path / "a.png").stat().st_size < 300_000
  # The known reference used other chains.
  for name, expected in {
    "heavy": [0.144, 0.408, 0.053, 0.395],
    "heavy, truncated": [0.005, 0.422, 0.005, 0.568],
    "Gaussian": [0, 0, 1, 0],
  }.items():
    shares = results.shares[0][name].mean(axis=0)
    np.testing.assert_allclose(shares, expected, atol=0.1)
    sharp = [0, 2]
    np.testing.assert_allclose(
      shares[sharp], np.array(expected)[sharp], atol=0.03
    )
