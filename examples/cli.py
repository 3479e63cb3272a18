"""Parts of the command lines of all examples. Every failure is one line."""

import argparse
from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
  """A parser that reports an error in one line, with exit status 1."""

  def __init__(self, name: str, description: str | None):
    super().__init__(
      prog=f"{name}.py",
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    self.name = name

  def error(self, message: str) -> NoReturn:
    """Ends the program with the message."""
    sys.exit(f"{self.name}: {message}")


def count(text: str, least: int = 1) -> int:
  """Parses an argument that must be an integer and at least `least`."""
  if not text.isdecimal() or not least <= int(text) < 2**31:
    raise argparse.ArgumentTypeError(
      f"must be {least}, {least + 1}, ..., got {text}"
    )
  return int(text)


def picture(text: str) -> Path:
  """Parses an argument that must be the path of a writable .png file."""
  path = Path(text).expanduser()
  if path.suffix.lower() != ".png":
    raise argparse.ArgumentTypeError(f"must end in .png, got {text}")
  if path.is_dir() or not os.access(path.parent, os.W_OK):
    raise argparse.ArgumentTypeError(f"cannot write {text}")
  return path


@contextlib.contextmanager
def one_line(
  name: str, *errors: type[Exception], extra: str = "examples"
) -> Iterator[None]:
  """Ends the program with one line if an import is missing or the block fails.

  Args:
    name: the name of the example. The line begins with it.
    *errors: the errors that end the program. The line contains the first line
      of their message.
    extra: the extra of the package that installs a missing import.

  Yields:
    Nothing. The block is the imports of the example, or its run.
  """
  try:
    yield
  except ImportError as error:
    install = f'pip install "htga_optax[{extra}]"'
    sys.exit(f"{name}: {error.name or error} is missing: {install}")
  except errors as error:
    sys.exit(f"{name}: {first_line(error)}")
  except KeyboardInterrupt:
    print(f"{name}: interrupted.", file=sys.stderr, flush=True)
    os._exit(130)  # an interrupted compilation can crash Python's own exit


def command(name: str) -> str:
  """The command line of this run of an example."""
  return " ".join(["python", f"examples/{name}.py", *sys.argv[1:]])


def first_line(error: Exception) -> str:
  """The first line of an error's message, or the error's type without one."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
