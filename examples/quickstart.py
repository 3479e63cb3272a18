"""HTGA beside SGD, SGD with clipping and AdamW, on real images.

    python examples/quickstart.py                  # digits, a minute on a CPU
    python examples/quickstart.py --dataset mnist  # through TFDS

A small Flax CNN is trained with four optimizers on the same budget: the same
steps, batches and initial weights, for several seeds at once (`jax.vmap`). The
tail index of the raw gradient norm is measured alike in all four, inside the
jitted step, and read from the optimizer's state:

    tx = optax.chain(htga_optax.track_tail_index(), optax.sgd(0.05))
    tail_index = optax.tree.get(opt_state, "tail_index")

Nothing is tuned for HTGA: it has its defaults and SGD's learning rate and
momentum, as SGD with clipping (at norm 1) has. The rates are those that did
best on a held-out fifth of the digits' training images: 0.05 for SGD, of 0.003
to 0.2 (with 0.1, some seeds diverge), and 0.003 for AdamW, of 0.0003 to 0.01.

What it does not show: a norm that falls while the loss does, or batches that
are unlike, read as a tail too. A small index is no proof of a power law.
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
  from matplotlib.figure import Figure
  import models
  import numpy as np
  import optax
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn
  from rich.table import Table

  import htga_optax

WINDOW_SIZE = 256
ADAMW_RATE = 0.003
CLIP_NORM = 1.0
CHUNK = 50  # steps between two looks at the progress bar
EVALUATED = 10_000  # the training accuracy is of so many images at most
MOST_TAIL = 8.0  # a light tail reads large: the axis ends here
# Okabe and Ito's colours, and line styles for print without colour.
LOOKS = {
  "SGD": {"color": "#0072B2", "linestyle": (0, (5, 1.5))},
  "SGD+clip": {"color": "#E69F00", "linestyle": (0, (1.2, 1.2))},
  "AdamW": {"color": "#009E73", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
  "HTGA": {"color": "#D55E00", "linestyle": "-"},
}


def make_optimizers(
  learning_rate: float, momentum: float, window_size: int = WINDOW_SIZE
) -> dict[str, optax.GradientTransformation]:
  """The four; each measures the tail index of the raw gradient."""
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
  """Some steps of one seed: (parameters, state), and what was read."""

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
  """Training with one optimizer, all seeds at once.

  Attributes:
    log: what `train_chunk` reads, [seeds, steps, ...] each.
    accuracy: {"train": [seeds], "test": [seeds]} after the last step.
    seconds: what all steps took.
    compile_seconds: what compiling them took.
  """

  def __init__(self, tx, graphdef, batch_size, params, keys, train):
    self.graphdef, self.keys, self.train = graphdef, keys, train
    chunk = functools.partial(train_chunk, tx, graphdef, batch_size)
    self.chunk = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None, None, None)))
    self.carry = params, jax.jit(jax.vmap(tx.init))(params)
    self.compiled, self.chunks, self.log, self.accuracy = {}, [], {}, {}
    self.seconds = self.compile_seconds = 0.0

  def advance(self, start: int, stop: int) -> str:
    """Takes the steps from `start` to `stop`, and says how they went."""
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
    """Joins the chunks' logs and measures the accuracies."""
    for name in self.chunks[0]:
      self.log[name] = np.concatenate([log[name] for log in self.chunks], 1)
    some = slice(None, None, math.ceil(len(dataset.x_train) / EVALUATED))
    x_train, y_train = dataset.x_train[some], dataset.y_train[some]
    self.accuracy["train"] = self.share_right(x_train, y_train)
    self.accuracy["test"] = self.share_right(dataset.x_test, dataset.y_test)

  def share_right(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of images that each seed's model classifies rightly."""

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
  """Trains with all optimizers, in turns of `CHUNK` steps, and tests."""
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
  """A tail index as text; a reading of 0 means that there is none yet."""
  return f"{tail_index:.2f}" if tail_index > 0 else "-"


def tabulate(runs: dict[str, Run], title: str) -> Table:
  """What the runs came to, an optimizer a row."""
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
  """What the table says, and what it does not."""
  test = {name: 100 * run.accuracy["test"] for name, run in runs.items()}
  gain = test["HTGA"] - test["SGD"]
  if len(gain) >= 5:
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    shown = abs(gain.mean()) > 3 * error
    verdict = "more than" if shown else "no more than"
    verdict += f" the seeds' spread explains (standard error {error:.2f})"
  else:
    verdict = "fewer than 5 seeds do not tell whether that is chance"
  half = runs["HTGA"].log["loss"].shape[1] // 2
  peak = {name: run.log["loss"][:, half:].max() for name, run in runs.items()}
  lines = [
    f"HTGA's test accuracy is {gain.mean():+.2f} points off SGD's, seed by"
    f" seed: {verdict}. The largest batch loss in the second half of training"
    f" was {peak['HTGA']:.2g} with HTGA, {peak['SGD']:.2g} with SGD."
  ]
  tail, factor = (runs["HTGA"].log[n] for n in ("tail_index", "amplification"))
  if np.any(tail > 0):
    heavy = 100 * np.mean(tail[tail > 0] < 2)
    low, high = np.quantile(factor[tail > 0], [0.05, 0.95])
    lines.append(
      f"HTGA read a tail index below 2 in {heavy:.0f}% of its steps and"
      f" multiplied 90% of its gradients by {low:.2g} to {high:.2g}."
    )
  for name, run in runs.items():
    if lost := int(np.sum(~np.isfinite(run.log["loss"][:, -1]))):
      lines.append(f"{name} diverged in {lost} of {len(gain)} seeds.")
  return " ".join(lines)


def draw(runs: dict[str, Run], path: Path, title: str, seed: int = 0) -> None:
  """Writes the picture: losses of all seeds, and one seed's tail."""
  figure = Figure(figsize=(10, 7), layout="constrained")
  axes = figure.subplots(2, 2, sharex=True)
  panels = (draw_losses, draw_tail_index, draw_norms, draw_amplification)
  for panel, ax in zip(panels, axes.flat):
    panel(ax, runs, seed)
    ax.grid(alpha=0.25)
    ax.margins(x=0)
    ax.spines[["top", "right"]].set_visible(False)
  for ax in axes[1]:
    ax.set_xlabel("step")
  handles = axes[0, 0].get_lines()
  figure.suptitle(title)
  figure.legend(handles=handles, loc="outside lower center", ncols=len(runs))
  figure.savefig(path, dpi=110)


def draw_losses(ax, runs: dict[str, Run], seed: int) -> None:
  """All seeds, each a moving average."""
  for name, run in runs.items():
    loss = run.log["loss"]
    width = max(1, loss.shape[1] // 40)
    mean = np.stack(
      [np.convolve(x, np.ones(width) / width, "valid") for x in loss]
    )
    steps = np.arange(mean.shape[1]) + width / 2
    colour = LOOKS[name]["color"]
    ax.fill_between(
      steps, mean.min(0), mean.max(0), color=colour, alpha=0.15, lw=0
    )
    ax.plot(steps, np.median(mean, 0), label=name, **LOOKS[name])
  ax.set(yscale="log", ylabel="training loss")
  ax.set_title("(a) loss, median and range over seeds", loc="left")


def draw_tail_index(ax, runs: dict[str, Run], seed: int) -> None:
  """One seed, from the first full window on."""
  highest = 3.0
  for name, run in runs.items():
    tail = visible(run.log["tail_index"][seed])
    highest = max(highest, np.nanmax(tail, initial=0))
    ax.plot(tail, lw=2 if name == "HTGA" else 0.9, **LOOKS[name])
  interval = visible(runs["HTGA"].log["interval"][seed])
  band = {"color": LOOKS["HTGA"]["color"], "alpha": 0.2, "lw": 0}
  ax.fill_between(
    range(len(tail)), *interval.T, label="HTGA's 95 % interval", **band
  )
  ax.axhline(2, color="black", lw=1, ls=":", label="target")
  ax.set(ylim=(0, min(highest * 1.1, MOST_TAIL)), ylabel="tail index")
  ax.set_title("(b) tail index", loc="left")
  legend(ax)


def draw_norms(ax, runs: dict[str, Run], seed: int) -> None:
  """HTGA's gradient norm before and after its amplification."""
  log = runs["HTGA"].log
  norm, factor = log["norm"][seed], log["amplification"][seed]
  envelope(ax, norm, color="black", linestyle=LOOKS["SGD"]["linestyle"])
  envelope(ax, norm * factor, **LOOKS["HTGA"])
  ax.set(yscale="log", ylabel="gradient norm")
  ax.set_title("(c) HTGA's gradient norm", loc="left")
  legend(ax, handles=ax.get_lines(), labels=["before", "after"])


def envelope(ax, values: np.ndarray, color: str, linestyle) -> None:
  """Median and range of every 25 steps."""
  blocks = np.array_split(visible(values), max(1, len(values) // 25))
  steps = np.cumsum([len(x) for x in blocks]) - len(blocks[0]) / 2
  seen = [x if np.isnan(x).all() else x[~np.isnan(x)] for x in blocks]
  low, middle, high = np.transpose([np.quantile(x, [0, 0.5, 1]) for x in seen])
  ax.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
  ax.plot(steps, middle, color=color, linestyle=linestyle)


def draw_amplification(ax, runs: dict[str, Run], seed: int) -> None:
  """What HTGA multiplied the gradient by."""
  factor = runs["HTGA"].log["amplification"][seed]
  ax.plot(visible(factor), color=LOOKS["HTGA"]["color"], lw=0.7)
  ax.axhline(1, color="black", lw=1, ls=":")
  ax.set(yscale="log", ylabel="amplification")
  ax.set_title("(d) HTGA's amplification", loc="left")


def legend(ax, **entries) -> None:
  """A legend above the panel, where there are no data."""
  place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
  ax.legend(ncols=2, frameon=False, fontsize="small", **place, **entries)


def visible(values: np.ndarray) -> np.ndarray:
  """The values with gaps for those that are not there, or not positive."""
  return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("quickstart", __doc__)
  add = parser.add_argument
  names = ", ".join(("digits", *data.TFDS_NAMES))
  add("--dataset", default="digits", help=f"{names} or a PATH.npz")
  add("--steps", type=cli.count, default=1500)
  add("--batch-size", type=cli.count, default=32)
  add("--seeds", type=cli.count, default=5, help="how many")
  add("--learning-rate", type=float, default=0.05, help="of all but AdamW")
  add("--momentum", type=float, default=0.9, help="of all but AdamW")
  add("--output", type=cli.picture, default="quickstart.png", metavar="PNG")
  add("--data-dir", help="where TFDS keeps its data sets")
  args = parser.parse_args(argv)
  try:
    args.optimizers = make_optimizers(args.learning_rate, args.momentum)
  except ValueError as error:
    parser.error(str(error))
  return args


def main(argv: list[str] | None = None) -> None:
  """Loads, trains, prints and draws; every failure is one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("quickstart", *failures):
    run(args)


def run(args: argparse.Namespace) -> None:
  """One comparison, from the data to the picture."""
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
