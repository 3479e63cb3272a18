"""The models of the examples: shapes, state, gradients, causality, devices."""

from collections.abc import Callable
import doctest
import functools
import inspect
import pathlib
import sys
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

nnx = pytest.importorskip("flax.nnx")

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import models  # noqa: E402

sys.path.pop(0)

CLASSES = 5
# The numbers of parameters in the docstring are for these arguments.
DATA = {
  "MNIST": ((28, 28, 1), 10),
  "CIFAR-10": ((32, 32, 3), 10),
  "tiny_shakespeare": ((64,), 65),
}


def batch(name, n=8, seed=0):
  """Random examples for the model, and their labels."""
  rng = np.random.default_rng(seed)
  if name in models.TOKEN_MODELS:
    x = rng.integers(0, CLASSES, (n, 7), dtype=np.int32)
    return x[:, :-1], x[:, 1:]
  size = models.VGG11.smallest if name == "vgg11" else 8
  x = rng.integers(0, 256, (n, size, size, 1), dtype=np.uint8)
  return x, rng.integers(0, CLASSES, n, dtype=np.int32)


# This compiles in less than half the time.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


class Built(NamedTuple):
  params: nnx.State
  loss: Callable  # (params, x, y) to loss and logits
  grad: Callable  # jitted: to (loss and logits, gradient)


@functools.cache
def build(name):
  """A narrow model, compiled once for all tests."""
  example = batch(name)[0][0]
  make = lambda: models.make(name, example, CLASSES, nnx.Rngs(0), width=8)
  graphdef = nnx.split(nnx.eval_shape(make))[0]

  def loss(params, x, y):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses), logits

  params = quick_jit(lambda: nnx.state(make()))()
  grad = jax.value_and_grad(loss, has_aux=True)
  # Without optimisation, its 5x5 convolutions would be seven times slower.
  return Built(params, loss, (jax.jit if name == "lenet" else quick_jit)(grad))


LARGE = {"resnet18", "resnet50", "vgg11"}  # whose compilation takes long
every_model = pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE))
    for name in models.MODELS
  ],
)


@every_model
def test_logits_and_gradients_are_finite_and_of_their_shapes(name):
  built, (x, y) = build(name), batch(name)
  (loss, logits), gradient = built.grad(built.params, x, y)
  assert logits.shape == (*y.shape, CLASSES) and logits.dtype == jnp.float32
  assert 0.5 < loss / np.log(CLASSES) < 3  # of untrained weights
  assert jax.tree.structure(gradient) == jax.tree.structure(built.params)
  for path, leaf in jax.tree.leaves_with_path(gradient):
    assert np.all(np.isfinite(leaf)) and np.any(leaf), path


def documented():
  """The rows of the table in the docstring."""
  rows = (line.split() for line in models.__doc__.splitlines())
  return [row for row in rows if row and row[-1] in DATA]


def test_the_table_has_every_model():
  assert [row[0] for row in documented()] == list(models.MODELS)


def parameters(name, shape, classes):
  """The number of parameters, after a check that there is no other state."""
  example = jax.ShapeDtypeStruct(shape, jnp.uint8)
  make = lambda: models.make(name, example, classes, nnx.Rngs(0))
  _, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
  leaves = jax.tree.leaves(params)
  assert not jax.tree.leaves(rest)
  assert all(leaf.dtype == jnp.float32 for leaf in leaves)
  return sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize("row", documented(), ids=lambda row: row[0])
def test_all_state_is_parameters_as_many_as_documented(row):
  name, kind, width, number, *_, data = row
  shape, classes = DATA[data]
  assert kind == ("images" if len(shape) == 3 else "tokens")
  assert parameters(name, shape, classes) == int(number.replace(",", ""))
  default = inspect.signature(models.MODELS[name].__init__).parameters["width"]
  assert default.default == int(width)


# torchvision states these numbers.
@pytest.mark.parametrize(
  "name, published", [("resnet18", 11_689_512), ("resnet50", 25_557_032)]
)
def test_a_resnet_is_that_of_imagenet_except_for_its_stem(name, published):
  smaller_stem = 64 * 3 * (7 * 7 - 3 * 3)
  found = parameters(name, (224, 224, 3), 1000)
  assert found == published - smaller_stem
  for number in (published, smaller_stem):
    assert f"{number:,}" in models.ResNet.__doc__


def test_the_3x3_convolution_of_a_bottleneck_block_has_the_stride():
  def outputs(x):
    block = models.Block(64, 16, 2, nnx.Rngs(0), bottleneck=True)
    return [x := layer(x) for layer in block.layers.layers]

  x = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32)
  shapes = [y.shape[1:] for y in jax.eval_shape(outputs, x)]
  assert shapes == [*[(8, 8, 16)] * 2, *[(4, 4, 16)] * 2, (4, 4, 64)]


@pytest.mark.parametrize("name", models.IMAGE_MODELS)
@pytest.mark.parametrize("shape", [(1, 3, 1), (28, 35, 3)], ids=str)
def test_images_of_any_size_are_taken(name, shape):
  if name == "vgg11" and min(shape[:2]) < models.VGG11.smallest:
    pytest.skip("too small for vgg11")
  x = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)

  def logits(x):
    model = models.make(name, x[0], 10, nnx.Rngs(0), width=3)
    return model(x)

  assert jax.eval_shape(logits, x).shape == (2, 10)


@pytest.mark.parametrize("name", models.TOKEN_MODELS)
def test_later_tokens_do_not_change_earlier_logits(name):
  built, (x, y) = build(name), batch(name)
  changed = x.copy()
  changed[:, 4] = (x[:, 4] + 1) % CLASSES
  before, after = (
    np.asarray(built.grad(built.params, z, y)[0][1]) for z in (x, changed)
  )
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert np.all(np.max(np.abs(before - after), axis=(0, 2))[4:] > 1e-5)


@pytest.mark.parametrize("name", ["lenet", "lstm", "transformer"])
def test_a_batch_can_be_learnt(name):
  built, (x, y) = build(name), batch(name)
  if name in models.TOKEN_MODELS:  # to predict the token before
    y = np.pad(x[:, :-1], [(0, 0), (1, 0)])
  tx = optax.adam(0.02)

  @quick_jit
  def update(gradient, state, params):
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(params, updates), state

  params, state = built.params, quick_jit(tx.init)(built.params)
  for _ in range(100):
    (loss, _), gradient = built.grad(params, x, y)
    params, state = update(gradient, state, params)
  assert loss < 0.1 * np.log(CLASSES)


def test_kernels_are_those_of_flax():
  key, shape = jax.random.key(0), (5, 5, 1, 6)
  inits = models.lecun_normal, nnx.initializers.lecun_normal()
  ours, theirs = (quick_jit(lambda f=f: f(key, shape))() for f in inits)
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def sharded(kind, *arrays):
  """Arrays split over eight devices, and their mesh."""
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
  sharding = NamedSharding(mesh, P("batch"))
  return mesh, *(jax.device_put(array, sharding) for array in arrays)


@pytest.mark.parametrize("name", models.TOKEN_MODELS)
@pytest.mark.devices(8)
def test_tokens_on_a_mesh_of_explicit_axes(name):
  """The embedding and the start of a scan must declare their sharding."""
  built, (x, y) = build(name), batch(name)
  expected = built.grad(built.params, x, y)[0][0]
  mesh, x, y = sharded(AxisType.Explicit, x, y)
  loss = quick_jit(built.loss)(built.params, x, y)[0]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)

  def of_shard(params, x, y):
    return lax.pmean(built.loss(params, x, y)[0], "batch")

  specs = P(), P("batch"), P("batch")
  mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=specs, out_specs=P())
  loss = quick_jit(mapped)(
    jax.device_put(built.params, NamedSharding(mesh, P())), x, y
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


# resnet50 has the modules of resnet18 and takes twice as long. On these images,
# one input of a ReLU is 6e-7, so that rounding decides the gradient.
@pytest.mark.slow
@pytest.mark.parametrize("name", [m for m in models.MODELS if m != "resnet50"])
@pytest.mark.devices(8)
def test_gradients_on_eight_devices_are_those_on_one(name):
  built, (x, y) = build(name), batch(name, n=16)
  expected = built.grad(built.params, x, y)[1]
  mean = lambda params, x, y: lax.pmean(built.loss(params, x, y)[0], "batch")

  def of_shard(params, x, y):
    return lax.pmean(jax.grad(mean)(params, x, y), "batch")

  mesh, *whole = sharded(AxisType.Auto, x, y)
  specs = P(), P("batch"), P("batch")
  mapped = jax.shard_map(of_shard, mesh=mesh, in_specs=specs, out_specs=P())
  one = lambda params, x, y: jax.grad(built.loss, has_aux=True)(params, x, y)[0]
  eighths = (a.reshape(8, 2, *a.shape[1:]) for a in (x, y))
  pmapped = jax.pmap(of_shard, "batch", in_axes=(None, 0, 0))
  found = {
    "NamedSharding": quick_jit(one)(built.params, *whole),
    "shard_map": quick_jit(mapped)(built.params, *whole),
    "pmap": jax.tree.map(lambda a: a[0], pmapped(built.params, *eighths)),
  }
  for how, gradient in found.items():
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected))
    for ours, theirs in pairs:
      np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=how)


@pytest.mark.parametrize(
  "name, shape, width, said",
  [
    (
      "alexnet",
      (8, 8, 1),
      None,
      "unknown model 'alexnet': take one of mlp, le",
    ),
    ("lenet", (64,), None, "lenet does not take tokens: lstm, transformer do."),
    ("lstm", (8, 8, 1), None, "lstm does not take images: mlp, lenet, cnn, "),
    (
      "vgg11",
      (8, 28, 1),
      None,
      "of 17x17 and more, got 8x28: mlp, lenet, cnn, ",
    ),
    ("mlp", (8, 8), None, "must be [height, width, channels] or [length], got"),
    ("mlp", (8, 8, 1), 0, "width must be 1 or more, got 0."),
  ],
)
def test_a_model_that_does_not_fit_is_a_sentence(name, shape, width, said):
  with pytest.raises(ValueError) as raised:
    models.make(name, np.zeros(shape), CLASSES, nnx.Rngs(0), width)
  assert said in str(raised.value) and "\n" not in str(raised.value)


def test_the_example_of_make():
  assert doctest.testmod(models).failed == 0
