"""Writes the optimizer's readings to a log without waiting for the device.

    read = jax.jit(scalars)
    with logger(csv_sink("run.csv"), tensorboard_sink("runs/1")) as log:
      for step in range(1, steps + 1):
        params, opt_state, loss = train_step(params, opt_state, batch)
        if step % 20 == 0:
          log(step, {"loss": loss} | read(opt_state))

The train step does not change. JAX returns from a step before the device has
finished it. `float(loss)` would wait for the device, which would then be idle.
`log` does not wait: each call writes the values of the call before. `read`
copies its few numbers out of the state, so `train_step` may reuse the memory of
the state (`donate_argnums`).

On two CPU cores, one row of CSV every 20 steps makes steps of 0.1 to 0.2 ms 7
to 9 % longer. The effect on steps above 1 ms is too small to measure (three
runs of benchmarks/bench_logging.py, a part of `make bench`).

A sink is a context manager that yields `write(step, values)`. You can write
your own. In a `lax.scan` over steps, return `scalars(opt_state)` as an output
of the scan. For readings per layer, pass the names of the layers:
`scalars(opt_state, htga_optax.layer_names(params))`.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import csv
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import htga_optax

Write = Callable[[int, dict[str, np.generic]], None]
Sink = contextlib.AbstractContextManager[Write]


def scalars(
  opt_state: optax.OptState, layers: Sequence[str] | None = None
) -> dict[str, jax.Array]:
  """The readings in an optimizer's state, as a flat dict of scalars.

  Args:
    opt_state: the state of an optax optimizer or of `nnx.Optimizer`.
    layers: the names of the layers, from `htga_optax.layer_names`, for readings
      per layer; None for numbers.

  Returns:
    Copies of the readings: "tail_index", the ends of its interval
    "tail_index/low" and "tail_index/high", "update_norm", ... Readings per
    layer contain the name of the layer: "tail_index/dense/kernel",
    "tail_index/dense/kernel/low".

  Raises:
    ValueError: the number of names differs from the number of layers.
  """
  log = {}
  for name, x in htga_optax.readings(opt_state).items():
    is_interval = name.endswith("_interval")
    name = name.removesuffix("_interval")
    values = {name: x}
    if x.ndim > is_interval:
      names = range(len(x)) if layers is None else layers
      if len(names) != len(x):
        raise ValueError(
          f"{name} is of {len(x)} layers, got {len(names)} names."
        )
      values = {f"{name}/{layer}": value for layer, value in zip(names, x)}
    for key, value in values.items():
      if is_interval:
        log[f"{key}/low"], log[f"{key}/high"] = value
      elif value.dtype == bool:
        log[key] = value.astype(jnp.int32)  # 0 and 1 plot
      else:
        log[key] = jnp.copy(value)  # stays valid if the state is donated
  return log


@contextlib.contextmanager
def logger(*sinks: Sink) -> Iterator[Callable[[int, dict], None]]:
  """Yields `log(step, values)`, which writes to the sinks one call later.

  The values of the last call are written at the end of the block, also after an
  error or Ctrl-C.
  """
  waiting = []

  def flush():
    if waiting:
      step, values = waiting.pop()
      values = {name: np.asarray(x)[()] for name, x in values.items()}
      for write in writes:
        write(step, values)

  def log(step, values):
    flush()
    waiting.append((step, values))

  with contextlib.ExitStack() as stack:
    writes = [stack.enter_context(sink) for sink in sinks]
    try:
      yield log
    finally:
      flush()


@contextlib.contextmanager
def csv_sink(path: str | os.PathLike) -> Iterator[Write]:
  """Writes a row for each step. An existing file is continued.

  An incomplete last row of an existing file is removed. Numbers have as many
  digits as their dtype needs to be read back exactly. The first row determines
  the columns.
  """
  _drop_torn_row(path)
  with open(path, "a+", newline="") as file:
    file.seek(0)
    columns = next(csv.reader(file), [])
    file.seek(0, os.SEEK_END)

    def write(step, values):
      row = {"step": step} | values
      if not columns:
        columns.extend(row)
        csv.writer(file).writerow(columns)
      if new := [name for name in row if name not in columns]:
        raise ValueError(f"{path} has no column {new[0]}: use a new file.")
      csv.DictWriter(file, columns).writerow(row)
      file.flush()

    yield write


def _drop_torn_row(path: str | os.PathLike) -> None:
  """Removes a last row without a line end, which a killed run leaves."""
  with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
    file.truncate(file.read().rfind(b"\n") + 1)


@contextlib.contextmanager
def tensorboard_sink(folder: str | os.PathLike) -> Iterator[Write]:
  """Writes scalars for TensorBoard. It needs tensorboardX, not TensorFlow."""
  from tensorboardX import SummaryWriter

  with SummaryWriter(str(folder)) as writer:

    def write(step, values):
      for name, value in values.items():
        writer.add_scalar(name, float(value), step)

    yield write


@contextlib.contextmanager
def wandb_sink(folder: str | os.PathLike) -> Iterator[Write]:
  """Writes an offline run of Weights & Biases. `wandb sync` uploads it."""
  import wandb

  os.makedirs(folder, exist_ok=True)  # wandb writes to /tmp without it
  quiet = wandb.Settings(console="off", silent=True)
  with wandb.init(
    project="htga_optax", mode="offline", dir=folder, settings=quiet
  ) as run:
    yield lambda step, values: run.log(
      {name: float(value) for name, value in values.items()}, step=step
    )
