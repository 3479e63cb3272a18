"""Imports modules that only an extra of the package installs."""

import importlib
from typing import Any


def load(name: str, extra: str = "diagnostics") -> Any:
  """Imports an optional module.

  Args:
    name: the dotted name of the module.
    extra: the extra of htga_optax that installs it.

  Returns:
    The module.

  Raises:
    ImportError: it is not installed; the message contains the command that
      installs it.

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
