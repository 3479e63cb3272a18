"""The tables, the picture and the CSV of the atlas, for report.py."""

import collections
from collections.abc import Iterable
import csv
import functools
import math
import pathlib
from typing import Any, NamedTuple

import atlas
import matplotlib.pyplot as plt
import measure
from measure import HEAVY, INFINITE, LIGHT, OPEN
import numpy as np
import pictures
from rich.progress import track
import store
import tables
import tasks

HERE = pathlib.Path(__file__).parent
WARM_UP = 100  # steps that are left out, except in `over_time`
GROUND = "half-normal"  # the light law of the band
RHOS = (0.0, 0.3, 0.6, 0.8, 0.9)  # correlations at which bands are simulated
LOOKS_HEAVY = "only looks heavy"
NAMES = {
  "digits": "digits, CNN",
  "fashion": "Fashion-MNIST, CNN",
  "fashion_noisy": "the same, 20 % wrong labels",
  "cifar": "CIFAR-10, CNN",
  "words": "Penn Treebank, LSTM",
  "characters": "tiny Shakespeare, Transformer",
  "cartpole": "CartPole, PPO",
  "acrobot": "Acrobot, PPO",
  "breakout": "MinAtar Breakout, PPO",
  "gauss": "regression, Gaussian noise",
  "student_3": "regression, noise t(3)",
  "student_1_5": "regression, noise t(1.5)",
  "zipf": "200 classes of Zipf's law",
}
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
Group = tuple[str, str, int]  # task, method, batch size


class Reading(NamedTuple):
  """The measurement of one kind of norms in a group.

  Attributes:
    index, low, high: the combined estimate of the seeds, and its interval.
    raw_index, raw_low, raw_high: the same, of the norms as they are.
    xi: the shape of the generalized Pareto law, the mean of the seeds.
    rejected: the share of the seeds with a rejected tail model.
    drift: the largest drift of the norms as they are, in absolute value.
    rho: the mean correlation of neighbours.
    band: the 5 and 95 percent quantiles of the estimate for the half-normal law
      at that correlation.
    verdict: what the protocol calls it.
  """

  index: float
  low: float
  high: float
  raw_index: float
  raw_low: float
  raw_high: float
  xi: float
  rejected: float
  drift: float
  rho: float
  band: tuple[float, float]
  verdict: str

  def __str__(self) -> str:
    number = lambda x: f"{x:.1f}" if x < 10 else f"{x:.0f}"
    text = f"{number(self.index)} ({number(self.low)}-{number(self.high)})"
    if self.verdict in (INFINITE, HEAVY):
      return f"**{text}**"
    return f"{text}†" if self.verdict == LOOKS_HEAVY else text


@functools.cache
def simulated(law: str, n: int, rho: float) -> dict[str, np.ndarray]:
  """The measurements of series of a law, as by `measure.examine`."""
  rng = np.random.default_rng([n, round(100 * rho)])
  return measure.simulate(n, rho, rng, [law])[law]


def band(law: str, n: int, rho: float, of: str = "index") -> np.ndarray:
  """The 5, 50 and 95 percent quantiles of a number, for series of a law.

  The neighbours have the correlation rho. Quantiles are interpolated between
  simulations at the correlations `RHOS`.
  """
  at = max(i for i, r in enumerate(RHOS) if i == 0 or r < rho)
  two = RHOS[at : at + 2]
  each = [np.quantile(simulated(law, n, r)[of], [0.05, 0.5, 0.95]) for r in two]
  return np.array([np.interp(rho, two, column) for column in zip(*each)])


def combined(
  found: dict[str, np.ndarray], widen: float, prefix: str = ""
) -> list[float]:
  """The index of all seeds, and its interval, as the page combines them."""
  names = [prefix + name for name in ("index", "low", "high")]
  index, *ends = (np.log(found[name]) for name in names)
  scale = widen / math.sqrt(len(index))
  middle = np.mean(index)
  logs = [middle, *(middle + scale * np.mean(end - index) for end in ends)]
  return [float(x) for x in np.exp(logs)]


def spread(groups: Iterable[np.ndarray]) -> float:
  """How much wider intervals must be, for seeds to differ as they do.

  It is the root mean square of the differences of log(index) between two seeds,
  each divided by its standard error from the two intervals; at least 1.
  """
  squares = []
  for series in groups:
    found = measure.examine(series[:2])
    index, low, high = (
      np.log(found[name]) for name in ("index", "low", "high")
    )
    variance = np.sum(((high - low) / (2 * 1.96)) ** 2)
    squares.append((index[0] - index[1]) ** 2 / variance)
  return max(1.0, math.sqrt(np.nanmean(squares)))


def read(series: np.ndarray, widen: float = 1.0) -> Reading:
  """Measures the series of the seeds of a group, [seeds, n]."""
  found = measure.examine(series)
  rho = float(np.mean(found["rho"]))
  numbers, raw = (combined(found, widen, prefix) for prefix in ("", "raw_"))
  n = series.shape[1]
  if not np.all(found["known"]):
    return Reading(*numbers, *raw, *[math.nan] * 4, (math.nan,) * 2, OPEN)
  low, _, high = band(GROUND, n, rho)
  verdict = str(measure.verdict(*numbers, low))
  raw_low, *_ = band(GROUND, n, rho, "raw_index")
  raw_verdict = str(measure.verdict(*raw, raw_low))
  is_heavy = {INFINITE, HEAVY}
  if raw_verdict in is_heavy and verdict not in is_heavy:
    verdict = LOOKS_HEAVY
  return Reading(
    *numbers,
    *raw,
    xi=float(np.mean(found["xi"])),
    rejected=float(np.mean(found["rejected"])),
    drift=float(np.max(np.abs(found["raw_drift"]))),
    rho=rho,
    band=(float(low), float(high)),
    verdict=verdict,
  )


def within_updates(series: np.ndarray) -> np.ndarray:
  """Norms of PPO over the median of the other norms of the same update."""
  updates = series.reshape(len(series), -1, tasks.UPDATE_EVERY)
  others = np.stack(
    [
      np.median(np.delete(updates, i, axis=2), axis=2)
      for i in range(tasks.UPDATE_EVERY)
    ],
    axis=2,
  )
  return (updates / others).reshape(series.shape)


def groups_of(rows, seeds) -> dict[Group, list[store.Row]]:
  """The complete groups of the atlas, in the order of the tasks."""
  found = collections.defaultdict(dict)
  for row in rows:
    unit = row.unit
    known = tasks.TASKS.get(unit.task)
    if unit.seed in seeds and known and known.version == unit.version:
      found[unit.task, unit.method, unit.batch_size][unit.seed] = row
  names, sizes = list(tasks.TASKS), list(atlas.METHODS)
  place = lambda g: (names.index(g[0]), sizes.index(g[1]), g[2])
  return {
    group: [found[group][seed] for seed in seeds]
    for group in sorted(found, key=place)
    if len(found[group]) == len(seeds)
  }


def stacked(rows: list[store.Row], name: str) -> np.ndarray:
  """The arrays of the seeds of a group."""
  return np.stack([row.arrays[name] for row in rows])


def grid(
  readings: dict[Group, Reading], title: str, sizes: list[int]
) -> list[str]:
  """A table of a row for each task and optimizer, a column for a batch size."""
  cells = collections.defaultdict(dict)
  for (task, method, size), reading in readings.items():
    cells[task, method][size] = str(reading)
  rows = [
    [
      NAMES[task] if method == "sgd" else "",
      OPTIMIZERS[method],
      *(found.get(size, "") for size in sizes),
    ]
    for (task, method), found in cells.items()
  ]
  return tables.table([title, "", *(f"B = {size}" for size in sizes)], rows)


def count(readings: dict[str, dict[Group, Reading]]) -> list[str]:
  """How many groups got which verdict, by task."""
  verdicts = [INFINITE, HEAVY, LOOKS_HEAVY, OPEN, LIGHT]
  rows = []
  for task in dict.fromkeys(g[0] for g in readings["norm"]):
    cells = []
    for verdict in verdicts:
      each = [
        sum(r.verdict == verdict for g, r in found.items() if g[0] == task)
        for found in readings.values()
      ]
      cells.append(" / ".join(map(str, each)) if any(each) else "")
    rows.append([NAMES[task], *cells])
  return tables.table(["groups, by norm / by noise", *verdicts], rows)


def bands(lengths: list[int]) -> list[str]:
  """What the procedure reads of known laws, independent values."""
  rows = []
  for law in measure.LAWS:
    cells = []
    for n in lengths:
      for rho in (0.0, 0.6):
        low, middle, high = band(law, n, rho)
        cells.append(f"{middle:.1f} ({low:.1f}-{high:.1f})")
    rows.append([law.replace("|", r"\|"), *cells])
  head = [f"n = {n}, {w}" for n in lengths for w in ("independent", "rho 0.6")]
  return tables.table(["law", *head], rows)


def layers(groups: dict[Group, list[store.Row]], widen: float) -> list[str]:
  """The layers of each task: the range of their indices, how many are heavy."""
  rows = []
  for task in dict.fromkeys(g[0] for g in groups):
    for method in atlas.METHODS:
      cells = []
      for size in (1, 16, 256):
        found = groups.get((task, method, size))
        if found is None:
          cells.append("")
          continue
        layered = stacked(found, "layers")[:, WARM_UP:]  # [seeds, n, layers]
        usable = np.all(layered > 0, axis=(0, 1))
        each = [read(layered[:, :, i], widen) for i in np.flatnonzero(usable)]
        heavy = sum(r.verdict in (INFINITE, HEAVY) for r in each)
        indices = [r.index for r in each]
        cells.append(
          f"{min(indices):.1f} to {max(indices):.1f}; {heavy} of {len(each)}"
          if each
          else "a norm of a layer is 0"
        )
      name = NAMES[task] if method == "sgd" else ""
      rows.append([name, OPTIMIZERS[method], *cells])
  head = [f"B = {size}" for size in (1, 16, 256)]
  return tables.table(
    ["layers: smallest to largest index; how many are heavy", "", *head], rows
  )


def over_time(groups: dict[Group, list[store.Row]], widen: float) -> list[str]:
  """The index in the four quarters of the runs, with batches of 16."""
  rows = []
  for (task, method, size), found in groups.items():
    if size != 16:
      continue
    norms = stacked(found, "norm")
    n = norms.shape[1]
    cells = []
    for quarter in range(4):
      part = norms[:, quarter * n // 4 : (quarter + 1) * n // 4]
      cells.append(str(read(part, widen)))
    name = NAMES[task] if method == "sgd" else ""
    rows.append([name, OPTIMIZERS[method], *cells])
  quarters = ["first quarter", "second", "third", "last"]
  return tables.table(["B = 16", "", *quarters], rows)


def of_entries(largest: np.ndarray, entries: int) -> np.ndarray:
  """Hill's index from the 1 % largest entries, but at most 511: [...]."""
  k = min(largest.shape[-1] - 1, max(8, entries // 100))
  tail = largest[..., : k + 1]
  with np.errstate(divide="ignore", invalid="ignore"):
    return k / np.sum(np.log(tail[..., :k] / tail[..., k:]), axis=-1)


def entries(groups: dict[Group, list[store.Row]]) -> list[str]:
  """The index of the entries of one gradient."""
  rows, rng = [], np.random.default_rng(0)
  for (task, method, size), found in groups.items():
    count = int(found[0].arrays["entries"])
    if size != 64 or count < 1000:
      continue
    index = of_entries(stacked(found, "largest"), count)  # [seeds, moments]
    normal = np.sort(np.abs(rng.standard_normal((20, count))))[:, ::-1]
    gauss = np.median(of_entries(normal[:, : atlas.LARGEST], count))
    cells = [
      f"{np.mean(index[:, i]):.1f} ({np.min(index[:, i]):.1f}-"
      f"{np.max(index[:, i]):.1f})"
      for i in (0, 4, 9)
    ]
    name = NAMES[task] if method == "sgd" else ""
    rows.append([name, OPTIMIZERS[method], str(count), *cells, f"{gauss:.1f}"])
  moments = ["after a tenth", "in the middle", "at the end"]
  head = ["B = 64", "", "entries", *moments, "Gaussian entries"]
  return tables.table(head, rows)


def mixtures(groups: dict[Group, list[store.Row]], widen: float) -> list[str]:
  """The index of PPO's norms, over the level and within the updates."""
  rows = []
  for (task, method, size), found in groups.items():
    if tasks.TASKS[task].score != "return":
      continue
    norms = stacked(found, "norm")
    within = within_updates(norms)
    name = f"{NAMES[task]}, {OPTIMIZERS[method]}, B = {size}"
    readings = (read(x[:, WARM_UP:], widen) for x in (norms, within))
    rows.append([name, *map(str, readings)])
  head = ["", "over the level", "over the others of the same update"]
  return tables.table(head, rows)


def repeated(
  readings: dict[Group, Reading],
  again: dict[Group, list[store.Row]],
  widen: float,
) -> list[str]:
  """How often the index with other seeds lies in the printed interval."""
  inside, rows = 0, []
  for group, found in again.items():
    if group not in readings:
      continue
    first = readings[group]
    second = read(stacked(found, "norm")[:, WARM_UP:], widen)
    hit = first.low <= second.index <= first.high
    inside += hit
    task, method, size = group
    name = f"{NAMES[task]}, {OPTIMIZERS[method]}, B = {size}"
    rows.append([name, str(first), str(second), "yes" if hit else "**no**"])
  if not rows:
    return []
  return [
    f"{inside} of {len(rows)} repeated estimates lie in the printed interval."
    " Two independent estimates with correct intervals do so in 83 % of cases.",
    "",
    *tables.table(["", "printed", "repeated", "inside"], rows),
  ]


def draw(readings: dict[Group, Reading], path: pathlib.Path) -> None:
  """The picture: the tail index by task and batch size."""
  names = list(dict.fromkeys(g[0] for g in readings))
  fig, axes = plt.subplots(
    2, 1, figsize=(11, 7.4), sharex=True, sharey=True, layout="constrained"
  )
  sizes = sorted({g[2] for g in readings})
  colors = plt.get_cmap("viridis_r")(np.linspace(0.1, 0.95, len(sizes)))
  for ax, method in zip(axes, atlas.METHODS):
    for law, color in (
      ("|t_3|", "0.93"),
      ("half-normal", "0.85"),
      ("lognormal(0.2)", "0.93"),
    ):
      low, _, high = band(law, 1900, 0.0)
      ax.axhspan(low, high, color=color, zorder=0)
      ax.text(
        1.005,
        (low * high) ** 0.5,
        law.replace("|t_3|", "$|t_3|$"),
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color="0.35",
      )
    ax.axhline(2, **pictures.TARGET)
    for x, name in enumerate(names):
      for i, size in enumerate(sizes):
        r = readings.get((name, method, size))
        if r is None or not np.isfinite(r.index):
          continue
        at = x + 0.15 * (i - (len(sizes) - 1) / 2)
        heavy = r.verdict in (INFINITE, HEAVY)
        ax.plot([at, at], [r.low, r.high], color=colors[i], lw=1.6)
        ax.plot(
          at,
          r.index,
          "o",
          ms=5,
          color=colors[i],
          mfc=colors[i] if heavy else "white",
        )
    ax.set_yscale("log")
    ax.set_ylim(1, 60)
    ax.set_yticks(
      [1, 2, 3, 5, 10, 20, 40], ["1", "2", "3", "5", "10", "20", "40"]
    )
    ax.minorticks_off()
    ax.set_ylabel(f"tail index of the norms, {OPTIMIZERS[method]}")
    ax.spines[["top", "right"]].set_visible(False)
  labels = [NAMES[name].replace(", ", ",\n") for name in names]
  axes[1].set_xticks(
    range(len(names)), labels, fontsize=8, rotation=30, ha="right"
  )
  axes[1].set_xlim(-0.6, len(names) - 0.4)
  handles = [
    plt.Line2D([], [], color=c, marker="o", ls="-", label=f"B = {size}")
    for c, size in zip(colors, sizes)
  ]
  axes[0].legend(
    handles=handles,
    ncols=len(sizes),
    loc="upper left",
    frameon=False,
    fontsize=9,
  )
  fig.savefig(path, dpi=pictures.PIXELS / 11)
  plt.close(fig)


def write_csv(readings, path: pathlib.Path) -> None:
  """All readings, one a line."""
  fields = [f for f in Reading._fields if f != "band"]
  with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
      ["task", "method", "batch_size", "of", *fields, "band_low", "band_high"]
    )
    for of, found in readings.items():
      for group, r in found.items():
        values = [getattr(r, field) for field in fields]
        numbers = [*values, *r.band]
        writer.writerow(
          [*group, of]
          + [f"{v:.4g}" if isinstance(v, float) else v for v in numbers]
        )


def report(rows: list[store.Row], troubles: int) -> None:
  """Writes the tables into README.md, and atlas.png and atlas.csv beside it."""
  groups = groups_of(rows, atlas.SEEDS)
  if not groups:
    return
  readings: dict[str, dict[Group, Any]] = {}
  widen = {}
  for of in ("norm", "noise"):
    series = {g: stacked(found, of)[:, WARM_UP:] for g, found in groups.items()}
    widen[of] = spread(track(series.values(), f"comparing seeds, {of}"))
    readings[of] = {
      group: read(series[group], widen[of])
      for group in track(series, f"measuring, {of}")
    }
  sizes = sorted({group[2] for group in groups})
  lengths = sorted({tasks.TASKS[g[0]].steps - WARM_UP for g in groups})
  count_all = len({unit.group for unit in atlas.units()})
  hours = sum(found[0].seconds for found in groups.values()) / 3600
  about = (
    f"{len(groups)} of {count_all} groups, {hours:.1f} hours of one core;"
    f" {troubles} attempts without a result. Intervals are {widen['norm']:.2f}"
    f" times as wide as for one run (noise: {widen['noise']:.2f})."
    f" {tables.machine('python benchmarks/study/report.py')}."
  )
  sections = {
    "verdicts": [about, "", *count(readings)],
    "norms": grid(readings["norm"], "norms of the gradient", sizes),
    "noise": grid(readings["noise"], "norms of its noise", sizes),
    "bands": bands(lengths),
    "layers": layers(groups, widen["norm"]),
    "over time": over_time(groups, widen["norm"]),
    "entries": entries(groups),
    "updates": mixtures(groups, widen["norm"]),
    "again": repeated(
      readings["norm"], groups_of(rows, atlas.AGAIN), widen["norm"]
    ),
  }
  for name, lines in sections.items():
    tables.write(name, lines, HERE / "README.md")
  draw(readings["norm"], HERE / "atlas.png")
  write_csv(readings, HERE / "atlas.csv")
