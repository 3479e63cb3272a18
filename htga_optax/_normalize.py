"""Divides the updates by their norm, or clips them smoothly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Argument, Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._states import known_state


@known_state
class NormalizeState(NamedTuple):
  """The state of :func:`normalize`.

  Attributes:
    step_count: the number of steps, for a schedule of eps; int32 [].
  """

  step_count: jax.Array


def normalize(
  eps: Argument = 0.0,
  *,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Divides the updates by their norm; with eps, a smooth clip.

  .. math::
    u' = \frac{u}{\sqrt{\epsilon^2 + \|u\|^2}}, \qquad u' = 0
    \text{ where } u = 0

  With :math:`\epsilon = 0` all updates have norm 1, and no tail is left. With
  :math:`\epsilon > 0`, norms far below eps are only divided by it, and no norm
  exceeds 1. This is a clip without a corner: far below and far above eps, eps
  times the result is that of `optax.clip_by_global_norm(eps)`.

  It differs from `optax.normalize_by_update_norm` and from
  `optax.contrib.normalize` in three ways: eps may be a schedule or a reading;
  the norm does not overflow; and a step whose norm is not finite is dropped,
  its update is zero.

  Args:
    eps: :math:`\epsilon`, at least 0, in units of the norm: a number, a
      schedule of the step, or a :class:`Reading`, which counts as 0 while it is
      not known.
    per_layer: False for one norm of all leaves, True for a norm of every leaf,
      or a regular expression as in :func:`by_norm`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. Its state is a :class:`NormalizeState`.

  Raises:
    TypeError: the updates are not floating point.
    ValueError: eps is negative or not finite.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import normalize
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> for eps in (0.0, 12.0):
    ...   tx = normalize(eps)
    ...   updates, _ = tx.update(grads, tx.init(grads))
    ...   print(f"eps {eps}: norm {jnp.linalg.norm(updates):.3f}")
    eps 0.0: norm 1.000
    eps 12.0: norm 0.385

  References:
    Armacki, Bajovic, Jakovetic and Kar (2025), arXiv:2507.09093: convergence
    with bounded maps such as this one, under symmetric noise without moments.
    :func:`normalized_sgd` has sources for eps = 0.
  """
  _checks.check_number(
    "eps", eps, lambda v: 0 <= v < jnp.inf, "be at least 0 and finite"
  )

  def update(r, state, eps):
    largest = jnp.maximum(r, eps)
    known = largest > 0
    unit = jnp.where(known, largest, 1.0)  # without it, squares may overflow
    squares = jnp.where(known, (eps / unit) ** 2 + (r / unit) ** 2, 1.0)
    factor = 1 / (unit * jnp.sqrt(squares))
    return jnp.where(known, factor, 0.0), state

  return by_norm(
    Controller(lambda: NormalizeState(jnp.zeros([], jnp.int32)), update),
    {"eps": (eps, 0.0)},
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="normalize",
  )
