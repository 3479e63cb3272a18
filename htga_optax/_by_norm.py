"""The law of one norm: everything that a norm steers is scalar code.

    r_t = ||u_t||,    f_t, s_t' = law(r_t, s_t, arguments_t),    u'_t = f_t u_t

A :class:`Controller` is the law, for one norm and one state. `by_norm` makes a
transformation of it, and nobody else deals with trees, layers, arguments that
follow a schedule or a reading, and steps that are not finite:

* It takes the norm once: of the whole tree, or per layer, where the law is
  mapped over a vector [layers] of norms and of states.
* A step with a norm that is not finite is dropped whole: its update is zero,
  and of the state nothing changes but what counts steps.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks, norms
from htga_optax._layers import (
  PerLayer,
  check_per_layer,
  check_same_layers,
  layer_names,
)
from htga_optax._relay import Reading, reading_of, value_of

Argument = optax.ScalarOrSchedule | Reading


class Controller(NamedTuple):
  """A law of one norm.

  Attributes:
    init: () -> the state of one norm, a named tuple of arrays of fixed shapes,
      finite from the start. If it has a field `step_count`, int32 [], `by_norm`
      advances it in every step, and schedules are functions of it.
    update: (r, state, **arguments) -> (factor, state), for a norm r that is
      finite, float32 []. The updates are multiplied by the factor, float32 [],
      and are zero where it is not finite; None leaves them as they are.
    drop: (r, state) -> the state after a step that was dropped, to count it.
  """

  init: Callable[[], Any]
  update: Callable[..., tuple[Any, Any]]
  drop: Callable[[jax.Array, Any], Any] = lambda r, state: state


def by_norm(
  controller: Controller,
  arguments: Mapping[str, tuple[Argument, float]] | None = None,
  *,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
  name: str = "by_norm",
) -> optax.GradientTransformationExtraArgs:
  r"""Makes a transformation of a law of one norm.

  .. math::
    r_t = \|u_t\|, \qquad (f_t, s_{t+1}) = \mathrm{law}(r_t, s_t), \qquad
    u'_t = f_t u_t

  Args:
    controller: the law.
    arguments: what the law takes besides the norm, by name: an argument (a
      number, a schedule of the step, or a :class:`Reading`), and its value
      while the reading is not known.
    per_layer: False for one norm of all leaves, True for a norm, a state and a
      factor for every leaf. A regular expression is as True, and leaves whose
      path it matches hold layers stacked along the first axis, a norm each.
    shard_axis_name: mapped axes of `jax.shard_map` over which the updates are
      split by hand; None under jit and for data parallelism.
    name: the transformation's name, for errors.

  Returns:
    The transformation. Its state is the law's, with a leading axis [layers] if
    `per_layer`, in the order of :func:`htga_optax.layer_names`.

  Raises:
    TypeError: updates that are not floating point; `per_layer` of another type.
    ValueError: a reading is missing, or is a vector where a number is needed,
      or the state is one of another number of layers.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import by_norm, Controller
    >>> unit = Controller(optax.EmptyState, lambda r, state: (1 / r, state))
    >>> tx = by_norm(unit)
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> print(tx.update(grads, tx.init(grads))[0])
    [0.6 0.8]
  """
  check_per_layer(per_layer)
  arguments = dict(arguments or {})

  def law(r, finite, state, readings):
    count = getattr(state, "step_count", jnp.zeros([], jnp.int32))
    values = {
      key: value_of(argument, count, readings.get(key), unknown)
      for key, (argument, unknown) in arguments.items()
    }
    factor, new = controller.update(jnp.where(finite, r, 1.0), state, **values)
    new = optax.tree.where(finite, new, controller.drop(r, state))
    if hasattr(state, "step_count"):
      new = new._replace(step_count=optax.safe_increment(count))
    if factor is not None:
      factor = jnp.asarray(factor, jnp.float32)
      factor = jnp.where(finite & jnp.isfinite(factor), factor, 0.0)
    return factor, new

  if per_layer:
    law = jax.vmap(law, in_axes=(0, None, 0, 0))
  law = jax.jit(law)  # one compilation for all steps that nobody else jits

  def init_fn(params):
    state = controller.init()
    if not per_layer:
      return state
    layers = len(layer_names(params, per_layer))
    return jax.tree.map(
      lambda x: jnp.broadcast_to(x, (layers, *x.shape)), state
    )

  def measure(updates):
    if not per_layer:
      return norms.norm(updates, shard_axis_name)
    return norms.layer_norms(updates, per_layer, shard_axis_name)

  def given(extra_args, shape):
    """The readings that the arguments need, each of the norms' shape."""
    found = {
      key: reading_of(name, argument, extra_args, shape)
      for key, (argument, _) in arguments.items()
    }
    return {key: x for key, x in found.items() if x is not None}

  def update_fn(updates, state, params=None, **extra_args):
    r = measure(updates)
    for x in jax.tree.leaves(state)[:1] if per_layer else ():
      check_same_layers(name, x.shape[0], updates, params, per_layer)
    if not r.size:
      return updates, state
    _checks.check_same_axes(name, "the norm", "shard_axis_name", r, state)
    factor, state = law(
      r, jnp.all(jnp.isfinite(r)), state, given(extra_args, r.shape)
    )
    if factor is None:
      return updates, state
    return norms.scale(updates, factor, per_layer), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def drop_nonfinite() -> optax.GradientTransformationExtraArgs:
  """Makes a step that is not finite zero; changes nothing else."""
  law = Controller(optax.EmptyState, lambda r, state: (jnp.ones([]), state))
  return by_norm(law, name="drop_nonfinite")
