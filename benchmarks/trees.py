"""Makes trees of zeros in the shapes of real networks, to time updates on."""

import jax.numpy as jnp


def resnet(width, blocks, bottleneck=False, classes=1000):
  """The parameters of a ResNet; width 64 and (2, 2, 2, 2) is ResNet-18."""
  params = {}

  def conv(name, size, c_in, c_out):
    params[f"{name}/kernel"] = jnp.zeros([size, size, c_in, c_out])
    params[f"{name}/scale"] = jnp.zeros([c_out])
    params[f"{name}/bias"] = jnp.zeros([c_out])

  conv("stem", 7, 3, width)
  c_in = width
  for stage, count in enumerate(blocks):
    c = width * 2**stage
    c_out = 4 * c if bottleneck else c
    for block in range(count):
      name = f"stage{stage}/block{block}"
      if bottleneck:
        conv(f"{name}/conv0", 1, c_in, c)
        conv(f"{name}/conv1", 3, c, c)
        conv(f"{name}/conv2", 1, c, c_out)
      else:
        conv(f"{name}/conv0", 3, c_in, c)
        conv(f"{name}/conv1", 3, c, c)
      if c_in != c_out:
        conv(f"{name}/shortcut", 1, c_in, c_out)
      c_in = c_out
  params["head/kernel"] = jnp.zeros([c_in, classes])
  params["head/bias"] = jnp.zeros([classes])
  return params


def cnn(widths=(32, 64, 128, 256, 256), classes=10):
  """Five convolutions and a dense layer: 12 leaves, 1M parameters."""
  params, c_in = {}, 3
  for i, c in enumerate(widths):
    params[f"conv{i}/kernel"] = jnp.zeros([3, 3, c_in, c])
    params[f"conv{i}/bias"] = jnp.zeros([c])
    c_in = c
  params["head/kernel"] = jnp.zeros([c_in, classes])
  params["head/bias"] = jnp.zeros([classes])
  return params


TREES = {
  "CNN (1M)": cnn,
  "ResNet-18 of width 16 (1M)": lambda: resnet(16, (2, 2, 2, 2)),
  "ResNet-18 (12M)": lambda: resnet(64, (2, 2, 2, 2)),
  "ResNet-50 (26M)": lambda: resnet(64, (3, 4, 6, 3), bottleneck=True),
}
