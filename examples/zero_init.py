"""Trains an MLP on MNIST with stable noise, from zeros and from usual weights.

    python examples/zero_init.py                  # MNIST by TFDS
    python examples/zero_init.py --dataset my.npz

If all weights are zero, so are their gradients. SGD then learns only how
frequent each class is. Noise on the parameters changes this. To see which noise
helps, the example compares SGD with Gaussian noise, and with stable noise whose
alpha is fixed, annealed, or steered by the sharpness:

    htga_optax.ahtsgd(eta, sigma, key=0, alpha=2.0)       # Gaussian
    htga_optax.ahtsgd(eta, sigma, key=0, alpha="rising")  # AHTSGD

There are three parts: from zeros, at one learning rate; from usual weights, at
learning rates over two decades, with a scale sigma of the noise chosen for
them; and the same with the sigma chosen for zeros. Sigma is chosen in the same
way for every method: it is the value in `SCALES` with the smallest training
loss after one epoch. This loss is a mean over seeds that are not used again, at
the learning rate of the first part, or the middle learning rate of the second.
All other arguments are defaults, with one exception: a further AHTSGD truncates
its steps to a length of 1. This method was added after it was seen that for
some seeds a single jump undoes the training. The length was not tuned.

What it does not show: that a result for two hidden layers on MNIST holds
elsewhere, or that the responses are those of the source. All of them are
reconstructions.
"""

import cli

with cli.one_line("zero_init"):
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
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
  from scipy import stats

  import htga_optax

WIDTHS = 64, 64
RATE = 0.1  # the learning rate from zeros
RATES = 0.003, 0.01, 0.03, 0.1, 0.3  # the learning rates from usual weights
SCALES = 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2
SWEEP_SEEDS = 1000, 1001, 1002  # only for the choice of sigma
RECORDS = 6  # in an epoch
EPOCHS = 2  # from zeros; one from usual weights
CHANCE = 0.2  # a run with a lower accuracy does not train
STEERED = "rising", "truncated", "falling", "growth"
LOOKS = pictures.looks("SGD", "Gaussian", "fixed 1.5", "annealed", *STEERED)
THRESHOLD = 1.0  # the longest step of "truncated"; its response is "rising"
SCHEDULES = {  # alpha at the beginning and at the end of a run
  "Gaussian": (2.0, 2.0),
  "fixed 1.5": (1.5, 1.5),
  "annealed": (1.05, 2.0),
}


def make_optimizer(
  kind: str, learning_rate, scale, key, schedule, steps
) -> Any:
  """Makes a method. Only those in `STEERED` measure the sharpness."""
  if kind == "SGD":
    return optax.sgd(learning_rate)
  low, high = schedule
  between = lambda count: low + (high - low) * jnp.minimum(count / steps, 1)
  alpha = {"schedule": between, "truncated": "rising"}.get(kind, kind)
  threshold = THRESHOLD if kind == "truncated" else None
  return htga_optax.ahtsgd(
    learning_rate, scale, key=key, alpha=alpha, threshold=threshold
  )


class Plan(NamedTuple):
  """The sizes that all runs share.

  Attributes:
    every: the number of steps between records.
    batch_size: the number of images in a batch.
    classes: the number of classes.
  """

  every: int
  batch_size: int
  classes: int


class Log(NamedTuple):
  """The log of some runs, [runs, records].

  Attributes:
    accuracy: the accuracy on the test set.
    loss: the mean loss of the batches since the last record.
    alpha: alpha of the noise; 0 without noise.
  """

  accuracy: np.ndarray
  loss: np.ndarray
  alpha: np.ndarray


def loss_fn(params: mlp.Params, x: jax.Array, y: jax.Array) -> jax.Array:
  """The mean cross-entropy."""
  logits = mlp.apply(jax.nn.relu, params, x)
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(
  kind: str,
  plan: Plan,
  images: tuple[jax.Array, ...],
  schedule: tuple[float, float],
  gain: float,
  records: int,
  rates: jax.Array,
  scales: jax.Array,
  keys: jax.Array,
) -> Log:
  """Makes many runs of one method at once.

  `jax.vmap` covers the initial state of the optimizer. Therefore all runs share
  the step counter of the tracker, and `lax.cond` skips the measurements of the
  sharpness between two due steps. With a state from outside each run would have
  its own counter, and every step would measure.

  Args:
    kind: "SGD", "schedule" or one of `STEERED`.
    plan: the sizes of the runs.
    images: the training set and the test set.
    schedule: alpha at the beginning and at the end, if `kind` is "schedule".
    gain: the gain of the initial weights; 0 for zeros.
    records: the number of records, at most `EPOCHS * RECORDS`. The rest of the
      log is 0.
    rates: the learning rates [runs].
    scales: the scales of the noise [runs].
    keys: the random keys [runs].

  Returns:
    The log.
  """
  x_train, y_train, x_test, y_test = images
  sizes = x_train.shape[1], *WIDTHS, plan.classes

  def one(learning_rate, scale, key):
    params_key, rows_key, noise_key = jax.random.split(key, 3)
    steps = records * plan.every
    tx = make_optimizer(kind, learning_rate, scale, noise_key, schedule, steps)
    params = mlp.init(params_key, sizes, gain)

    def step(carry, number):
      params, state = carry
      rows = jax.random.randint(
        jax.random.fold_in(rows_key, number), [plan.batch_size], 0, len(x_train)
      )
      loss = functools.partial(loss_fn, x=x_train[rows], y=y_train[rows])
      value, grads = jax.value_and_grad(loss)(params)
      extra = {"value_fn": loss} if kind in STEERED else {}
      updates, state = tx.update(grads, state, params, **extra)
      return (optax.apply_updates(params, updates), state), value

    def record(number, carry):
      carry, log = carry
      numbers = number * plan.every + jnp.arange(plan.every)
      carry, losses = lax.scan(step, carry, numbers)
      guesses = jnp.argmax(mlp.apply(jax.nn.relu, carry[0], x_test), axis=1)
      new = Log(
        accuracy=jnp.mean(guesses == y_test),
        loss=jnp.mean(losses),
        alpha=optax.tree.get(carry[1], "noise_tail_index", jnp.float32(0)),
      )
      return carry, jax.tree.map(lambda x, y: x.at[number].set(y), log, new)

    carry = params, tx.init(params)
    log = Log(*[jnp.zeros(EPOCHS * RECORDS)] * 3)
    return lax.fori_loop(0, records, record, (carry, log))[1]

  return jax.vmap(one)(rates, scales, keys)


# Each part has a name, the gain of the weights, epochs and learning rates.
PARTS = (
  ("zeros", 0.0, EPOCHS, (RATE,)),
  ("usual weights", 2.0, 1, RATES),
  ("noise of zeros", 2.0, 1, RATES),
)


class Part(NamedTuple):
  """The results of one part.

  Attributes:
    rates: the learning rates.
    scales: the chosen sigma of each method.
    logs: the `Log` of each method, [rates, seeds, records].
  """

  rates: tuple[float, ...]
  scales: dict[str, float]
  logs: dict[str, Log]


def train_all(name, plan, images, gain, epochs, grid, lanes) -> Log:
  """Makes runs of (learning rate, scale, seed), `lanes` of them at once."""
  records, logs = epochs * RECORDS, []
  for start in range(0, len(grid), lanes):
    some = [grid[min(start + i, len(grid) - 1)] for i in range(lanes)]
    rates, scales, seeds = zip(*some)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    rates, scales = jnp.float32(rates), jnp.float32(scales)
    kind, schedule = name, (2.0, 2.0)
    if name in SCHEDULES:
      kind, schedule = "schedule", SCHEDULES[name]
    log = train(
      kind, plan, images, schedule, gain, records, rates, scales, keys
    )
    logs.append(jax.device_get(log))
  return Log(*(np.concatenate(x)[: len(grid), :records] for x in zip(*logs)))


def choose_scale(name, plan, images, gain, rate, lanes) -> float:
  """The value in `SCALES` with the smallest mean training loss."""
  grid = [(rate, scale, seed) for scale in SCALES for seed in SWEEP_SEEDS]
  last = train_all(name, plan, images, gain, 1, grid, lanes).loss[:, -1]
  last = np.where(np.isfinite(last), last, np.inf)
  return SCALES[int(np.argmin(last.reshape(len(SCALES), -1).mean(axis=1)))]


def compare(
  args: argparse.Namespace, dataset: data.Dataset
) -> tuple[Plan, list[Part]]:
  """Makes all parts, method by method, with a progress bar."""
  x = mlp.standardise(dataset.x_train, dataset.x_test)
  images = x[0], dataset.y_train, x[1], dataset.y_test
  images = tuple(map(jnp.asarray, images))
  classes = 1 + max(int(y.max()) for y in dataset[1:4:2])
  epoch = args.steps or len(x[0]) // args.batch_size
  plan = Plan(max(1, epoch // RECORDS), args.batch_size, classes)
  parts = []
  columns = (
    TextColumn("{task.description:28}"),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
  )
  with Progress(*columns) as progress:
    bar = progress.add_task("", total=3 * len(LOOKS))
    for label, gain, epochs, rates in PARTS:
      part = Part(rates, dict.fromkeys(LOOKS, 0.0), {})
      if label == "noise of zeros":
        part.scales.update(parts[0].scales)
      for name in LOOKS:
        progress.update(bar, description=f"{label}, {name}")
        if name != "SGD" and not part.scales[name]:
          middle = rates[len(rates) // 2]
          part.scales[name] = choose_scale(
            name, plan, images, gain, middle, args.seeds
          )
        scale = part.scales[name]
        grid = [(r, scale, seed) for r in rates for seed in range(args.seeds)]
        log = train_all(name, plan, images, gain, epochs, grid, args.seeds)
        shape = len(rates), args.seeds, -1
        part.logs[name] = Log(*(x.reshape(shape) for x in log))
        progress.advance(bar)
      parts.append(part)
    progress.update(bar, description="done")
  return plan, parts


def interval(values: np.ndarray) -> tuple[float, float]:
  """The mean, and half of Student's 95 % interval (nan for one value)."""
  n = len(values)
  if n < 2:
    return float(np.mean(values)), math.nan
  half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
  return float(np.mean(values)), float(half)


def percent(values: np.ndarray) -> str:
  """The mean of shares in percent, with its interval, as text."""
  mean, half = interval(100 * values)
  return f"{mean:.1f}" + (f" ± {half:.1f}" if half == half else "")


def scale_text(name: str, part: Part) -> str:
  """The chosen sigma as text, with a mark if it is an end of the grid."""
  scale = part.scales[name]
  at_end = scale in (SCALES[0], SCALES[-1])
  return "-" if name == "SGD" else f"{scale:.0e}" + " (end)" * at_end


ZERO_HEAD = [
  "noise",
  "sigma",
  "accuracy\n1 epoch",
  "2 epochs",
  "trained",
  "loss",
]


def zero_rows(part: Part) -> report.Rows:
  """The rows of the table for weights of zero, one for each method."""
  rows = []
  for name, log in part.logs.items():
    accuracy = log.accuracy[0]
    rows.append(
      [
        name,
        scale_text(name, part),
        percent(accuracy[:, RECORDS - 1]),
        percent(accuracy[:, -1]),
        f"{np.sum(accuracy[:, -1] > CHANCE)}/{len(accuracy)}",
        f"{np.mean(log.loss[0, :, -1]):.3g}",
      ]
    )
  return rows


def rate_rows(part: Part, record: int) -> report.Rows:
  """The accuracy at each learning rate at a record, a row for each method."""
  return [
    [
      name,
      scale_text(name, part),
      *(percent(x[:, record]) for x in log.accuracy),
    ]
    for name, log in part.logs.items()
  ]


RATE_HEAD = ["noise", "sigma", *(f"{rate:g}" for rate in RATES)]


def gains(part: Part, other: str, record: int) -> dict[tuple[str, float], Any]:
  """The mean and half interval of the difference to another, in points."""
  than = part.logs[other].accuracy[..., record]
  return {
    (name, rate): interval(100 * (log.accuracy[i, :, record] - than[i]))
    for name, log in part.logs.items()
    for i, rate in enumerate(part.rates)
    if name not in (other, "SGD")
  }


def differences(part: Part, other: str, record: int) -> str:
  """Sentences on the noise that differs from another method."""
  found = gains(part, other, record)

  def listed(sign):
    words = [
      f"{name} at {rate:g} ({mean:+.2f} ± {half:.2f})"
      for (name, rate), (mean, half) in found.items()
      if sign * mean > half
    ]
    return (
      f"{len(words)} of {len(found)}" + ": " * bool(words) + ", ".join(words)
    )

  (name, rate), (most, _) = max(found.items(), key=lambda item: item[1][0])
  return (
    f"Better than {other}: {listed(1)}. Worse: {listed(-1)}. The largest mean"
    f" difference is {most:+.2f} ({name} at {rate:g})."
  )


PAIRED = (
  "The lists name the noise whose test accuracy differs from that of another"
  " method, with the mean difference over seeds in points, if its 95 % interval"
  " excludes 0. The intervals are not corrected for the number of comparisons."
)
LEGEND = (
  "Values are means over seeds with Student's 95 % intervals. Trained: the"
  f" number of seeds above {100 * CHANCE:.0f} % after {EPOCHS} epochs. Sigma:"
  f" the value among {', '.join(f'{scale:.0e}' for scale in SCALES)} with the"
  " smallest training loss after one epoch, the mean of"
  f" {len(SWEEP_SEEDS)} other seeds, at the learning rate {RATE} from zeros and"
  f" {RATES[len(RATES) // 2]} from usual weights; (end) marks the first and the"
  " last of these values. Truncated: rising, with steps no longer than"
  f" {THRESHOLD:g}."
)


CAPTION = (
  "From zeros: the test accuracy (a), with a thin line for every seed and a"
  " thick line for the mean, and alpha of the noise (b). From usual weights:"
  " the accuracy minus that of SGD after one epoch, with sigma chosen for these"
  " weights (c) and with sigma chosen for zeros (d). See which noise leaves the"
  " bottom line in (a), and which 95 % intervals in (c) and (d) lie above 0."
  " The vertical axis of (c) and (d) is linear from -1 to 1 and logarithmic"
  " elsewhere."
)


def draw(plan: Plan, parts: list[Part], path: Path, title: str) -> None:
  """Writes the picture."""
  axes = pictures.panels(2, 2, height=7.0)
  zero, *usual = parts
  steps = plan.every * (1 + np.arange(EPOCHS * RECORDS))
  for name, log in zero.logs.items():
    look = LOOKS[name].line
    accuracy = 100 * log.accuracy[0]
    axes[0, 0].plot(steps, accuracy.T, lw=0.5, alpha=0.5, **look)
    axes[0, 0].plot(steps, accuracy.mean(axis=0), lw=2, **look)
    if name != "SGD":
      axes[0, 1].plot(steps, log.alpha[0].mean(axis=0), **look)
  axes[0, 0].set(xlabel="step", ylabel="test accuracy, %", ylim=(0, 100))
  axes[0, 1].set(xlabel="step", ylabel="alpha, mean of seeds", ylim=(1, 2.05))
  for ax, part in zip(axes[1], usual):
    found = gains(part, "SGD", RECORDS - 1)
    for i, name in enumerate(name for name in LOOKS if name != "SGD"):
      points = [found[name, rate] for rate in part.rates]
      mean, half = np.nan_to_num(points).T
      place = np.array(part.rates) * 1.06 ** (i - 3)
      look = {**LOOKS[name].line, "marker": LOOKS[name].marker}
      ax.errorbar(place, mean, half, lw=1.1, ms=5, **look)
    ax.axhline(0, color="black", lw=1)
    ax.set(xscale="log", xlabel="learning rate", ylim=(-100, 30))
    ax.set_yscale("symlog", linthresh=1)
    ax.set_yticks([-100, -10, -1, 0, 1, 10])
    ax.set_yticklabels(["-100", "-10", "-1", "0", "1", "10"])
    ax.set_xticks(part.rates)
    ax.set_xticklabels([f"{rate:g}" for rate in part.rates])
    ax.minorticks_off()
  axes[1, 0].set_ylabel("accuracy minus SGD's, points")
  headings = (
    "from zeros: every seed, and the mean",
    "from zeros: alpha of the noise",
    f"usual weights, {RECORDS * plan.every} steps, own sigma",
    f"usual weights, {RECORDS * plan.every} steps, sigma of (a)",
  )
  handles = pictures.lines(LOOKS, markers=True)
  pictures.save(path, axes, headings, title, handles, columns=4)


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("zero_init", __doc__)
  add = parser.add_argument
  names = ", ".join(("digits", *data.TFDS_NAMES))
  add("--dataset", default="mnist", help=f"{names} or a PATH.npz")
  add("--data-dir", help="the folder of TFDS data sets")
  add("--batch-size", type=cli.count, default=100)
  add("--steps", type=cli.count, help="in an epoch; default: all images")
  add("--seeds", type=cli.count, default=5, help="number of seeds")
  add("--output", type=cli.picture, default="zero_init.png", metavar="PNG")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Loads, trains, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("zero_init", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[Part]:
  """Makes everything, from the data to the picture and its page."""
  clock = time.perf_counter()
  dataset = data.load_images(args.dataset, args.data_dir)
  plan, parts = compare(args, dataset)
  zero, *usual = parts
  title = (
    f"{dataset.name}: an MLP, batches of {args.batch_size}, {args.seeds} seeds,"
    f" epochs of {plan.every * RECORDS} steps"
  )
  draw(plan, parts, args.output, title)
  others = "SGD", "Gaussian"
  tables = [
    (
      f"From zeros: test accuracy, %, at a learning rate of {RATE}",
      ZERO_HEAD,
      zero_rows(zero),
      [differences(zero, other, -1) for other in others],
    )
  ]
  for part, sigma in zip(usual, ("", ", sigma chosen for zeros")):
    for record in (0, RECORDS - 1):
      steps = (record + 1) * plan.every
      heading = f"From usual weights{sigma}: test accuracy, %, {steps} steps"
      said = [differences(part, other, record) for other in others]
      tables.append((heading, RATE_HEAD, rate_rows(part, record), said))
  console = Console(markup=False)
  seconds = time.perf_counter() - clock
  page = [[report.machine(cli.command("zero_init"), seconds)], [title + "."]]
  page.append([LEGEND])
  for heading, head, rows, said in tables:
    console.print(report.console_table(heading, head, rows))
    console.print(" ".join([PAIRED, *said]))
    page += [
      [f"## {heading}"],
      report.markdown_table(head, rows),
      [PAIRED],
      *([line] for line in said),
    ]
  page.append([f"![Test accuracy and alpha]({args.output.name})"])
  page.append([CAPTION])
  path = args.output.with_suffix(".md")
  report.write(path, "Stable noise from zeros and from usual weights", page)
  console.print(f"Picture: {args.output}, page: {path}", soft_wrap=True)
  return parts


if __name__ == "__main__":
  main()
