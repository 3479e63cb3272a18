"""The import of what only an extra installs."""

import importlib
from typing import Any


def load(name: str, extra: str = "diagnostics") -> Any:
  """Imports a module that the package can do without.

  Args:
    name: its dotted name.
    extra: what installs it.

  Returns:
    The module.

  Raises:
    ImportError: it is not installed; the message says what to install.

  Examples:
    >>> from htga_optax.diagnostics import _optional
    >>> _optional.load("no_module")
    Traceback (most recent call last):
    ImportError: no_module is missing: pip install "htga_optax[diagnostics]"
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(
      f'{name.split(".")[0]} is missing: pip install "htga_optax[{extra}]"',
      name=name,
    ) from error
