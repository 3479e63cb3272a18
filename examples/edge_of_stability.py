"""Sharpness while a network trains, and the noise that is steered by it.

    python examples/edge_of_stability.py                  # CIFAR-10 by TFDS
    python examples/edge_of_stability.py --dataset my.npz

A small tanh network learns the classes of some hundred images by squares. On
the whole sample (gradient descent) the largest eigenvalue of the Hessian rises
until 2/eta, where a quadratic loss would become unstable, and stays there: the
edge of stability (Cohen et al., arXiv 2103.00065). On mini-batches it stays
below. Beside these, AHTSGD with its three responses to that sharpness:

    tx = htga_optax.ahtsgd(eta, sigma, key=0, alpha="rising")
    updates, state = tx.update(grads, state, params, value_fn=whole_loss)

In all runs the sharpness is that of the whole sample, by two products with the
Hessian every ten steps; at the end it is checked by Lanczos' method with 30.

What it does not show: that alpha should follow sharpness. The responses are
reconstructions, and the noise is as large as --scale says.
"""

import cli

with cli.one_line("edge_of_stability"):
  import argparse
  import functools
  import math
  from pathlib import Path
  import time
  from typing import Any, NamedTuple

  import data
  import jax
  from jax import lax
  import jax.numpy as jnp
  from matplotlib.figure import Figure
  import mlp
  import numpy as np
  import optax
  import report
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn

  import htga_optax

EVERY = 10  # steps between looks at the sharpness, and between records
CHUNK = 10  # records between two looks at the progress bar
WIDTHS = 100, 100
GAIN = 1 / 3  # small initial weights, so that there is sharpness to be gained
TOLERANCE = 0.15  # around 2/eta, of the last quarter's sharpness
RESPONSES = "rising", "falling", "growth"
# Okabe and Ito's colours, and line styles for print without colour.
LOOKS = {
  "no noise": {"color": "black", "linestyle": "-"},
  "rising": {"color": "#0072B2", "linestyle": (0, (5, 1.5))},
  "falling": {"color": "#D55E00", "linestyle": (0, (1.2, 1.2))},
  "growth": {"color": "#009E73", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
}


class Run(NamedTuple):
  """One training.

  Attributes:
    batch: "whole sample" or "mini-batches".
    noise: a key of `LOOKS`.
    loss: of the whole sample every `EVERY` steps [records].
    sharpness: of the whole sample, the looks [records].
    alpha: of the noise, [records]; 0 where there is none.
    ends: sharpness before the first and after the last step, by Lanczos'
      method.
  """

  batch: str
  noise: str
  loss: np.ndarray
  sharpness: np.ndarray
  alpha: np.ndarray
  ends: tuple[float, float]


def make_optimizer(noise: str, args: argparse.Namespace) -> Any:
  """Gradient descent, the same with a tracker, or with steered noise."""
  if noise == "no noise":
    return optax.chain(
      htga_optax.track_sharpness(every_k_steps=EVERY),
      optax.sgd(args.learning_rate),
    )
  return htga_optax.ahtsgd(
    args.learning_rate,
    args.scale,
    key=args.seed,
    alpha=noise,  # pyright: ignore[reportArgumentType]
    steepness=args.steepness,
    threshold=args.threshold,
    every_k_steps=EVERY,
  )


def loss_fn(params: mlp.Params, x: jax.Array, y: jax.Array) -> jax.Array:
  """Half the mean squared distance to the one-hot classes."""
  error = mlp.apply(jnp.tanh, params, x) - y
  return jnp.mean(jnp.sum(error**2, axis=1)) / 2


def train(tx, batch_size, params, x, y, key, records, progress):
  """Trains; calls `progress` now and then.

  Args:
    tx: the optimizer, which takes `value_fn`.
    batch_size: None for the whole sample.
    params: where to begin.
    x: inputs [n, pixels].
    y: one-hot classes [n, classes].
    key: of the batches.
    records: how many times `EVERY` steps to take.
    progress: is told how many steps were taken, the loss and the sharpness.

  Returns:
    The parameters, and losses, sharpnesses and alphas [3, records].
  """
  whole = functools.partial(loss_fn, x=x, y=y)

  def step(carry, number):
    params, state = carry
    rows = slice(None)
    if batch_size is not None:
      rows_key = jax.random.fold_in(key, number)
      rows = jax.random.randint(rows_key, [batch_size], 0, len(x))
    grads = jax.grad(loss_fn)(params, x[rows], y[rows])
    updates, state = tx.update(grads, state, params, value_fn=whole)
    return (optax.apply_updates(params, updates), state), None

  def record(carry, number):
    loss = whole(carry[0])
    carry, _ = lax.scan(step, carry, number * EVERY + jnp.arange(EVERY))
    read = functools.partial(optax.tree.get, carry[1])
    alpha = read("noise_tail_index", jnp.float32(0))
    return carry, jnp.stack([loss, read("sharpness_estimate"), alpha])

  chunk = jax.jit(lambda carry, numbers: lax.scan(record, carry, numbers))
  carry, log = (params, tx.init(params)), []
  for start in range(0, records, CHUNK):
    stop = min(start + CHUNK, records)
    carry, values = chunk(carry, jnp.arange(start, stop))
    log.append(np.asarray(values))
    progress(stop * EVERY, *log[-1][-1, :2])
  return carry[0], np.concatenate(log).T


@jax.jit
def lanczos(params, x, y):
  """The largest eigenvalue of the Hessian, by Lanczos' method."""
  matvec = htga_optax.curvature.hessian(
    functools.partial(loss_fn, x=x, y=y), params
  )
  start = htga_optax.curvature.sample_like(
    jax.random.normal, params, key=jax.random.key(0)
  )
  size = min(30, htga_optax.curvature.dimension(params))
  return htga_optax.curvature.top_eigenvalue(matvec, start, size).value


def compare(args: argparse.Namespace, dataset: data.Dataset) -> list[Run]:
  """All runs, one after the other, from the same weights."""
  (x,) = map(jnp.asarray, mlp.standardise(dataset.x_train[: args.images]))
  y = jax.nn.one_hot(dataset.y_train[: args.images], dataset.y_train.max() + 1)
  params_key, key = jax.random.split(jax.random.key(args.seed))
  params = mlp.init(params_key, (x.shape[1], *WIDTHS, y.shape[1]), GAIN)
  records = math.ceil(args.steps / EVERY)
  runs = []
  texts = map(TextColumn, ("{task.completed:5}", "{task.fields[now]}"))
  name_column = TextColumn("{task.description:24}")
  with Progress(name_column, BarColumn(bar_width=20), *texts) as progress:
    for batch, size in BATCHES.items():
      size = size and args.batch_size
      for noise in LOOKS:
        total = records * EVERY
        bar = progress.add_task(f"{batch}, {noise}", total=total, now="")

        def say(done, loss, sharpness, bar=bar):
          ratio = sharpness * args.learning_rate / 2
          now = f"loss {loss:8.2g}  sharpness {ratio:.2f} of 2/eta"
          progress.update(bar, completed=done, now=now)

        done, log = train(
          make_optimizer(noise, args), size, params, x, y, key, records, say
        )
        ends = [float(lanczos(p, x, y)) for p in (params, done)]
        runs.append(Run(batch, noise, *log, (ends[0], ends[1])))
  return runs


BATCHES = {"whole sample": None, "mini-batches": True}


def last_quarter(values: np.ndarray) -> np.ndarray:
  """Of a record, at least one."""
  return values[3 * len(values) // 4 :]


HEAD = [
  "batches",
  "noise",
  "loss",
  "before\n(L)",
  "mean",
  "sd",
  "after\n(L)",
  "alpha",
]


def rows_of(runs: list[Run], learning_rate: float) -> report.Rows:
  """What the runs came to, as text."""
  rows = []
  for run in runs:
    last = last_quarter(run.sharpness)
    sizes = run.ends[0], last.mean(), last.std(), run.ends[1]
    alpha = [f"{a:.2f}" for a in run.alpha[[0, -1]]]
    rows.append(
      [
        run.batch,
        run.noise,
        f"{run.loss[-1]:.2g}",
        *(f"{x * learning_rate / 2:.2f}" for x in sizes),
        " to ".join(alpha) if run.alpha[-1] else "-",
      ]
    )
  return rows


LEGEND = (
  "The loss is that of the whole sample after the last step. Sharpness is in"
  " units of 2/eta: by Lanczos' method (L) before the first step and after the"
  " last, and the mean and standard deviation over the looks of the last"
  " quarter. Alpha is that of the first step and of the last."
)


def reading(runs: list[Run], learning_rate: float) -> str:
  """What the table says: whether descent settled at the edge, and the rest."""
  plain = {run.batch: run for run in runs if run.noise == "no noise"}
  settled = {
    batch: last_quarter(run.sharpness).mean() * learning_rate / 2
    for batch, run in plain.items()
  }
  first = plain["whole sample"].ends[0] * learning_rate / 2
  last = settled["whole sample"]
  rose = first < 1 - TOLERANCE and abs(last - 1) <= TOLERANCE
  return (
    "Gradient descent on the whole sample"
    f" {'settled' if rose else 'did not settle'} within"
    f" {100 * TOLERANCE:.0f} % of 2/eta: its sharpness went from {first:.2f} to"
    f" {last:.2f} of it. On mini-batches that of the whole sample was"
    f" {settled['mini-batches']:.2f} of it."
  )


def draw(runs: list[Run], path: Path, title: str, learning_rate: float) -> None:
  """Writes the picture: loss, sharpness and alpha, batches side by side."""
  figure = Figure(figsize=(10, 8), layout="constrained")
  axes = figure.subplots(3, len(BATCHES), sharex=True, sharey="row")
  for run in runs:
    column = axes[:, list(BATCHES).index(run.batch)]
    steps = EVERY * np.arange(len(run.loss))
    values = run.loss, run.sharpness, np.where(run.alpha, run.alpha, np.nan)
    for ax, y in zip(column, values):
      ax.plot(steps, y, lw=1.2, label=name_of(run.noise), **LOOKS[run.noise])
  edge = 2 / learning_rate
  for batch, ax in zip(BATCHES, axes[0]):
    ax.set_title(batch, loc="left")
    ax.set(yscale="log")
  for ax in axes[1]:
    ax.axhline(edge, color="0.4", lw=1, ls=":", label="2/η")
    ax.set(ylim=(0, min(2.2 * edge, 1.1 * max(edge, *map(most, runs)))))
  for ax in axes[2]:
    ax.set(ylim=(1, 2.03), xlabel="step")
  labels = (
    "loss of the whole sample",
    "largest eigenvalue",
    "alpha of the noise",
  )
  for ax, label in zip(axes[:, 0], labels):
    ax.set_ylabel(label)
  for ax in axes.flat:
    ax.grid(alpha=0.25)
    ax.margins(x=0)
    ax.spines[["top", "right"]].set_visible(False)
  handles, _ = axes[1, 0].get_legend_handles_labels()
  figure.suptitle(title)
  figure.legend(
    handles=handles, loc="outside lower center", ncols=5, frameon=False
  )
  figure.savefig(path, dpi=100)


def name_of(noise: str) -> str:
  """What a run is called in the picture."""
  return f"AHTSGD, {noise}" if noise in RESPONSES else noise


def most(run: Run) -> float:
  """The largest sharpness of a run."""
  return float(np.nanmax(run.sharpness))


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("edge_of_stability", __doc__)
  add = parser.add_argument
  names = ", ".join(("digits", *data.TFDS_NAMES))
  add("--dataset", default="cifar10", help=f"{names} or a PATH.npz")
  add("--data-dir", help="where TFDS keeps its data sets")
  add("--images", type=cli.count, default=500, help="of the training set")
  add("--batch-size", type=cli.count, default=10)
  add("--steps", type=cli.count, default=3000, help="rounded up to tens")
  add("--learning-rate", type=float, default=0.03, help="eta")
  add("--scale", type=float, default=3e-5, help="of the noise, sigma")
  add("--steepness", type=float, default=4.0, help="of alpha's response")
  add("--threshold", type=float, default=None, help="longest step; none")
  add("--seed", type=functools.partial(cli.count, least=0), default=0)
  add(
    "--output", type=cli.picture, default="edge_of_stability.png", metavar="PNG"
  )
  args = parser.parse_args(argv)
  try:
    for noise in LOOKS:
      make_optimizer(noise, args)
    if args.learning_rate <= 0:
      rate = args.learning_rate
      raise ValueError(f"learning rate must be positive, got {rate:g}.")
  except ValueError as error:
    parser.error(str(error))
  return args


def main(argv: list[str] | None = None) -> None:
  """Loads, trains, prints and draws; every failure is one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("edge_of_stability", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[Run]:
  """Everything, from the data to the picture and its page."""
  clock = time.perf_counter()
  dataset = data.load_images(args.dataset, args.data_dir)
  runs = compare(args, dataset)
  eta = args.learning_rate
  title = (
    f"{args.images} images of {dataset.name}, η = {eta:g}, batches of"
    f" {args.batch_size}, noise of scale {args.scale:g}"
  )
  draw(runs, args.output, title, eta)
  rows, said = rows_of(runs, eta), reading(runs, eta)
  console = Console(markup=False)
  console.print(report.console_table(title, HEAD, rows))
  console.print(f"{LEGEND} {said}")
  page = args.output.with_suffix(".md")
  seconds = time.perf_counter() - clock
  parts = [
    [report.machine(cli.command("edge_of_stability"), seconds)],
    [title + "."],
    report.markdown_table(HEAD, rows),
    [LEGEND],
    [said],
    [f"![Loss, largest eigenvalue and alpha]({args.output.name})"],
  ]
  report.write(page, "The edge of stability", parts)
  console.print(f"Picture: {args.output}, page: {page}", soft_wrap=True)
  return runs


if __name__ == "__main__":
  main()
