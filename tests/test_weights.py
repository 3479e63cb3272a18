"""The command that examines the weights of a trained model."""

import numpy as np
import pytest

from htga_optax import spectra
from htga_optax.diagnostics import __main__ as command
from htga_optax.diagnostics import plots, weights

pytest.importorskip("matplotlib")
RNG = np.random.default_rng(0)
PARAMS = {
  "bias": np.ones(90, np.float32),
  "conv": np.float32(RNG.standard_normal((3, 3, 10, 60))),
  "dense": np.float32(RNG.standard_t(1.5, (100, 80))),
  "ids": np.arange(10_000).reshape(100, 100),
}


def test_examine():
  found = weights.examine(PARAMS)
  assert [(s.name, s.rows, s.columns) for s in found] == [
    ("conv", 90, 60),
    ("dense", 100, 80),
  ]
  for s, w in zip(found, (PARAMS["conv"].reshape(90, 60), PARAMS["dense"])):
    singular = np.linalg.svd(np.float64(w), compute_uv=False)
    np.testing.assert_allclose(s.eigenvalues[-1], singular[0] ** 2, rtol=1e-5)
    assert s.relative == pytest.approx(float(spectra.relative_tail_index(w)))
    assert s.power_law.alpha == pytest.approx(
      float(spectra.power_law(s.eigenvalues).alpha)
    )
  assert found[1].relative < 0.7 < found[0].relative


def test_an_npz_file(tmp_path, capsys):
  path, picture = tmp_path / "model.npz", tmp_path / "spectra.png"
  np.savez(path, **PARAMS)
  command.main(["weights", str(path), "-o", str(picture)])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == [
    "layer",
    "matrix",
    "alpha",
    "untrained",
    "relative",
    "best",
    "fit",
  ]
  assert lines[1].split()[:4] == ["conv", "90", "x", "60"]
  assert lines[2].split()[0] == "dense"
  assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_a_folder_of_orbax(tmp_path):
  orbax = pytest.importorskip("orbax.checkpoint")
  tree = {"layer": {k: PARAMS[k] for k in ("conv", "dense")}}
  orbax.PyTreeCheckpointer().save(tmp_path / "model", tree)
  found = weights.examine(weights.read(tmp_path / "model"))
  assert [s.name for s in found] == ["layer/conv", "layer/dense"]


@pytest.mark.slow
def test_the_best_fit_is_that_of_weightwatcher():
  weightwatcher = pytest.importorskip("weightwatcher")
  x = np.asarray(spectra.eigenvalues(PARAMS["dense"]), float)
  fit = weightwatcher.WeightWatcher().fit_powerlaw(x, plot=False)
  assert spectra.power_law(x).alpha == pytest.approx(fit[0], rel=1e-3)


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("model.txt", b"", "is not an .npz file"),
    ("model.npz", b"PK\x03\x04broken", "broken"),
    ("missing.npz", None, "No such file"),
  ],
)
def test_errors_are_one_line(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(SystemExit, match=f"^diagnostics: .*{message}"):
    command.main(["weights", str(path)])


def test_a_model_without_matrices(tmp_path):
  path = tmp_path / "model.npz"
  np.savez(path, bias=np.ones(3))
  with pytest.raises(SystemExit, match=r"no matrix with 50 rows.* 1 arrays"):
    command.main(["weights", str(path)])


def test_a_picture_needs_eigenvalues():
  with pytest.raises(ValueError, match="got 3 of 3"):
    plots.spectrum(np.ones(3), 3, 3)
