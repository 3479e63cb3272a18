"""The examples of AHTSGD: short runs on toy data, and their errors."""

import pathlib
import sys

import jax
import numpy as np
import pytest
from scipy import stats

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

for package in ("matplotlib", "rich"):
  pytest.importorskip(package)


@pytest.fixture
def examples(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import edge_of_stability
  import zero_init

  return {"edge_of_stability": edge_of_stability, "zero_init": zero_init}


@pytest.fixture
def toy(tmp_path):
  """Toy data that can be learnt: the bright part of an image is its class."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 90)
  x = rng.integers(0, 60, (90, 6, 6), dtype=np.uint8)
  x[np.arange(90), 2 * y] += 150
  path = tmp_path / "toy.npz"
  np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
  return path


def run(example, name, toy, monkeypatch, kept, *argv):
  """A run with some of the methods; each takes seconds to compile."""
  looks = {method: example.LOOKS[method] for method in kept}
  monkeypatch.setattr(example, "LOOKS", looks)
  monkeypatch.setattr(example, "WIDTHS", (16, 16))
  argv = ["--dataset", toy.name, *argv]
  monkeypatch.setattr(sys, "argv", [name, *argv])
  monkeypatch.chdir(toy.parent)
  results = example.run(example.parse(argv))
  picture = (toy.parent / f"{name}.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  page = (toy.parent / f"{name}.md").read_text()
  command = " ".join([f"python examples/{name}.py", *argv])
  assert f"`{command}`" in page and f"({name}.png)" in page
  return results, page


@pytest.mark.slow
def test_edge_of_stability_writes_a_picture_and_a_page(
  examples, toy, monkeypatch
):
  name, kept = "edge_of_stability", ("no noise", "growth")
  argv = ["--steps", "20", "--images", "30"]
  _, page = run(examples[name], name, toy, monkeypatch, kept, *argv)
  assert "does not settle within 15 % of 2/eta" in page
  for batch in ("whole sample", "mini-batches"):
    for noise in kept:
      assert f"| {batch} | {noise} |" in page


@pytest.mark.slow
def test_zeros_hold_sgd_and_not_noise(examples, toy, monkeypatch):
  name, kept = "zero_init", ("SGD", "Gaussian", "rising")
  argv = ["--steps", "120", "--seeds", "2", "--batch-size", "10"]
  parts, page = run(examples[name], name, toy, monkeypatch, kept, *argv)
  accuracy = {k: log.accuracy[0, :, -1] for k, log in parts[0].logs.items()}
  assert np.all(accuracy["SGD"] < 0.6), accuracy
  assert np.all(accuracy["Gaussian"] > 0.9), accuracy
  assert page.count("Better than Gaussian") == 5
  for head in ("From zeros: test", "chosen for zeros: test", "%, 120 steps"):
    assert head in page
  assert "| SGD | - |" in page and page.count("| rising |") == 5


@pytest.mark.slow
def test_descent_settles_at_the_edge(examples):
  """Toy data with random labels, memorised at a sharpness of 2/eta."""
  edge = examples["edge_of_stability"]
  eta, records = 0.4, 200
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (40, 16))
  y = jax.nn.one_hot(jax.random.randint(keys[1], [40], 0, 4), 4)
  params = edge.mlp.init(keys[2], (16, 30, 30, 4), edge.GAIN)
  args = edge.parse(["--learning-rate", str(eta)])
  tx = edge.make_optimizer("no noise", args)
  done, log = edge.train(
    tx, None, params, x, y, keys[3], records, lambda *_: None
  )
  assert log.shape == (3, records)
  ratio = log[1] * eta / 2
  first, last = (float(edge.lanczos(p, x, y)) * eta / 2 for p in (params, done))
  assert first < 0.6 and abs(edge.last_quarter(ratio).mean() - 1) < 0.15
  assert abs(last / ratio[-1] - 1) < 0.1  # the tracker measures the same


def test_an_interval_is_that_of_student(examples):
  values = np.array([0.1, 0.4, 0.2, 0.35, 0.3])
  mean, half = examples["zero_init"].interval(values)
  low, high = stats.t.interval(
    0.95, 4, values.mean(), values.std(ddof=1) / 5**0.5
  )
  np.testing.assert_allclose([mean - half, mean + half], [low, high])
  assert np.isnan(examples["zero_init"].interval(values[:1])[1])


@pytest.mark.parametrize("name", ["edge_of_stability", "zero_init"])
@pytest.mark.parametrize(
  "argv, said",
  [
    (["--dataset", "imagenet"], "unknown data set 'imagenet': take digits,"),
    (["--dataset", "missing.npz"], "missing.npz: No such file"),
    (["--steps", "0"], "must be 1, 2, ..., got 0"),
    (["--batch-size", "many"], "must be 1, 2, ..., got many"),
    (["--output", "a.txt"], "must end in .png, got a.txt"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
  ],
)
def test_bad_arguments_are_one_line(examples, name, argv, said):
  fails_with_one_line(examples[name], name, argv, said)


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--learning-rate", "0"], "must be positive, got 0"),
    (["--learning-rate", "-1"], "learning_rate must be a finite number"),
    (["--scale", "-1"], "scale must be a finite number"),
    (["--threshold", "-1"], "threshold must be at least 0, got -1"),
  ],
)
def test_bad_numbers_are_one_line(examples, argv, said):
  example = examples["edge_of_stability"]
  fails_with_one_line(example, "edge_of_stability", argv, said)


def fails_with_one_line(example, name, argv, said):
  with pytest.raises(SystemExit) as stopped:
    example.main(argv)
  message = stopped.value.code  # printed to stderr, with status 1
  assert isinstance(message, str), message
  assert message.startswith(f"{name}: ") and "\n" not in message
  assert said in message
