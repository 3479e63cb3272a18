"""Training on one device or many, of one process or many, in four ways.

    jit         the batch is split over the devices, all else is on each
    fsdp        large parameters, and state of their shapes, are split too
    shard_map   a device sees its part of the batch, and averages with others
    pmap        the same in JAX's older way, which is in maintenance upstream

One train step serves all. Under `jax.jit` arrays are whole, wherever their
parts are, and averages are averages. Under `jax.shard_map` and `jax.pmap` a
step sees a part of the batch and names the axis of the devices: the loss is
averaged inside of what is differentiated, and so are gradients, which is right
in both. Noise is drawn from a key that all devices have: it is the same on
each.

A state as it is saved does not know of devices: `Trainer.logical` is the whole
state in arrays of all processes, and `Trainer.place` lays it out.
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
SMALLEST_SPLIT = 1024  # entries: smaller arrays are on each device
LARGE_BATCH = 4  # of truncated_heavy_tailed_sgd, in batches
TESTED = 500  # so many examples of the test set at a time


class Settings(NamedTuple):
  """Arguments of the optimizers; none takes them all.

  Attributes:
    learning_rate: of all.
    momentum: of those that have one; None for none.
    window_size: of the tail index, of which a sixteenth are its tail.
    noise: the scale of AHTSGD's noise.
    threshold: the longest step of the two that truncate.
    seed: of weights, order of the data, and noise.
  """

  learning_rate: float = 0.05
  momentum: float | None = 0.9
  window_size: int = 256
  noise: float = 1e-4
  threshold: float = 1.0
  seed: int = 0

  @property
  def window(self) -> dict[str, int]:
    """What has a window takes."""
    size = self.window_size
    return {"window_size": size, "k": max(1, size // 16)}


class Optimizer(NamedTuple):
  """An optimizer, and what its update takes beside the gradient.

  Attributes:
    tx: the transformation.
    extra_args: (loss_fn, average, params, opt_state, batch) -> a dict, where
      loss_fn is (params, examples) -> their mean loss over all devices.
    batches: how many rows a step takes, in batches; those after the first are
      in `batch["large"]`.
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
  """Its alpha answers the sharpness of the loss of the batch."""

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
  """The noise of the batch is its gradient less that of a large one."""

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
  """The rows of a step's batch: epoch after epoch, each in an order of its own.

  A function of the seed and the step, so the step is the position in the data.
  """
  epochs, places = np.divmod(step * count + np.arange(count), size)
  return np.asarray(
    [_order(size, seed, int(e))[p] for e, p in zip(epochs, places)]
  )


@functools.lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(size)


def loss_of(graphdef) -> Callable[[Any, Any], jax.Array]:
  """(params, (x, y)) -> the mean cross-entropy of classes or next tokens."""

  def loss_fn(params, examples):
    x, y = examples
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses)

  return loss_fn


def train_step(loss_fn, optimizer: Optimizer, axis_name: str | None):
  """(state, batch) -> (state, log), whichever way it is going to be run."""

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
  """A model, an optimizer and a data set, trained under `jax.jit`.

  Attributes:
    abstract: the logical state: shapes, dtypes and shardings.
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
    """Compiles nothing yet.

    Args:
      dataset: of images or text.
      model: a name of `models.MODELS`.
      optimizer: a name of `OPTIMIZERS`.
      settings: of the optimizer.
      batch_size: of all devices together.
      width: of the model; None for its own.
      devices: those to train on; None for all.

    Raises:
      ValueError: names or sizes that cannot be.
    """
    self.devices = jax.devices() if devices is None else devices
    if batch_size % len(self.devices):
      raise ValueError(
        f"the batch must divide over the devices, got {batch_size} rows for"
        f" {len(self.devices)}."
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
    """Where a parameter of that shape is."""
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
    """The state that `step` takes, of a logical one."""
    return logical

  def logical(self, state: Any) -> Any:
    """The whole state, as it is saved, of one that `step` takes."""
    return state

  def put(self, x: np.ndarray) -> Any:
    """A part of the batch, as `step` takes it."""
    return jax.make_array_from_callback(x.shape, self.split, lambda i: x[i])

  def read(self, log: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The log of a step, in arrays of one device; waits for nothing."""
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
    """Mean loss, in nats, and accuracy, of the test set."""

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
      more = [(0, size - len(x))]  # rows that are not there have labels of -1
      x = np.pad(x, more + [(0, 0)] * (x.ndim - 1))
      y = np.pad(y, more + [(0, 0)] * (y.ndim - 1), constant_values=-1)
      put = lambda a: Trainer.put(self, a)
      total += np.asarray(_here(sums(logical["params"], put(x), put(y))))
    return total[0] / total[2], total[1] / total[2]


class Fsdp(Trainer):
  """Under `jax.jit`, with large parameters split along their longest axis."""

  def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
    """Where a parameter of that shape is."""
    axes = [i for i, n in enumerate(shape) if n % len(self.devices) == 0]
    if not axes or np.prod(shape) < SMALLEST_SPLIT:
      return self.whole
    longest = max(axes, key=lambda i: shape[i])
    return NamedSharding(self.mesh, P(*[None] * longest, AXIS))


class ShardMap(Trainer):
  """Under `jax.shard_map`."""

  axis_name = AXIS

  def compile(self, step: Callable) -> Callable:
    """The train step, for states of `place` and batches of `put`."""
    step = jax.shard_map(
      step, mesh=self.mesh, in_specs=(P(), P(AXIS)), out_specs=P()
    )
    return jax.jit(step, donate_argnums=0)


class Pmap(Trainer):
  """Under `jax.pmap`: arrays have an axis of this process's devices."""

  axis_name = AXIS

  def compile(self, step: Callable) -> Callable:
    """The train step, for states of `place` and batches of `put`."""
    return jax.pmap(
      step, self.axis_name, devices=self.devices, donate_argnums=0
    )

  def place(self, logical: Any) -> Any:
    """The state that `step` takes, of a logical one."""
    count = len(self.mesh.local_devices)
    stacked = jax.tree.map(lambda x: np.stack([_here(x)] * count), logical)
    # Laid out as `step` will return it, which is then compiled but once.
    return jax.pmap(lambda x: x, devices=self.devices)(stacked)

  def logical(self, state: Any) -> Any:
    """The whole state, as it is saved, of one that `step` takes."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
        self.whole, np.asarray(_first(x))
      ),
      state,
    )

  def put(self, x: np.ndarray) -> Any:
    """A part of the batch, as `step` takes it."""
    ours = [d.process_index == jax.process_index() for d in self.devices]
    return x.reshape(len(self.devices), -1, *x.shape[1:])[np.asarray(ours)]

  def read(self, log: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The log of a step, in arrays of one device; waits for nothing."""
    return {name: _first(x) for name, x in log.items()}


WAYS = {"jit": Trainer, "fsdp": Fsdp, "shard_map": ShardMap, "pmap": Pmap}


def _here(x: jax.Array) -> jax.Array:
  """What a device of this process has of it."""
  return x.addressable_data(0)


def _first(x: jax.Array) -> jax.Array:
  """Of an array of `jax.pmap`, the part of one device."""
  return _here(x).reshape(x.shape[1:])
