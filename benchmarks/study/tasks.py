"""The tasks of the study: a model, its data, and how it is scored.

    digits              images of 8x8 pixels, CNN
    fashion             Fashion-MNIST, 1,000 images, CNN
    fashion_noisy       the same; 20 percent of the labels are wrong
    cifar               CIFAR-10, 5,000 images, CNN
    words               Penn Treebank, the 1,000 most frequent words, LSTM
    characters          tiny Shakespeare, Transformer
    vgg                 CIFAR-10, 5,000 images, small VGG
    transformer         the words of Penn Treebank, Transformer
    cartpole, acrobot, breakout
                        PPO in environments of gymnax
    gauss, student_3, student_1_5
                        linear regression with Gaussian noise, and with noise of
                        Student's t with 3 and 1.5 degrees of freedom
    zipf                a mixture of 200 classes with the frequencies of Zipf's
                        law, softmax regression

The noise of the regressions has a known tail index, which their gradients
inherit. In zipf, every class is Gaussian and the frequencies are heavy-tailed.

All batches are drawn at random with replacement.
"""

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any, NamedTuple

import data
from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import models
import numpy as np
import optax
import ppo
import vgg

# The part of a task's data that is not trained on.
VALID, TEST = "valid", "test"


class Problem(NamedTuple):
  """A task with its data, ready to be trained on.

  A world is what changes besides the parameters: the environments of PPO.

  Attributes:
    init: key -> parameters.
    start: key -> world.
    draw: (params, world, key, step, size) -> (world, batch of `size` examples).
    loss: (params, batch) -> mean loss, [].
    scores: (params, world) -> the scores so far, by name, each [].
  """

  init: Callable[[jax.Array], Any]
  start: Callable[[jax.Array], Any]
  draw: Callable[..., tuple[Any, Any]]
  loss: Callable[[Any, Any], jax.Array]
  scores: Callable[[Any, Any], dict[str, jax.Array]]


class Task(NamedTuple):
  """What is known of a task without its data.

  Attributes:
    make: folder of the data -> Problem.
    score: the score that counts, as in `Problem.scores` without the part
      ("accuracy"), or "return".
    guess: the score of a guess.
    margin: by how much a trained model must be better than a guess.
    rates: a learning rate for batches of 64, by method.
    norm: a usual norm of the gradient, in orders of magnitude.
    steps: the number of gradient steps of the atlas.
    batch_sizes: the batch sizes of the atlas; none if it is not in the atlas.
    version: changes when the task changes.
  """

  make: Callable[[str], Problem]
  score: str
  guess: float
  margin: float
  rates: Mapping[str, float]
  norm: float = 1.0
  steps: int = 2000
  batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
  version: int = 1

  @property
  def higher_is_better(self) -> bool:
    """Whether a larger score is better."""
    return self.score != "loss"


def _supervised(x, y, held_out, make_model, per_example=True) -> Problem:
  """A problem of arrays: x and y [n, ...], and (x, y) of each held-out part."""
  x, y = jnp.asarray(x), jnp.asarray(y)
  held_out = jax.tree.map(jnp.asarray, held_out)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))
  logits_of = lambda params, x: nnx.merge(graphdef, params)(x)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels

  def draw(params, world, key, step, size):
    rows = jax.random.randint(key, [size], 0, len(x))
    return world, (x[rows], y[rows])

  def loss(params, batch):
    return jnp.mean(cross_entropy(logits_of(params, batch[0]), batch[1]))

  def scores(params, world):
    found = {}
    for part, (inputs, labels) in held_out.items():
      logits = logits_of(params, inputs)
      found[f"{part}_loss"] = jnp.mean(cross_entropy(logits, labels))
      right = jnp.argmax(logits, axis=-1) == labels
      found[f"{part}_accuracy"] = jnp.mean(right)
    return found

  return Problem(
    lambda key: nnx.state(make_model(nnx.Rngs(key))),
    lambda key: (),
    draw,
    loss,
    scores,
  )


def _load(name: str, folder: str, length: int = 1) -> data.Dataset:
  """Loads NAME.npz or NAME.txt of the folder, or else the set of that name."""
  for suffix in (".npz", ".txt"):
    path = pathlib.Path(folder).expanduser() / f"{name}{suffix}"
    if path.exists():
      return data.load(str(path), length=length)
  return data.load(name, folder, length)


def _model(model, example, classes, rngs, width) -> nnx.Module:
  """A model of `models` by its name, or of a class."""
  if isinstance(model, str):
    return models.make(model, example, classes, rngs, width)
  return model(example.shape, classes, rngs, width)


def _images(folder, name, model, size, wrong=0.0, width=None) -> Problem:
  """The first `size` of the shuffled images, and others for the validation."""
  set_ = _load(name, folder)
  rng = np.random.default_rng(0)
  order = rng.permutation(len(set_.x_train))
  train, valid = order[:size], order[size : size + min(size, 1000)]
  labels = set_.y_train[train]
  other = (labels + rng.integers(1, set_.classes, size)) % set_.classes
  labels = np.where(rng.random(size) < wrong, other, labels)
  test = rng.permutation(len(set_.x_test))[:2000]
  held_out = {
    VALID: (set_.x_train[valid], set_.y_train[valid]),
    TEST: (set_.x_test[test], set_.y_test[test]),
  }
  make = lambda rngs: _model(model, set_.x_train[0], set_.classes, rngs, width)
  return _supervised(set_.x_train[train], labels, held_out, make)


def _text(folder, name, model, length, width, most=None) -> Problem:
  """Windows of text. Symbols that are not among the `most` frequent are one."""
  set_ = _load(name, folder, length)
  x, y, test_x, test_y = set_[:4]
  classes = set_.classes
  if most is not None:
    counts = np.bincount(y.ravel(), minlength=classes)
    place = np.argsort(np.argsort(-counts, kind="stable"))
    symbols = np.minimum(place, most - 1).astype(np.int32)
    x, y, test_x, test_y = (symbols[part] for part in (x, y, test_x, test_y))
    classes = most
  rng = np.random.default_rng(0)
  order = rng.permutation(len(x))
  held_out = {
    VALID: (x[order[:200]], y[order[:200]]),
    TEST: tuple(
      part[np.linspace(0, len(part) - 1, 200).astype(int)]
      for part in (test_x, test_y)
    ),
  }
  train = order[200:]
  make = lambda rngs: models.make(model, x[0], classes, rngs, width)
  return _supervised(x[train], y[train], held_out, make)


UPDATE_EVERY = 16  # gradient steps of PPO between two rounds of experience


def _games(folder, name) -> Problem:
  """PPO: 8 environments play 128 steps before each 16 gradient steps."""
  del folder
  start, play, size, actions = ppo.player(name)

  def begin(key):
    first, second = jax.random.split(key)
    games = start(first)
    params = ppo.network(second, size, actions)
    shapes = jax.eval_shape(lambda: play(params, games, first)[1])
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return games, empty

  def draw(params, world, key, step, size):
    playing, choosing = jax.random.split(key)
    world = lax.cond(
      step % UPDATE_EVERY == 0,
      lambda: play(params, world[0], playing),
      lambda: world,
    )
    rows = jax.random.randint(choosing, [size], 0, ppo.ENVS * ppo.LENGTH)
    return world, jax.tree.map(lambda x: x[rows], world[1])

  return Problem(
    lambda key: ppo.network(key, size, actions),
    begin,
    draw,
    lambda params, batch: ppo.loss_fn(params, *batch),
    lambda params, world: {
      "returns": world[0].returns,
      "episodes": world[0].episodes,
    },
  )


def _regression(folder, noise) -> Problem:
  """y = <w, x> + noise with 20 Gaussian inputs; every example is new."""
  del folder
  n = 20

  def draw(params, world, key, step, size):
    first, second = jax.random.split(key)
    x = jax.random.normal(first, [size, n])
    y = x @ world + noise(second, [size])
    return world, (x, y)

  def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] - y) ** 2) / 2

  def scores(params, world):
    excess = jnp.sum((params["w"] - world) ** 2) / n
    return {f"{part}_loss": excess for part in (VALID, TEST)}

  return Problem(
    lambda key: {"w": jnp.zeros(n)},
    lambda key: jax.random.normal(key, [n]),
    draw,
    loss,
    scores,
  )


def _classes(folder, classes=200, n=32) -> Problem:
  """Gaussian classes. The class of rank r has a share proportional to 1/r."""
  del folder
  logits = -jnp.log(jnp.arange(1, classes + 1.0))

  def examples(world, key, size):
    first, second = jax.random.split(key)
    y = jax.random.categorical(first, logits, shape=[size])
    return world[y] + jax.random.normal(second, [size, n]), y

  cross_entropy = optax.softmax_cross_entropy_with_integer_labels

  def loss(params, batch):
    x, y = batch
    return jnp.mean(cross_entropy(x @ params["w"] + params["b"], y))

  def scores(params, world):
    found = {}
    for i, part in enumerate((VALID, TEST)):
      x, y = examples(world, jax.random.key(i), 2000)
      found[f"{part}_loss"] = loss(params, (x, y))
      right = jnp.argmax(x @ params["w"] + params["b"], axis=-1) == y
      found[f"{part}_accuracy"] = jnp.mean(right)
    return found

  return Problem(
    lambda key: {"w": jnp.zeros([n, classes]), "b": jnp.zeros(classes)},
    lambda key: jax.random.normal(key, [classes, n]),
    lambda params, world, key, step, size: (world, examples(world, key, size)),
    loss,
    scores,
  )


def _student(df):
  return lambda key, shape: jax.random.t(key, df, shape)


# Each is the best of five rates, a factor of three apart, by the validation
# score of one run, or the next smaller one if that differs by little.
_IMAGE_RATES = {"sgd": 0.06, "adam": 1e-3}
_GAME_RATES = {"sgd": 0.02, "adam": 2e-3}
_LINE_RATES = {"sgd": 0.02, "adam": 0.02}
_make = functools.partial

TASKS: dict[str, Task] = {
  "digits": Task(
    _make(_images, name="digits", model="cnn", size=900, width=8),
    "accuracy",
    0.1,
    0.6,
    _IMAGE_RATES,
  ),
  "fashion": Task(
    _make(_images, name="fashion_mnist", model="cnn", size=1000, width=8),
    "accuracy",
    0.1,
    0.5,
    _IMAGE_RATES,
  ),
  "fashion_noisy": Task(
    _make(
      _images, name="fashion_mnist", model="cnn", size=1000, wrong=0.2, width=8
    ),
    "accuracy",
    0.1,
    0.4,
    _IMAGE_RATES,
    norm=3.0,
  ),
  "cifar": Task(
    _make(_images, name="cifar10", model="cnn", size=5000, width=8),
    "accuracy",
    0.1,
    0.2,
    _IMAGE_RATES,
  ),
  "words": Task(
    _make(_text, name="ptb", model="lstm", length=16, width=32, most=1000),
    "loss",
    float(np.log(1000)),
    1.5,
    {"sgd": 10.0, "adam": 0.02},
    steps=1000,
    norm=0.2,
  ),
  "characters": Task(
    _make(
      _text, name="tiny_shakespeare", model="transformer", length=32, width=32
    ),
    "loss",
    float(np.log(65)),
    1.0,
    {"sgd": 1.0, "adam": 6e-3},
    steps=1000,
  ),
  "vgg": Task(
    _make(_images, name="cifar10", model=vgg.SmallVGG, size=5000, width=13),
    "accuracy",
    0.1,
    0.2,
    {"sgd": 0.03},
    steps=800,
    batch_sizes=(),
  ),
  "transformer": Task(
    _make(
      _text, name="ptb", model="transformer", length=32, width=64, most=1000
    ),
    "loss",
    float(np.log(1000)),
    1.5,
    {"adam": 6e-3},
    steps=1200,
    batch_sizes=(),
  ),
  "cartpole": Task(
    _make(_games, name="CartPole-v1"),
    "return",
    22.0,
    50.0,
    _GAME_RATES,
    batch_sizes=(16, 64, 256),
    norm=20.0,
  ),
  "acrobot": Task(
    _make(_games, name="Acrobot-v1"),
    "return",
    -500.0,
    150.0,
    _GAME_RATES,
    batch_sizes=(16, 64, 256),
    norm=20.0,
  ),
  "breakout": Task(
    _make(_games, name="Breakout-MinAtar"),
    "return",
    0.5,
    0.5,
    {"sgd": 0.03, "adam": 6e-4},
    batch_sizes=(16, 64, 256),
  ),
  "gauss": Task(
    _make(_regression, noise=jax.random.normal),
    "loss",
    1.0,
    0.5,
    _LINE_RATES,
  ),
  "student_3": Task(
    _make(_regression, noise=_student(3.0)), "loss", 1.0, 0.5, _LINE_RATES
  ),
  "student_1_5": Task(
    _make(_regression, noise=_student(1.5)), "loss", 1.0, 0.2, _LINE_RATES
  ),
  "zipf": Task(_classes, "accuracy", 0.17, 0.3, {"sgd": 1.0, "adam": 0.01}),
}
