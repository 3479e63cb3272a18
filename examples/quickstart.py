"""Compares HTGA with SGD, SGD with clipping, and AdamW on real images.

    python examples/quickstart.py                  # digits, a minute on a CPU
    python examples/quickstart.py --dataset mnist  # through TFDS

Four optimizers train a small Flax CNN with the same number of steps, the same
batches and the same initial weights. Several seeds run at once (`jax.vmap`).
The jitted step measures the tail index of the raw gradient norm, in the same
way for all four, and the optimizer's state holds it:

    tx = optax.chain(htga_optax.track_tail_index(), optax.sgd(0.05))
    tail_index = optax.tree.get(opt_state, "tail_index")

Nothing is tuned for HTGA. HTGA has its defaults, and the learning rate and
momentum of SGD. SGD with clipping (at norm 1) has the same rate and momentum.
The rates did best on a held-out fifth of the digits' training images: 0.05 for
SGD, among 0.003 to 0.2 (with 0.1, some seeds diverge), and 0.003 for AdamW,
among 0.0003 to 0.01.

What it does not show: that the norms follow a power law. A small index is no
proof of it. A norm that falls together with the loss, or batches that differ
from one another, can also produce a small index.
"""

import cli

with cli.one_line("quickstart"):
  import argparse
  import functools
  import math
  from pathlib import Path
  import sys
  import time

  import data
  from flax import nnx
  import jax
  from jax import lax
  import jax.numpy as jnp
  import models
  import numpy as np
  import optax
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn
  from rich.table import Table

  import htga_optax

WINDOW_SIZE = 256
ADAMW_RATE = 0.003
CLIP_NORM = 1.0
CHUNK = 50  # steps between two updates of the progress bar
EVALUATED = 10_000  # the most images for the training accuracy
MOST_TAIL = 8.0  # the end of the axis: the index of a light tail is large
LOOKS = pictures.looks("SGD", "SGD+clip", "AdamW", "HTGA")
BEFORE = pictures.Look("0.35", pictures.DASHED, "")  # amplification


def make_optimizers(
  learning_rate: float, momentum: float, window_size: int = WINDOW_SIZE
) -> dict[str, optax.GradientTransformation]:
  """The four optimizers. Each measures the tail index of the raw gradient."""
  tracker = htga_optax.track_tail_index(window_size)
  sgd = optax.sgd(learning_rate, momentum)
  clip = optax.clip_by_global_norm(CLIP_NORM)
  return {
    "SGD": optax.chain(tracker, sgd),
    "SGD+clip": optax.chain(tracker, clip, sgd),
    "AdamW": optax.chain(tracker, optax.adamw(ADAMW_RATE)),
    "HTGA": htga_optax.htga(learning_rate, momentum, window_size=window_size),
  }


def train_chunk(tx, graphdef, batch_size, carry, key, steps, images, labels):
  """Takes some steps of one seed; returns (parameters, state) and the log."""

  def loss_fn(params, x, y):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, -1) == y)

  def step(carry, number):
    params, state = carry
    key_of_step = jax.random.fold_in(key, number)
    rows = jax.random.randint(key_of_step, [batch_size], 0, len(images))
    values, grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, images[rows], labels[rows]
    )
    updates, state = tx.update(grads, state, params)
    log = {
      "loss": values[0],
      "accuracy": values[1],
      "tail_index": optax.tree.get(state, "tail_index"),
      "interval": optax.tree.get(state, "tail_index_interval"),
      "norm": optax.tree.get(state, "update_norm"),
      "amplification": optax.tree.get(state, "amplification", 1.0),
    }
    return (optax.apply_updates(params, updates), state), log

  return lax.scan(step, carry, steps)


class Run:
  """A training with one optimizer, of all seeds at once.

  Attributes:
    log: the log of `train_chunk`, each entry [seeds, steps, ...].
    accuracy: {"train": [seeds], "test": [seeds]} after the last step.
    seconds: the time of all steps.
    compile_seconds: the time of compilation.
  """

  def __init__(self, tx, graphdef, batch_size, params, keys, train):
    self.graphdef, self.keys, self.train = graphdef, keys, train
    chunk = functools.partial(train_chunk, tx, graphdef, batch_size)
    self.chunk = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None, None, None)))
    self.carry = params, jax.jit(jax.vmap(tx.init))(params)
    self.compiled, self.chunks, self.log, self.accuracy = {}, [], {}, {}
    self.seconds = self.compile_seconds = 0.0

  def advance(self, start: int, stop: int) -> str:
    """Takes the steps from `start` to `stop`; returns a line about them."""
    args = self.carry, self.keys, jnp.arange(start, stop), *self.train
    clock = time.perf_counter()
    if stop - start not in self.compiled:
      self.compiled[stop - start] = self.chunk.lower(*args).compile()
      self.compile_seconds += time.perf_counter() - clock
      clock = time.perf_counter()
    done = jax.block_until_ready(self.compiled[stop - start](*args))
    self.seconds += time.perf_counter() - clock
    self.carry, log = done[0], jax.device_get(done[1])
    self.chunks.append(log)
    loss, tail = np.median(log["loss"]), np.median(log["tail_index"][:, -1])
    hits = 100 * np.mean(log["accuracy"])
    return f"loss {loss:8.2g}  accuracy {hits:5.1f}%  tail {index(tail):>5}"

  def finish(self, dataset: data.Dataset) -> None:
    """Joins the logs of the chunks and measures the accuracies."""
    for name in self.chunks[0]:
      self.log[name] = np.concatenate([log[name] for log in self.chunks], 1)
    some = slice(None, None, math.ceil(len(dataset.x_train) / EVALUATED))
    x_train, y_train = dataset.x_train[some], dataset.y_train[some]
    self.accuracy["train"] = self.share_right(x_train, y_train)
    self.accuracy["test"] = self.share_right(dataset.x_test, dataset.y_test)

  def share_right(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of images that the model of each seed classifies correctly."""

    def classes(params, x):
      model = nnx.merge(self.graphdef, params)
      return lax.map(lambda x: jnp.argmax(model(x[None])[0]), x, batch_size=500)

    guesses = jax.jit(jax.vmap(classes, (0, None)))(self.carry[0], images)
    return np.mean(np.asarray(guesses) == labels, axis=1)


def compare(
  dataset: data.Dataset,
  optimizers: dict[str, optax.GradientTransformation],
  steps: int,
  batch_size: int,
  seeds: int,
) -> dict[str, Run]:
  """Trains with all optimizers, `CHUNK` steps each in turn, and tests them."""
  train = jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)
  shape, classes = train[0].shape[1:], dataset.classes
  model = lambda key: models.CNN(shape, classes, nnx.Rngs(key))
  graphdef = nnx.split(nnx.eval_shape(lambda: model(0)))[0]
  keys = jax.random.split(jax.random.key(0), seeds)
  params = jax.jit(jax.vmap(lambda key: nnx.state(model(key))))(keys)
  runs, bars = {}, {}
  texts = map(TextColumn, ("{task.completed:5}", "{task.fields[now]}"))
  name_column = TextColumn("{task.description:8}")
  with Progress(name_column, BarColumn(bar_width=20), *texts) as progress:
    for name, tx in optimizers.items():
      runs[name] = Run(tx, graphdef, batch_size, params, keys, train)
      bars[name] = progress.add_task(name, total=steps, now="compiling")
    for start in range(0, steps, CHUNK):
      stop = min(start + CHUNK, steps)
      for name, run in runs.items():
        now = run.advance(start, stop)
        progress.update(bars[name], completed=stop, now=now)
  for run in runs.values():
    run.finish(dataset)
  return runs


def index(tail_index: float) -> str:
  """A tail index as text. A reading of 0 means: not measured yet."""
  return f"{tail_index:.2f}" if tail_index > 0 else "-"


def tabulate(runs: dict[str, Run], title: str) -> Table:
  """The table of results, with one row for each optimizer."""
  table = Table(
    title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
  )
  table.add_column("optimizer")
  for heading in (
    "test accuracy\n%, mean (sd)",
    "train - test\npoints",
    "last tail index\nmedian (range)",
    "run\ns",
    "compile\ns",
  ):
    table.add_column(heading, justify="right")
  for name, run in runs.items():
    test, train = 100 * run.accuracy["test"], 100 * run.accuracy["train"]
    sd = f"{test.std(ddof=1):.2f}" if len(test) > 1 else "-"
    tail = run.log["tail_index"][:, -1]
    span = f" ({index(tail.min())}-{index(tail.max())})"
    table.add_row(
      name,
      f"{test.mean():.2f} ({sd})",
      f"{np.mean(train - test):.2f}",
      index(np.median(tail)) + span * bool(tail.any()),
      f"{run.seconds:.1f}",
      f"{run.compile_seconds:.1f}",
    )
  return table


def reading(runs: dict[str, Run]) -> str:
  """The results in sentences."""
  test = {name: 100 * run.accuracy["test"] for name, run in runs.items()}
  gain = test["HTGA"] - test["SGD"]
  if len(gain) >= 5:
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    shown = abs(gain.mean()) > 3 * error
    verdict = "is larger than" if shown else "is not larger than"
    verdict += " three standard errors over the seeds"
    verdict += f" (standard error {error:.2f})"
  else:
    verdict = "may be chance, with fewer than 5 seeds"
  half = runs["HTGA"].log["loss"].shape[1] // 2
  peak = {name: run.log["loss"][:, half:].max() for name, run in runs.items()}
  lines = [
    "The test accuracy of HTGA minus that of SGD is"
    f" {gain.mean():+.2f} points, the mean over seeds. This difference"
    f" {verdict}. The largest batch loss in the second half of training is"
    f" {peak['HTGA']:.2g} with HTGA and {peak['SGD']:.2g} with SGD."
  ]
  tail, factor = (runs["HTGA"].log[n] for n in ("tail_index", "amplification"))
  if np.any(tail > 0):
    heavy = 100 * np.mean(tail[tail > 0] < 2)
    low, high = np.quantile(factor[tail > 0], [0.05, 0.95])
    lines.append(
      f"HTGA measures a tail index below 2 in {heavy:.0f} % of its steps. It"
      f" multiplies 90 % of its gradients by {low:.2g} to {high:.2g}."
    )
  for name, run in runs.items():
    if lost := int(np.sum(~np.isfinite(run.log["loss"][:, -1]))):
      lines.append(f"{name} diverges in {lost} of {len(gain)} seeds.")
  return " ".join(lines)


def draw(runs: dict[str, Run], path: Path, title: str, seed: int = 0) -> None:
  """Writes the picture: the loss of all seeds, the rest of one seed."""
  axes = pictures.panels(2, 2, height=6.4, sharex=True)
  panels = (draw_losses, draw_tail_index, draw_norms, draw_amplification)
  for panel, ax in zip(panels, axes.flat):
    panel(ax, runs, seed)
    ax.margins(x=0)
  for ax in axes[1]:
    ax.set_xlabel("step")
  headings = (
    "training loss, median and range of seeds",
    "tail index of the gradient norm, one seed",
    "gradient norm of HTGA, same seed",
    "amplification by HTGA, same seed",
  )
  handles = pictures.lines(LOOKS) + axes[0, 1].get_legend_handles_labels()[0]
  handles += pictures.lines({"norm before amplification": BEFORE})
  pictures.save(path, axes, headings, title, handles, columns=4)


def draw_losses(ax, runs: dict[str, Run], seed: int) -> None:
  """Draws the moving average of the loss, of all seeds."""
  for name, run in runs.items():
    loss = run.log["loss"]
    width = max(1, loss.shape[1] // 40)
    mean = np.stack(
      [np.convolve(x, np.ones(width) / width, "valid") for x in loss]
    )
    steps = np.arange(mean.shape[1]) + width / 2
    ax.fill_between(
      steps, mean.min(0), mean.max(0), color=LOOKS[name].color, alpha=0.15, lw=0
    )
    ax.plot(steps, np.median(mean, 0), **LOOKS[name].line)
  ax.set(yscale="log", ylabel="training loss")


def draw_tail_index(ax, runs: dict[str, Run], seed: int) -> None:
  """Draws the tail index of one seed, from the first full window on."""
  highest = 3.0
  for name, run in runs.items():
    tail = visible(run.log["tail_index"][seed])
    highest = max(highest, np.nanmax(tail, initial=0))
    ax.plot(tail, lw=2 if name == "HTGA" else 0.9, **LOOKS[name].line)
  interval = visible(runs["HTGA"].log["interval"][seed])
  band = {"color": LOOKS["HTGA"].color, "alpha": 0.2, "lw": 0}
  ax.fill_between(
    range(len(tail)), *interval.T, label="95 % interval, HTGA", **band
  )
  ax.axhline(2, label="target of HTGA", **pictures.TARGET)
  ax.set(ylim=(0, min(highest * 1.1, MOST_TAIL)), ylabel="tail index")


def draw_norms(ax, runs: dict[str, Run], seed: int) -> None:
  """Draws the gradient norm of HTGA before and after the amplification."""
  log = runs["HTGA"].log
  norm, factor = log["norm"][seed], log["amplification"][seed]
  envelope(ax, norm, BEFORE)
  envelope(ax, norm * factor, LOOKS["HTGA"])
  ax.set(yscale="log", ylabel="gradient norm")


def envelope(ax, values: np.ndarray, look: pictures.Look) -> None:
  """Draws the median and the range of every 25 steps."""
  blocks = np.array_split(visible(values), max(1, len(values) // 25))
  steps = np.cumsum([len(x) for x in blocks]) - len(blocks[0]) / 2
  seen = [x if np.isnan(x).all() else x[~np.isnan(x)] for x in blocks]
  low, middle, high = np.transpose([np.quantile(x, [0, 0.5, 1]) for x in seen])
  ax.fill_between(steps, low, high, color=look.color, alpha=0.2, lw=0)
  ax.plot(steps, middle, **look.line)


def draw_amplification(ax, runs: dict[str, Run], seed: int) -> None:
  """Draws the factor by which HTGA multiplies the gradient."""
  factor = runs["HTGA"].log["amplification"][seed]
  ax.plot(visible(factor), color=LOOKS["HTGA"].color, lw=0.7)
  ax.axhline(1, color="black", lw=1)
  ax.set_yscale("log", base=2)
  ax.yaxis.set_major_formatter("{x:g}")
  ax.set_ylabel("amplification")


def visible(values: np.ndarray) -> np.ndarray:
  """The values, with nan for those that are not finite or not positive."""
  return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("quickstart", __doc__)
  add = parser.add_argument
  names = ", ".join(("digits", *data.TFDS_NAMES))
  add("--dataset", default="digits", help=f"{names} or a PATH.npz")
  add("--steps", type=cli.count, default=1500)
  add("--batch-size", type=cli.count, default=32)
  add("--seeds", type=cli.count, default=5, help="number of seeds")
  add("--learning-rate", type=float, default=0.05, help="not for AdamW")
  add("--momentum", type=float, default=0.9, help="not for AdamW")
  add("--output", type=cli.picture, default="quickstart.png", metavar="PNG")
  add("--data-dir", help="the folder of TFDS data sets")
  args = parser.parse_args(argv)
  try:
    args.optimizers = make_optimizers(args.learning_rate, args.momentum)
  except ValueError as error:
    parser.error(str(error))
  return args


def main(argv: list[str] | None = None) -> None:
  """Loads, trains, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("quickstart", *failures):
    run(args)


def run(args: argparse.Namespace) -> None:
  """Makes one comparison, from the data to the picture."""
  if args.steps < WINDOW_SIZE:
    print(
      f"quickstart: warning: no tail index in fewer than {WINDOW_SIZE} steps.",
      file=sys.stderr,
    )
  dataset = data.load_images(args.dataset, args.data_dir)
  runs = compare(
    dataset, args.optimizers, args.steps, args.batch_size, args.seeds
  )
  title = (
    f"{dataset.name}: {args.steps} steps of {args.batch_size} images,"
    f" {args.seeds} seeds"
  )
  draw(runs, args.output, title)
  console = Console(markup=False)
  console.print(tabulate(runs, title))
  console.print(reading(runs))
  console.print(f"Picture: {args.output}", soft_wrap=True)


if __name__ == "__main__":
  main()
