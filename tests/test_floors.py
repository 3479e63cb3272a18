"""The layout of the package: the one list of its floors.

A file imports only from floors below its own, or from its own package.
"""

import ast
import pathlib
import subprocess
import sys
import types

import pytest

import htga_optax

PACKAGE = pathlib.Path(htga_optax.__file__).parent
# A module, or a package of the same name, by floor.
FLOORS = [
  {"_checks", "_layers", "_states"},
  {"norms", "order_statistics", "stable"},
  {"estimators"},
  {
    "coordinates",
    "curvature",
    "gradient_noise",
    "hsgd",
    "intervals",
    "spectra",
  },
  {"streaming"},
  {"_relay"},
  {"_by_norm", "_losses", "_tell"},
  {
    "_amplify",
    "_by_layer",
    "_clipping",
    "_noise",
    "_normalize",
    "_sharpness",
    "_tracking",
    "_truncation",
  },
  {"_optimizers"},
  {"diagnostics"},
  {"__init__"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
  """The module or package on a floor that a file belongs to."""
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(module):
  return next(i for i, floor in enumerate(FLOORS) if module in floor)


def imports_of(path):
  """The modules of this package that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == "htga_optax":
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path} has a relative import"
      prefix, _, rest = (node.module or "").partition(".")
      found |= {rest.partition(".")[0]} if prefix == "htga_optax" else set()
    elif isinstance(node, ast.Import):
      for alias in node.names:
        prefix, _, rest = alias.name.partition(".")
        found |= {rest.partition(".")[0]} if prefix == "htga_optax" else set()
  modules = set().union(*FLOORS)
  return {name for name in found if name in modules}


def test_every_file_has_a_floor():
  assert {module_of(path) for path in FILES} == set().union(*FLOORS)


@pytest.mark.parametrize(
  "path", FILES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_go_down(path):
  own = module_of(path)
  for module in imports_of(path) - {own}:
    assert floor_of(module) < floor_of(own), f"{own} <- {module}"


@pytest.mark.parametrize(
  "path", FILES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_file_has_more_than_400_lines(path):
  assert len(path.read_text().splitlines()) <= 400


def test_names_mean_one_thing():
  """No module of the package has the name of something it exports."""
  assert set(htga_optax.__all__) <= set(dir(htga_optax))
  for name in htga_optax.__all__:
    thing = getattr(htga_optax, name)
    is_module = isinstance(thing, types.ModuleType)
    assert is_module == (name in set().union(*FLOORS))


def test_only_jax_and_optax_are_needed():
  """The package imports no library that jax and optax do not import."""
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
