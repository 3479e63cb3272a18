"""The command line: it reads a log and writes a page of HTML."""

import argparse
from collections.abc import Sequence
import html
import os
import pathlib
import sys
from typing import NoReturn

from htga_optax import diagnostics
from htga_optax.diagnostics import logs, verdicts


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    sys.exit(f"diagnostics: {message}")


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command line.

  Every failure ends it with one line of text and the exit status 1.

  Args:
    arguments: those of the command; of the process if None.
  """
  parser = _Parser(
    prog="python -m htga_optax.diagnostics",
    description="A page on the tails of a run, from its log.",
  )
  parser.add_argument(
    "log", help="table of text, JSON, event file of TensorBoard, or its folder"
  )
  parser.add_argument("-o", "--output", default="report.html")
  parser.add_argument(
    "--column",
    help=f"of norms, or signed; else one of {', '.join(verdicts.NORMS)}",
  )
  parser.add_argument(
    "--window",
    type=int,
    default=verdicts.WINDOW,
    help="last values for the verdict",
  )
  args = parser.parse_args(arguments)
  output = pathlib.Path(args.output)
  try:
    if output.exists() and os.path.samefile(args.log, output):
      raise ValueError(f"{output} is the log: name another page with -o.")
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


def _progress(what: str) -> None:
  """Says on a terminal what is being done, in a line that the next replaces."""
  if sys.stderr.isatty():
    print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
  main()
