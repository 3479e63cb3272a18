"""Puts the folders of the benchmarks and of the examples on the path."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
for folder in (HERE, HERE.parent, HERE.parents[1] / "examples"):
  if str(folder) not in sys.path:
    sys.path.append(str(folder))
