"""Examines a log or the weights of a model, from the command line."""

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
  """Runs the command line.

  A failure prints one line of text and exits with status 1.

  Args:
    arguments: the arguments of the command; those of the process if None.
  """
  arguments = sys.argv[1:] if arguments is None else arguments
  if arguments[:1] == ["weights"]:
    _weights(arguments[1:])
    return
  parser = _Parser(
    prog="python -m htga_optax.diagnostics",
    description="Writes an HTML page on the tails of a run, from its log. For"
    " the weights of a model: python -m htga_optax.diagnostics weights --help",
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
  try:
    if output.exists() and os.path.samefile(args.log, output):
      raise ValueError(
        f"{output} is the log itself; choose another output with -o."
      )
    _progress(f"Reading {args.log}")
    columns = logs.read(args.log)
    title = pathlib.Path(args.log).name
    page = diagnostics.report(
      columns, title, args.column, args.window, _progress
    )
    output.write_text(page, "utf-8")
    _progress("")
    found = page.split('<div id="verdict">')[1].split("</div>")[0]
    for line in found.strip().splitlines():
      print(html.unescape(line.removeprefix("<p>").removesuffix("</p>")))
    print(f"Page: {output}")
  except (ValueError, OSError, ImportError) as error:
    _progress("")
    sys.exit(f"diagnostics: {str(error).splitlines()[0]}")


def _weights(arguments: Sequence[str]) -> None:
  """Prints a line for each matrix of a checkpoint, and draws their spectra."""
  parser = _Parser(
    prog="python -m htga_optax.diagnostics weights",
    description="Prints the tail index of the spectrum of every weight matrix:"
    " PL_Alpha_Hill, that of an untrained matrix of the shape, the index over"
    " that of the untrained one (1 if untrained, smaller if heavier), and the"
    " fit above the best threshold, the method of WeightWatcher.",
  )
  parser.add_argument(
    "checkpoint", help="an .npz file, a .safetensors file, or a folder of orbax"
  )
  parser.add_argument("-o", "--output", help="a .png file for the spectra")
  parser.add_argument(
    "--smallest",
    type=int,
    default=50,
    help="the least rows and columns of a matrix (default: %(default)s)",
  )
  args = parser.parse_args(arguments)
  try:
    _progress(f"Reading {args.checkpoint}")
    params = weights.read(args.checkpoint)
    _progress("Decomposing the matrices")
    found = weights.examine(params, args.smallest)
    _progress("")
    if not found:
      raise ValueError(
        f"{args.checkpoint} has no matrix with {args.smallest} rows and"
        f" columns; it has {len(params)} arrays."
      )
    print(weights.table(found))
    if args.output:
      weights.picture(found).savefig(args.output)
      print(f"Picture: {args.output}")
  except (TypeError, ValueError, OSError, ImportError) as error:
    _progress("")
    sys.exit(f"diagnostics: {str(error).splitlines()[0]}")


def _progress(what: str) -> None:
  """Shows the current task on a terminal, in a line that the next replaces."""
  if sys.stderr.isatty():
    print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
  main()
