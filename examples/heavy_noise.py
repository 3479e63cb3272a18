"""Compares optimizers on a task whose gradient noise has infinite variance.

    python examples/heavy_noise.py  # half a minute on two CPU cores

The task is linear regression on new rows in every step,

    y = <w, x> + noise,    x in R^20 Gaussian,    batches of 16.

The noise is Student's t with 1.5 degrees of freedom. Its tail index is 1.5, and
so is that of the gradient: its variance is infinite. The score is the mean
squared error of the weights after 1,000 steps.

Six optimizers have the learning rate as their only tuned number. Each takes the
best of eight rates, and is then run with 64 other seeds. The best rate has the
smallest score that 90 percent of 32 seeds keep. (The mean over seeds would be
no good measure, since the scores of SGD have a heavy tail too.) All rates fall
to 0 like a cosine.

    SGD             no protection
    SGD+clip        optax.clip_by_global_norm(1.0)
    tail clip       clip_by_tail_quantile(0.1, 256, 64)
    normalised      amplify(0.0): every gradient has the norm tau
    HTGA, formula   amplifies heavy tails, the formula of the proposal
    HTGA, ratio     makes the tail index of the norms 2
"""

import cli

with cli.one_line("heavy_noise"):
  import argparse
  import functools
  from pathlib import Path
  from typing import NamedTuple

  import jax
  from jax import lax
  import jax.numpy as jnp
  import numpy as np
  import optax
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import track
  from rich.table import Table

  import htga_optax

INPUTS, BATCH_SIZE, INDEX = 20, 16, 1.5
RATES = 0.005 * 2.0 ** np.arange(8)
TUNING_SEEDS = 32
MOST = 0.9  # the quantile of the seeds by which the rate is chosen
LARGEST = 1e6  # the error of a run that diverges
MAKERS = {
  "SGD": optax.identity,
  "SGD+clip": lambda: optax.clip_by_global_norm(1.0),
  "tail clip": lambda: htga_optax.clip_by_tail_quantile(0.1, 256, 64),
  "normalised": lambda: htga_optax.amplify(0.0),
  "HTGA, formula": htga_optax.scale_by_htga,
  "HTGA, ratio": lambda: htga_optax.scale_by_htga(response="ratio"),
}
LOOKS = {
  "SGD": pictures.LOOKS["SGD"],
  "SGD+clip": pictures.LOOKS["SGD+clip"],
  "tail clip": pictures.Look(pictures.BLUE, pictures.SOLID, "^"),
  "normalised": pictures.Look(pictures.PURPLE, pictures.DASH_DOT, "s"),
  "HTGA, formula": pictures.LOOKS["HTGA"],
  "HTGA, ratio": pictures.Look(pictures.ORANGE, pictures.DASHED, "X"),
}


class Result(NamedTuple):
  """The runs of an optimizer at its best rate.

  Attributes:
    rate: the best learning rate.
    errors: the mean squared error of the weights, [seeds, steps].
    tail_index: the reading of a tracker of the raw gradient, [seeds, steps].
  """

  rate: float
  errors: np.ndarray
  tail_index: np.ndarray


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def train(name, steps, rates, seeds):
  """Errors and tail indices of all rates and seeds, [rates, seeds, steps]."""
  tracker = htga_optax.track_tail_index()

  def run(rate, seed):
    schedule = optax.cosine_decay_schedule(1.0, steps)
    tx = optax.chain(
      tracker,
      MAKERS[name](),
      optax.scale_by_learning_rate(lambda count: rate * schedule(count)),
    )
    first, second = jax.random.split(jax.random.key(seed))
    target = jax.random.normal(first, [INPUTS])

    def step(carry, t):
      weights, state = carry
      key_x, key_y = jax.random.split(jax.random.fold_in(second, t))
      x = jax.random.normal(key_x, [BATCH_SIZE, INPUTS])
      y = x @ target + jax.random.t(key_y, INDEX, [BATCH_SIZE])
      loss = lambda weights: jnp.mean((x @ weights - y) ** 2) / 2
      updates, state = tx.update(jax.grad(loss)(weights), state, weights)
      weights = optax.apply_updates(weights, updates)
      tail_index = htga_optax.readings(state[0])["tail_index"]
      return (weights, state), (jnp.mean((weights - target) ** 2), tail_index)

    weights = jnp.zeros(INPUTS)
    start = (weights, tx.init(weights))
    return lax.scan(step, start, jnp.arange(steps))[1]

  over_seeds = jax.vmap(run, (None, 0))
  return jax.vmap(over_seeds, (0, None))(rates, seeds)


def finite(errors: jax.Array) -> np.ndarray:
  """The errors, with `LARGEST` for those that are larger or not finite."""
  errors = np.nan_to_num(np.asarray(errors), nan=LARGEST, posinf=LARGEST)
  return np.minimum(errors, LARGEST)


def compare(steps: int, seeds: int) -> dict[str, Result]:
  """Tunes and runs all optimizers, with a progress bar."""
  found = {}
  for name in track(MAKERS, "training"):
    first = seeds + jnp.arange(TUNING_SEEDS)
    errors, _ = train(name, steps, jnp.float32(RATES), first)
    scores = np.quantile(finite(errors)[:, :, -1], MOST, axis=1)
    rate = float(RATES[np.argmin(scores)])
    errors, index = train(name, steps, jnp.float32([rate]), jnp.arange(seeds))
    found[name] = Result(rate, finite(errors)[0], np.asarray(index)[0])
  return found


def draw(found: dict[str, Result], path: Path) -> None:
  """Writes the picture."""
  axes = pictures.panels(1, 2, height=4.0)
  left, right = axes.flat
  for name, result in found.items():
    middle, worst = np.quantile(result.errors, [0.5, 1.0], axis=0)
    left.plot(middle, **LOOKS[name].line)
    right.plot(worst, **LOOKS[name].line)
  for ax in (left, right):
    ax.set(yscale="log", xlabel="step")
  left.set_ylabel("mean squared error of the weights")
  headings = ("median of the seeds", "worst of the seeds")
  title = "Regression with noise of tail index 1.5, each at its best rate"
  handles = pictures.lines(LOOKS)
  pictures.save(path, axes, headings, title, handles, columns=3)


def tabulate(found: dict[str, Result], title: str) -> Table:
  """The table of the last steps."""
  table = Table(
    title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
  )
  heads = ("optimizer", "rate", "median error", "90 %", "worst", "tail index")
  for head in heads:
    table.add_column(head, justify="left" if head == "optimizer" else "right")
  for name, result in found.items():
    quantiles = np.quantile(result.errors[:, -1], [0.5, MOST, 1.0])
    index = np.median(result.tail_index[:, -1])
    numbers = (f"{x:.2g}" for x in quantiles)
    table.add_row(name, f"{result.rate:g}", *numbers, f"{index:.1f}")
  return table


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("heavy_noise", __doc__)
  add = parser.add_argument
  add("--steps", type=functools.partial(cli.count, least=300), default=1000)
  add("--seeds", type=functools.partial(cli.count, least=2), default=64)
  add("--output", type=cli.picture, default="heavy_noise.png", metavar="PNG")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("heavy_noise", *failures):
    run(args)


def run(args: argparse.Namespace) -> dict[str, Result]:
  """Makes everything, from the runs to the picture."""
  found = compare(args.steps, args.seeds)
  draw(found, args.output)
  console = Console(markup=False)
  title = f"regression, noise of tail index {INDEX}: {args.steps} steps"
  console.print(tabulate(found, f"{title}, {args.seeds} seeds"))
  console.print(
    "The tail index is that of the raw gradient at the end, the median of the"
    " seeds. An error of 1e+06 means that the run diverged."
  )
  console.print(f"Picture: {args.output}", soft_wrap=True)
  return found


if __name__ == "__main__":
  main()
