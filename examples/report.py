"""Tables in the terminal, and pages of Markdown."""

import datetime
import importlib.metadata
import os
from pathlib import Path
import platform

import jax
from rich import box
from rich.table import Table

Rows = list[list[str]]


def console_table(title: str, head: list[str], rows: Rows) -> Table:
  """A table for the terminal. All columns but the first hold numbers."""
  table = Table(
    title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
  )
  for i, heading in enumerate(head):
    table.add_column(heading, justify="right" if i else "left")
  for row in rows:
    table.add_row(*row)
  return table


def markdown_table(head: list[str], rows: Rows) -> list[str]:
  """The same table, as lines of Markdown."""
  cells = [head, ["---"] * len(head), *rows]
  cells = [[cell.replace("\n", " ") for cell in row] for row in cells]
  return ["| " + " | ".join(row) + " |" for row in cells]


def write(path: Path, heading: str, parts: list[list[str]]) -> None:
  """Writes a page: a heading and parts, with an empty line between parts."""
  lines = [f"# {heading}"]
  for part in parts:
    lines += ["", *part]
  path.write_text("\n".join(lines) + "\n")


def machine(command: str, seconds: float) -> str:
  """A sentence with the command, its time, the machine and the versions."""
  cpu = platform.processor() or platform.machine()
  info = Path("/proc/cpuinfo")
  if info.exists():
    names = [x for x in info.read_text().splitlines() if "model name" in x]
    cpu = names[0].split(":")[1].strip() if names else cpu
  device = jax.devices()[0]
  if device.platform != "cpu":
    cpu += f", {device.device_kind}"
  packages = ("jax", "optax", "numpy")
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
  return (
    f"Written by `{command}` in {seconds / 60:.0f} min on {cpu},"
    f" {os.cpu_count()} cores; Python {platform.python_version()}, {versions};"
    f" {datetime.date.today().isoformat()}."
  )
