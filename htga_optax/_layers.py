"""The layers of a tree: what a per-layer value belongs to.

A per-layer value is one vector [layers], in the order of the leaves of the
tree. A leaf is one layer, unless `per_layer` is a regular expression that
matches the leaf's path: such a leaf holds L layers, stacked along its first
axis as `jax.lax.scan` and `flax.linen.scan` stack them, and counts as L.
"""

from collections.abc import Iterator
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr
import numpy as np

# False: one value for the whole tree. True: one for every leaf. A regular
# expression: as True, and leaves whose path it matches are stacked layers.
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
  """The path of a leaf as "dense/kernel"."""
  # The variables of flax.nnx end every path in ".value".
  keys = [key for key in path if key != GetAttrKey("value")]
  return "/".join(keystr((key,), simple=True) for key in keys)


def is_floating(leaf: Any) -> bool:
  """Whether a leaf is one of real or complex floating-point numbers."""
  if hasattr(leaf, "dtype"):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
  return isinstance(leaf, (float, complex))


def layers_of(tree: Any, per_layer: PerLayer) -> Iterator[tuple[str, int]]:
  """The name of every leaf, and how many layers it stacks; 0 if it is one.

  Leaves that are not floating point have no gradient, and are no layers.
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
    per_layer: the argument that the transformation got: True, or the regular
      expression that tells which leaves hold stacked layers.

  Returns:
    The paths of the leaves, as "dense/kernel". A leaf of stacked layers has a
    name for each: "blocks/kernel/0", "blocks/kernel/1", ...

  Raises:
    TypeError: `per_layer` is neither a bool nor a string.
    ValueError: it is no regular expression, or it matches a leaf without axes.

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
  """Raises ValueError unless updates have the layers that `init` saw."""
  names = layer_names(updates, per_layer)
  if len(names) == in_state:
    return
  frozen = set(layer_names(params, per_layer)) - set(names)
  without = ", ".join(map(repr, sorted(frozen)))
  raise ValueError(
    f"{name} has a state of {in_state} layers but the updates have"
    f" {len(names)} ({', '.join(names)})"
    + (f", none for {without}" if frozen else "")
    + ": init it with a tree like the updates, None where they are None."
  )


def by_layer(
  values: Any, params: Any, per_layer: PerLayer = True
) -> dict[str, Any]:
  """Pairs a per-layer value with the names of the layers.

  Args:
    values: one value a layer, [layers, ...], as a reading of a transformation
      with `per_layer`.
    params: the parameters, or any tree of their structure.
    per_layer: as in :func:`layer_names`.

  Returns:
    name -> value [...].

  Raises:
    ValueError: the numbers of values and of layers differ.

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
