"""The style of the examples' pictures: a method looks the same in all of them.

    axes = pictures.panels(1, 2, height=3.5)
    axes[0, 0].plot(x, y, **pictures.LOOKS["SGD"].line)
    pictures.save(path, axes, ["loss", "norm"], "title", handles)

The colours and the axes are those of `htga_optax.diagnostics.plots`. Methods
also differ in their dashes and markers, for print without colour.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.lines import Line2D

from htga_optax.diagnostics import plots

PIXELS = 1100  # the width of a picture
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = plots.COLORS
SOLID, DASHED, DOTTED, DASH_DOT = plots.DASHES
DASH_DOT_DOT = 0, (3, 1, 1.2, 1, 1.2, 1)
TARGET = {"color": "black", "lw": 1, "ls": ":"}  # a value to compare with


class Look(NamedTuple):
  """The look of a method: colour, dashes of its lines, marker of its points."""

  color: str
  dashes: Any
  marker: str

  @property
  def line(self) -> dict[str, Any]:
    """Arguments of `plot` for a line."""
    return {"color": self.color, "linestyle": self.dashes}

  @property
  def points(self) -> dict[str, Any]:
    """Arguments of `plot` for points."""
    return {"color": self.color, "linestyle": "", "marker": self.marker}


# SGD is black, Gaussian noise light blue, heavy-tailed noise orange, truncated
# heavy-tailed noise blue, clipping green, and HTGA vermilion.
LOOKS = {
  "SGD": Look("black", SOLID, "o"),
  "SGD, B = 1": Look("black", SOLID, "o"),
  "SGD, B = 4": Look("0.4", DASHED, "^"),
  "SGD, B = 16": Look("0.6", DOTTED, "v"),
  "no noise": Look("black", SOLID, "o"),
  "LB": Look(SKY, DASH_DOT, "s"),
  "SB": Look("black", DASHED, "o"),
  "hSGD": Look(PURPLE, SOLID, "s"),
  "AdamW": Look(PURPLE, DASH_DOT, "s"),
  "SGD+clip": Look(GREEN, DOTTED, "D"),
  "SB+Clip": Look(GREEN, DASH_DOT_DOT, "D"),
  "HTGA": Look(VERMILION, SOLID, "v"),
  "Gaussian": Look(SKY, DOTTED, "s"),
  "heavy": Look(ORANGE, DASHED, "X"),
  "SB+Noise": Look(ORANGE, DOTTED, "X"),
  "heavy, truncated": Look(BLUE, SOLID, "^"),
  "Our 1": Look(BLUE, SOLID, "^"),
  "Our 2": Look(VERMILION, SOLID, "v"),
  # Alpha-stable noise: alpha fixed, annealed, or steered by the sharpness.
  "fixed 1.5": Look(ORANGE, SOLID, "^"),
  "annealed": Look(GREEN, DASHED, "v"),
  "rising": Look(VERMILION, DASHED, "D"),
  "truncated": Look(BLUE, SOLID, "*"),
  "falling": Look("0.5", DASH_DOT, "P"),
  "growth": Look(PURPLE, DOTTED, "X"),
  # Of a landscape.
  "sharp minimum": Look(VERMILION, SOLID, "v"),
  "wide minimum": Look(GREEN, SOLID, "o"),
}


def looks(*names: str) -> dict[str, Look]:
  """The looks of some methods."""
  return {name: LOOKS[name] for name in names}


def lines(some: Mapping[str, Look], markers: bool = False) -> list[Line2D]:
  """The entries of a legend: the line of each method, maybe with its marker."""
  return [
    Line2D([], [], label=name, marker=look.marker * markers, **look.line)
    for name, look in some.items()
  ]


def panels(
  rows: int, columns: int, height: float, width: float = 8.0, **shared: Any
) -> Any:
  """The axes of a new picture; height and width of it are in inches."""
  return plots.panels(rows, columns, width / columns, height, **shared)


def save(
  path: Path,
  axes: Any,
  headings: Sequence[str],
  title: str,
  handles: Iterable[Any],
  columns: int,
) -> None:
  """Writes a picture.

  Args:
    path: the .png file.
    axes: those of `panels`.
    headings: of the panels. A letter goes before each: (a), (b), ...
    title: of the picture.
    handles: the entries of the legend below the panels.
    columns: of the legend.
  """
  for letter, ax, heading in zip("abcdefghi", axes.flat, headings):
    text = f"({letter}) {heading}"
    ax.set_title(text, loc="left", fontsize="medium")
  figure = axes.flat[0].figure
  figure.suptitle(title)
  figure.legend(handles=handles, loc="outside lower center", ncols=columns)
  figure.savefig(path, dpi=PIXELS / figure.get_figwidth())
