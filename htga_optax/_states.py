"""States that are known by their fields, where they come back as dicts.

A checkpoint that is read without a template, `flax.serialization.to_state_dict`
and `flax.nnx.state` turn named tuples into mappings.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax

_State = TypeVar("_State", bound=type)
_BY_FIELDS: dict[frozenset[str], Any] = {}


def known_state(cls: _State) -> _State:
  """Makes a named tuple known; no two have the same fields."""
  _BY_FIELDS[frozenset(cls._fields)] = cls
  return cls


def typed(tree: Any) -> Any:
  """The tree, with known states for mappings that have their fields."""

  def is_state(node):
    return isinstance(node, Mapping) and frozenset(node) in _BY_FIELDS

  def state(node):
    if not is_state(node):
      return node
    cls = _BY_FIELDS[frozenset(node)]
    return cls(**{name: typed(node[name]) for name in cls._fields})

  return jax.tree.map(state, tree, is_leaf=is_state)
