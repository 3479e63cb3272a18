"""The optimizer's readings in a log, without a wait for the device.

    read = jax.jit(readings)
    with logger(csv_sink("run.csv"), tensorboard_sink("runs/1")) as log:
      for step in range(1, steps + 1):
        params, opt_state, loss = train_step(params, opt_state, batch)
        if step % 20 == 0:
          log(step, {"loss": loss} | read(opt_state))

The train step stays as it is. JAX returns from it before the device is done;
`float(loss)` would wait, and leave the device idle. `log` waits for nothing
new: it writes what it was handed the time before. `read` copies its few numbers
out of the state, so `train_step` may overwrite that (`donate_argnums`).

On two CPU cores a row of CSV every 20 steps made steps of 0.1 to 0.2 ms longer
by 7 to 9 %, and steps above 1 ms by nothing that could be measured (three runs
of benchmarks/bench_logging.py, a part of `make bench`).

A sink is a context manager that yields `write(step, values)`: write your own.
In a `lax.scan` over steps, `readings(opt_state)` goes into the scan's outputs.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import csv
import os

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr, tree_leaves_with_path
import numpy as np
import optax

NAMES = (
  "tail_index",
  "tail_index_interval",
  "tail_model_rejected",
  "coordinate_tail_index",
  "update_norm",
  "nonfinite_count",
  "noise_norm",
  "gradient_noise_scale",
  "amplification",
  "rate_scale",
  "tail_quantile",
  "exceedance_count",
  "sharpness",
  "noise_tail_index",
  "inflation",
)
Write = Callable[[int, dict[str, np.generic]], None]
Sink = contextlib.AbstractContextManager[Write]


def readings(
  opt_state: optax.OptState, names: Sequence[str] = NAMES
) -> dict[str, jax.Array]:
  """The readings in an optimizer's state, as a flat dict of scalars.

  Args:
    opt_state: the state, of optax or of `nnx.Optimizer`. One with two trackers
      has every name twice: take the states of the two apart.
    names: the fields to read; those that the state has not are left out.

  Returns:
    Copies: "tail_index" and its interval, "tail_index/low" and
    "tail_index/high"; "update_norm", ... Per layer, the path of the leaf is
    in between: "tail_index/dense/kernel", "tail_index/dense/kernel/low".

  Raises:
    KeyError: the state has a name twice.
  """
  log = {}
  for name in names:
    field = optax.tree.get(opt_state, name)
    for path, x in tree_leaves_with_path(field):
      # The variables of nnx end every path in ".value".
      layer = [key for key in path if key != GetAttrKey("value")]
      key = name.removesuffix("_interval")
      key = "/".join([key, *(keystr([k], simple=True) for k in layer)])
      if name.endswith("_interval"):
        log[f"{key}/low"], log[f"{key}/high"] = x
      else:
        x = x.astype(jnp.int32) if x.dtype == bool else x  # 0 and 1 plot
        log[key] = jnp.copy(x)  # outlives a donated state, without jit too
  return log


@contextlib.contextmanager
def logger(*sinks: Sink) -> Iterator[Callable[[int, dict], None]]:
  """Yields `log(step, values)`, which writes to the sinks one call late.

  What the last call was handed is written at the end of the block, also when
  that is an error or Ctrl-C.
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
  """A row per step; a file that is there is continued.

  Numbers are written with as many digits as their dtype needs to come back the
  same. The first row decides what the columns are.
  """
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
        raise ValueError(f"{path} has no column {new[0]}: take a new file.")
      csv.DictWriter(file, columns).writerow(row)
      file.flush()

    yield write


@contextlib.contextmanager
def tensorboard_sink(folder: str | os.PathLike) -> Iterator[Write]:
  """Scalars for TensorBoard; needs tensorboardX, but no TensorFlow."""
  from tensorboardX import SummaryWriter

  with SummaryWriter(str(folder)) as writer:

    def write(step, values):
      for name, value in values.items():
        writer.add_scalar(name, float(value), step)

    yield write


@contextlib.contextmanager
def wandb_sink(folder: str | os.PathLike) -> Iterator[Write]:
  """An offline run of Weights & Biases; `wandb sync` uploads it later."""
  import wandb

  os.makedirs(folder, exist_ok=True)  # else it is written to /tmp
  quiet = wandb.Settings(console="off", silent=True)
  with wandb.init(
    project="htga_optax", mode="offline", dir=folder, settings=quiet
  ) as run:
    yield lambda step, values: run.log(
      {name: float(value) for name, value in values.items()}, step=step
    )
