"""The examples of AHTSGD: short runs on toys, and what they say if they fail."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

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
  """A learnable toy: the class is where the image is bright."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 90)
  x = rng.integers(0, 60, (90, 6, 6), dtype=np.uint8)
  x[np.arange(90), 2 * y] += 150
  path = tmp_path / "toy.npz"
  np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
  return path


def run(name, toy, *argv):
  done = subprocess.run(
    [sys.executable, EXAMPLES / f"{name}.py", "--dataset", toy.name, *argv],
    cwd=toy.parent,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  picture = (toy.parent / f"{name}.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  page = (toy.parent / f"{name}.md").read_text()
  command = " ".join([f"python examples/{name}.py --dataset toy.npz", *argv])
  assert f"`{command}`" in page and f"({name}.png)" in page
  return done.stdout, page


def test_edge_of_stability_writes_a_picture_and_a_page(toy):
  out, page = run("edge_of_stability", toy, "--steps", "20", "--images", "30")
  assert "did not settle within 15 % of 2/eta" in " ".join(out.split())
  for batch in ("whole sample", "mini-batches"):
    for noise in ("no noise", "rising", "falling", "growth"):
      assert f"| {batch} | {noise} |" in page


def test_zero_init_writes_a_picture_and_a_page(toy):
  argv = ["--steps", "6", "--seeds", "2", "--batch-size", "5"]
  out, page = run("zero_init", toy, *argv)
  assert "Better than Gaussian" in out
  for head in ("From zeros", "after 1 steps", "after 6 steps"):
    assert head in page
  assert "| SGD | - |" in page and page.count("| rising |") == 3


def test_descent_settles_at_the_edge(examples, toy):
  """A toy of ten images, a step of which takes a fraction of a millisecond."""
  edge = examples["edge_of_stability"]
  argv = ["--dataset", str(toy), "--images", "10", "--learning-rate", "0.3"]
  args = edge.parse([*argv, "--steps", "2000"])
  dataset = edge.data.load(str(toy))
  (x,) = edge.mlp.standardise(dataset.x_train[:10])
  rng = np.random.default_rng(0)
  y = jax.nn.one_hot(rng.integers(0, 3, 10), 3)  # labels to be learnt by heart
  params = edge.mlp.init(jax.random.key(0), (9, 20, 20, 3), 1 / 3)
  tx = edge.make_optimizer("no noise", args)
  done, log = edge.train(
    tx, None, params, jnp.asarray(x), y, jax.random.key(1), 200, lambda *_: 0
  )
  ratio = log[1] * 0.3 / 2
  first, last = (float(edge.lanczos(p, x, y)) * 0.15 for p in (params, done))
  print(first, last, edge.last_quarter(ratio).mean(), log[0][-1])
  assert first < 0.85 and abs(edge.last_quarter(ratio).mean() - 1) < 0.15
  assert abs(last / ratio[-1] - 1) < 0.1


def test_zeros_hold_sgd_and_not_noise(examples, toy):
  zero = examples["zero_init"]
  dataset = zero.data.load(str(toy))
  x = zero.mlp.standardise(dataset.x_train, dataset.x_test)
  images = tuple(
    map(jnp.asarray, (x[0], dataset.y_train, x[1], dataset.y_test))
  )
  plan = zero.Plan(every=60, batch_size=10, classes=3)
  grid = [(0.1, 0.1, 0), (0.1, 0.1, 1)]
  best = {
    name: zero.train_all(name, plan, images, 0.0, 1, grid, 2).accuracy[:, -1]
    for name in ("SGD", "Gaussian")
  }
  assert np.all(best["SGD"] < 0.6) and np.all(best["Gaussian"] > 0.9), best


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
