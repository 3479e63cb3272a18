"""Shows a run in the terminal, with sinks as in sinks.py.

    with sinks.logger(terminal.sink(Console(), steps)) as log: ...

The live view has a progress bar, and a sparkline for the loss, the norm, the
tail index with its 95 % interval, and the other readings of the optimizer.
Without a terminal, each record is a plain line.
"""

import collections
from collections.abc import Iterator
import contextlib
import math

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
import sinks

LINES = (
  "loss",
  "gradient norm",
  "tail index",
  "amplification",
  "rate scale",
  "sharpness",
  "noise tail index",
  "noise_factor",
)
BLOCKS = "▁▂▃▄▅▆▇█"


def sink(console: Console, steps: int, live: bool = True) -> sinks.Sink:
  """The live view if the console can show it, else plain lines."""
  can = console.is_interactive and not console.options.ascii_only
  return live_sink(console, steps) if live and can else plain_sink(console)


@contextlib.contextmanager
def plain_sink(console: Console) -> Iterator[sinks.Write]:
  """Prints a line for each record."""

  def write(step, values):
    texts = (f"{name} {text(name, values)}" for name in lines(values))
    console.print(f"step {step}", *texts, sep="  ", soft_wrap=True)

  yield write


@contextlib.contextmanager
def live_sink(console: Console, steps: int) -> Iterator[sinks.Write]:
  """Shows a progress bar, and a sparkline for each of `lines`."""
  progress = Progress(
    TextColumn("step {task.completed}/{task.total}"),
    BarColumn(),
    TimeRemainingColumn(),
    console=console,
  )
  bar = progress.add_task("", total=steps)
  width = max(8, min(60, console.width - 40))
  past = collections.deque(maxlen=width)

  with Live(progress, console=console) as view:

    def write(step, values):
      past.append(values)
      table = Table.grid(padding=(0, 2))
      for name in lines(values):
        line = sparkline([number(name, values) for values in past])
        table.add_row(name, line.ljust(width), text(name, values))
      progress.update(bar, completed=step)
      view.update(Group(table, progress))

    yield write


def lines(values: dict) -> list[str]:
  """The names in `LINES` that have a value."""
  return [name for name in LINES if key(name) in values]


def key(name: str) -> str:
  """The name of the reading that a line shows."""
  return {"gradient norm": "update_norm"}.get(name, name.replace(" ", "_"))


def number(name: str, values: dict) -> float:
  """The value that a line shows."""
  return float(values[key(name)])


def text(name: str, values: dict) -> str:
  """The value of a line as text; "-" until there is a tail index."""
  value = number(name, values)
  if name != "tail index":
    return f"{value:.3g}"
  low, high = values["tail_index/low"], values["tail_index/high"]
  return f"{value:.2f} ({low:.2f} to {high:.2f})" if value > 0 else "-"


def sparkline(values: list[float]) -> str:
  """The values as blocks of logarithmic height; a gap if not positive."""
  heights = [math.log(x) if 0 < x < math.inf else math.nan for x in values]
  there = [x for x in heights if not math.isnan(x)] or [0.0]
  low, span = min(there), max(there) - min(there) or 1.0
  return "".join(
    " " if math.isnan(x) else BLOCKS[round(7 * (x - low) / span)]
    for x in heights
  )
