"""Scales updates by a power of the tail index."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._relay import Reading
from htga_optax._states import known_state


@known_state
class ScaleByTailIndexState(NamedTuple):
  """The state of :func:`scale_by_tail_index`; per layer with axis [layers].

  Attributes:
    rate_scale: the last factor, float32 []; 1 before the first step, 0 for a
      step that was dropped.
  """

  rate_scale: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {"rate_scale": self.rate_scale}


def scale_by_tail_index(
  beta: ArrayLike = 1.0,
  target: ArrayLike = 2.0,
  *,
  min_scale: ArrayLike = 0.5,
  max_scale: ArrayLike = 2.0,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales the learning rate by a power of the tail index.

  .. math:: \eta_t = \eta_0 \, \mathrm{clip}\bigl(
    (\hat\alpha_t/\alpha_0)^\beta, c_{min}, c_{max}\bigr)

  It is steered by the reading `tail_index`. With :math:`\beta > 0` heavier
  tails get a *lower* rate, although the proposal of this formula speaks of
  amplifying them; use :math:`\beta < 0` to amplify. The bounds are ours. A
  light tail has no index and reads as a large one (112 for the norms of a
  Gaussian vector); without bounds that would multiply the rate by 56. While the
  tail index is not known, updates pass unchanged. A step with an update that is
  not finite is dropped: its update is zero.

  Args:
    beta: the sensitivity, of either sign; 0 is the identity.
    target: :math:`\alpha_0`, the tail index at which the rate is unchanged.
    min_scale: lower bound of the factor, positive.
    max_scale: upper bound of the factor.
    per_layer: False for one rate, True for a rate of every leaf, or a regular
      expression as in :func:`by_norm`. The reading is then a vector [layers].
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. Put it after :func:`htga_optax.track_tail_index` in
    :func:`htga_optax.relay`, or pass `tail_index=` to `update`. Its state is a
    :class:`ScaleByTailIndexState`.

  Raises:
    TypeError: the updates are not floating point.
    ValueError: target or min_scale is not positive, min_scale is above
      max_scale, the reading is missing or is of another number of layers.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import scale_by_tail_index
    >>> tx = scale_by_tail_index(beta=1.0, target=2.0)
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> updates, _ = tx.update(grads, tx.init(grads), tail_index=1.5)
    >>> print(updates)
    [2.25 3.  ]

  References:
    Formula as stated in the second HTGA proposal, step 2.
  """
  _checks.check_number("beta", beta, lambda v: abs(v) < jnp.inf, "be finite")
  _checks.check_number("target", target, lambda v: v > 0, "be positive")
  _checks.check_number("min_scale", min_scale, lambda v: v > 0, "be positive")
  _checks.check_order("min_scale", min_scale, "max_scale", max_scale)

  def factor_of(tail_index):
    return jnp.clip((tail_index / target) ** beta, min_scale, max_scale)

  return by_norm(
    Controller(
      init=lambda: ScaleByTailIndexState(jnp.ones([], jnp.float32)),
      update=lambda r, state, factor: (factor, ScaleByTailIndexState(factor)),
      drop=lambda r, state: ScaleByTailIndexState(jnp.zeros_like(r)),
    ),
    {"factor": (Reading("tail_index", factor_of), 1.0)},
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="scale_by_tail_index",
  )
