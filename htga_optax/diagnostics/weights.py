"""Examines the spectra of the weights of a model that is already trained.

    python -m htga_optax.diagnostics weights CHECKPOINT

CHECKPOINT is an .npz or .safetensors file, or a folder of orbax. From Python,
`examine` takes any tree of parameters.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from htga_optax import spectra
from htga_optax._layers import is_floating, leaf_name
from htga_optax.diagnostics import _optional, plots


class Spectrum(NamedTuple):
  """The spectrum of a weight matrix.

  Attributes:
    name: the path of the parameter.
    rows, columns: the shape as a matrix.
    eigenvalues: the squared singular values, ascending.
    alpha: PL_Alpha_Hill, a density exponent; 0 if there is none.
    null: that of an untrained matrix of this shape.
    relative: (alpha - 1)/(null - 1); below 1 for a heavier spectrum.
    power_law: the fit above the best threshold, the method of WeightWatcher.
  """

  name: str
  rows: int
  columns: int
  eigenvalues: np.ndarray
  alpha: float
  null: float
  relative: float
  power_law: spectra.PowerLaw


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of a checkpoint.

  Args:
    path: an .npz file, a .safetensors file, or a folder of orbax.

  Returns:
    The arrays by name.

  Raises:
    ImportError: safetensors or orbax is missing.
    OSError: the file cannot be read.
    ValueError: the file has another format, or is broken.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    orbax = _optional.load("orbax.checkpoint", "examples")
    try:
      tree = orbax.PyTreeCheckpointer().restore(path.absolute())
    except Exception as error:  # orbax raises many kinds
      raise ValueError(f"{path} is no folder of orbax: {error}") from error
    return dict(_named(tree))
  if path.suffix == ".safetensors":
    safetensors = _optional.load("safetensors.flax", "diagnostics")
    return {k: np.asarray(v) for k, v in safetensors.load_file(path).items()}
  if path.suffix != ".npz":
    raise ValueError(
      f"{path} is not an .npz file, a .safetensors file, or a folder of orbax."
    )
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except (zipfile.BadZipFile, EOFError, ValueError) as error:
    raise ValueError(f"{path} is broken: {error}") from error


def examine(params: Any, smallest: int = 50) -> list[Spectrum]:
  """Examines every matrix of a tree of parameters.

  Args:
    params: a tree of arrays.
    smallest: the smallest number of rows and of columns of a matrix, as in
      :func:`htga_optax.spectra.matrix_shape`.

  Returns:
    A spectrum of each matrix, in the order of the leaves.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import weights
    >>> rng = np.random.default_rng(0)
    >>> params = {"dense": rng.standard_normal((400, 400)),
    ...           "bias": np.ones(400)}
    >>> (found,) = weights.examine(params)
    >>> print(f"{found.name}: {found.alpha:.1f}, untrained {found.null:.1f}")
    dense: 2.1, untrained 2.1
  """
  found = []
  for name, x in _named(params):
    rows, columns = spectra.matrix_shape(np.shape(x), smallest)
    if not rows or not is_floating(x) or jnp.iscomplexobj(x):
      continue
    values = spectra.eigenvalues(np.reshape(x, (rows, columns)))
    alpha = float(spectra.alpha_hill(values))
    null = spectra.null_alpha_hill(rows, columns)
    found.append(
      Spectrum(
        name,
        rows,
        columns,
        np.asarray(values),
        alpha,
        null,
        (alpha - 1) / (null - 1) if alpha else 0.0,
        jax.tree.map(float, spectra.power_law(values)),
      )
    )
  return found


def table(found: list[Spectrum]) -> str:
  """The spectra as text, a line for each matrix."""
  heads = ("layer", "matrix", "alpha", "untrained", "relative", "best fit")
  lines = [
    (
      s.name,
      f"{s.rows} x {s.columns}",
      _number(s.alpha),
      f"{s.null:.2f}",
      _number(s.relative),
      _number(float(s.power_law.alpha)),
    )
    for s in found
  ]
  widths = [max(map(len, column)) for column in zip(heads, *lines)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in (heads, *lines)
  )


def picture(found: list[Spectrum], most: int = 12) -> Any:
  """Draws the spectra of the largest matrices in one figure.

  Args:
    found: the result of :func:`examine`.
    most: the largest number of panels.

  Returns:
    The matplotlib figure.
  """
  largest = sorted(found, key=lambda s: -s.eigenvalues.size)[:most]
  names = {s.name for s in largest}
  shown = [s for s in found if s.name in names and s.alpha > 0]
  if not shown:
    raise ValueError("no matrix has a spectrum to draw.")
  columns = min(3, len(shown))
  axes = plots.panels(-(-len(shown) // columns), columns)
  for ax, s in zip(axes.flat, shown):
    plots.spectrum(s.eigenvalues, s.rows, s.columns, ax)
    ax.set_title(f"{s.name}, {s.rows} x {s.columns}")
  for ax in axes.flat[len(shown) :]:
    ax.set_visible(False)
  return axes.flat[0].figure


def _number(x: float) -> str:
  return f"{x:.2f}" if x else "-"


def _named(tree: Any) -> list[tuple[str, Any]]:
  """The names and the arrays of a tree."""
  if isinstance(tree, Mapping) and all(np.ndim(x) for x in tree.values()):
    return list(tree.items())
  return [(leaf_name(path), x) for path, x in jax.tree.leaves_with_path(tree)]
