r"""Scales updates, or weight decay, by a reading of every layer.

The readings x_1, ..., x_L of the layers are mapped linearly to factors::

    f_l = low + (high - low) (x_l - min x)/(max x - min x),    u'_l = f_l u_l

Weight decay is an update of its own, wd W, which is scaled before it is added::

    u'_l = u_l + f_l wd W_l
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Argument, Controller, by_norm
from htga_optax._layers import check_per_layer
from htga_optax._relay import Reading, reading_of, relay, value_of
from htga_optax._states import known_state


@known_state
class ScaleByLayerState(NamedTuple):
  """The state of :func:`scale_by_layer`.

  Attributes:
    step_count: the steps so far, int32 [layers], equal for all layers.
    layer_factor: the last factor of every layer, float32 [layers]; 1 before the
      first step, 0 for a step that was dropped.
  """

  step_count: jax.Array
  layer_factor: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {"layer_factor": self.layer_factor}


def scale_by_layer(
  reading: Reading,
  low: Argument,
  high: Argument,
  *,
  ends: tuple[float, float] | None = None,
  per_layer: bool | str = True,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales the update of every layer by a linear function of its reading.

  .. math::
    f_l = c_{low} + (c_{high} - c_{low}) \frac{x_l - a}{b - a}, \qquad
    u'_l = f_l u_l

  The ends a and b are the smallest and the largest known reading of this step,
  as in TempBalance, AlphaDecay and LLR. Behind an optimizer, the factor scales
  the learning rate. A layer whose reading is 0 ("not known"), such as a bias,
  has the factor 1. If all known readings are equal, all factors are 1.

  Without `ends`, some layer always gets `low` and another `high`, however small
  the difference of their readings is: the map does not distinguish noise from a
  difference. With `ends` the factors depend on each layer alone.

  Args:
    reading: the reading, one number per layer, such as
      `Reading("weight_tail_index")`. The response, if any, acts on each number.
    low: :math:`c_{low}`, the factor at the end a: a number of at least 0, or a
      schedule of the step.
    high: :math:`c_{high}`, the factor at the end b, likewise. It may be below
      `low`, which reverses the map.
    ends: a and b as fixed numbers; readings outside count as the nearer end
      (static). None for the extremes of the step.
    per_layer: True, or a regular expression that matches the paths of leaves
      with stacked layers, the same as in the tracker.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. Its state is a :class:`ScaleByLayerState`. The update of
    a step that is not finite is zero.

  Raises:
    TypeError: `reading` is not a :class:`Reading`, or the updates are not
      floating point.
    ValueError: a factor is negative, `ends` do not increase, `per_layer` is
      False, the reading is missing or is of another number of layers.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import Reading, scale_by_layer
    >>> tx = scale_by_layer(Reading("weight_tail_index"), low=0.5, high=1.5)
    >>> updates = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}
    >>> x = jnp.asarray([1.0, 0.0, 3.0])
    >>> updates, _ = tx.update(updates, tx.init(updates), weight_tail_index=x)
    >>> print(updates["a"], updates["b"], updates["c"])
    [0.5 0.5] [1. 1.] [1.5 1.5]

  References:
    The map as stated in TempBalance (`tb_linear_map`), Zhou et al. (2023),
    arXiv 2312.00359. `ends` is ours.
  """
  if not isinstance(reading, Reading):
    raise TypeError(
      "reading must be a Reading such as Reading('weight_tail_index'), got"
      f" {reading!r}."
    )
  _checks.check_scale("low", low)
  _checks.check_scale("high", high)
  if ends is not None and not -jnp.inf < ends[0] < ends[1] < jnp.inf:
    raise ValueError(f"ends must be two increasing numbers, got {ends}.")
  check_per_layer(per_layer)
  if not per_layer:
    raise ValueError(f"per_layer must be True or a string, got {per_layer}.")

  def position(x):
    """1 at the end a, 2 at the end b, 0 where it is not known."""
    known = x > 0
    if ends is None:
      a = jnp.min(jnp.where(known, x, jnp.inf), initial=jnp.inf)
      b = jnp.max(jnp.where(known, x, 0.0), initial=0.0)
    else:
      a, b = jnp.float32(ends[0]), jnp.float32(ends[1])
    apart = b > a
    share = (x - jnp.where(apart, a, 0.0)) / jnp.where(apart, b - a, 1.0)
    return jnp.where(known & apart, 1 + jnp.clip(share, 0.0, 1.0), 0.0)

  def update(r, state, position, low, high):
    del r
    factor = low + (high - low) * (position - 1)
    factor = jnp.where(position > 0, factor, 1.0)
    return factor, state._replace(layer_factor=factor)

  inner = by_norm(
    Controller(
      init=lambda: ScaleByLayerState(
        jnp.zeros([], jnp.int32), jnp.ones([], jnp.float32)
      ),
      update=update,
      drop=lambda r, state: state._replace(layer_factor=jnp.zeros_like(r)),
    ),
    {
      "position": (Reading("layer_position"), 0.0),
      "low": (low, 1.0),
      "high": (high, 1.0),
    },
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="scale_by_layer",
  )

  def update_fn(updates, state, params=None, **extra_args):
    layers = state.layer_factor.shape
    x = reading_of("scale_by_layer", reading, extra_args, layers)
    x = jax.vmap(lambda x, count: value_of(reading, count, x, 0.0))(
      x, state.step_count
    )
    given = extra_args | {"layer_position": position(x)}
    return inner.update(updates, state, params, **given)

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def add_decayed_weights_by_layer(
  weight_decay: Any,
  reading: Reading,
  low: Argument,
  high: Argument,
  *,
  mask: Any = None,
  ends: tuple[float, float] | None = None,
  per_layer: bool | str = True,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adds weight decay whose strength follows a reading of every layer.

  .. math:: u'_l = u_l + f_l \, \lambda W_l

  with the factors :math:`f_l` of :func:`scale_by_layer`. Put it where
  `optax.add_decayed_weights` would be: behind `optax.scale_by_adam` and before
  the learning rate.

  Args:
    weight_decay: :math:`\lambda`, as in `optax.add_decayed_weights`.
    reading: the reading, as in :func:`scale_by_layer`.
    low: the factor at the lower end.
    high: the factor at the upper end.
    mask: the leaves that decay, as in `optax.add_decayed_weights`; None for all
      leaves.
    ends: as in :func:`scale_by_layer`.
    per_layer: as in :func:`scale_by_layer`.
    shard_axis_name: as in :func:`scale_by_layer`.

  Returns:
    The transformation. The update of a step that is not finite is zero, so that
    no weight decays in it.

  Raises:
    TypeError, ValueError: as in :func:`scale_by_layer`; or `update` gets no
      parameters.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import add_decayed_weights_by_layer, Reading
    >>> tx = add_decayed_weights_by_layer(
    ...     0.1, Reading("weight_tail_index"), low=0.5, high=2.0)
    >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    >>> zero = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    >>> x = jnp.asarray([1.0, 3.0])
    >>> updates, _ = tx.update(
    ...     zero, tx.init(params), params, weight_tail_index=x)
    >>> print(updates["a"], updates["b"])
    [0.05 0.05] [0.2 0.2]
  """
  decay = relay(
    optax.add_decayed_weights(weight_decay, mask),
    scale_by_layer(
      reading,
      low,
      high,
      ends=ends,
      per_layer=per_layer,
      shard_axis_name=shard_axis_name,
    ),
  )

  def update_fn(updates, state, params=None, **extra_args):
    finite = jnp.isfinite(norms.norm(updates, shard_axis_name))
    zeros = jax.tree.map(jnp.zeros_like, updates)
    decayed, state = decay.update(zeros, state, params, **extra_args)
    add = lambda u, d: norms.add(u, d, finite)
    return jax.tree.map(add, updates, decayed), state

  return optax.GradientTransformationExtraArgs(decay.init, update_fn)
