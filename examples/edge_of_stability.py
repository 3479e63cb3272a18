"""Follows the sharpness of a training, and of noise that the sharpness steers.

    python examples/edge_of_stability.py                  # CIFAR-10 by TFDS
    python examples/edge_of_stability.py --dataset my.npz

A small tanh network learns the classes of some hundred images with a squared
loss. The sharpness is the largest eigenvalue of the Hessian. In gradient
descent on the whole sample, the sharpness rises to 2/eta, where descent on a
quadratic loss becomes unstable, and stays there. This is the edge of stability
(Cohen et al., arXiv 2103.00065). With mini-batches the sharpness stays below
2/eta. The example compares these two with AHTSGD, with its three responses to
the sharpness:

    tx = htga_optax.ahtsgd(eta, sigma, key=0, alpha="rising")
    updates, state = tx.update(grads, state, params, value_fn=whole_loss)

All runs measure the sharpness on the whole sample, with two Hessian-vector
products every ten steps. Lanczos' method with 30 products checks it at the end.

What it does not show: that alpha should follow the sharpness. The responses are
reconstructions, and --scale sets the size of the noise.
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
  import mlp
  import numpy as np
  import optax
  import pictures
  import report
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn

  import htga_optax

EVERY = 10  # steps between measurements of the sharpness, and between records
CHUNK = 10  # records between two updates of the progress bar
WIDTHS = 100, 100
GAIN = 1 / 3  # small initial weights, so that the sharpness can rise
TOLERANCE = 0.15  # of the sharpness in the last quarter, relative to 2/eta
RESPONSES = "rising", "falling", "growth"
LOOKS = pictures.looks("no noise", *RESPONSES)


class Run(NamedTuple):
  """One training.

  Attributes:
    batch: "whole sample" or "mini-batches".
    noise: a key of `LOOKS`.
    loss: the loss of the whole sample every `EVERY` steps [records].
    sharpness: the sharpness of the whole sample, as often [records].
    alpha: alpha of the noise [records]; 0 without noise.
    ends: the sharpness before the first step and after the last one, by
      Lanczos' method.
  """

  batch: str
  noise: str
  loss: np.ndarray
  sharpness: np.ndarray
  alpha: np.ndarray
  ends: tuple[float, float]


def make_optimizer(noise: str, args: argparse.Namespace) -> Any:
  """Makes SGD with a tracker of the sharpness, or with steered noise."""
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
  """Half of the mean squared distance to the one-hot classes."""
  error = mlp.apply(jnp.tanh, params, x) - y
  return jnp.mean(jnp.sum(error**2, axis=1)) / 2


def train(tx, batch_size, params, x, y, key, records, progress):
  """Trains with one optimizer, and reports the progress.

  Args:
    tx: the optimizer, which takes `value_fn`.
    batch_size: the batch size; None for the whole sample.
    params: the initial parameters.
    x: the inputs [n, pixels].
    y: the one-hot classes [n, classes].
    key: the random key of the batches.
    records: the number of records. There are `EVERY` steps between them.
    progress: a function of the number of steps, the loss and the sharpness.

  Returns:
    The last parameters, and the loss, sharpness and alpha [3, records].
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
  """Makes all runs, one after the other, from the same weights."""
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
  """The last quarter of the values of a run, at least one."""
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
  """The rows of the table, as text."""
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
  "The loss is the loss of the whole sample after the last step. The sharpness"
  " is in units of 2/eta: before the first step and after the last one by"
  " Lanczos' method (L), and the mean and standard deviation of the"
  " measurements in the last quarter of the run. Alpha is given for the first"
  " step and for the last one."
)


CAPTION = (
  "Left: steps on the whole sample. Right: steps on mini-batches. See whether"
  " the sharpness of the whole sample (c, d) rises to the dotted line at 2/η"
  " and stays there, and how alpha (e, f) responds to it."
)


def reading(runs: list[Run], learning_rate: float) -> str:
  """The results in sentences: whether descent settles at the edge."""
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
    f" {'settles' if rose else 'does not settle'} within"
    f" {100 * TOLERANCE:.0f} % of 2/eta: in units of 2/eta, its sharpness goes"
    f" from {first:.2f} to a mean of {last:.2f} in the last quarter. With"
    f" mini-batches this mean is {settled['mini-batches']:.2f}."
  )


def draw(runs: list[Run], path: Path, title: str, learning_rate: float) -> None:
  """Writes the picture: loss, sharpness and alpha, both kinds of batches."""
  axes = pictures.panels(3, len(BATCHES), height=7.5, sharex=True, sharey="row")
  for run in runs:
    column = axes[:, list(BATCHES).index(run.batch)]
    steps = EVERY * np.arange(len(run.loss))
    values = run.loss, run.sharpness, np.where(run.alpha, run.alpha, np.nan)
    for ax, y in zip(column, values):
      look = LOOKS[run.noise].line
      ax.plot(steps, y, lw=1.2, label=name_of(run.noise), **look)
  edge = 2 / learning_rate
  for ax in axes[0]:
    ax.set(yscale="log")
  for ax in axes[1]:
    ax.axhline(edge, label="2/η", **pictures.TARGET)
    ax.set(ylim=(0, min(2.2 * edge, 1.1 * max(edge, *map(most, runs)))))
  for ax in axes[2]:
    ax.set(ylim=(1, 2.03), xlabel="step")
  labels = "loss of the whole sample", "largest eigenvalue", "alpha"
  for ax, label in zip(axes[:, 0], labels):
    ax.set_ylabel(label)
  for ax in axes.flat:
    ax.margins(x=0)
  headings = [
    f"steps on {batch.replace('whole', 'the whole')}: {quantity}"
    for quantity in ("loss", "sharpness", "alpha of the noise")
    for batch in BATCHES
  ]
  handles, _ = axes[1, 0].get_legend_handles_labels()
  pictures.save(path, axes, headings, title, handles, columns=5)


def name_of(noise: str) -> str:
  """The name of a run in the picture."""
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
  add("--data-dir", help="the folder of TFDS data sets")
  add("--images", type=cli.count, default=500, help="training images")
  add("--batch-size", type=cli.count, default=10)
  add("--steps", type=cli.count, default=3000, help="made a multiple of 10")
  add("--learning-rate", type=float, default=0.03, help="eta")
  add("--scale", type=float, default=3e-5, help="sigma of the noise")
  add("--steepness", type=float, default=4.0, help="of the response")
  add("--threshold", type=float, default=None, help="the longest step")
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
  """Loads, trains, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("edge_of_stability", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[Run]:
  """Makes everything, from the data to the picture and its page."""
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
    [f"![Loss, sharpness and alpha over the steps]({args.output.name})"],
    [CAPTION],
  ]
  report.write(page, "The edge of stability", parts)
  console.print(f"Picture: {args.output}, page: {page}", soft_wrap=True)
  return runs


if __name__ == "__main__":
  main()
