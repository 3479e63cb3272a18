"""Compares the heavy tails of SGD on linear models with theory.

    python examples/hsgd_regression.py  # five to ten minutes on two CPU cores

The example runs SGD with batches of one row, and homogenized SGD (hSGD), a
diffusion that stands in for SGD. The problems are ridge regressions on
synthetic data and on two real data sets of scikit-learn, on the features
themselves and on random Fourier features. From many independent chains it takes
the coordinate along the first eigenvector of the Hessian, and reports:

    bounds     the bounds of the tail index of hSGD, by htga_optax.hsgd
    Hill       Hill's estimate from all repetitions, with a 95 % interval
    t, stable  how often a Kolmogorov-Smirnov test rejects the family at the 5 %
               level, in 20 repetitions, and the median p-value

In one dimension without a signal, theory says that hSGD follows Student's t
law, so a test should reject it in about one of twenty repetitions. Elsewhere t
is an approximation. And SGD differs from hSGD: its index may be far below the
bounds, and it has no tail at all if gamma (a'a + delta) < 2 for all rows a.
"""

import cli

with cli.one_line("hsgd_regression"):
  import argparse
  import functools
  import math
  from pathlib import Path
  from typing import NamedTuple

  import goodness
  import jax
  import jax.numpy as jnp
  import numpy as np
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
  from rich.table import Table
  from scipy import stats
  from sklearn import datasets

  from htga_optax import estimators, hsgd

DECAY = 0.1  # delta
FRACTION = 0.5  # of the largest rate at which hSGD has a second moment
TIME = 0.1  # gamma (lambda_1 + delta) dt of a step of hSGD
WIDTH = 20  # random features
TAIL = 0.005  # the share of the sample that Hill's estimate uses
LEVEL = 0.05  # of the tests
LOOKS = pictures.looks("SGD", "hSGD")


class Problem(NamedTuple):
  """A linear model: features [n, d] and targets [n]."""

  name: str
  features: np.ndarray
  targets: np.ndarray


def standardised(x: np.ndarray) -> np.ndarray:
  """Scales each column to mean 0 and variance 1."""
  return (x - x.mean(axis=0)) / x.std(axis=0)


def synthetic(d: int) -> tuple[np.ndarray, np.ndarray]:
  """1000 Gaussian rows with unequal variances, and noisy targets.

  In one dimension the targets are noise alone. A signal would make the law
  skewed, because weight decay pulls the solution towards 0.
  """
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1000, d)) * np.linspace(1, 0.5, d)
  signal = x @ np.full(d, d**-0.5) * (d > 1)
  return x, signal + 0.5 * rng.standard_normal(1000)


def fourier(x: np.ndarray) -> np.ndarray:
  """Random features sqrt(2) cos(<w, x> + phase) (Rahimi and Recht 2007)."""
  rng = np.random.default_rng(1)
  w = rng.standard_normal((x.shape[1], WIDTH)) / math.sqrt(x.shape[1])
  phase = rng.uniform(0, 2 * math.pi, WIDTH)
  return math.sqrt(2) * np.cos(x @ w + phase)


def problems() -> list[Problem]:
  """Makes all problems."""
  real = {
    "diabetes": datasets.load_diabetes(return_X_y=True),
    "wine": datasets.load_wine(return_X_y=True),
  }
  found = [Problem(f"synthetic, d = {d}", *synthetic(d)) for d in (1, 10)]
  for name, (x, y) in real.items():
    x, y = standardised(x), standardised(y)
    found.append(Problem(name, x, y))
    found.append(Problem(f"{name}, random features", fourier(x), y))
  return found


class Result(NamedTuple):
  """The result of one process on one problem.

  Attributes:
    problem: the name of the problem.
    process: SGD or hSGD.
    rate: the learning rate gamma.
    largest: the largest gamma ||a||^2 of all rows a.
    bounds: the bounds of the tail index of hSGD.
    sd: the standard deviation of hSGD by theory.
    sample: the coordinates minus that of the ridge solution [repetitions, n].
    tests: the verdict on each family.
  """

  problem: str
  process: str
  rate: float
  largest: float
  bounds: tuple[float, float]
  sd: float
  sample: np.ndarray
  tests: dict[str, goodness.Verdict]

  @property
  def hill(self) -> tuple[float, float, float]:
    """Hill's estimate of the tail index, and its interval."""
    x = np.abs(self.sample.ravel())
    k = max(2, round(TAIL * x.size))
    estimate = float(estimators.hill(x, k))
    low, high = estimators.hill_interval(estimate, k)
    return estimate, float(low), float(high)


def sample(
  problem: Problem, process: str, n: int, repetitions: int, key: jax.Array
) -> Result:
  """Runs n chains of a process, and tests several samples of them."""
  of, basis = hsgd.regression(problem.features, problem.targets)
  settings = {"batch_size": 1, "weight_decay": DECAY}
  rate = FRACTION * float(
    hsgd.critical_learning_rate(of.eigenvalues, **settings).lower
  )
  settings["learning_rate"] = rate
  # Two time constants of the slowest coordinate.
  forget = math.ceil(2 / (rate * (float(of.eigenvalues[-1]) + DECAY)))
  sizes = {"chains": n, "samples": repetitions}
  if process == "SGD":
    sizes |= {"thin": forget, "burn_in": 3 * forget}
    x = hsgd.minibatch_sgd(
      key, problem.features, problem.targets, **settings, **sizes
    )
    x = x @ jnp.asarray(basis[:, 0], jnp.float32)
  else:
    dt = TIME / (rate * (float(of.eigenvalues[0]) + DECAY))
    steps = math.ceil(forget / dt)
    sizes |= {"thin": steps, "burn_in": 3 * steps}
    x = hsgd.simulate(key, of, **settings, **sizes, dt=dt)[..., 0]
  x = np.asarray(x - hsgd.ridge_solution(of, DECAY)[0])
  _, variance = hsgd.stationary_moments(of, **settings)
  bounds = hsgd.tail_index_bounds(of.eigenvalues, **settings)
  return Result(
    problem=problem.name,
    process=process,
    rate=rate,
    largest=rate * float(np.max(np.sum(problem.features**2, axis=1))),
    bounds=(float(bounds.lower), float(bounds.upper)),
    sd=math.sqrt(variance[0]),
    sample=x,
    tests={name: goodness.judge(name, x, seed=1) for name in goodness.FAMILIES},
  )


def simulate(n: int, repetitions: int, seed: int) -> list[Result]:
  """Runs everything, with a progress bar."""
  jobs = [(p, process) for p in problems() for process in LOOKS]
  keys = jax.random.split(jax.random.key(seed), len(jobs))
  columns = (
    TextColumn("{task.description:32}"),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
  )
  results = []
  with Progress(*columns) as progress:
    bar = progress.add_task("", total=len(jobs))
    for key, (problem, process) in zip(keys, jobs):
      progress.update(bar, description=f"{process}, {problem.name}")
      results.append(sample(problem, process, n, repetitions, key))
      progress.advance(bar)
    progress.update(bar, description="done")
  return results


TAILS = (
  "problem",
  "process",
  "gamma",
  "largest gamma a'a",
  "bounds of hSGD",
  "Hill (95 %)",
  "sd / hSGD's",
)
TESTS = (
  "problem",
  "process",
  "t rejected",
  "median p",
  "df",
  "stable rejected",
  "median p",
  "alpha",
)


def tail_rows(results: list[Result]) -> list[list[str]]:
  """The rows of the table of tails."""
  table = []
  for r in results:
    hill, low, high = r.hill
    cells = [r.problem, r.process, f"{r.rate:.3f}", f"{r.largest:.1f}"]
    cells += [f"{r.bounds[0]:.1f} to {r.bounds[1]:.1f}"]
    cells += [f"{hill:.1f} ({low:.1f} to {high:.1f})"]
    table.append([*cells, f"{r.sample.std() / r.sd:.2f}"])
  return table


def test_rows(results: list[Result]) -> list[list[str]]:
  """The rows of the table of tests."""
  table = []
  for r in results:
    cells = [r.problem, r.process]
    for test in r.tests.values():
      p = test.pvalues
      cells += [f"{np.sum(p < LEVEL)} of {p.size}", f"{np.median(p):.2g}"]
      cells += [f"{test.fitted.shape[0]:.2f}"]
    table.append(cells)
  return table


def terminal_table(headings: tuple[str, ...], rows: list[list[str]]) -> Table:
  """A table for the terminal."""
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  for i, heading in enumerate(headings):
    table.add_column(heading, justify="right" if i > 1 else "left")
  for cells in rows:
    table.add_row(*cells)
  return table


def reading(results: list[Result]) -> str:
  """The results in sentences."""
  sentences = []
  for process in LOOKS:
    some = [r for r in results if r.process == process]
    for name in goodness.FAMILIES:
      p = np.concatenate([r.tests[name].pvalues for r in some])
      sentences.append(
        f"For {process}, {name} is rejected in {np.sum(p < LEVEL)} of {p.size}"
        " repetitions."
      )
    meets = sum(
      r.hill[2] >= r.bounds[0] and r.hill[1] <= r.bounds[1] for r in some
    )
    sentences.append(
      f"The interval of Hill's estimate overlaps the bounds of hSGD in {meets}"
      f" of {len(some)} problems."
    )
  return " ".join(sentences)


def pipes(headings: tuple[str, ...], rows: list[list[str]]) -> list[str]:
  """A table as lines of Markdown."""
  lines = [" | ".join(cells) for cells in (headings, *rows)]
  lines.insert(1, "---|" * (len(headings) - 1) + "---")
  return [f"| {line} |" for line in lines]


CAPTION = (
  "Each column is a problem. In the first two rows, points on the diagonal"
  " agree with the fitted law: Student's t (a to c) or a stable law (d to f)."
  " The last row shows the tails on logarithmic axes; a heavier tail is less"
  " steep. See whether SGD and hSGD lie between the two t laws, whose indices"
  " are the lower and the upper bound of the index of hSGD."
)


def markdown(results: list[Result], command: str, picture: str) -> str:
  """The page with both tables."""
  n = results[0].sample.shape
  lines = [
    "# Tail indices of SGD and hSGD on linear models",
    "",
    f"`{command}`: batches of 1 row and a weight decay of {DECAY}. The"
    f" learning rate is {FRACTION} of the largest rate at which hSGD has a"
    " second moment. The sample is the first coordinate in the eigenbasis, in"
    f" {n[0]} repetitions of {n[1]} chains. A Kolmogorov-Smirnov test with a"
    f" parametric bootstrap rejects a law at the level {LEVEL}. df and alpha"
    " are fitted to all repetitions together. Hill's estimate uses the largest"
    f" {100 * TAIL:g} % of all values.",
    "",
    *pipes(TAILS, tail_rows(results)),
    "",
    *pipes(TESTS, test_rows(results)),
    "",
    reading(results),
    "",
    f"![Quantiles and tails of SGD on three problems]({picture})",
    "",
    CAPTION,
  ]
  return "\n".join(lines) + "\n"


SHOWN = ("synthetic, d = 10", "diabetes", "wine, random features")


def draw(results: list[Result], path: Path) -> None:
  """Writes the picture: QQ plots of SGD, and tails of SGD and hSGD."""
  axes = pictures.panels(3, len(SHOWN), height=8.0)
  by = {(r.problem, r.process): r for r in results}
  for column, name in zip(axes.T, SHOWN):
    sgd = by[name, "SGD"]
    for ax, family in zip(column, goodness.FAMILIES):
      draw_quantiles(ax, sgd, family)
    draw_tails(column[2], sgd, by[name, "hSGD"])
  handles, _ = axes[2, 0].get_legend_handles_labels()
  title = "Iterates along the first eigenvector, minus the ridge solution"
  pictures.save(path, axes, 3 * SHOWN, title, handles, columns=2)


def draw_quantiles(ax, result: Result, family: str) -> None:
  """Draws the quantiles of the sample over those of a fitted law."""
  x = np.sort(result.sample.ravel())
  test = result.tests[family]
  # All points of the tails, and some of the middle.
  ends = np.unique(np.geomspace(1, x.size // 2, 60).astype(int))
  ranks = np.concatenate([ends - 1, x.size - ends])
  p = (ranks + 0.5) / x.size
  of = test.fitted.quantile(p)
  limit = 1.1 * np.max(np.abs(x))
  ax.plot([-limit, limit], [-limit, limit], color="0.6", lw=1)
  shown = np.abs(of) <= limit
  ax.plot(of[shown], x[ranks][shown], ms=3, **LOOKS["SGD"].points)
  rejected = np.sum(test.pvalues < LEVEL)
  letter = "df" if family == "Student t" else r"$\alpha$"
  shape = test.fitted.shape[0]
  value = f"{shape:.{2 if shape < 100 else 0}f}"
  ax.set(
    xlabel=f"quantile of {family.split()[-1]}, {letter} = {value}",
    ylabel="quantile of SGD",
    xlim=(-limit, limit),
    ylim=(-limit, limit),
  )
  text = f"rejected in {rejected} of {test.pvalues.size}\n"
  text += f"median p {np.median(test.pvalues):.2g}"
  if not np.all(shown):
    text += f"\n{np.sum(~shown)} points not shown"
  place = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
  ax.text(0.98, 0.02, text, fontsize="small", **place)


def draw_tails(ax, sgd: Result, of_hsgd: Result) -> None:
  """Draws the tails of SGD and hSGD, and t laws with both bounds."""
  for result in (sgd, of_hsgd):
    x = np.sort(np.abs(result.sample.ravel()))[::-1]
    ranks = np.unique(np.geomspace(1, x.size, 80).astype(int))
    look = {"ms": 3, "label": result.process, **LOOKS[result.process].points}
    ax.plot(x[ranks - 1], ranks / x.size, **look)
  most = 1.3 * max(np.max(np.abs(r.sample)) for r in (sgd, of_hsgd))
  x = np.geomspace(sgd.sd / 10, most, 200)
  for df, dashes in zip(sgd.bounds, (pictures.DASHED, pictures.DOTTED)):
    law = stats.t(df, scale=sgd.sd * math.sqrt((df - 2) / df))
    which = "lower" if df == sgd.bounds[0] else "upper"
    label = f"t law with the variance of hSGD, df = {which} bound"
    ax.plot(x, 2 * law.sf(x), color="black", ls=dashes, label=label)
  low, high = sgd.bounds
  text = rf"$\gamma$ = {sgd.rate:.2g}" + f"\nbounds {low:.1f}, {high:.1f}"
  for result in (sgd, of_hsgd):
    text += f"\nHill, {result.process}: {result.hill[0]:.1f}"
  ax.text(0.04, 0.04, text, transform=ax.transAxes, fontsize="small")
  ax.set(xscale="log", xlim=(x[0], x[-1]), xlabel="|x|")
  ax.set(yscale="log", ylim=(0.3 / sgd.sample.size, 2), ylabel="P(|X| > |x|)")


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("hsgd_regression", __doc__)
  add = parser.add_argument
  add("--chains", type=functools.partial(cli.count, least=50), default=4000)
  add("--repetitions", type=cli.count, default=20)
  add("--seed", type=functools.partial(cli.count, least=0), default=0)
  add(
    "--output",
    type=cli.picture,
    default="hsgd_regression.png",
    metavar="PNG",
    help="the picture; the tables go to the .md file beside it",
  )
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("hsgd_regression", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[Result]:
  """Makes everything, from the chains to the picture."""
  results = simulate(args.chains, args.repetitions, args.seed)
  draw(results, args.output)
  command = (
    f"python examples/hsgd_regression.py --chains {args.chains}"
    f" --repetitions {args.repetitions} --seed {args.seed}"
  )
  table = args.output.with_suffix(".md")
  table.write_text(markdown(results, command, args.output.name))
  console = Console(markup=False)
  console.print(terminal_table(TAILS, tail_rows(results)))
  console.print(terminal_table(TESTS, test_rows(results)))
  console.print(reading(results))
  console.print(f"Picture: {args.output}, table: {table}", soft_wrap=True)
  return results


if __name__ == "__main__":
  main()
