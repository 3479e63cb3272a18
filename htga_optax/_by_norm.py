"""Makes transformations out of scalar laws of a norm.

A law maps a norm and a state to a factor and a new state::

    r_t = ||u_t||,    f_t, s_t' = law(r_t, s_t, arguments_t),    u'_t = f_t u_t

A :class:`Controller` is such a law, for one norm and one state. :func:`by_norm`
makes a transformation of it. Only this file deals with trees, layers, arguments
that follow a schedule or a reading, and steps that are not finite:

* The norm is taken once: of the whole tree, or per layer. Per layer, the law is
  mapped over a vector [layers] of norms and of states.
* A step with a norm that is not finite is dropped as a whole. Its update is
  zero. The state changes only by its count of steps and by the law's `drop`.
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
      adds 1 to it in every step, and schedules are functions of it.
    update: ``(r, state, **arguments) -> (factor, state)``. The norm r is
      finite, float32 []. The updates are multiplied by the factor, float32 [];
      they become zero where it is not finite. None leaves them unchanged.
    drop: (r, state) -> the state after a dropped step, for example with a
      higher count of them. The default returns the state unchanged.
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
  r"""Makes a transformation out of a law of one norm.

  .. math::
    r_t = \|u_t\|, \qquad (f_t, s_{t+1}) = \mathrm{law}(r_t, s_t), \qquad
    u'_t = f_t u_t

  Args:
    controller: the law.
    arguments: the law's arguments besides the norm, by name. Each is a pair: an
      argument (a number, a schedule of the step, or a :class:`Reading`), and
      its value while the reading is not known.
    per_layer: False for one norm of all leaves, True for a norm, a state and a
      factor of every leaf. A regular expression acts as True; besides, leaves
      whose path it matches hold layers that are stacked along the first axis,
      and each of these layers has its own norm.
    shard_axis_name: mapped axes of `jax.shard_map` over which the updates are
      split by hand; None under jit and for data parallelism.
    name: the name of the transformation, for errors.

  Returns:
    The transformation. Its state is the law's. With `per_layer` the state has a
    leading axis [layers], in the order of :func:`htga_optax.layer_names`.

  Raises:
    TypeError: the updates are not floating point, or `per_layer` has another
      type.
    ValueError: a reading is missing, or is a vector where a number is needed,
      or the state has another number of layers.

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
  law = jax.jit(law)  # compiled once, if the training step is not jitted

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


def drop_nonfinite(
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  """Sets a step that is not finite to zero; changes nothing else."""
  law = Controller(optax.EmptyState, lambda r, state: (jnp.ones([]), state))
  return by_norm(law, shard_axis_name=shard_axis_name, name="drop_nonfinite")
