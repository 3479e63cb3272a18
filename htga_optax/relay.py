"""The one combinator: what is measured in one place of a chain steers another.

    relay(t_1, ..., t_n):   u_i, s_i' = t_i.update(u_(i-1), s_i, params, **e_i)
                            e_(i+1)   = e_i | s_i'.readings()

It is `optax.chain`, but for the second line.
"""

from typing import Any, NamedTuple

import optax

from htga_optax import checks


class RelayState(NamedTuple):
  """The states of a relay's members.

  Attributes:
    members: one state per member.
  """

  members: tuple[Any, ...]

  def readings(self) -> dict[str, Any]:
    """What the members read; of two readings of a name the later one."""
    merged = {}
    for state in self.members:
      merged |= _readings(state)
    return merged


def relay(
  *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Chains transformations, and hands on what trackers read.

  After each member's update, if its new state offers `readings()`, they are
  given to every later member as extra arguments (`tail_index=...`). One
  tracker feeds several listeners; any optax transformation fits in unchanged;
  a relay offers what its members offer, so relays nest. Of two readings of a
  name, or a reading and an argument of the caller's, the later one counts.

  A tracker inside a wrapper (`optax.masked`, `optax.MultiSteps`) is not heard
  outside of it: wrap the relay instead.

  Args:
    *transforms: the members, in order.

  Returns:
    The transformation. Its state is a :class:`RelayState`.

  Raises:
    TypeError: a member is not a gradient transformation.
    ValueError: the state has another number of members.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import amplify, ratio_exponent, relay, track_tail_index
    >>> tx = relay(
    ...     track_tail_index(window_size=256, k=16),
    ...     amplify(ratio_exponent(target=2.0)),
    ...     optax.sgd(0.1, momentum=0.9),
    ... )
    >>> params = {"w": jnp.ones(3)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.ones(3)}, state, params)
    >>> print(updates["w"], optax.tree.get(state, "tail_index"))
    [-0.1 -0.1 -0.1] 0.0
  """
  for transform in transforms:
    checks.check_transformation("relay", transform)
  members = [optax.with_extra_args_support(t) for t in transforms]

  def init_fn(params):
    return RelayState(tuple(member.init(params) for member in members))

  def update_fn(updates, state, params=None, **extra_args):
    if len(state.members) != len(members):
      raise ValueError(
        f"relay has {len(members)} members but the state has"
        f" {len(state.members)}: was it made by another relay?"
      )
    states = []
    for member, old in zip(members, state.members):
      updates, new = member.update(updates, old, params, **extra_args)
      extra_args |= _readings(new)
      states.append(new)
    return updates, RelayState(tuple(states))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _readings(state: Any) -> dict[str, Any]:
  offers = getattr(state, "readings", dict)
  return offers()
