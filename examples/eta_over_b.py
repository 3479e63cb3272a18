"""Tests whether learning rate over batch size determines the tail index of SGD.

    python examples/eta_over_b.py  # a few minutes on two CPU cores

The ratio gamma/B of learning rate and batch size determines the tail index of
homogenized SGD (hSGD): twice the learning rate has the same effect as half the
batch. The example compares SGD with hSGD on two ridge regressions in five
dimensions:

    (a) equal eigenvalues: hSGD, and SGD on new Gaussian rows with batches of 1,
        4 and 16; the exact index of each is known
    (b) eigenvalues from 1 to 0.2: the bounds of hSGD are known; hSGD and SGD
        are simulated

Points are Hill's estimates with their 95 % intervals, from the norms of
independent chains. All learning rates of a curve run at once, under `jax.vmap`.
The index of SGD is smaller than that of hSGD, and the difference grows with the
batch size: at the same gamma/B a larger batch has a larger gamma, and large
steps are not a diffusion. Hill's estimate is too small for an index above about
4, because the tail begins far out. Estimates above 6 are not drawn.
"""

import cli

with cli.one_line("eta_over_b"):
  import argparse
  import functools
  import math
  from pathlib import Path
  from typing import NamedTuple

  import jax
  import jax.numpy as jnp
  import numpy as np
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
  from rich.table import Table

  from htga_optax import estimators, hsgd

DECAY = 0.1
SPECTRA = (np.ones(5), np.linspace(1, 0.2, 5))
BATCHES = (1, 4, 16)
RATIOS = np.geomspace(0.05, 0.45, 10)  # gamma/B
FORGET = 36.0  # burn-in, in time constants of the slowest coordinate
TAIL = 0.005  # the share of the sample that Hill's estimate uses
SHOWN = 6.0  # the largest estimate that is drawn
LOOKS = pictures.looks("hSGD", "SGD, B = 1", "SGD, B = 4", "SGD, B = 16")


class Curve(NamedTuple):
  """The tail indices of a process at some ratios gamma/B.

  Attributes:
    name: the process, a key of `LOOKS`.
    ratios: gamma/B [m].
    theory: the exact index, or nan [m].
    hill: Hill's estimate of it [m].
    interval: the 95 % interval of the estimate [m, 2].
  """

  name: str
  ratios: np.ndarray
  theory: np.ndarray
  hill: np.ndarray
  interval: np.ndarray


@functools.partial(jax.jit, static_argnames=("batch_size", "chains", "steps"))
def norms(key, problem, rates, batch_size, chains, steps):
  """Distances of the last iterates from the solution [rates, chains].

  A batch_size of None means hSGD with B = 1. In one of its time steps the drift
  reduces the distance by a twentieth.
  """
  sizes = {"chains": chains, "burn_in": steps}

  def run(rate):
    if batch_size is None:
      x = hsgd.simulate(key, problem, rate, 1, DECAY, dt=0.05 / rate, **sizes)
    else:
      x = hsgd.streaming_sgd(key, problem, rate, batch_size, DECAY, **sizes)
    return jnp.linalg.norm(x[0] - problem.solution, axis=-1)

  return jax.vmap(run)(rates)


def stationary(spectrum: np.ndarray, batch_size: int) -> np.ndarray:
  """The ratios at which SGD has an index above 1 if all eigenvalues are 1."""
  index = [
    hsgd.streaming_tail_index(len(spectrum), rate, batch_size, DECAY)
    for rate in RATIOS * batch_size
  ]
  return RATIOS[np.array(index) > 1]  # False for nan


def measure(
  name: str, spectrum: np.ndarray, chains: int, key: jax.Array
) -> Curve:
  """Measures one curve, at all its rates at once."""
  zero = jnp.zeros(len(spectrum))
  problem = hsgd.Regression(jnp.asarray(spectrum, jnp.float32), zero, 0.5)
  slowest = float(spectrum[-1]) + DECAY
  if name == "hSGD":
    batch_size, ratios = None, RATIOS
    steps = math.ceil(FORGET / (0.05 * slowest))
    theory = hsgd.tail_index_bounds(spectrum, ratios, 1, DECAY).lower
  else:
    batch_size = int(name.rsplit(maxsplit=1)[1])
    ratios = stationary(spectrum, batch_size)
    steps = math.ceil(FORGET / (ratios[0] * batch_size * slowest))
    theory = [
      hsgd.streaming_tail_index(
        len(spectrum), batch_size * ratio, batch_size, DECAY
      )
      for ratio in ratios
    ]
  if len(set(spectrum)) > 1:
    theory = np.full(len(ratios), math.nan)
  rates = jnp.asarray(ratios * (batch_size or 1), jnp.float32)
  x = norms(key, problem, rates, batch_size, chains, steps)
  k = max(2, round(TAIL * chains))
  hill = jax.vmap(lambda row: estimators.hill(row, k))(x)
  interval = estimators.hill_interval(hill, k)
  return Curve(name, ratios, *(np.asarray(y) for y in (theory, hill, interval)))


def sweep(chains: int, seed: int) -> list[list[Curve]]:
  """Measures all curves of both spectra, with a progress bar."""
  jobs = [(i, name) for i in range(len(SPECTRA)) for name in LOOKS]
  keys = jax.random.split(jax.random.key(seed), len(jobs))
  columns = (
    TextColumn("{task.description:24}"),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
  )
  curves: list[list[Curve]] = [[] for _ in SPECTRA]
  with Progress(*columns) as progress:
    bar = progress.add_task("", total=len(jobs))
    for key, (i, name) in zip(keys, jobs):
      progress.update(bar, description=f"({'ab'[i]}) {name}")
      curves[i].append(measure(name, SPECTRA[i], chains, key))
      progress.advance(bar)
    progress.update(bar, description="done")
  return curves


def draw(curves: list[list[Curve]], path: Path) -> None:
  """Writes the picture."""
  axes = pictures.panels(1, 2, height=4.2, sharey=True)
  fine = np.geomspace(RATIOS[0] / 1.1, RATIOS[-1] * 1.1, 200)
  for ax, spectrum, found in zip(axes.flat, SPECTRA, curves):
    lower, upper = hsgd.tail_index_bounds(spectrum, fine, 1, DECAY)
    band = {"color": LOOKS["hSGD"].color, "alpha": 0.3, "lw": 1}
    ax.fill_between(fine, lower, upper, label="bounds of hSGD", **band)
    for curve in found:
      look = LOOKS[curve.name]
      ax.plot(curve.ratios, curve.theory, lw=1.2, **look.line)
      shown = curve.hill <= SHOWN
      hill = curve.hill[shown]
      errors = np.abs(curve.interval[shown].T - hill)
      # Side by side, so that intervals do not hide one another.
      shift = 1.012 ** (list(LOOKS).index(curve.name) - 1.5)
      ax.errorbar(
        curve.ratios[shown] * shift,
        hill,
        errors,
        ms=5,
        elinewidth=1,
        label=curve.name,
        **look.points,
      )
    ax.set(xscale="log", yscale="log", ylim=(0.8, 25))
    ax.set_xlabel(r"learning rate over batch size, $\gamma/B$")
    ticks = [0.05, 0.1, 0.2, 0.3, 0.4]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ticks = [1, 2, 3, 5, 10, 20]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_yticks([], minor=True)
  axes[0, 0].set_ylabel("tail index (small = heavy)")
  headings = (
    "equal eigenvalues; lines: exact index",
    "eigenvalues 1 to 0.2; exact index unknown",
  )
  handles, _ = axes[0, 0].get_legend_handles_labels()
  title = "Hill's estimate of the tail index, with its 95 % interval"
  pictures.save(path, axes, headings, title, handles, columns=5)


def new_table(spectrum: np.ndarray, curves: list[Curve]) -> Table:
  """The table of estimates, with the exact index where it is known."""
  table = Table(
    title="eigenvalues " + ", ".join(f"{x:g}" for x in spectrum),
    title_justify="left",
    box=box.SIMPLE_HEAD,
    pad_edge=False,
  )
  for heading in ("gamma/B", "bounds of hSGD", *LOOKS):
    table.add_column(heading, justify="right")
  for ratio in RATIOS:
    bounds = hsgd.tail_index_bounds(spectrum, ratio, 1, DECAY)
    cells = [f"{ratio:.2f}", f"{bounds.lower:.2f} to {bounds.upper:.2f}"]
    for curve in curves:
      at = np.flatnonzero(curve.ratios == ratio)
      if not at.size:
        cells.append("-")
        continue
      low, high = curve.interval[at[0]]
      exact = curve.theory[at[0]]
      cell = f"{curve.hill[at[0]]:.2f} ({low:.2f} to {high:.2f})"
      cells.append(cell + f", {exact:.2f}" * (not math.isnan(exact)))
    table.add_row(*cells)
  return table


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("eta_over_b", __doc__)
  add = parser.add_argument
  add("--chains", type=functools.partial(cli.count, least=50), default=20_000)
  add("--seed", type=functools.partial(cli.count, least=0), default=0)
  add("--output", type=cli.picture, default="eta_over_b.png", metavar="PNG")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("eta_over_b", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[list[Curve]]:
  """Makes everything, from the chains to the picture."""
  curves = sweep(args.chains, args.seed)
  draw(curves, args.output)
  console = Console(markup=False)
  for spectrum, found in zip(SPECTRA, curves):
    console.print(new_table(spectrum, found))
  console.print(
    "Hill's estimate (95 % interval), then the exact index where it is known."
    " A - means that SGD has no index above 1 (in the second table: SGD with"
    " all eigenvalues 1)."
  )
  console.print(f"Picture: {args.output}", soft_wrap=True)
  return curves


if __name__ == "__main__":
  main()
