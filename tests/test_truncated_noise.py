"""The example of truncated noise on images: its net, short runs, errors."""

import os
import pathlib
import subprocess
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

for package in ("flax", "matplotlib", "rich", "scipy"):
  pytest.importorskip(package)


@pytest.fixture
def example(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # restored later
  import truncated_noise

  return truncated_noise


@pytest.fixture
def arrays():
  """Toy data that can be learnt: the bright part of an image is its class."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, 150)
  x = rng.integers(0, 60, (150, 16, 16), dtype=np.uint8)
  x[:, :8] += (150 * y).astype(np.uint8)[:, None, None]
  return {
    "x_train": x[:70],
    "y_train": y[:70],
    "x_test": x[70:],
    "y_test": y[70:],
  }


SMALL = ["--dataset", "toy.npz", "--clean", "50", "--wrong", "10"]


def test_the_net_is_the_one_of_11330_parameters(example):
  """Valid convolutions and max pools of XLA, in blocks of images."""
  model = lambda key: example.Net((28, 28, 1), 10, example.nnx.Rngs(key))
  examiner = example.Examiner(model)
  params = examiner.begin(jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == 11_330

  def layer(x, linear):
    kernel = linear.kernel[...].reshape(5, 5, -1, 10)
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
      x, kernel, (1, 1), "VALID", dimension_numbers=dims
    )
    window = (1, 2, 2, 1)
    y = lax.reduce_window(
      y + linear.bias[...], -jnp.inf, lax.max, window, window, "VALID"
    )
    return jax.nn.relu(y)

  @jax.jit
  def expected(params, images):
    net = example.nnx.merge(examiner.graphdef, params)
    x = layer(layer(images / jnp.float32(255), net.conv1), net.conv2)
    x = jnp.transpose(x, (0, 3, 1, 2)).reshape(-1, 160)  # channels first
    return net.head(jax.nn.relu(net.dense(x))).T

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (130, 28, 28, 1), np.uint8)
  logits = examiner.logits(params, images)
  assert logits.shape == (10, 130)
  # The sums of up to 250 products of order 1 are taken in another order.
  np.testing.assert_allclose(
    logits, expected(params, images), rtol=1e-4, atol=1e-5
  )


def test_labels_are_wrong_at_the_end_only(example, arrays):
  arrays["x_train"][:, 0, 0] = np.arange(70)  # the number of the image
  dataset = example.data._checked(*arrays.values(), "toy")
  problem = example.make_problem(dataset, 40, 30, seed=3)
  rows = np.asarray(problem.images)[:, 0, 0, 0]
  assert len(set(rows)) == 70
  right = np.asarray(problem.labels) == dataset.y_train[rows]
  assert np.all(right[:40]) and 5 <= np.sum(~right[40:]) <= 25
  np.testing.assert_array_equal(dataset.y_train, arrays["y_train"])


def test_the_gate_is_open_in_a_tenth_of_the_steps(example):
  """After the noise is switched off, the gate stays closed."""
  settings = example.parse(["--steps", "3000"]).settings
  tx = example.make_optimizer(example.METHODS["Our 2"], settings, 0)
  zero = jnp.zeros(2)

  def step(state, _):
    z = example.optax.tree.get(state, "noise_factor")
    return tx.update(zero, state, noise_updates=zero)[1], z

  z = np.asarray(lax.scan(step, tx.init(zero), length=3000)[1])
  assert not np.any(z[2500:])
  assert np.min(z[z > 0]) > 0.5 * (0.1 ** (-1 / 1.4) - 1)
  error = np.sqrt(0.1 * 0.9 / 2500)
  assert abs(np.mean(z[:2500] > 0) - 0.1) < 4 * error


def test_the_sharpness_is_that_of_a_parabola(example, monkeypatch, arrays):
  """For the loss |theta|^2 around 0, it is the mean of a chi-squared law."""
  monkeypatch.setattr(example, "losses", lambda logits, labels: logits)
  monkeypatch.setattr(
    example.Examiner,
    "_logits",
    lambda self, params, images: jnp.sum(params["a"] ** 2),
  )
  model = lambda key: example.Net((16, 16, 1), 2, example.nnx.Rngs(key))
  problem = example.Problem(jnp.zeros(1), jnp.zeros(1))
  found = example.Examiner(model).sharpness(
    {"a": jnp.zeros(200)}, jax.random.key(0), problem
  )
  # Each draw has a relative sd of sqrt(2/200), and their mean a tenth of that.
  np.testing.assert_allclose(found, 200 * 0.01**2, rtol=4 * 0.01)


@pytest.mark.slow
def test_the_command_writes_a_picture_and_a_report(arrays, tmp_path):
  np.savez(tmp_path / "toy.npz", **arrays)
  command = [sys.executable, str(EXAMPLES / "truncated_noise.py"), *SMALL]
  command += ["--methods", "SB,Our 2", "--steps", "100", "--seeds", "2"]
  command += ["--report", "table.md"]
  done = subprocess.run(
    command,
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "Our 2" in done.stdout and "In comparison with SB" in done.stdout
  picture = (tmp_path / "truncated_noise.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  rows = (tmp_path / "table.md").read_text().splitlines()
  cells = [row.split(" | ") for row in rows if row.startswith("| ")]
  assert [row[0] for row in cells[2:]] == ["| SB", "| Our 2"]
  for row in cells[2:]:  # the toy data is learnt
    assert float(row[1].split(" ±")[0]) > 90, row


def test_a_report_replaces_its_own_table_only(example, tmp_path):
  path = tmp_path / "a.md"
  path.write_text("# Title\n\nText.\n")
  final = {k: np.array([0.5, 0.7]) for k, *_ in example.HEADINGS}
  for command, names in ("one", ["SB"]), ("two", ["SB", "Our 1"]):
    results = example.Results({}, {name: final for name in names})
    example.report(path, command, results, "runs")
  once = path.read_text()
  example.report(path, "one", results, "other runs")
  twice = path.read_text()
  assert once.startswith("# Title\n\nText.\n") and "`two`" in twice
  assert once.count("| SB |") == 2 and twice.count("| Our 1 |") == 2
  # Student's t with one degree of freedom: 12.706 * 0.1.
  assert "| SB | 60.00 ± 127.06 |" in twice


def test_the_sentence_about_the_claim(example):
  sb = {"test": np.array([0.8, 0.81, 0.82]), "sharpness": np.ones(3)}
  better = {"test": sb["test"] + 0.1, "sharpness": np.array([0.5, 0.6, 0.4])}
  lost = {"test": sb["test"] - 0.1, "sharpness": np.array([np.nan, 1, 2])}
  results = example.Results({}, {"SB": sb, "Our 1": better, "Our 2": lost})
  assert example.reading(results) == (
    "In comparison with SB, Our 1 has a better test accuracy and a flatter"
    " minimum. In comparison with SB, Our 2 has a worse test accuracy and"
    " diverged."
  )


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--methods", "SB,AdamW"], "LB, SB, SB+Clip, SB+Noise, Our 1, Our 2, got"),
    (["--seeds", "0"], "must be 1, 2, ..., got 0"),
    (["--noise-until", "2"], "must be in [0, 1], got 2"),
    (["--gate", "1"], "gate must be below 1, got 1.0"),
    (["--threshold", "-1"], "threshold must be at least 0, got -1.0"),
    (["--learning-rate", "nan"], "learning_rate must be a finite number"),
    (["--alpha", "0"], "alpha must be positive, got 0.0"),
    (["--scale", "-1"], "scale must be a finite number of at least 0"),
    (["--output", "a.txt"], "must end in .png, got a.txt"),
    (["--report", "no/such/folder/a.md"], "cannot write no/such/folder/a.md"),
    (["--dataset", "missing.npz"], "missing.npz: No such file"),
    ([*SMALL[:-1], "30"], "80 training images are needed, and toy has 70"),
    (["--dataset", "odd.npz"], "must be 16, 20, 24, ..., those of odd are 16"),
  ],
)
def test_bad_arguments_are_one_line(
  example, arrays, tmp_path, monkeypatch, argv, said
):
  monkeypatch.chdir(tmp_path)
  np.savez("toy.npz", **arrays)
  odd = {k: v[..., :15] if k[0] == "x" else v for k, v in arrays.items()}
  np.savez("odd.npz", **odd)
  with pytest.raises(SystemExit) as stopped:
    example.main(argv)
  message = stopped.value.code  # printed to stderr, with status 1
  assert isinstance(message, str), message
  assert message.startswith("truncated_noise: ") and "\n" not in message
  assert said in message
