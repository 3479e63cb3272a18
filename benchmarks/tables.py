"""Tables of benchmarks/README.md, each between its two markers."""

import datetime
import importlib.metadata
import os
import pathlib
import platform

import jax

README = pathlib.Path(__file__).parent / "README.md"


def machine(command):
  """What the figures were measured on, and by what."""
  cpu = platform.processor() or platform.machine()
  info = pathlib.Path("/proc/cpuinfo")
  if info.exists():
    names = [x for x in info.read_text().splitlines() if "model name" in x]
    cpu = names[0].split(":")[1].strip() if names else cpu
  devices = jax.devices()
  accelerator = (
    "" if devices[0].platform == "cpu" else f", {devices[0].device_kind}"
  )

  packages = ("jax", "jaxlib", "optax", "numpy", "scipy")
  packages += ("heavytails", "powerlaw")
  versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
  return (
    f"{cpu}, {os.cpu_count()} cores{accelerator}; Python"
    f" {platform.python_version()}, {versions};"
    f" {datetime.date.today().isoformat()}; `{command}`"
  )


def table(head, rows):
  """A table in Markdown, as lines."""
  cells = [head, ["---"] * len(head), *rows]
  return ["| " + " | ".join(row) + " |" for row in cells]


def write(name, lines):
  """Puts the lines between the markers of that name, and prints them."""
  begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
  text = "\n".join(lines) + "\n"
  before, rest = README.read_text().split(begin)
  README.write_text(before + begin + text + end + rest.split(end)[1])
  print("\n" + text)
