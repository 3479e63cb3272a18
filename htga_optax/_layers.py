"""Finds the layers of a tree, and their names.

A per-layer value is one vector [layers], in the order of the leaves of the
tree. A leaf is one layer, unless `per_layer` is a regular expression that
matches the path of the leaf. A leaf that matches holds several layers, stacked
along its first axis as by `jax.lax.scan` and `flax.linen.scan`.
"""

from collections.abc import Iterator
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr
import numpy as np

# False: one value for the whole tree. True: one value per leaf. A regular
# expression: the same, but leaves whose path it matches are stacked layers.
PerLayer = bool | str


def check_per_layer(per_layer: object) -> None:
  """Raises unless the argument is a bool or a regular expression."""
  if isinstance(per_layer, str):
    try:
      re.compile(per_layer)
    except re.error as error:
      raise ValueError(
        f"per_layer must be a regular expression, got {per_layer!r}: {error}."
      ) from error
  elif not isinstance(per_layer, (bool, np.bool_)):
    raise TypeError(
      "per_layer must be True, False or a regular expression that matches the"
      f" paths of stacked layers, got {per_layer!r}."
    )


def leaf_name(path: tuple[Any, ...]) -> str:
  """The path of a leaf, for example "dense/kernel"."""
  # In a state of flax.nnx, every path ends in ".value".
  keys = [key for key in path if key != GetAttrKey("value")]
  return "/".join(keystr((key,), simple=True) for key in keys)


def is_floating(leaf: Any) -> bool:
  """Whether a leaf holds real or complex floating-point numbers."""
  if hasattr(leaf, "dtype"):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
  return isinstance(leaf, (float, complex))


def layers_of(tree: Any, per_layer: PerLayer) -> Iterator[tuple[str, int]]:
  """Yields the name of every leaf and the number of layers stacked in it.

  The number is 0 for a leaf that is a single layer. Leaves that are not
  floating point have no gradient and are left out.
  """
  for path, leaf in jax.tree.leaves_with_path(tree):
    if not is_floating(leaf):
      continue
    name, shape = leaf_name(path), np.shape(leaf)
    is_stacked = isinstance(per_layer, str) and re.search(per_layer, name)
    if is_stacked and not shape:
      raise ValueError(
        f"per_layer={per_layer!r} matches {name!r}, which is a number and"
        " cannot hold stacked layers."
      )
    yield name, shape[0] if is_stacked else 0


def layer_names(params: Any, per_layer: PerLayer = True) -> list[str]:
  """The names of the layers, in the order of every per-layer value.

  Args:
    params: the parameters, or any tree of their structure.
    per_layer: the argument that was passed to the transformation. It is True,
      or a regular expression that matches the leaves with stacked layers.

  Returns:
    The paths of the leaves, for example "dense/kernel". A leaf of stacked
    layers has one name per layer: "blocks/kernel/0", "blocks/kernel/1", ...

  Raises:
    TypeError: `per_layer` is neither a bool nor a string.
    ValueError: `per_layer` is not a valid regular expression, or it matches a
      leaf without axes.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import layer_names
    >>> params = {"blocks": jnp.ones([2, 3]), "head": {"bias": jnp.ones(4)}}
    >>> layer_names(params)
    ['blocks', 'head/bias']
    >>> layer_names(params, per_layer="blocks")
    ['blocks/0', 'blocks/1', 'head/bias']
  """
  check_per_layer(per_layer)
  names = []
  for name, size in layers_of(params, per_layer):
    names += [f"{name}/{i}" for i in range(size)] if size else [name]
  return names


def check_same_layers(
  name: str, in_state: int, updates: Any, params: Any, per_layer: PerLayer
) -> None:
  """Raises ValueError unless the updates have as many layers as the state."""
  names = layer_names(updates, per_layer)
  if len(names) == in_state:
    return
  frozen = set(layer_names(params, per_layer)) - set(names)
  without = ", ".join(map(repr, sorted(frozen)))
  raise ValueError(
    f"{name} has a state of {in_state} layers, but the updates have"
    f" {len(names)} ({', '.join(names)})"
    + (f" and lack {without}" if frozen else "")
    + ": call init with a tree like the updates, with None in the same places."
  )


def by_layer(
  values: Any, params: Any, per_layer: PerLayer = True
) -> dict[str, Any]:
  """Pairs a per-layer value with the names of the layers.

  Args:
    values: one value per layer, [layers, ...], such as a reading of a
      transformation with `per_layer`.
    params: the parameters, or any tree of their structure.
    per_layer: as in :func:`layer_names`.

  Returns:
    A dictionary from the name of each layer to its value [...].

  Raises:
    ValueError: the number of values is not the number of layers.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import by_layer, track_tail_index
    >>> params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    >>> state = track_tail_index(per_layer=True).init(params)
    >>> {k: float(v) for k, v in by_layer(state.tail_index, params).items()}
    {'a': 0.0, 'b': 0.0}
  """
  names = layer_names(params, per_layer)
  if np.shape(values)[:1] != (len(names),):
    raise ValueError(
      f"values must have one entry for each of the {len(names)} layers, got"
      f" shape {np.shape(values)}."
    )
  return {name: values[i] for i, name in enumerate(names)}
