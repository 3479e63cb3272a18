"""Reads a log or a checkpoint, from the command line."""

import argparse
from collections.abc import Sequence
import html
import os
import pathlib
import sys
from typing import NoReturn

from htga_optax import diagnostics
from htga_optax.diagnostics import logs, verdicts, weights


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    sys.exit(f"diagnostics: {message}")


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line: a report on a log, or a table of weights.

  A failure prints one line of text and exits with status 1.

  Args:
    arguments: the arguments of the command; those of the process if None.
  """
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  try:
    if len(arguments) > 1 and arguments[0] == "weights":
      _weights(arguments[1:])
    else:
      _log(arguments)
  except (ValueError, OSError, ImportError) as error:
    _progress("")
    sys.exit(f"diagnostics: {str(error).splitlines()[0]}")


def _weights(arguments: Sequence[str]) -> None:
  """Prints a table of the matrices of a checkpoint."""
  parser = _Parser(
    prog="python -m htga_optax.diagnostics weights",
    description="Prints a table of the spectra of the weights in a checkpoint.",
  )
  parser.add_argument(
    "checkpoint", help="a .npz or .safetensors file, or a folder of orbax"
  )
  parser.add_argument(
    "--stacked",
    help="a regular expression that matches the names of leaves with stacked"
    " layers, such as blocks",
  )
  args = parser.parse_args(arguments)
  _progress(f"Reading {args.checkpoint}")
  params = weights.read(args.checkpoint)
  found = weights.examine(params, None, args.stacked or True, _progress)
  _progress("")
  print(weights.table(found))
  print(
    "alpha, KS: WeightWatcher's fit. untrained: PL_Alpha_Hill of an untrained"
    " matrix. ratio: tail index over that of an untrained matrix."
  )


def _log(arguments: Sequence[str]) -> None:
  """Writes a page on a log."""
  parser = _Parser(
    prog="python -m htga_optax.diagnostics",
    description="Writes an HTML page on the tails of a run, from its log.",
    epilog="With `weights CHECKPOINT`: a table of the spectra of the weights.",
  )
  parser.add_argument(
    "log",
    help="a text table, JSON, a TensorBoard event file, or a folder of event"
    " files",
  )
  parser.add_argument(
    "-o", "--output", default="report.html", help="the HTML page to write"
  )
  parser.add_argument(
    "--column",
    help="the column to examine, of norms or of signed values; by default the"
    f" first of {', '.join(verdicts.NORMS)} in the log",
  )
  parser.add_argument(
    "--window",
    type=int,
    default=verdicts.WINDOW,
    help="how many of the last values to examine (default: %(default)s)",
  )
  args = parser.parse_args(arguments)
  output = pathlib.Path(args.output)
  if output.exists() and os.path.samefile(args.log, output):
    raise ValueError(
      f"{output} is the log itself; choose another output with -o."
    )
  _progress(f"Reading {args.log}")
  columns = logs.read(args.log)
  title = pathlib.Path(args.log).name
  page = diagnostics.report(columns, title, args.column, args.window, _progress)
  output.write_text(page, "utf-8")
  _progress("")
  found = page.split('<div id="verdict">')[1].split("</div>")[0]
  for line in found.strip().splitlines():
    print(html.unescape(line.removeprefix("<p>").removesuffix("</p>")))
  print(f"Page: {output}")


def _progress(what: str) -> None:
  """Shows the current task on a terminal, in a line that the next replaces."""
  if sys.stderr.isatty():
    print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
  main()
