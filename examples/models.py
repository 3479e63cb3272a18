"""Eight Flax models for the examples, for images and for tokens.

    model        takes   default width      parameters
    mlp          images  128                  118,282  of MNIST
    lenet        images  6                     61,706  of MNIST
    cnn          images  16                   105,866  of MNIST
    resnet18     images  64                11,173,962  of CIFAR-10
    resnet50     images  64                23,520,842  of CIFAR-10
    vgg11        images  64                 9,228,362  of CIFAR-10
    lstm         tokens  128                  279,873  of tiny_shakespeare
    transformer  tokens  128                  421,697  of tiny_shakespeare

`pytest tests/test_models.py -k parameters` checks these numbers.

All state is `nnx.Param`, so that the loss is a pure function of parameters and
batch. Therefore the models have no dropout. They have group or layer norm in
place of batch norm, because the statistics of batch norm differ between one
device and several.

The cnn writes its convolutions as matrix products. The other models use the
convolutions of XLA, which on a CPU are many times slower inside of `lax.scan`,
`lax.cond` or a `vmap` over seeds (jax issue 12868). There take the cnn.
"""

import functools
import math
from typing import Protocol

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

pool = functools.partial(
  nnx.max_pool, window_shape=(2, 2), strides=(2, 2), padding="SAME"
)


class Example(Protocol):
  """The argument `example` of `make`: an array, or its shape and dtype."""

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of one example, without a batch axis."""
    ...


def make(
  name: str,
  example: Example,
  classes: int,
  rngs: nnx.Rngs,
  width: int | None = None,
) -> nnx.Module:
  """Makes a model that fits an example.

  >>> x = jnp.zeros([16, 8, 8, 1], jnp.uint8)
  >>> logits = lambda: make("lenet", x[0], classes=10, rngs=nnx.Rngs(0))(x)
  >>> jax.eval_shape(logits).shape
  (16, 10)

  Args:
    name: one of `MODELS`.
    example: one example, for its shape: an image [height, width, channels] or
      tokens [length]. The transformer takes at most this many tokens later.
    classes: the number of classes; for tokens, the size of the vocabulary.
    rngs: the random keys of the initial weights.
    width: the number of channels of the first layer, to which the other layers
      are proportional, or the number of units of every layer; None for the
      default in the table above.

  Returns:
    The model. A model of images takes uint8 [n, height, width, channels], which
    it scales itself, and returns logits [n, classes]. A model of tokens takes
    int32 [n, length] and returns logits [n, length, classes] of the next token
    at each place, from the tokens up to this place. Logits are float32.

  Raises:
    ValueError: the name is unknown, the width is not positive, or the model
      does not fit the example.
  """
  if name not in MODELS:
    known = ", ".join(MODELS)
    raise ValueError(f"unknown model {name!r}: take one of {known}.")
  if width is not None and width < 1:
    raise ValueError(f"width must be 1 or more, got {width}.")
  shape = tuple(example.shape)
  kind = {3: "images", 1: "tokens"}.get(len(shape))
  if kind is None:
    wanted = "[height, width, channels] or [length]"
    raise ValueError(f"an example must be {wanted}, got {list(shape)}.")
  fitting = IMAGE_MODELS if kind == "images" else TOKEN_MODELS
  if name not in fitting:
    raise ValueError(f"{name} does not take {kind}: {', '.join(fitting)} do.")
  if name == "vgg11" and min(shape[:2]) < VGG11.smallest:
    least, got = VGG11.smallest, f"{shape[0]}x{shape[1]}"
    others = ", ".join(other for other in fitting if other != name)
    raise ValueError(
      f"vgg11 takes images of {least}x{least} and more, got {got}:"
      f" {others} take any."
    )
  chosen = {} if width is None else {"width": width}
  return MODELS[name](shape, classes, rngs, **chosen)


def unit(images: jax.Array) -> jax.Array:
  """Scales uint8 pixels to float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def lecun_normal(key: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
  """Flax's default initial kernel, drawn as a flat array.

  The values are the same, and XLA compiles this many times faster on a CPU.
  """
  flat = jax.random.truncated_normal(key, -2, 2, [math.prod(shape)], dtype)
  # The divisor is the standard deviation of `flat`.
  deviation = math.prod(shape[:-1]) ** -0.5 / 0.87962566103423978
  return deviation * flat.reshape(shape)


Linear = functools.partial(nnx.Linear, kernel_init=lecun_normal)
Conv = functools.partial(nnx.Conv, kernel_init=lecun_normal)


class MLP(nnx.Module):
  """A perceptron with two hidden layers, for images of any size."""

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 128):
    self.dense1 = Linear(math.prod(shape), width, rngs=rngs)
    self.dense2 = Linear(width, width, rngs=rngs)
    self.head = Linear(width, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    x = unit(images).reshape(len(images), -1)
    return self.head(nnx.relu(self.dense2(nnx.relu(self.dense1(x)))))


class CNN(nnx.Module):
  """Two 3x3 convolutions and two dense layers, for images of any size.

  A convolution is the product of patches and a matrix. Under `vmap` over seeds,
  XLA's own convolution becomes a grouped one, which is six times slower on a
  CPU.
  """

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 16):
    rows, columns, channels = shape
    self.strides = (1 if min(rows, columns) < 16 else 2, 2)
    for stride in self.strides:
      rows, columns = -(-rows // stride), -(-columns // stride)
    self.conv1 = Linear(9 * channels, width, rngs=rngs)
    self.conv2 = Linear(9 * width, 2 * width, rngs=rngs)
    self.dense = Linear(rows * columns * 2 * width, 4 * width, rngs=rngs)
    self.head = Linear(4 * width, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    x = unit(images)
    x = nnx.relu(self.conv1(patches(x, self.strides[0])))
    x = nnx.relu(self.conv2(patches(x, self.strides[1])))
    return self.head(nnx.relu(self.dense(x.reshape(len(x), -1))))


def patches(x: jax.Array, stride: int) -> jax.Array:
  """The 3x3 patches of x, padded with zeros. They are stacked as channels."""
  height, width = x.shape[1:3]
  x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  corners = [(i, j) for i in range(3) for j in range(3)]
  return jnp.concatenate(
    [x[:, i : i + height : stride, j : j + width : stride] for i, j in corners],
    axis=-1,
  )


class LeNet(nnx.Module):
  """LeNet-5 with today's ReLU and max pooling, for images of any size.

  For images of 28x28 and larger the layers are LeCun's: 5x5 convolutions with 6
  and 16 channels, and dense layers with 120 and 84 units. Images smaller than
  LeCun's 32x32 are padded before the first convolution. Images smaller than
  28x28 are also padded before the second one.
  """

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 6):
    smallest = min(shape[:2])
    conv = functools.partial(Conv, kernel_size=(5, 5), rngs=rngs)
    padding1 = "SAME" if smallest < 32 else "VALID"
    padding2 = "SAME" if smallest < 28 else "VALID"
    channels = 8 * width // 3
    self.conv1 = conv(shape[-1], width, padding=padding1)
    self.conv2 = conv(width, channels, padding=padding2)
    rows, columns = shape[:2]
    for padding in (padding1, padding2):
      lost = 4 if padding == "VALID" else 0
      rows, columns = (-(-(size - lost) // 2) for size in (rows, columns))
    self.dense1 = Linear(rows * columns * channels, 20 * width, rngs=rngs)
    self.dense2 = Linear(20 * width, 14 * width, rngs=rngs)
    self.head = Linear(14 * width, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    x = pool(nnx.relu(self.conv1(unit(images))))
    x = pool(nnx.relu(self.conv2(x)))
    x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
    return self.head(nnx.relu(self.dense2(x)))


class ConvNorm(nnx.Module):
  """A convolution without bias, and group norm with 16 channels in a group.

  If 16 does not divide the number of channels, the size of a group is the
  greatest common divisor of both.
  """

  def __init__(
    self, inputs: int, outputs: int, rngs: nnx.Rngs, size: int = 3, stride=1
  ):
    self.conv = Conv(
      inputs, outputs, (size, size), stride, use_bias=False, rngs=rngs
    )
    group = math.gcd(outputs, 16)
    self.norm = nnx.GroupNorm(outputs, None, group, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, inputs] to [n, h / stride, w / stride, outputs]."""
    return self.norm(self.conv(x))


class Block(nnx.Module):
  """A block of a residual network (He et al., 2015).

  The basic block has two 3x3 convolutions with `width` channels. The bottleneck
  block has a 1x1 and a 3x3 convolution with `width` channels, and then a 1x1
  convolution with four times as many. The first 3x3 convolution has the stride,
  as in torchvision; in the original bottleneck block, the first 1x1 has it.
  """

  def __init__(
    self,
    inputs: int,
    width: int,
    stride: int,
    rngs: nnx.Rngs,
    bottleneck: bool = False,
  ):
    conv = functools.partial(ConvNorm, rngs=rngs)
    if bottleneck:
      self.outputs = 4 * width
      self.layers = nnx.Sequential(
        conv(inputs, width, size=1),
        nnx.relu,
        conv(width, width, stride=stride),
        nnx.relu,
        conv(width, self.outputs, size=1),
      )
    else:
      self.outputs = width
      self.layers = nnx.Sequential(
        conv(inputs, width, stride=stride), nnx.relu, conv(width, width)
      )
    same = stride == 1 and inputs == self.outputs
    skip = lambda: conv(inputs, self.outputs, size=1, stride=stride)
    self.skip = None if same else skip()

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, inputs] to [n, h / stride, w / stride, outputs]."""
    skipped = x if self.skip is None else self.skip(x)
    return nnx.relu(skipped + self.layers(x))


class ResNet(nnx.Module):
  """A ResNet with the 3x3 stem usual for CIFAR, for images of any size.

  A subclass states the number of blocks in each stage, and whether they are
  bottleneck blocks. For colour images of 1,000 classes, the network has 7,680
  parameters fewer than torchvision's (11,689,512 of ResNet-18, 25,557,032 of
  ResNet-50), whose stem is 7x7.
  """

  stages: tuple[int, ...]
  bottleneck: bool

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 64):
    self.stem = ConvNorm(shape[-1], width, rngs)
    blocks, inputs = [], width
    for stage, count in enumerate(self.stages):
      for i in range(count):
        stride = 2 if stage > 0 and i == 0 else 1
        block = Block(inputs, width * 2**stage, stride, rngs, self.bottleneck)
        blocks.append(block)
        inputs = block.outputs
    self.blocks = nnx.Sequential(*blocks)
    self.head = Linear(inputs, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    x = self.blocks(nnx.relu(self.stem(unit(images))))
    return self.head(jnp.mean(x, axis=(1, 2)))


class ResNet18(ResNet):
  """ResNet-18: eight basic blocks."""

  stages = (2, 2, 2, 2)
  bottleneck = False


class ResNet50(ResNet):
  """ResNet-50: sixteen bottleneck blocks."""

  stages = (3, 4, 6, 3)
  bottleneck = True


class VGG11(nnx.Module):
  """The convolutions of VGG-11 and, as usual for CIFAR, one dense layer.

  The five poolings reduce an image of 32x32 to a single pixel. The pixels that
  remain of a larger image are averaged. In an image smaller than 17x17, the
  last pooling would have nothing to pool.
  """

  smallest = 17

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 64):
    layers, inputs = [], shape[-1]
    for factors in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
      for factor in factors:
        layers += [ConvNorm(inputs, factor * width, rngs), nnx.relu]
        inputs = factor * width
      layers.append(pool)
    self.layers = nnx.Sequential(*layers)
    self.head = Linear(inputs, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    return self.head(jnp.mean(self.layers(unit(images)), axis=(1, 2)))


def vectors(rngs: nnx.Rngs, count: int, width: int) -> nnx.Param:
  """Gaussian vectors [count, width] with a mean square length of 1."""
  flat = jax.random.normal(rngs(), [count * width])
  return nnx.Param(flat.reshape(count, width) / width**0.5)


class Embedding(nnx.Module):
  """A vector for every token."""

  def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
    self.table = vectors(rngs, tokens, width)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps [n, length] to [n, length, width]."""
    of = jax.typeof(tokens).sharding  # required by a mesh with explicit axes
    sharding = NamedSharding(of.mesh, PartitionSpec(*of.spec, None))
    return self.table.at[tokens].get(out_sharding=sharding)


class LSTMLayer(nnx.Module):
  """A layer of long short-term memory, a `lax.scan` over the sequence.

  i, f, g and o are the four parts of x_t W + h_(t-1) U + b, and s is the
  logistic function:

      c_t = s(f + 1) c_(t-1) + s(i) tanh(g),   h_t = s(o) tanh(c_t)
  """

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.inputs = Linear(width, 4 * width, rngs=rngs)
    self.hidden = Linear(width, 4 * width, use_bias=False, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, length, width] to [n, length, width]."""

    def step(carry, gates):
      h, c = carry
      i, f, g, o = jnp.split(gates + self.hidden(h), 4, axis=-1)
      c = nnx.sigmoid(f + 1) * c + nnx.sigmoid(i) * jnp.tanh(g)
      h = nnx.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    start = jnp.zeros_like(x[:, 0])  # has the sharding of x
    gates = jnp.swapaxes(self.inputs(x), 0, 1)
    return jnp.swapaxes(lax.scan(step, (start, start), gates)[1], 0, 1)


class LSTM(nnx.Module):
  """An embedding, two LSTM layers, and a dense layer for the logits."""

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 128):
    self.embedding = Embedding(classes, width, rngs)
    self.layer1 = LSTMLayer(width, rngs)
    self.layer2 = LSTMLayer(width, rngs)
    self.head = Linear(width, classes, rngs=rngs)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits [n, length, classes] of tokens, int32 [n, length]."""
    return self.head(self.layer2(self.layer1(self.embedding(tokens))))


class Attention(nnx.Module):
  """Causal self-attention with heads of 32 units."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.head_size = math.gcd(width, 32)
    self.inputs = Linear(width, 3 * width, rngs=rngs)
    self.outputs = Linear(width, width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, length, width] to [n, length, width]."""
    heads = (*x.shape[:-1], -1, self.head_size)
    q, k, v = (y.reshape(heads) for y in jnp.split(self.inputs(x), 3, axis=-1))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return self.outputs(y.reshape(x.shape))


class TransformerBlock(nnx.Module):
  """Attention, then two dense layers, each after a norm and added to x."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.norm1 = nnx.LayerNorm(width, rngs=rngs)
    self.attention = Attention(width, rngs)
    self.norm2 = nnx.LayerNorm(width, rngs=rngs)
    self.dense1 = Linear(width, 4 * width, rngs=rngs)
    self.dense2 = Linear(4 * width, width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, length, width] to [n, length, width]."""
    x = x + self.attention(self.norm1(x))
    return x + self.dense2(nnx.gelu(self.dense1(self.norm2(x))))


class Transformer(nnx.Module):
  """A decoder: embeddings of tokens and places, two blocks, norm, logits."""

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 128):
    self.embedding = Embedding(classes, width, rngs)
    self.places = vectors(rngs, *shape, width)
    self.block1 = TransformerBlock(width, rngs)
    self.block2 = TransformerBlock(width, rngs)
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.head = Linear(width, classes, rngs=rngs)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits [n, length, classes] of tokens, int32 [n, length]."""
    x = self.embedding(tokens) + self.places[: tokens.shape[1]]
    return self.head(self.norm(self.block2(self.block1(x))))


IMAGE_MODELS = {
  "mlp": MLP,
  "lenet": LeNet,
  "cnn": CNN,
  "resnet18": ResNet18,
  "resnet50": ResNet50,
  "vgg11": VGG11,
}
TOKEN_MODELS = {"lstm": LSTM, "transformer": Transformer}
MODELS = IMAGE_MODELS | TOKEN_MODELS
