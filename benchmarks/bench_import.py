"""Times `import htga_optax` in a process that has imported optax."""

import compileall
import importlib
import pathlib
import sys

import htga_optax


def fresh(package):
  """Imports a package again, then restores the modules of before."""
  of_it = lambda: [m for m in sys.modules if m.split(".")[0] == package]
  before = {m: sys.modules.pop(m) for m in of_it()}
  importlib.import_module(package)
  for m in of_it():
    del sys.modules[m]
  sys.modules.update(before)


def test_import(race):
  # Compiled, as after an installation by pip.
  compileall.compile_dir(pathlib.Path(htga_optax.__file__).parent, quiet=1)
  race(
    "`import htga_optax` after optax, over `import optax` after jax",
    lambda: fresh("htga_optax"),
    lambda: fresh("optax"),
    most=50,
    rounds=10,
  )
