"""A small VGG for images of 32x32, whose convolutions are matrix products."""

from flax import nnx
import jax
import models


class SmallVGG(nnx.Module):
  """Six 3x3 convolutions with layer norm, and two dense layers.

  Four of the convolutions have stride 2, in place of pooling. With a width of
  13, six matrices have 52 eigenvalues or more.
  """

  strides = (2, 2, 2, 1, 2, 1)
  factors = (1, 4, 4, 4, 8, 8)

  def __init__(self, shape, classes: int, rngs: nnx.Rngs, width: int = 13):
    rows, columns, inputs = shape
    self.convs, self.norms = nnx.List(), nnx.List()
    for factor, stride in zip(self.factors, self.strides):
      outputs = factor * width
      self.convs.append(
        models.Linear(9 * inputs, outputs, use_bias=False, rngs=rngs)
      )
      self.norms.append(nnx.LayerNorm(outputs, rngs=rngs))
      inputs = outputs
      rows, columns = -(-rows // stride), -(-columns // stride)
    self.dense = models.Linear(rows * columns * inputs, 8 * width, rngs=rngs)
    self.head = models.Linear(8 * width, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Logits [n, classes] of images, uint8 [n, height, width, channels]."""
    x = models.unit(images)
    for conv, norm, stride in zip(self.convs, self.norms, self.strides):
      x = nnx.relu(norm(conv(models.patches(x, stride))))
    return self.head(nnx.relu(self.dense(x.reshape(len(x), -1))))
