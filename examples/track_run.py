"""One run with HTGA, watched live and logged.

    python examples/track_run.py
    python examples/track_run.py --csv run.csv --tensorboard runs/1 --wandb .

A small Flax model learns scikit-learn's digits. Every few steps its loss, its
gradient's norm, tail index with 95 % interval, and the amplification go to the
terminal, live or, where there is none, as plain lines, and to the files asked
for (see sinks.py). No step waits for that.
"""

import cli

with cli.one_line("track_run"):
  import argparse
  import collections
  from collections.abc import Callable, Iterator
  import contextlib
  import functools
  import math

  import data
  from flax import nnx
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax
  from rich.console import Console, Group
  from rich.live import Live
  from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
  from rich.table import Table
  import sinks

  import htga_optax

LINES = (
  "loss",
  "gradient norm",
  "tail index",
  "amplification",
  "rate scale",
  "sharpness",
  "noise tail index",
  "inflation",
)
BLOCKS = "▁▂▃▄▅▆▇█"


def train(
  dataset: data.Dataset,
  steps: int,
  every: int,
  log: Callable[[int, dict], None],
  batch_size: int = 32,
) -> float:
  """Trains, hands `log` the readings, and returns the test accuracy."""
  images, labels = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
  rngs = nnx.Rngs(0)
  model = nnx.Sequential(
    lambda x: x.reshape(len(x), -1).astype(jnp.float32) / 255,
    nnx.Linear(images[0].size, 64, rngs=rngs),
    nnx.relu,
    nnx.Linear(64, 1 + int(dataset.y_train.max()), rngs=rngs),
  )
  graphdef, params = nnx.split(model)
  tx = htga_optax.htga(learning_rate=0.05, momentum=0.9)

  def loss_fn(params, x, y):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(carry, images, labels):
    params, opt_state, key = carry
    key, key_of_step = jax.random.split(key)
    rows = jax.random.randint(key_of_step, [batch_size], 0, len(images))
    loss, grads = jax.value_and_grad(loss_fn)(
      params, images[rows], labels[rows]
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, key), loss

  read = jax.jit(sinks.readings)
  carry = params, tx.init(params), jax.random.key(1)
  for step in range(1, steps + 1):
    carry, loss = train_step(carry, images, labels)
    if step % every == 0 or step == steps:
      log(step, {"loss": loss} | read(carry[1]))
  logits = nnx.merge(graphdef, carry[0])(dataset.x_test)
  return float(np.mean(np.argmax(logits, -1) == dataset.y_test))


@contextlib.contextmanager
def plain_sink(console: Console) -> Iterator[sinks.Write]:
  """A line per reading."""

  def write(step, values):
    texts = (f"{name} {text(name, values)}" for name in lines(values))
    console.print(f"step {step}", *texts, sep="  ", soft_wrap=True)

  yield write


@contextlib.contextmanager
def live_sink(console: Console, steps: int) -> Iterator[sinks.Write]:
  """A progress bar, and a line with a sparkline for each of `lines`."""
  progress = Progress(
    TextColumn("step {task.completed}/{task.total}"),
    BarColumn(),
    TimeRemainingColumn(),
    console=console,
  )
  bar = progress.add_task("", total=steps)
  width = max(8, min(60, console.width - 40))
  past = collections.deque(maxlen=width)

  with Live(progress, console=console) as view:

    def write(step, values):
      past.append(values)
      table = Table.grid(padding=(0, 2))
      for name in lines(values):
        line = sparkline([number(name, values) for values in past])
        table.add_row(name, line.ljust(width), text(name, values))
      progress.update(bar, completed=step)
      view.update(Group(table, progress))

    yield write


def lines(values: dict) -> list[str]:
  """Those of `LINES` that there is a number for."""
  return [name for name in LINES if key(name) in values]


def key(name: str) -> str:
  """The reading of a line."""
  return {"gradient norm": "update_norm"}.get(name, name.replace(" ", "_"))


def number(name: str, values: dict) -> float:
  """What a line shows."""
  return float(values[key(name)])


def text(name: str, values: dict) -> str:
  """What a line shows, in words; there is no tail index at first."""
  value = number(name, values)
  if name != "tail index":
    return f"{value:.3g}"
  low, high = values["tail_index/low"], values["tail_index/high"]
  return f"{value:.2f} ({low:.2f} to {high:.2f})" if value > 0 else "-"


def sparkline(values: list[float]) -> str:
  """The values as blocks of logarithmic height, gaps where not positive."""
  heights = [math.log(x) if 0 < x < math.inf else math.nan for x in values]
  there = [x for x in heights if not math.isnan(x)] or [0.0]
  low, span = min(there), max(there) - min(there) or 1.0
  return "".join(
    " " if math.isnan(x) else BLOCKS[round(7 * (x - low) / span)]
    for x in heights
  )


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("track_run", __doc__)
  add = parser.add_argument
  add("--steps", type=cli.count, default=1000)
  add("--every", type=cli.count, default=20, help="steps between two readings")
  add("--csv", metavar="FILE", help="is continued where it exists")
  add("--tensorboard", metavar="DIR")
  add("--wandb", metavar="DIR", help="an offline run")
  add("--no-live", action="store_true", help="plain lines on a terminal too")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Trains and logs; every failure is one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, ValueError, jax.errors.JaxRuntimeError)
  with cli.one_line("track_run", *failures, extra="logging"):
    run(args)


def run(args: argparse.Namespace) -> None:
  """One run, from the data to the test accuracy."""
  console = Console(markup=False, highlight=False)
  live = console.is_interactive and not console.options.ascii_only
  if live and not args.no_live:
    chosen = [live_sink(console, args.steps)]
  else:
    chosen = [plain_sink(console)]
  for make, target in (
    (sinks.csv_sink, args.csv),
    (sinks.tensorboard_sink, args.tensorboard),
    (sinks.wandb_sink, args.wandb),
  ):
    if target:
      chosen.append(make(target))
  dataset = data.load("digits")
  with sinks.logger(*chosen) as log:
    accuracy = train(dataset, args.steps, args.every, log)
  console.print(f"test accuracy {100 * accuracy:.1f}%")


if __name__ == "__main__":
  main()
