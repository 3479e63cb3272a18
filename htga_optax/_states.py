"""Turns states that have become mappings back into named tuples.

A checkpoint that is read without a template contains mappings in place of named
tuples, and so do the results of `flax.serialization.to_state_dict` and
`flax.nnx.state`. The set of the fields identifies the named tuple.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax

_State = TypeVar("_State", bound=type)
_BY_FIELDS: dict[frozenset[str], Any] = {}


def known_state(cls: _State) -> _State:
  """Registers a named tuple; no two may have the same fields."""
  _BY_FIELDS[frozenset(cls._fields)] = cls
  return cls


def typed(tree: Any) -> Any:
  """Replaces mappings that have the fields of a registered state."""

  def is_state(node):
    return isinstance(node, Mapping) and frozenset(node) in _BY_FIELDS

  def state(node):
    if not is_state(node):
      return node
    cls = _BY_FIELDS[frozenset(node)]
    return cls(**{name: typed(node[name]) for name in cls._fields})

  return jax.tree.map(state, tree, is_leaf=is_state)
