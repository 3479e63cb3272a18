"""Tells which leaves of the parameters are matrices."""

import math

FEWEST = 50  # fewer eigenvalues are not measured by default


def kernel_rows(name: str, shape: tuple[int, ...]) -> int | None:
  """Tells how a leaf of parameters is a matrix, by its name and shape.

  This is the default of :func:`htga_optax.track_weight_tail_index`. A leaf is
  reshaped to a matrix: its first axes are the rows, the others the columns. The
  layout is that of Flax and Haiku, or of Equinox and PyTorch for a name that
  ends in "weight":

  - dense kernels [in, out] are matrices;
  - convolutions [h, w, in, out] are matrices (h w in) x out, and a "weight"
    [out, in, h, w] is out x (in h w). (WeightWatcher and TempBalance use h w
    matrices in x out and pool their eigenvalues.)
  - projections of attention to heads, `query/kernel`, `key/kernel` and
    `value/kernel` of three axes [in, heads, width], are in x (heads width);
    other layouts of heads need a function of your own;
  - vectors, embeddings (a name with "embed") and matrices with fewer than
    `FEWEST` = 50 eigenvalues are left out, as AlphaDecay and LLR do.

  Args:
    name: the path of the leaf, as in :func:`htga_optax.layer_names`.
    shape: its shape, without the axis of stacked layers.

  Returns:
    The number of axes that are rows; None if the leaf is left out.

  Examples:
    >>> from htga_optax import spectra
    >>> print(spectra.kernel_rows("conv/kernel", (3, 3, 64, 128)))
    3
    >>> print(spectra.kernel_rows("attention/query/kernel", (512, 8, 64)))
    1
    >>> print(spectra.kernel_rows("token_embedder/embedding", (5000, 512)))
    None
  """
  name = name.removesuffix("/value")  # of a flax.nnx state as dicts
  heads = ("query/kernel", "key/kernel", "value/kernel")
  if len(shape) < 2 or "embed" in name.lower():
    return None
  is_head = len(shape) == 3 and name.endswith(heads)
  rows = 1 if is_head or name.endswith("weight") else len(shape) - 1
  sizes = math.prod(shape[:rows]), math.prod(shape[rows:])
  return rows if min(sizes) >= FEWEST else None
