"""Writes the tables of benchmarks/README.md, each between its two markers."""

import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform

import jax

OPPONENTS = ("heavytails", "powerlaw")  # their versions are in every table
README = pathlib.Path(__file__).parent / "README.md"


def machine(command):
  """One line: the machine and the versions of a measurement, the command."""
  cpu = platform.processor() or platform.machine()
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    names = [x for x in info.read_text().splitlines() if "model name" in x]
    cpu = names[0].split(":")[1].strip() if names else cpu
  devices = jax.devices()
  accelerator = (
    "" if devices[0].platform == "cpu" else f", {devices[0].device_kind}"
  )

  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("jax", "jaxlib", "optax", "numpy", "scipy", *OPPONENTS)
    if importlib.util.find_spec(name)
  )
  return (
    f"{cpu}, {os.cpu_count()} cores{accelerator}; Python"
    f" {platform.python_version()}, {versions};"
    f" {datetime.date.today().isoformat()}; `{command}`"
  )


def table(head, rows):
  """The lines of a Markdown table."""
  cells = [head, ["---"] * len(head), *rows]
  return ["| " + " | ".join(row) + " |" for row in cells]


def write(name, lines, page=README):
  """Writes the lines between the page's markers of that name; prints them."""
  begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
  text = "\n".join(lines) + "\n"
  before, rest = page.read_text().split(begin)
  page.write_text(before + begin + text + end + rest.split(end)[1])
  print("\n" + text)


def append(name, lines, page=README):
  """Adds lines before the end marker of that name, and prints them."""
  end = f"<!-- {name}: end -->\n"
  text = "\n".join(lines) + "\n"
  before, after = page.read_text().split(end)
  page.write_text(before + "\n" + text + end + after)
  print("\n" + text)
