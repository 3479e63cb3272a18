"""Examines the spectra of the weights of a model that is already trained.

From the command line, for a checkpoint::

    python -m htga_optax.diagnostics weights CHECKPOINT

From Python, for parameters in memory::

    print(weights.table(weights.examine(params)))
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from htga_optax import spectra
from htga_optax._layers import is_floating, layer_names
from htga_optax._tracking._weights import matrices_of
from htga_optax.diagnostics import _optional

# WeightWatcher leaves out smaller eigenvalues.
SMALLEST = 1e-5
_SAFETENSORS = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
}


class Matrix(NamedTuple):
  """The spectrum of one weight matrix.

  Attributes:
    name: the name of the layer.
    shape: rows and columns.
    eigenvalues: of W'W, ascending, float64 [min(rows, columns)].
    fit: the power law of WeightWatcher for the eigenvalues above `SMALLEST`, by
      :func:`htga_optax.spectra.power_law_fit`.
    pl_alpha_hill: the exponent of :func:`htga_optax.spectra.pl_alpha_hill`; nan
      if there is none.
    null_alpha: `pl_alpha_hill` of an untrained matrix of this shape.
    tail_ratio: (pl_alpha_hill - 1)/(null_alpha - 1); 1 for an untrained matrix.
  """

  name: str
  shape: tuple[int, int]
  eigenvalues: np.ndarray
  fit: spectra.PowerLawFit
  pl_alpha_hill: float
  null_alpha: float
  tail_ratio: float


def examine(
  params: Any,
  rows: Callable[[str, tuple[int, ...]], int | None] | None = None,
  per_layer: bool | str = True,
  progress: Callable[[str], object] = lambda what: None,
) -> list[Matrix]:
  """Computes the spectrum of every weight matrix, in float64 on the host.

  Args:
    params: the parameters, a tree of arrays.
    rows: which leaves are matrices, as in
      :func:`htga_optax.track_weight_tail_index`.
    per_layer: which leaves hold stacked layers, likewise.
    progress: a function that is called with a few words before each matrix.

  Returns:
    The matrices in the order of the leaves.

  Raises:
    ValueError: no leaf is a matrix, or as in that function.

  Examples:
    >>> import numpy as np
    >>> from htga_optax.diagnostics import weights
    >>> w = np.random.default_rng(0).standard_normal((256, 64))
    >>> (found,) = weights.examine({"kernel": w, "bias": np.zeros(64)})
    >>> print(found.name, found.shape, f"{found.tail_ratio:.1f}")
    kernel (256, 64) 1.1
  """
  rows = spectra.kernel_rows if rows is None else rows
  leaves = [x for x in jax.tree.leaves(params) if is_floating(x)]
  names = layer_names(params, per_layer)
  found = []
  for m in matrices_of(params, rows, per_layer):
    stack = np.reshape(np.asarray(leaves[m.leaf]), (-1, *m.shape))
    for layer, w in zip(m.layers, stack):
      progress(
        f"Singular values of {names[layer]}, {m.shape[0]} x {m.shape[1]}"
      )
      found.append(_examine(names[layer], w))
  if not found:
    raise ValueError(
      f"none of the {len(leaves)} leaves is a matrix with at least"
      f" {spectra.FEWEST} eigenvalues ({', '.join(names[:8])}, ...)."
    )
  return found


def _examine(name: str, w: np.ndarray) -> Matrix:
  wide = w.astype(np.complex128 if np.iscomplexobj(w) else np.float64)
  x = np.full(min(w.shape), np.nan)
  if np.all(np.isfinite(wide)):
    x = np.linalg.svd(wide, compute_uv=False)[::-1] ** 2
  # An eigenvalue below float32's rounding is 0, as in `spectra.eigenvalues`.
  smallest = 2 * max(w.shape) ** 0.5 * float(np.finfo(np.float32).eps) * x[-1]
  alpha = float(spectra.pl_alpha_hill(np.where(x < smallest, 0.0, x)))
  null = spectra.null_alpha(*w.shape)
  fitted = x[x > SMALLEST]
  return Matrix(
    name,
    (w.shape[0], w.shape[1]),
    x,
    spectra.power_law_fit(fitted if fitted.size else np.zeros(1)),
    alpha,
    null,
    (alpha - 1) / (null - 1),
  )


def table(matrices: Sequence[Matrix]) -> str:
  """Writes the numbers of matrices as a text table, a line for each.

  Args:
    matrices: the result of :func:`examine`.

  Returns:
    The table. Its columns are the layer, its shape, WeightWatcher's alpha with
    the distance of Kolmogorov and Smirnov and the number of eigenvalues that it
    fits, PL_Alpha_Hill, that of an untrained matrix, and the ratio of the tail
    indices. "-" means that there is no estimate.
  """
  heads = ["layer", "shape", "alpha", "KS", "fitted", "PL_Alpha_Hill"]
  lines = [[*heads, "untrained", "ratio"]]
  for m in matrices:
    numbers = m.fit.alpha, m.fit.distance, m.pl_alpha_hill, m.null_alpha
    alpha, distance, hill, null = map(_number, numbers)
    shape, size = f"{m.shape[0]} x {m.shape[1]}", f"{int(m.fit.size)}"
    ratio = _number(m.tail_ratio)
    lines.append([m.name, shape, alpha, distance, size, hill, null, ratio])
  widths = [max(map(len, column)) for column in zip(*lines)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in lines
  )


def _number(x: Any) -> str:
  return f"{float(x):.2f}" if math.isfinite(x) else "-"


def read(path: str | pathlib.Path) -> Any:
  """Reads the parameters of a checkpoint.

  Args:
    path: a file of `numpy.savez` (.npz), a .safetensors file, or the folder of
      a checkpoint of orbax.

  Returns:
    The parameters, a tree of arrays. Tensors of a .safetensors file in 8-bit
    formats are left out.

  Raises:
    ImportError: orbax is missing.
    ValueError: the file has another format, or is incomplete.
    OSError: the file is missing.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    ocp = _optional.load("orbax.checkpoint", "examples")
    return ocp.PyTreeCheckpointer().restore(path.resolve())
  if path.suffix == ".npz":
    try:
      with np.load(path) as arrays:
        return dict(arrays)
    except (ValueError, zipfile.BadZipFile) as error:
      raise ValueError(f"{path} is no file of arrays: {error}") from error
  if path.suffix == ".safetensors":
    return _read_safetensors(path)
  raise ValueError(
    f"{path} must be a .npz or .safetensors file, or a folder of orbax."
  )


def _read_safetensors(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """The tensors by name. A header in JSON has their places in the file."""
  try:
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start > data.size:
      raise ValueError(f"its header of {start} bytes is incomplete")
    header = json.loads(data[8:start].tobytes())
    tensors = {}
    for name, entry in header.items():
      dtype = _SAFETENSORS.get(entry.get("dtype"))
      if dtype is not None:
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        tensors[name] = raw.view(dtype).reshape(entry["shape"])
    return tensors
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise ValueError(f"{path} is no safetensors file: {error}") from error
