"""Gives each layer its own factor, by the rank of a reading among the layers.

A reading x_l of every layer l becomes a factor by a linear map,

    f_l = low + (high - low) (x_l - min x)/(max x - min x),

over the layers with a reading. The layer with the smallest reading gets `low`,
that with the largest gets `high`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms
from htga_optax._layers import (
  PerLayer,
  check_per_layer,
  check_same_layers,
  layer_names,
)
from htga_optax._relay import Reading, reading_of
from htga_optax._states import known_state


@known_state
class ScaleByLayerState(NamedTuple):
  """The state of :func:`scale_by_layer`.

  Attributes:
    layer_scale: the factors of the last step, float32 [layers]; 1 before the
      first step, 0 for a step that was dropped.
    step_count: the steps so far, int32 [].
  """

  layer_scale: jax.Array
  step_count: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """Returns the values for later members of a relay and for logs."""
    return {"layer_scale": self.layer_scale}


def scale_by_layer(
  reading: Reading | str,
  low: ArrayLike,
  high: ArrayLike,
  *,
  weight_decay: optax.ScalarOrSchedule | None = None,
  unknown: ArrayLike = 1.0,
  per_layer: PerLayer = True,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales the update of each layer, or its weight decay, by a reading.

  .. math::
    f_l = c_{low} + (c_{high} - c_{low})\,
      \frac{x_l - \min_k x_k}{\max_k x_k - \min_k x_k}, \qquad
    u'_l = f_l\, u_l \quad\text{or}\quad u'_l = u_l + f_l\, \lambda\, \theta_l

  The minimum and the maximum are those of the layers with a reading. If all
  readings are equal, the factor is the mean of `low` and `high`. Published
  rules are choices of the arguments, with `weight_tail_index` as the reading:
  TempBalance (0.5, 1.5), LLR (1, 3), and AlphaDecay (0.67, 3) with
  `weight_decay` (see the page "Weights" of the documentation). A step with an
  update that is not finite is dropped: its update is zero.

  Args:
    reading: the reading of the layers, or its name. The response of a
      :class:`Reading` is applied to the readings before the map.
    low: the factor of the layer with the smallest reading, at least 0.
    high: that of the layer with the largest; it may be below `low`.
    weight_decay: None to scale the updates; or :math:`\lambda`, a number or a
      schedule: then this much of the parameters is added to the updates, as by
      `optax.add_decayed_weights`.
    unknown: the factor of a layer without a reading, and of all layers before
      the first reading.
    per_layer: as in the tracker.

  Returns:
    The transformation. Put it after :func:`track_weight_tail_index` in
    :func:`relay`, or pass the reading to `update`. Its state is a
    :class:`ScaleByLayerState`.

  Raises:
    TypeError: the updates are not floating point.
    ValueError: a factor is negative, the reading is missing or is of another
      number of layers, or `update` gets no parameters for the decay.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import scale_by_layer
    >>> tx = scale_by_layer("weight_tail_index", low=0.5, high=1.5)
    >>> grads = {"a": jnp.ones(1), "b": jnp.ones(1), "bias": jnp.ones(1)}
    >>> state = tx.init(grads)
    >>> index = jnp.asarray([0.6, 0.9, 0.0])
    >>> updates, _ = tx.update(grads, state, weight_tail_index=index)
    >>> print(*(float(x[0]) for x in updates.values()))
    0.5 1.5 1.0

  References:
    Zhou et al. (2023), TempBalance, arXiv:2312.00359; AlphaDecay,
    arXiv:2506.14562; LLR, arXiv:2605.22297: the linear map.
  """
  for name, value in (("low", low), ("high", high), ("unknown", unknown)):
    _checks.check_number(
      name, value, lambda v: 0 <= v < jnp.inf, "be at least 0"
    )
  reading = Reading(reading) if isinstance(reading, str) else reading
  check_per_layer(per_layer)
  if not per_layer:
    raise ValueError(
      f"per_layer must be True or a regular expression, got {per_layer!r}."
    )

  def factors(x):
    known = x > 0  # false for nan
    x = jnp.asarray(jax.vmap(reading.response)(jnp.where(known, x, 1.0)))
    known &= jnp.isfinite(x)
    least = jnp.min(jnp.where(known, x, jnp.inf))
    most = jnp.max(jnp.where(known, x, -jnp.inf))
    differ = most > least
    width = jnp.where(differ, most - least, 1.0)
    share = jnp.where(known & differ, (x - least) / width, 0.5)
    limits = (low, high, unknown)
    bottom, top, other = (jnp.asarray(v, jnp.float32) for v in limits)
    return jnp.where(known, bottom + (top - bottom) * share, other)

  def init_fn(params):
    count = len(layer_names(params, per_layer))
    return ScaleByLayerState(
      layer_scale=jnp.ones([count], jnp.float32),
      step_count=jnp.zeros([], jnp.int32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    check_same_layers(
      "scale_by_layer", state.layer_scale.size, updates, params, per_layer
    )
    r = norms.layer_norms(updates, per_layer)
    if not r.size:
      return updates, state
    x = reading_of("scale_by_layer", reading, extra_args, r.shape)
    finite = jnp.all(jnp.isfinite(r))
    factor = jnp.where(finite, factors(x), 0.0)
    count = jnp.asarray(optax.safe_increment(state.step_count))
    new = ScaleByLayerState(factor, count)
    if weight_decay is None:
      return norms.scale(updates, factor, per_layer), new
    if params is None:
      raise ValueError(
        "scale_by_layer needs the parameters for weight_decay: pass them to"
        " update."
      )
    decay = (
      weight_decay(state.step_count) if callable(weight_decay) else weight_decay
    )
    ones = jnp.where(finite, jnp.ones_like(factor), 0.0)
    is_none = lambda leaf: leaf is None
    params = jax.tree.map(
      lambda u, p: None if u is None else p, updates, params, is_leaf=is_none
    )
    decayed = norms.scale(params, factor * decay, per_layer)
    updates = norms.scale(updates, ones, per_layer)
    return jax.tree.map(
      lambda u, d: u + d.astype(u.dtype), updates, decayed
    ), new

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
