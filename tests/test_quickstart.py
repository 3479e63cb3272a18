"""The main example: a short run, and its errors."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SHARED = ROOT.parent / "shared"

for package in ("flax", "matplotlib", "rich", "sklearn"):
  pytest.importorskip(package)


@pytest.fixture
def quickstart(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import quickstart

  return quickstart


@pytest.fixture
def arrays():
  """Toy data that can be learnt: the bright part of an image is its class."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, 80)
  x = rng.integers(0, 60, (80, 6, 6), dtype=np.uint8)
  x[:, :3] += (150 * y).astype(np.uint8)[:, None, None]
  return {
    "x_train": x[:60],
    "y_train": y[:60],
    "x_test": x[60:],
    "y_test": y[60:],
  }


def fails_with_one_line(quickstart, *argv):
  with pytest.raises(SystemExit) as stopped:
    quickstart.main(list(argv))
  message = stopped.value.code
  assert isinstance(message, str), message  # printed to stderr, with status 1
  assert message.startswith("quickstart: ") and "\n" not in message
  return message


@pytest.mark.slow
def test_a_short_run_trains_and_draws(quickstart, arrays, tmp_path):
  dataset = quickstart.data._checked(*arrays.values(), "toy")
  optimizers = quickstart.make_optimizers(0.05, 0.9, window_size=32)
  runs = quickstart.compare(dataset, optimizers, 70, batch_size=16, seeds=2)
  assert list(runs) == ["SGD", "SGD+clip", "AdamW", "HTGA"]
  for name, run in runs.items():
    assert run.log["loss"].shape == (2, 70), name
    assert np.all(np.isfinite(run.log["loss"])), name
    assert np.all(run.log["tail_index"][:, :31] == 0), name
    assert np.all(run.log["tail_index"][:, 31:] > 0), name
    assert np.all(run.accuracy["test"] > 0.9), name
  first = [run.log["loss"][:, 0] for run in runs.values()]
  np.testing.assert_allclose(first, [first[0]] * 4, rtol=1e-5)
  quickstart.draw(runs, tmp_path / "toy.png", "toy")
  assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
  assert "HTGA" in quickstart.reading(runs)


def test_the_command_writes_a_picture_and_a_table(arrays, tmp_path):
  np.savez(tmp_path / "toy.npz", **arrays)
  command = [sys.executable, str(EXAMPLES / "quickstart.py")]
  command += ["--dataset", "toy.npz", "--steps", "3", "--seeds", "1"]
  done = subprocess.run(
    command,
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "no tail index in fewer than 256 steps" in done.stderr
  assert "test accuracy" in done.stdout and "AdamW" in done.stdout
  assert (tmp_path / "quickstart.png").exists()


def test_digits(quickstart):
  digits = quickstart.data.load("digits")
  assert digits.x_train.shape == (1347, 8, 8, 1)
  assert digits.x_test.shape == (450, 8, 8, 1)
  assert digits.x_train.dtype == np.uint8 and digits.x_train.max() == 255


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--dataset", "imagenet"], "unknown data set 'imagenet': take digits,"),
    (["--dataset", "missing.npz"], "missing.npz: No such file"),
    (["--dataset", "ptb"], "ptb is text, and images are needed: take digits,"),
    (["--steps", "0"], "must be 1, 2, ..., got 0"),
    (["--learning-rate", "-1"], "learning_rate must be a finite number"),
    (["--output", "no/such/folder/a.png"], "cannot write no/such/folder/a.png"),
    (["--output", "a.txt"], "must end in .png, got a.txt"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
  ],
)
def test_bad_arguments_are_one_line(quickstart, argv, said):
  assert said in fails_with_one_line(quickstart, *argv)


def test_bad_files_are_one_line(quickstart, arrays, tmp_path):
  path = tmp_path / "bad.npz"

  def said():
    return fails_with_one_line(quickstart, "--dataset", str(path))

  path.write_bytes(b"not a zip")
  assert "is not an .npz file" in said()
  np.savez(path, x_train=arrays["x_train"])
  assert "has no y_train" in said()
  np.savez(path, **arrays | {"x_test": arrays["x_test"].astype(float)})
  assert "x_test of bad must be uint8" in said()
  np.savez(path, **arrays | {"y_train": arrays["y_train"][1:]})
  assert "y_train of bad must be int [60], got int64 [59]" in said()
  np.savez(path, **arrays)
  path.write_bytes(path.read_bytes()[:-200])
  assert str(path) in said()


@pytest.mark.parametrize(
  "dataset, module, extra",
  [
    ("digits", "sklearn", "examples"),
    ("mnist", "tensorflow_datasets", "tfds"),
  ],
)
def test_a_missing_extra_is_named(
  quickstart, monkeypatch, dataset, module, extra
):
  monkeypatch.setitem(sys.modules, module, None)
  said = fails_with_one_line(quickstart, "--dataset", dataset)
  assert said.endswith(
    f'{module} is missing: pip install "htga_optax[{extra}]"'
  )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow and TFDS warn
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_tfds(quickstart, name, tmp_path):
  """The official builders, from raw files in the folder of TFDS."""
  pytest.importorskip("tensorflow_datasets")
  if not (SHARED / "seed_tfds.py").exists():
    pytest.skip("no raw files beside the repository")
  subprocess.run(
    [sys.executable, SHARED / "seed_tfds.py", "--tfds-dir", tmp_path, name],
    check=True,
  )
  loaded = quickstart.data.load(name, str(tmp_path))
  assert loaded.x_train.shape == (60000, 28, 28, 1)
  assert np.bincount(loaded.y_test).sum() == 10000
  # Reading prepared data needs no TensorFlow.
  script = (
    "import sys, data;"
    f"print(data.load({name!r}, {str(tmp_path)!r}).x_test.mean());"
    "sys.exit('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=EXAMPLES,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert f"{loaded.x_test.mean()}" in done.stdout
