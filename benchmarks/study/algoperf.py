"""Measures the tails of the gradient norms in the logs of AlgoPerf.

This command writes its tables into algoperf.md and its picture algoperf.png:

    python benchmarks/study/algoperf.py PATH

PATH is a clone of github.com/mlcommons/submissions_algorithms, or a folder with
its norms in one file; benchmarks/real_norms.py describes it.
"""

import argparse
import collections
import functools
import io
import pathlib
import re
from typing import Any, NamedTuple

import paths  # noqa: F401  # isort: skip
from matplotlib.colors import to_rgb
import measure
import numpy as np
import pictures
from PIL import Image
import real_norms
from rich.progress import track
import tables

from htga_optax.diagnostics import verdicts
from htga_optax.diagnostics.verdicts import _divergence

HERE = pathlib.Path(__file__).parent
PAGE, PICTURE = HERE / "algoperf.md", HERE / "algoperf.png"
FEWEST, SHORT = 500, 400  # runs with fewer norms are short; left out
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GROUND = "half-normal"  # the light law that a heavy tail must be below
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)  # for which bands are simulated
LENGTHS = (512, 1280, 5120)  # for the table of known laws
XI_ABOVE = "interval of xi above 0"
SHOWN = 40  # runs in the picture
RESAMPLES = 999
PLACE = re.compile(
  r"algoperf_(v\d+)/logs/(external|self)_tuning/([^/]+)/(study_\d+)"
  r"/([^/]+)_(jax|pytorch)/(trial_\d+)/"
)
# Fields of a place: those of a workload, and all except the study.
WORKLOAD, SETTING = (4, 5), (0, 1, 2, 4, 5, 6)
LOOKS_HEAVY = "only looks heavy"
VERDICTS = (
  measure.INFINITE,
  measure.HEAVY,
  LOOKS_HEAVY,
  measure.OPEN,
  measure.LIGHT,
)
COLORS = dict(
  zip(
    VERDICTS,
    (
      pictures.VERMILION,
      pictures.ORANGE,
      pictures.PURPLE,
      "0.5",
      pictures.BLUE,
    ),
  )
)


class Run(NamedTuple):
  """A run and its numbers.

  Attributes:
    place: version, kind of tuning, submission, study, workload, framework and
      trial.
    logged: how many norms the log has.
    norms: the norms, without the first ones; see `measure.round_length`.
    stride: the number of steps from one norm to the next.
    found: the numbers of `measure.examine`.
    below: which of the full windows have an index below 2, in order of time.
    verdict: one of `VERDICTS`.
    diverged: the share of the run before it diverges; None if it does not.
  """

  place: tuple[str, ...]
  logged: int
  norms: np.ndarray
  stride: int
  found: dict[str, float]
  below: np.ndarray
  verdict: str
  diverged: float | None

  @property
  def workload(self) -> str:
    return "_".join(self.place[4:6])

  @property
  def submission(self) -> str:
    version, tuning, name, *_ = self.place
    return f"{name} ({tuning}, {version})"


# -- numbers ----------------------------------------------------------------


@functools.cache
def grounds(n: int) -> dict[str, np.ndarray]:
  """The 5 percent quantiles of half-normal norms for each correlation."""
  rng = np.random.default_rng(n)
  each = [measure.simulate(n, rho, rng, [GROUND]) for rho in CORRELATIONS]
  return {
    name: np.array([np.quantile(one[GROUND][name], 0.05) for one in each])
    for name in ("index", "raw_index")
  }


def judge(found: dict[str, np.ndarray], n: int) -> np.ndarray:
  """The verdict on each run; its raw norms are judged in the same way."""

  def of(prefix):
    numbers = [found[prefix + name] for name in ("index", "low", "high")]
    ground = grounds(n)[f"{prefix}index"]
    return measure.verdict(
      *numbers, np.interp(found["rho"], CORRELATIONS, ground)
    )

  heavy = (measure.INFINITE, measure.HEAVY)
  over_level, raw = of(""), of("raw_")
  looks = np.isin(raw, heavy) & ~np.isin(over_level, heavy)
  return np.where(looks, LOOKS_HEAVY, over_level)


def divergence(norms: np.ndarray) -> float | None:
  """The share of the run before its level grows a thousandfold, if it does."""
  rows = verdicts.take({"grad_norm": norms})
  found = _divergence.divergence(rows, norms.size)
  return None if found is None else (found.step - 1) / norms.size


def measured(logs: list[real_norms.Run]) -> list[Run]:
  """Measures all runs that are long enough; one program for each length."""
  groups = collections.defaultdict(list)
  for log in logs:
    place = PLACE.search(log.path)
    if place and log.norms.size >= SHORT:
      groups[measure.round_length(log.norms.size)].append((place, log))
  found = []
  for n, group in track(sorted(groups.items()), "lengths of runs"):
    series = np.stack([log.norms[-n:] for _, log in group])
    numbers = measure.examine(series)
    windows = measure.windows(series)["index"][:, measure.WINDOW - 1 :]
    names = judge(numbers, n)
    for i, (place, log) in enumerate(group):
      one = {name: x[i].item() for name, x in numbers.items()}
      below = windows[i] < 2
      run = Run(
        place.groups(),
        log.norms.size,
        series[i],
        log.stride,
        one,
        below,
        str(names[i]),
        divergence(log.norms),
      )
      found.append(run)
  return sorted(found, key=lambda run: run.place)


def values(runs: list[Run], name: str) -> np.ndarray:
  return np.array([run.found[name] for run in runs])


def groups_of(runs: list[Run], fields: tuple[int, ...]) -> list[list[Run]]:
  """The runs whose places agree in some fields."""
  groups = collections.defaultdict(list)
  for run in runs:
    groups[tuple(run.place[i] for i in fields)].append(run)
  return list(groups.values())


def bootstrap(groups: list[list[Run]], statistic, digits: int = 2) -> str:
  """A statistic of groups of runs; its 95 percent interval, over the groups."""
  rng = np.random.default_rng(0)
  draws = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
  again = [statistic([groups[i] for i in draw]) for draw in draws]
  low, high = np.quantile(again, [0.025, 0.975])
  form = lambda x: f"{x:.{digits}f}"
  return f"{form(statistic(groups))} ({form(low)} to {form(high)})"


def deviation(groups: list[list[Run]]) -> float:
  """The pooled standard deviation of log(index) within groups."""
  logs = [np.log(values(group, "index")) for group in groups]
  squares = sum(np.sum((x - np.mean(x)) ** 2) for x in logs)
  return float(np.sqrt(squares / sum(x.size - 1 for x in logs)))


def inside(groups: list[list[Run]]) -> float:
  """How often an index is in the interval of another run of its group, in %."""
  hits = count = 0
  for group in groups:
    index, low, high = (values(group, x) for x in ("index", "low", "high"))
    hits += np.sum((low[:, None] <= index) & (index <= high[:, None]))
    hits -= len(group)  # each index is in its own interval
    count += len(group) * (len(group) - 1)
  return 100 * hits / count


# -- tables -----------------------------------------------------------------


def number(x: float) -> str:
  return f"{x:.1f}" if x < 10 else f"{x:.0f}"


def interval(x: float, low: float, high: float) -> str:
  return f"{number(x)} ({number(low)} to {number(high)})"


def percent(x: np.ndarray) -> str:
  return f"{100 * np.mean(x):.1f} %"


def quantile_table(runs: list[Run]) -> list[str]:
  """Quantiles over the runs, and how many runs are below 2."""
  groups, rows = groups_of(runs, SETTING), []

  def over_runs(name, function):
    of = lambda groups: function(
      np.concatenate([values(group, name) for group in groups])
    )
    return bootstrap(groups, of, 1)

  for title, prefix in (("over the level", ""), ("raw", "raw_")):
    index, high = f"{prefix}index", f"{prefix}high"
    cells = [
      over_runs(index, functools.partial(np.quantile, q=q)) for q in QUANTILES
    ]
    below = lambda x: 100 * np.mean(x < 2)
    cells += [over_runs(index, below), over_runs(high, below)]
    rows.append([title, *cells])
  head = [f"{100 * q:.0f} %" for q in QUANTILES]
  head += ["index below 2, % of runs", "whole interval below 2, % of runs"]
  return tables.table(["index, quantiles over the runs", *head], rows)


def group_table(title: str, runs: list[Run], key) -> list[str]:
  """One row for each group of runs, and one for all of them."""
  if not runs:
    return []
  groups = collections.defaultdict(list)
  for run in runs:
    groups[key(run)].append(run)
  rows = []
  for name, group in [*sorted(groups.items()), ("all", runs)]:
    index = np.quantile(values(group, "index"), [0.05, 0.5, 0.95])
    counts = [sum(run.verdict == v for run in group) for v in VERDICTS]
    steady = sum(
      run.verdict in VERDICTS[:2] and not run.found["rejected"] for run in group
    )
    rows.append(
      [
        name,
        str(len(group)),
        interval(index[1], index[0], index[2]),
        number(np.median(values(group, "raw_index"))),
        f"{np.median(values(group, 'xi')):.2f}",
        percent(values(group, "xi_low") > 0),
        *(str(c or "") for c in counts),
        str(steady or ""),
        percent(values(group, "rejected")),
        percent(np.concatenate([run.below for run in group])),
      ]
    )
  head = [
    title,
    "runs",
    "median index (5 to 95 %)",
    "raw",
    "median xi",
    XI_ABOVE,
  ]
  head += [*VERDICTS, "heavy and not rejected", "rejected", "windows below 2"]
  return tables.table(head, rows)


def spread_table(runs: list[Run]) -> list[str]:
  """The spread of log(index) within groups of ever more similar runs."""
  kinds = {
    "workload and framework": WORKLOAD,
    "and submission": (0, 1, 2, *WORKLOAD),
    "and trial; only the study differs": SETTING,
  }
  rows = []
  for title, fields in kinds.items():
    groups = [group for group in groups_of(runs, fields) if len(group) > 1]
    width = [
      np.log(values(group, "high") / values(group, "low")) / 3.92
      for group in groups
    ]
    rows.append(
      [
        title,
        f"{len(groups)} ({sum(map(len, groups))})",
        bootstrap(groups, deviation),
        f"{np.sqrt(np.mean(np.concatenate(width) ** 2)):.2f}",
        bootstrap(groups, inside, 0),
      ]
    )
  head = [
    "runs that share",
    "groups (runs)",
    "sd of log(index) within groups",
    "sd by the intervals",
    "index inside the interval of another run, %",
  ]
  return tables.table(head, rows)


def trial_table(runs: list[Run], submission: str) -> list[str]:
  """The index of each study, by trial and workload; those below 2 are bold."""
  cells = collections.defaultdict(list)
  for run in runs:
    if run.submission == submission:
      index = run.found["index"]
      text = f"**{number(index)}**" if index < 2 else number(index)
      cells[run.place[6], run.workload].append(text)
  trials = sorted({trial for trial, _ in cells})
  workloads = sorted({workload for _, workload in cells})
  rows = [
    [trial, *(", ".join(cells[trial, workload]) for workload in workloads)]
    for trial in trials
  ]
  return tables.table([submission, *workloads], rows)


def heavy_table(runs: list[Run]) -> list[str]:
  """All runs with infinite variance, and when their windows are below 2."""
  rows = []
  for run in sorted(runs, key=lambda run: run.found["index"]):
    if run.verdict != measure.INFINITE:
      continue
    f = run.found
    thirds = [100 * np.mean(x) for x in np.array_split(run.below, 3)]
    at = run.diverged
    rows.append(
      [
        f"{run.workload}, {run.submission}, {run.place[3]}, {run.place[6]}",
        str(run.norms.size),
        interval(f["index"], f["low"], f["high"]),
        f"{f['xi']:.1f} ({f['xi_low']:.1f} to {f['xi_high']:.1f})",
        f"{f['drift']:.1f}",
        f"{f['misfit']:.1f}",
        " / ".join(f"{x:.0f}" for x in thirds),
        "" if at is None else f"after {100 * at:.0f} % of the run",
      ]
    )
  head = ["run", "n", "index", "xi", "drift", "misfit"]
  head += ["windows below 2, % of each third", "diverges"]
  return tables.table(head, rows)


def dependence_table(runs: list[Run], logs: list[real_norms.Run]) -> list[str]:
  """The dependence of rows that are a stride apart."""
  rows = []

  def add(title, found):
    low, middle, high = np.quantile(found["rho"], [0.05, 0.5, 0.95])
    d = np.quantile(found["inflation"], [0.05, 0.5, 0.95])
    rows.append(
      [
        title,
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{d[1]:.2f} ({d[0]:.2f} to {d[2]:.2f})",
      ]
    )

  for stride in sorted({run.stride for run in runs}):
    group = [run for run in runs if run.stride == stride]
    found = {name: values(group, name) for name in ("rho", "inflation")}
    add(f"AlgoPerf, every {stride} steps, {len(group)} runs", found)
  for log in logs:
    if log.workload != real_norms.LANGUAGE_MODEL:
      continue
    for stride in (1, 10, 20):
      parts = [log.norms[i::stride] for i in range(0, stride, stride // 5 or 1)]
      n = measure.round_length(min(part.size for part in parts))
      found = measure.examine(np.stack([part[-n:] for part in parts]))
      apart = f"every {stride} steps" if stride > 1 else "every step"
      add(f"{log.workload}, {apart}, n = {n}", found)
  head = ["rows", "correlation of neighbours (5 to 95 %)", "D (5 to 95 %)"]
  return tables.table(head, rows)


def law_table() -> list[str]:
  """What the procedure finds for known laws."""
  rows = []
  for n in track(LENGTHS, "known laws"):
    for rho in (0.0, 0.6, 0.9):
      rng = np.random.default_rng(0)
      for law, found in measure.simulate(n, rho, rng).items():
        low, middle, high = np.quantile(found["index"], [0.05, 0.5, 0.95])
        x = measure.LAWS[law](rng.random((16, n)))
        below = measure.windows(x)["index"][:, measure.WINDOW - 1 :] < 2
        alpha, held, xi_held = measure.INDICES.get(law), "", ""
        if alpha:
          inside = (found["low"] <= alpha) & (alpha <= found["high"])
          held = percent(inside)
          xi = 1 / alpha
          inside = (found["xi_low"] <= xi) & (xi <= found["xi_high"])
          xi_held = percent(inside)
        rows.append(
          [
            law.replace("|", r"\|"),
            str(n),
            f"{rho:g}",
            interval(middle, low, high),
            number(np.median(found["raw_index"])),
            f"{np.median(found['xi']):.2f}",
            percent(found["xi_low"] > 0),
            held,
            xi_held,
            percent(found["rejected"]),
            percent(below) if rho == 0 else "",
          ]
        )
  order = {law.replace("|", r"\|"): i for i, law in enumerate(measure.LAWS)}
  rows.sort(key=lambda row: order[row[0]])
  head = ["law", "n", "correlation", "median index (5 to 95 %)"]
  head += [
    "raw",
    "median xi",
    XI_ABOVE,
    "intervals that hold, of the index",
    "of xi",
  ]
  head += ["rejected", "windows below 2"]
  return tables.table(head, rows)


# -- picture ----------------------------------------------------------------


def ticks(low: float, high: float) -> list[float]:
  """The numbers at an axis: powers of ten, or more if these are few."""
  tens = 10.0 ** np.arange(-12, 20)
  found = [x for x in tens if low <= x <= high]
  if len(found) > 2:
    return found
  finer = np.outer(tens, [1, 2, 5]).ravel()
  return [float(x) for x in finer if low <= x <= high]


def save(figure: Any, path: pathlib.Path) -> None:
  """Writes a picture in blends of the few colours with white."""
  with io.BytesIO() as file:
    figure.savefig(file, format="png", dpi=pictures.PIXELS / 11)
    picture = Image.open(file).convert("RGB")
  colors = np.array([to_rgb(c) for c in (*COLORS.values(), "black")])
  shares = np.linspace(0, 1, 256 // len(colors))[:, None, None]
  blends = np.uint8(255 * (1 - shares * (1 - colors)))
  palette = Image.new("P", (1, 1))
  palette.putpalette(blends.tobytes())
  picture.quantize(palette=palette, dither=Image.Dither.NONE).save(
    path, optimize=True
  )


def draw(runs: list[Run], path: pathlib.Path) -> None:
  """Draws some runs, chosen at random, as small panels."""
  rng, shown = np.random.default_rng(0), min(SHOWN, len(runs))
  chosen = rng.choice(len(runs), shown, replace=False)
  axes = pictures.panels(8, 5, height=13, width=11)
  for ax, i in zip(axes.flat, sorted(chosen)):
    run, f = runs[i], runs[i].found
    relative = run.norms / np.median(run.norms)
    ax.plot(
      run.stride * np.arange(relative.size) / 1000,
      relative,
      lw=0.5,
      color=COLORS[run.verdict],
    )
    ax.set_yscale("log")
    ax.set_title(
      f"{run.workload}\n{run.submission}\n"
      + interval(f["index"], f["low"], f["high"]),
      fontsize=6.5,
      loc="left",
    )
    ax.tick_params(labelsize=6)
    ax.minorticks_off()
    marks = ticks(*ax.get_ylim())
    ax.set_yticks(marks, [f"{x:g}" for x in marks])
  figure = axes[0, 0].figure
  figure.supxlabel("step, in thousands", fontsize=9)
  figure.supylabel("norm over its median", fontsize=9)
  figure.legend(
    handles=[
      pictures.Line2D([], [], color=color, label=name)
      for name, color in COLORS.items()
    ],
    loc="outside upper center",
    ncols=len(COLORS),
  )
  save(figure, path)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("path", type=pathlib.Path)
  folder = parser.parse_args().path
  logs = list(real_norms.runs_in(folder))
  runs = measured(logs)
  long = [run for run in runs if run.logged >= FEWEST]
  if not long:
    parser.error(f"{folder} has no run of AlgoPerf with {FEWEST} norms.")
  short = [run for run in runs if run.logged < FEWEST]
  about = (
    f"{len(long)} runs with {FEWEST} norms or more,"
    f" {len(short)} with {SHORT} to {FEWEST - 1};"
    f" {sum(run.diverged is not None for run in runs)} of all diverge."
    f" {tables.machine('python benchmarks/study/algoperf.py PATH')}"
  )
  sections = {
    "quantiles": [about, "", *quantile_table(long)],
    "workloads": group_table("workload", long, lambda run: run.workload),
    "submissions": group_table("submission", long, lambda run: run.submission),
    "frameworks": group_table("framework", runs, lambda run: run.place[5]),
    "short runs": group_table("workload", short, lambda run: run.workload),
    "heavy": heavy_table(runs),
    "trials": trial_table(runs, "nadamp (external, v05)"),
    "spread": spread_table(long),
    "dependence": dependence_table(runs, logs),
    "laws": law_table(),
  }
  for name, lines in sections.items():
    tables.write(name, lines, PAGE)
  draw(long, PICTURE)


if __name__ == "__main__":
  main()
