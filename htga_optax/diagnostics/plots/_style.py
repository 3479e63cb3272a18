"""Defines the style that all pictures share."""

from typing import Any

from htga_optax.diagnostics import _optional

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
DATA = {"color": "black", "ls": "", "marker": "o", "ms": 3}


def panels(
  rows: int = 1,
  columns: int = 1,
  size: float = 4.5,
  height: float | None = None,
  **shared: Any,
) -> Any:
  """Makes the axes of a new figure, in the style of all pictures.

  Args:
    rows: the number of rows of axes.
    columns: the number of columns of axes.
    size: the width of each axes, in inches.
    height: the height of the figure, in inches; None for 3/4 of `size` in each
      row.
    **shared: `sharex` and `sharey`, passed to
      `matplotlib.figure.Figure.subplots`.

  Returns:
    An array of axes, [rows, columns]; `panels(...)[0, 0].figure` is the figure.

  Raises:
    ImportError: matplotlib is missing.
  """
  figures = _optional.load("matplotlib.figure")
  figure = figures.Figure(
    figsize=(size * columns, height or 0.75 * size * rows),
    layout="constrained",
  )
  made = figure.subplots(rows, columns, squeeze=False, **shared)
  for ax in made.flat:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.tick_params(which="minor", labelsize="x-small")
  return made


def line(i: int) -> dict[str, Any]:
  """The colour and the dashes of the i-th line."""
  return {"color": COLORS[i % len(COLORS)], "ls": DASHES[i % len(DASHES)]}


def label(name: str, unit: str) -> str:
  """The label of an axis: its name, with the unit if there is one."""
  return f"{name} ({unit})" if unit else name


def legend(ax: Any) -> Any:
  """Draws the legend, and returns the axes."""
  ax.legend(fontsize="small", framealpha=0.8, edgecolor="none")
  return ax
