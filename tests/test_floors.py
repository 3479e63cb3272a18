"""A file of the package imports only from floors below its own."""

import ast
import pathlib
import subprocess
import sys

import pytest

import htga_optax

PACKAGE = pathlib.Path(htga_optax.__file__).parent
FLOORS = [
  {"checks", "logs"},
  {"estimators", "norms", "order_statistics", "readings", "stable"},
  {
    "coordinates",
    "curvature",
    "fits",
    "gradient_noise",
    "hsgd",
    "intervals",
  },
  {"streaming", "landscape", "plots", "verdicts"},
  {"exponentially_weighted", "diagnostics"},
  {
    "clipping",
    "modulation",
    "noise",
    "relay",
    "sharpness",
    "tracking",
    "truncation",
  },
  {"optimizers"},
  {"__init__"},
]


def floor_of(module):
  return next(i for i, floor in enumerate(FLOORS) if module in floor)


def imports_of(path):
  """Modules of this package that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == "htga_optax":
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found.add(node.module or ".")
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  return {
    name.removeprefix("htga_optax.")
    for name in found
    if name.startswith("htga_optax.")
    or (PACKAGE / f"{name}.py").exists()
    or name == "."
  }


def test_every_file_has_a_floor():
  files = {path.stem for path in PACKAGE.glob("*.py")}
  assert files == set().union(*FLOORS)
  assert not [p for p in PACKAGE.iterdir() if p.is_dir() and p.name[0] != "_"]


@pytest.mark.parametrize("path", PACKAGE.glob("*.py"), ids=lambda p: p.stem)
def test_imports_go_down(path):
  for module in imports_of(path):
    assert floor_of(module) < floor_of(path.stem), f"{path.stem} <- {module}"


def test_only_jax_and_optax_are_needed():
  """Importing the package loads nothing that jax and optax do not."""
  script = (
    "import sys, jax, optax, jax.numpy; before = set(sys.modules);"
    "import htga_optax;"
    "new = {m.split('.')[0] for m in set(sys.modules) - before};"
    "print(sorted(new - set(sys.stdlib_module_names)))"
  )
  out = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "['htga_optax']"
