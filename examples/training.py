"""Trains on one device or many, in one process or many, in four ways.

    jit         splits the batch over the devices; each device has all the rest
    fsdp        also splits large parameters, and state of the same shapes
    shard_map   a device sees its part of the batch, and averages with others
    pmap        the same with JAX's older API, which upstream only maintains

All four use one train step. Under `jax.jit` an array is whole, wherever its
parts are, and a mean is the mean over the whole batch. Under `jax.shard_map`
and `jax.pmap` a step sees a part of the batch. It averages the loss over the
axis of the devices inside of the function that it differentiates, and also
averages the gradients. This is correct under both. All devices draw the noise
from the same key, so it is the same on each.

The saved state does not depend on the devices. `Trainer.logical` returns the
whole state as arrays of all processes, and `Trainer.place` distributes it to
the devices.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import data
from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import models
import numpy as np
import optax
import sinks

import htga_optax

AXIS = "data"
SMALLEST_SPLIT = 1024  # entries; each device has all of a smaller array
LARGE_BATCH = 4  # large batch of truncated_heavy_tailed_sgd, in batches
TESTED = 500  # test examples that are evaluated at once


class Settings(NamedTuple):
  """The arguments of the optimizers. No optimizer takes them all.

  Attributes:
    learning_rate: the learning rate.
    momentum: the momentum; None for none.
    window_size: the number of norms for the tail index. A sixteenth of them is
      the tail.
    noise: the scale of the noise of AHTSGD.
    threshold: the longest step of the two optimizers that truncate.
    seed: the seed of the weights, the order of the data, and the noise.
  """

  learning_rate: float = 0.05
  momentum: float | None = 0.9
  window_size: int = 256
  noise: float = 1e-4
  threshold: float = 1.0
  seed: int = 0

  @property
  def window(self) -> dict[str, int]:
    """The arguments of an optimizer with a window."""
    size = self.window_size
    return {"window_size": size, "k": max(1, size // 16)}


class Optimizer(NamedTuple):
  """An optimizer, and the extra arguments of its update.

  Attributes:
    tx: the transformation.
    extra_args: (loss_fn, average, params, opt_state, batch) -> a dict of extra
      arguments. loss_fn is (params, examples) -> mean loss over all devices.
    batches: the number of batches that a step takes. `batch["large"]` has the
      rows after the first batch.
  """

  tx: optax.GradientTransformation
  extra_args: Callable[..., dict[str, Any]] = lambda *args: {}
  batches: int = 1


def _sgd(settings: Settings, axis_name: str | None) -> Optimizer:
  tracker = htga_optax.track_tail_index(**settings.window)
  sgd = optax.sgd(settings.learning_rate, settings.momentum)
  return Optimizer(optax.chain(tracker, sgd))


def _adamw(settings: Settings, axis_name: str | None) -> Optimizer:
  tracker = htga_optax.track_tail_index(**settings.window)
  return Optimizer(optax.chain(tracker, optax.adamw(settings.learning_rate)))


def _htga(settings: Settings, axis_name: str | None) -> Optimizer:
  return Optimizer(
    htga_optax.htga(
      settings.learning_rate, settings.momentum, **settings.window
    )
  )


def _tail_index_sgd(settings: Settings, axis_name: str | None) -> Optimizer:
  return Optimizer(
    htga_optax.tail_index_sgd(
      settings.learning_rate, settings.momentum, **settings.window
    )
  )


def _ahtsgd(settings: Settings, axis_name: str | None) -> Optimizer:
  """AHTSGD. The sharpness of the loss of the batch determines alpha."""

  def extra_args(loss_fn, average, params, opt_state, batch):
    return {"value_fn": lambda params: loss_fn(params, batch["small"])}

  return Optimizer(
    htga_optax.ahtsgd(
      settings.learning_rate,
      settings.noise,
      key=settings.seed,
      momentum=settings.momentum,
      threshold=settings.threshold,
      axis_name=axis_name,
    ),
    extra_args,
  )


def _truncated(settings: Settings, axis_name: str | None) -> Optimizer:
  """The gradient noise is the gradient of the batch minus a large batch's."""

  def extra_args(loss_fn, average, params, opt_state, batch):
    factor = optax.tree.get(opt_state, "noise_factor")
    noise = htga_optax.noise_gradient(
      loss_fn, params, batch["small"], batch["large"], factor
    )
    return {"noise_updates": average(noise)}

  return Optimizer(
    htga_optax.truncated_heavy_tailed_sgd(
      settings.learning_rate, settings.threshold, key=settings.seed
    ),
    extra_args,
    batches=1 + LARGE_BATCH,
  )


OPTIMIZERS = {
  "sgd": _sgd,
  "adamw": _adamw,
  "htga": _htga,
  "tail_index_sgd": _tail_index_sgd,
  "ahtsgd": _ahtsgd,
  "truncated_heavy_tailed_sgd": _truncated,
}


def rows(size: int, count: int, seed: int, step: int) -> np.ndarray:
  """The rows of the batch of a step. Each epoch has its own random order.

  The rows depend on the seed and the step alone, so that the step is also the
  position in the data.
  """
  epochs, places = np.divmod(step * count + np.arange(count), size)
  return np.asarray(
    [_order(size, seed, int(e))[p] for e, p in zip(epochs, places)]
  )


@functools.lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(size)


def loss_of(graphdef) -> Callable[[Any, Any], jax.Array]:
  """Makes (params, (x, y)) -> mean cross-entropy of classes or next tokens."""

  def loss_fn(params, examples):
    x, y = examples
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses)

  return loss_fn


def train_step(loss_fn, optimizer: Optimizer, axis_name: str | None):
  """Makes the step (state, batch) -> (state, log) of all four ways."""

  def average(tree):
    return tree if axis_name is None else lax.pmean(tree, axis_name)

  def mean_loss(params, examples):
    return average(loss_fn(params, examples))

  def step(state, batch):
    params, opt_state = state["params"], state["opt_state"]
    loss, grads = jax.value_and_grad(mean_loss)(params, batch["small"])
    extra_args = optimizer.extra_args(
      mean_loss, average, params, opt_state, batch
    )
    updates, opt_state = optimizer.tx.update(
      average(grads), opt_state, params, **extra_args
    )
    params = optax.apply_updates(params, updates)
    log = {"loss": loss} | sinks.scalars(opt_state)
    return {"params": params, "opt_state": opt_state}, log

  return step


class Trainer:
  """Trains a model on a data set with an optimizer, under `jax.jit`.

  Attributes:
    abstract: shapes, dtypes and shardings of the logical state.
    start: () -> the logical state before the first step.
  """

  axis_name: str | None = None

  def __init__(
    self,
    dataset: data.Dataset,
    model: str,
    optimizer: str,
    settings: Settings | None = None,
    batch_size: int = 32,
    width: int | None = None,
    devices: list[jax.Device] | None = None,
  ):
    """Prepares the training. It does not compile yet.

    Args:
      dataset: images or text.
      model: a name in `models.MODELS`.
      optimizer: a name in `OPTIMIZERS`.
      settings: the arguments of the optimizer.
      batch_size: the rows of a batch on all devices together.
      width: the width of the model; None for its default.
      devices: the devices to train on; None for all.

    Raises:
      ValueError: an invalid name or size; the message contains it.
    """
    self.devices = jax.devices() if devices is None else devices
    if batch_size % len(self.devices):
      raise ValueError(
        "the batch must be a multiple of the number of devices, got"
        f" {batch_size} rows for {len(self.devices)}."
      )
    self.dataset, self.batch_size = dataset, batch_size
    self.settings = settings or Settings()
    self.optimizer = OPTIMIZERS[optimizer](self.settings, self.axis_name)
    self.mesh = jax.make_mesh(
      (len(self.devices),),
      (AXIS,),
      axis_types=(AxisType.Auto,),
      devices=self.devices,
    )
    self.whole = NamedSharding(self.mesh, P())
    self.split = NamedSharding(self.mesh, P(AXIS))

    def make_model():
      rngs = nnx.Rngs(self.settings.seed)
      example = dataset.x_train[0]
      return models.make(model, example, dataset.classes, rngs, width)

    def start():
      params = nnx.state(make_model())
      return {"params": params, "opt_state": self.optimizer.tx.init(params)}

    self.graphdef = nnx.split(nnx.eval_shape(make_model))[0]
    shapes = jax.eval_shape(start)
    of_params = {x.shape for x in jax.tree.leaves(shapes["params"])}

    def placed(x):
      sharding = self.sharding(x.shape) if x.shape in of_params else self.whole
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    self.abstract = jax.tree.map(placed, shapes)
    self.shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
    self.start = jax.jit(start, out_shardings=self.shardings)
    self.step = self.compile(
      train_step(loss_of(self.graphdef), self.optimizer, self.axis_name)
    )

  def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a parameter of this shape."""
    del shape
    return self.whole

  def compile(self, step: Callable) -> Callable:
    """The train step, for states of `place` and batches of `put`."""
    return jax.jit(
      step,
      in_shardings=(self.shardings, self.split),
      out_shardings=(self.shardings, self.whole),
      donate_argnums=0,
    )

  def place(self, logical: Any) -> Any:
    """Turns a logical state into one that `step` takes."""
    return logical

  def logical(self, state: Any) -> Any:
    """Turns a state that `step` takes into a logical one, to be saved."""
    return state

  def put(self, x: np.ndarray) -> Any:
    """Puts an array of the batch onto the devices, for `step`."""
    return jax.make_array_from_callback(x.shape, self.split, lambda i: x[i])

  def read(self, log: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The log of a step as arrays of one device. It does not wait."""
    return {name: _here(x) for name, x in log.items()}

  def batch(self, step: int) -> dict[str, tuple[Any, Any]]:
    """The batch of a step, counted from 0."""
    x, y = self.dataset.x_train, self.dataset.y_train
    count = self.batch_size * self.optimizer.batches
    chosen = rows(len(x), count, self.settings.seed, step)
    parts = {"small": chosen[: self.batch_size]}
    if count > self.batch_size:
      parts["large"] = chosen[self.batch_size :]
    return {
      name: (self.put(x[part]), self.put(y[part]))
      for name, part in parts.items()
    }

  def test(self, logical: Any) -> tuple[float, float]:
    """The mean loss, in nats, and the accuracy on the test set."""

    @jax.jit
    def sums(params, x, y):
      logits = nnx.merge(self.graphdef, params)(x)
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(y, 0)
      )
      there = y >= 0
      right = jnp.argmax(logits, -1) == y
      return jnp.stack([jnp.sum(losses * there), jnp.sum(right), there.sum()])

    total, size = np.zeros(3), -(-TESTED // len(self.devices))
    size *= len(self.devices)
    for i in range(0, len(self.dataset.x_test), size):
      x, y = (a[i : i + size] for a in self.dataset[2:4])
      more = [(0, size - len(x))]  # rows that fill up have labels of -1
      x = np.pad(x, more + [(0, 0)] * (x.ndim - 1))
      y = np.pad(y, more + [(0, 0)] * (y.ndim - 1), constant_values=-1)
      put = lambda a: Trainer.put(self, a)
      total += np.asarray(_here(sums(logical["params"], put(x), put(y))))
    return total[0] / total[2], total[1] / total[2]


class Fsdp(Trainer):
  """Trains under `jax.jit`, and splits large parameters on the longest axis."""

  def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a parameter of this shape."""
    axes = [i for i, n in enumerate(shape) if n % len(self.devices) == 0]
    if not axes or np.prod(shape) < SMALLEST_SPLIT:
      return self.whole
    longest = max(axes, key=lambda i: shape[i])
    return NamedSharding(self.mesh, P(*[None] * longest, AXIS))


class ShardMap(Trainer):
  """Trains under `jax.shard_map`."""

  axis_name = AXIS

  def compile(self, step: Callable) -> Callable:
    """The train step, for states of `place` and batches of `put`."""
    step = jax.shard_map(
      step, mesh=self.mesh, in_specs=(P(), P(AXIS)), out_specs=P()
    )
    return jax.jit(step, donate_argnums=0)


class Pmap(Trainer):
  """Trains under `jax.pmap`. The first axis is this process's devices."""

  axis_name = AXIS

  def compile(self, step: Callable) -> Callable:
    """The train step, for states of `place` and batches of `put`."""
    return jax.pmap(
      step, self.axis_name, devices=self.devices, donate_argnums=0
    )

  def place(self, logical: Any) -> Any:
    """Turns a logical state into one that `step` takes."""
    count = len(self.mesh.local_devices)
    stacked = jax.tree.map(lambda x: np.stack([_here(x)] * count), logical)
    # With the layout of the result of `step`, so that it is compiled only once.
    return jax.pmap(lambda x: x, devices=self.devices)(stacked)

  def logical(self, state: Any) -> Any:
    """Turns a state that `step` takes into a logical one, to be saved."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
        self.whole, np.asarray(_first(x))
      ),
      state,
    )

  def put(self, x: np.ndarray) -> Any:
    """Puts an array of the batch onto the devices, for `step`."""
    ours = [d.process_index == jax.process_index() for d in self.devices]
    return x.reshape(len(self.devices), -1, *x.shape[1:])[np.asarray(ours)]

  def read(self, log: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The log of a step as arrays of one device. It does not wait."""
    return {name: _first(x) for name, x in log.items()}


WAYS = {"jit": Trainer, "fsdp": Fsdp, "shard_map": ShardMap, "pmap": Pmap}


def _here(x: jax.Array) -> jax.Array:
  """The part of an array on a device of this process."""
  return x.addressable_data(0)


def _first(x: jax.Array) -> jax.Array:
  """The part of one device, of an array of `jax.pmap`."""
  return _here(x).reshape(x.shape[1:])
