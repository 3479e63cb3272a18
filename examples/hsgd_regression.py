"""Heavy tails of SGD on linear models: bounds, Student's t, and stable laws.

    python examples/hsgd_regression.py  # five to ten minutes on two CPU cores

SGD with batches of one row, and homogenized SGD (hSGD, a diffusion in its
place), on ridge regressions and random Fourier features of a synthetic and two
real data sets, which come with scikit-learn. Of each, the coordinate along the
first eigenvector of the Hessian is taken from many independent chains:

    bounds     of the tail index of hSGD, by htga_optax.hsgd
    Hill       its estimate from all repetitions, with a 95 % interval
    t, stable  how often a test of Kolmogorov and Smirnov rejects the family at
               5 %, in 20 repetitions, and the median p-value

In one dimension without a signal hSGD is Student t, by theory, so that a test
should reject it in one of twenty repetitions. Otherwise t is a proxy. And SGD
is not hSGD: its index may be far below the bounds, and with gamma (a'a + delta)
< 2 for all rows a it has no tail at all.
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
  from matplotlib.figure import Figure
  import numpy as np
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
  from rich.table import Table
  from scipy import stats
  from sklearn import datasets

  from htga_optax import estimators, hsgd

DECAY = 0.1  # delta
FRACTION = 0.5  # of the rate up to which hSGD has a second moment
TIME = 0.1  # gamma (lambda_1 + delta) dt of a step of hSGD
WIDTH = 20  # random features
TAIL = 0.005  # the share of the sample that Hill's estimate takes
LEVEL = 0.05  # of the tests
# Okabe and Ito's colours.
LOOKS = {"SGD": "#0072B2", "hSGD": "#E69F00"}


class Problem(NamedTuple):
  """A linear model with its data: features [n, d] and targets [n]."""

  name: str
  features: np.ndarray
  targets: np.ndarray


def standardised(x: np.ndarray) -> np.ndarray:
  """With mean 0 and variance 1 in each column."""
  return (x - x.mean(axis=0)) / x.std(axis=0)


def synthetic(d: int) -> tuple[np.ndarray, np.ndarray]:
  """1000 Gaussian rows of unequal variances, and noisy targets.

  In one dimension targets are noise alone: a signal makes the law skew, where
  decay draws the solution towards 0.
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
  """All of them."""
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
  """What came of one process on one problem.

  Attributes:
    problem: the problem's name.
    process: SGD or hSGD.
    rate: the learning rate.
    largest: of all rows, gamma ||a||^2.
    bounds: of the tail index of hSGD.
    sd: the standard deviation of hSGD by theory.
    sample: the coordinates less the ridge solution's [repetitions, n].
    tests: verdicts on the families.
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
    """The estimate of the tail index, and its interval."""
    x = np.abs(self.sample.ravel())
    k = max(2, round(TAIL * x.size))
    estimate = float(estimators.hill(x, k))
    low, high = estimators.hill_interval(estimate, k)
    return estimate, float(low), float(high)


def sample(
  problem: Problem, process: str, n: int, repetitions: int, key: jax.Array
) -> Result:
  """Runs n chains of a process and tests what they hold now and then."""
  of, basis = hsgd.regression(problem.features, problem.targets)
  settings = {"batch_size": 1, "weight_decay": DECAY}
  rate = FRACTION * float(
    hsgd.critical_learning_rate(of.eigenvalues, **settings).lower
  )
  settings["learning_rate"] = rate
  # A time in which the slowest coordinate forgets, at most.
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
  """The cells of the table of tails."""
  table = []
  for r in results:
    hill, low, high = r.hill
    cells = [r.problem, r.process, f"{r.rate:.3f}", f"{r.largest:.1f}"]
    cells += [f"{r.bounds[0]:.1f} to {r.bounds[1]:.1f}"]
    cells += [f"{hill:.1f} ({low:.1f} to {high:.1f})"]
    table.append([*cells, f"{r.sample.std() / r.sd:.2f}"])
  return table


def test_rows(results: list[Result]) -> list[list[str]]:
  """The cells of the table of tests."""
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
  """For the terminal."""
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  for i, heading in enumerate(headings):
    table.add_column(heading, justify="right" if i > 1 else "left")
  for cells in rows:
    table.add_row(*cells)
  return table


def reading(results: list[Result]) -> str:
  """What the table says."""
  sentences = []
  for process in LOOKS:
    some = [r for r in results if r.process == process]
    for name in goodness.FAMILIES:
      p = np.concatenate([r.tests[name].pvalues for r in some])
      sentences.append(
        f"Of {process}, {name} is rejected in {np.sum(p < LEVEL)} of {p.size}."
      )
    meets = sum(
      r.hill[2] >= r.bounds[0] and r.hill[1] <= r.bounds[1] for r in some
    )
    sentences.append(
      f"The interval of Hill's estimate meets the bounds in {meets} of"
      f" {len(some)} problems."
    )
  return " ".join(sentences)


def pipes(headings: tuple[str, ...], rows: list[list[str]]) -> list[str]:
  """A table of Markdown."""
  lines = [" | ".join(cells) for cells in (headings, *rows)]
  lines.insert(1, "---|" * (len(headings) - 1) + "---")
  return [f"| {line} |" for line in lines]


def markdown(results: list[Result], command: str) -> str:
  """The table as a file."""
  n = results[0].sample.shape
  lines = [
    "# Tail indices of SGD and hSGD on linear models",
    "",
    f"`{command}`: batches of 1 row, weight decay {DECAY}, the learning rate"
    f" {FRACTION} of that up to which hSGD has a second moment; the first"
    f" coordinate in the eigenbasis, {n[0]} repetitions of {n[1]} chains. The"
    f" law is rejected at {LEVEL} by a test of Kolmogorov and Smirnov with a"
    " parametric bootstrap; df and alpha are fitted to all repetitions. Hill's"
    f" estimate is that of the largest {100 * TAIL:g} % of all.",
    "",
    *pipes(TAILS, tail_rows(results)),
    "",
    *pipes(TESTS, test_rows(results)),
    "",
    reading(results),
  ]
  return "\n".join(lines) + "\n"


SHOWN = ("synthetic, d = 10", "diabetes", "wine, random features")


def draw(results: list[Result], path: Path) -> None:
  """Writes the picture: three problems, QQ plots of SGD and tails of both."""
  figure = Figure(figsize=(11, 10), layout="constrained")
  axes = figure.subplots(3, len(SHOWN))
  by = {(r.problem, r.process): r for r in results}
  for column, name in zip(axes.T, SHOWN):
    sgd = by[name, "SGD"]
    column[0].set_title(rf"(.) {name}, $\gamma$ = {sgd.rate:.2g}", loc="left")
    for ax, family in zip(column, goodness.FAMILIES):
      draw_quantiles(ax, sgd, family)
    draw_tails(column[2], sgd, by[name, "hSGD"])
  for letter, ax in zip("abcdefghi", axes.flat):
    title = ax.get_title(loc="left")[4:]  # of the first row
    ax.set_title(f"({letter}) {title}", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
  handles, _ = axes[2, 0].get_legend_handles_labels()
  figure.legend(handles=handles, loc="outside lower center", ncols=4)
  figure.suptitle(
    "SGD iterates along the first eigenvector, less the ridge solution"
  )
  figure.savefig(path, dpi=100)


def draw_quantiles(ax, result: Result, family: str) -> None:
  """Quantiles of the sample over those of a fitted law."""
  x = np.sort(result.sample.ravel())
  test = result.tests[family]
  # Every point of the tails, and some of the middle.
  ends = np.unique(np.geomspace(1, x.size // 2, 60).astype(int))
  ranks = np.concatenate([ends - 1, x.size - ends])
  p = (ranks + 0.5) / x.size
  of = test.fitted.quantile(p)
  limit = 1.1 * np.max(np.abs(x))
  ax.plot([-limit, limit], [-limit, limit], color="0.6", lw=1)
  shown = np.abs(of) <= limit
  ax.plot(of[shown], x[ranks][shown], "o", ms=3.5, color=LOOKS["SGD"])
  rejected = np.sum(test.pvalues < LEVEL)
  letter = "df" if family == "Student t" else r"$\alpha$"
  ax.set(
    xlabel=f"quantile of {family}, {letter} = {test.fitted.shape[0]:.2f}",
    ylabel="quantile of SGD",
    xlim=(-limit, limit),
    ylim=(-limit, limit),
  )
  said = f"rejected in {rejected} of {test.pvalues.size}\n"
  said += f"median p {np.median(test.pvalues):.2g}"
  if not np.all(shown):
    said += f"\n{np.sum(~shown)} points outside"
  ax.text(0.97, 0.03, said, transform=ax.transAxes, ha="right", va="bottom")


def draw_tails(ax, sgd: Result, of_hsgd: Result) -> None:
  """How often |x| is exceeded, and by t laws of both bounds."""
  for result in (sgd, of_hsgd):
    x = np.sort(np.abs(result.sample.ravel()))[::-1]
    ranks = np.unique(np.geomspace(1, x.size, 80).astype(int))
    look = {"color": LOOKS[result.process], "ms": 3.5, "ls": ""}
    marker = "o" if result.process == "SGD" else "s"
    label = result.process
    ax.plot(x[ranks - 1], ranks / x.size, marker, label=label, **look)
  most = 1.3 * max(np.max(np.abs(r.sample)) for r in (sgd, of_hsgd))
  x = np.geomspace(sgd.sd / 10, most, 200)
  for df, dashes in zip(sgd.bounds, ((4, 1.5), (1.2, 1.2))):
    law = stats.t(df, scale=sgd.sd * math.sqrt((df - 2) / df))
    which = "lower" if df == sgd.bounds[0] else "upper"
    label = f"t of hSGD's variance and {which} bound"
    ax.plot(x, 2 * law.sf(x), color="black", ls=(0, dashes), label=label)
  low, high = sgd.bounds
  hill = sgd.hill
  said = f"bounds {low:.1f} to {high:.1f}\nHill, SGD {hill[0]:.1f}"
  said += f" ({hill[1]:.1f} to {hill[2]:.1f})\nHill, hSGD {of_hsgd.hill[0]:.1f}"
  ax.text(0.04, 0.06, said, transform=ax.transAxes)
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
    help="the picture; the table goes beside it, as .md",
  )
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs, prints and draws; every failure is one line."""
  args = parse(argv)
  failures = (OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("hsgd_regression", *failures):
    run(args)


def run(args: argparse.Namespace) -> list[Result]:
  """Everything, from the chains to the picture."""
  results = simulate(args.chains, args.repetitions, args.seed)
  draw(results, args.output)
  command = (
    f"python examples/hsgd_regression.py --chains {args.chains}"
    f" --repetitions {args.repetitions} --seed {args.seed}"
  )
  table = args.output.with_suffix(".md")
  table.write_text(markdown(results, command))
  console = Console(markup=False)
  console.print(terminal_table(TAILS, tail_rows(results)))
  console.print(terminal_table(TESTS, test_rows(results)))
  console.print(reading(results))
  console.print(f"Picture: {args.output}, table: {table}", soft_wrap=True)
  return results


if __name__ == "__main__":
  main()
