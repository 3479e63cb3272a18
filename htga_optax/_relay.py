"""Chains transformations, and passes measurements to later members.

In a relay of t_1, ..., t_n, member i gets the updates u_(i-1) and the extra
arguments e_i, and has the state s_i::

    u_i, s_i' = t_i.update(u_(i-1), s_i, params, **e_i)
    e_(i+1)   = e_i | s_i'.readings()

The first line alone is `optax.chain`. An argument of a listener is a number, a
schedule of the step, or a response to a reading (:class:`Reading`)::

    value_t = v,    schedule(t),    response(reading_t)
"""

import collections
from collections.abc import Callable, Iterator
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks
from htga_optax._layers import leaf_name
from htga_optax._states import typed

# The tracker that offers a reading, for the error if the reading is missing.
_TRACKERS = {
  "tail_index": "track_tail_index()",
  "update_norm": "track_tail_index()",
  "coordinate_tail_index": "track_coordinate_tail_index()",
  "gradient_noise_scale": "track_gradient_noise(...)",
  "noise_norm": "track_gradient_noise(...)",
  "weight_tail_index": "track_weight_tail_index()",
  "weight_tail_ratio": "track_weight_tail_index()",
  "sharpness": "track_sharpness()",
  "sharpness_growth": "track_sharpness()",
}


class Reading(NamedTuple):
  """An argument that follows a reading of a tracker.

  An argument of type `Argument` is a number, a schedule of the step or a
  `Reading`. A known reading is positive; a reading of 0 means "not known". The
  response is ignored while the reading is 0, and the transformation does
  nothing.

  Attributes:
    name: the name of the reading. The tracker offers the reading under this
      name, and `update` takes it under this name.
    response: a function of the reading, float32 []. It returns a number,
      float32 [], or a schedule of the step. The default returns the reading
      itself.

  Examples:
    >>> import jax
    >>> from htga_optax import Reading
    >>> falling = Reading("sharpness", lambda s: 2 - jax.nn.sigmoid(s - 20))
    >>> falling.name
    'sharpness'
  """

  name: str
  response: Callable[[jax.Array], optax.ScalarOrSchedule] = lambda x: x


def reading_of(
  listener: str,
  argument: object,
  extra_args: dict[str, Any],
  shape: tuple[int, ...] = (),
) -> jax.Array | None:
  """The reading that an argument needs, float32 `shape`; None if it needs none.

  Args:
    listener: the name of the transformation, for the error.
    argument: a number, a schedule or a :class:`Reading`.
    extra_args: the extra arguments of `update`.
    shape: (layers,) where each layer may have its own reading. One number is
      the reading of all layers.

  Raises:
    ValueError: the reading is missing, or has another shape.
  """
  if not isinstance(argument, Reading):
    return None
  reading = extra_args.get(argument.name)
  if reading is None:
    tracker = _TRACKERS.get(argument.name, f"a tracker of {argument.name}")
    raise ValueError(
      f"{listener} needs the reading `{argument.name}`: put {tracker} before it"
      f" in htga_optax.relay(...), or pass {argument.name}= to update."
    )
  shapes = [jnp.shape(x) for x in jax.tree.leaves(reading)]
  if shapes not in ([()], [shape]):
    per_layer = f" or one for each of {shape[0]} layers" if shape else ""
    raise ValueError(
      f"{listener} takes `{argument.name}` as one number{per_layer}, got shape"
      f" {', '.join(map(str, shapes))}: give the tracker and {listener} the"
      " same per_layer."
    )
  (reading,) = jax.tree.leaves(reading)
  return jnp.broadcast_to(jnp.asarray(reading, jnp.float32), shape)


def value_of(
  argument: optax.ScalarOrSchedule | Reading,
  count: jax.Array,
  reading: jax.Array | None,
  unknown: float,
) -> jax.Array:
  """The value of an argument in this step, float32 [].

  Args:
    argument: a number, a schedule or a :class:`Reading`.
    count: the step, for schedules.
    reading: the result of :func:`reading_of`, [].
    unknown: the value while the reading is not known.
  """
  known = jnp.asarray(True)
  if isinstance(argument, Reading):
    assert reading is not None
    known = reading > 0  # false for nan
    argument = argument.response(jnp.where(known, reading, 1.0))
  value = argument(count) if callable(argument) else argument
  return jnp.where(known, jnp.asarray(value, jnp.float32), unknown)


class RelayState(NamedTuple):
  """The states of the members of a relay.

  Attributes:
    members: one state per member.
  """

  members: tuple[Any, ...]


def relay(
  *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Chains transformations, and passes readings to later members.

  After the update of a member, all readings in its new state go to every later
  member as extra arguments (`tail_index=...`). One tracker can steer several
  listeners. Relays can be nested. Any optax transformation works unchanged, in
  a relay or in an `optax.chain` inside a relay.

  If two readings have the same name, the later one counts. A reading also
  counts instead of an argument of the same name that the caller passes. A
  member does not get a reading that it offers itself, so two trackers of one
  kind both measure.

  A member also gets all these readings as one dict, the argument `readings`.

  A wrapper of a member may pass it another value of a reading (`tail_index=`).
  If the member is a relay, its members get that value.

  The line searches of optax refuse arguments that they do not know. A relay
  therefore passes `value_fn` on with a signature that accepts the readings; the
  readings are then ignored.

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
  members = [_checks.check_transformation("relay", t) for t in transforms]

  def init_fn(params):
    return RelayState(tuple(member.init(params) for member in members))

  def update_fn(updates, state, params=None, *, readings=None, **extra_args):
    if len(state.members) != len(members):
      raise ValueError(
        f"relay has {len(members)} members but the state has"
        f" {len(state.members)}: was it made by another relay?"
      )
    # A wrapper around this relay may have changed a reading.
    read = {k: extra_args.get(k, v) for k, v in (readings or {}).items()}
    states = []
    for member, old in zip(members, state.members):
      own = {name for _, name, _ in _offered(old)}
      given = {k: v for k, v in read.items() if k not in own}
      updates, new = member.update(
        updates, old, params, **_accepted(member, extra_args, given)
      )
      read |= {name: value for _, name, value in _offered(new)}
      states.append(new)
    return updates, RelayState(tuple(states))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def readings(opt_state: optax.OptState) -> dict[str, jax.Array]:
  """Collects all readings in the state of an optimizer in one flat dict.

  Args:
    opt_state: any state of optax that contains states of this package, at any
      depth. States may also be dicts, as `flax.nnx.state` and a checkpoint that
      is read without a template return them.

  Returns:
    name -> value. A value is a number, an interval [2], or, per layer, a vector
    [layers]; :func:`htga_optax.by_layer` gives its entries names. A name that
    occurs twice gets the path of its state: "gradients/tail_index". Under jit
    the call costs nothing.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import htga, readings
    >>> params = {"w": jnp.ones(3)}
    >>> sorted(readings(htga(0.1).init(params)))
    ['amplification', 'nonfinite_count', 'tail_index', 'tail_index_interval',
    'tail_model_rejected', 'update_norm']
  """
  found = list(_offered(opt_state))
  times = collections.Counter(name for _, name, _ in found)
  return {
    name if times[name] == 1 else "/".join(filter(None, [path, name])): value
    for path, name, value in found
  }


def _offered(state: Any) -> Iterator[tuple[str, str, Any]]:
  """The path, name and value of every reading in a state."""
  nodes = jax.tree.leaves_with_path(typed(state), is_leaf=_offers)
  for path, node in nodes:
    if _offers(node):
      for name, value in node.readings().items():
        (value,) = jax.tree.leaves(value)  # unwraps a variable of flax.nnx
        yield leaf_name(path), name, value


def _offers(node: Any) -> bool:
  return callable(getattr(type(node), "readings", None))


def _accepted(
  member: optax.GradientTransformationExtraArgs,
  extra_args: dict[str, Any],
  read: dict[str, Any],
) -> dict[str, Any]:
  """The caller's arguments and those readings that a member can take."""
  takes = inspect.signature(member.update).parameters
  read = read | {"readings": dict(read)}
  if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
    read = {name: value for name, value in read.items() if name in takes}
  given = extra_args | read
  if read and given.get("value_fn") is not None:
    given["value_fn"] = _ignoring(given["value_fn"], read)
  return given


def _ignoring(value_fn: Callable[..., Any], names: Any) -> Callable[..., Any]:
  """Adds arguments to a function's signature; the function ignores them."""
  parameters = inspect.signature(value_fn).parameters
  ignored = [name for name in names if name not in parameters]
  kinds = inspect.Parameter
  positional = [p for p in parameters.values() if p.kind < kinds.KEYWORD_ONLY]
  rest = [p for p in parameters.values() if p.kind >= kinds.KEYWORD_ONLY]
  more = [kinds(name, kinds.KEYWORD_ONLY, default=None) for name in ignored]

  @functools.wraps(value_fn)
  def function(*args, **kwargs):
    kept = {k: v for k, v in kwargs.items() if k not in ignored}
    return value_fn(*args, **kept)

  signature = inspect.Signature([*positional, *more, *rest])
  setattr(function, "__signature__", signature)  # noqa: B010
  return function
