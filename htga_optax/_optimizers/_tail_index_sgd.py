"""SGD with a learning rate that follows the tail index."""

from jax.typing import ArrayLike
import optax

from htga_optax import norms
from htga_optax._amplify import scale_by_tail_index
from htga_optax._amplify import unless_rejected as _unless_rejected
from htga_optax._layers import PerLayer
from htga_optax._optimizers._sgd import sgd
from htga_optax._relay import relay
from htga_optax._tracking import track_tail_index
from htga_optax.streaming import LEVEL_DECAY


def tail_index_sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike | None = None,
  *,
  nesterov: bool = False,
  window_size: int | None = None,
  k: int | None = None,
  beta: ArrayLike = 1.0,
  target: ArrayLike = 2.0,
  min_scale: ArrayLike = 0.5,
  max_scale: ArrayLike = 2.0,
  level_decay: ArrayLike | None = LEVEL_DECAY,
  per_layer: PerLayer = False,
  unless_rejected: bool = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD whose learning rate follows the tail index of the gradient.

  .. math:: \theta_{t+1} = \theta_t - \eta_t \, \mathrm{clip}\bigl(
    (\hat\alpha_t/\alpha_0)^\beta, c_{min}, c_{max}\bigr) g_t

  It is a relay of :func:`htga_optax.track_tail_index`,
  :func:`htga_optax.scale_by_tail_index` and SGD. With momentum, the factor
  scales the input of the momentum, not its output.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    momentum: decay of the momentum; None for none.
    nesterov: whether the momentum is Nesterov's.
    window_size: W, the number of norms for the tail index (static); None for
      256.
    k: the number of largest norms that form the tail (static); None for 16.
    beta: the sensitivity; > 0 lowers the rate for heavier tails, < 0 raises it.
    target: :math:`\alpha_0`, the tail index at which the rate is unchanged.
    min_scale: lower bound of the factor.
    max_scale: upper bound of the factor.
    level_decay: decay of the level by which norms are divided for the tail
      index; None does not divide them.
    per_layer: True for a tail index and a rate of every leaf, or a regular
      expression as in :func:`htga_optax.by_norm`.
    unless_rejected: whether to leave the rate unchanged while a Pareto tail is
      rejected, see :func:`htga_optax.unless_rejected`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The optimizer.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> import htga_optax
    >>> tx = htga_optax.tail_index_sgd(learning_rate=0.1, beta=-1.0)
    >>> params = jnp.asarray([3.0, 4.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> print(updates, optax.tree.get(state, "rate_scale"))
    [-0.3 -0.4] 1.0
  """
  listener = scale_by_tail_index(
    beta,
    target,
    min_scale=min_scale,
    max_scale=max_scale,
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
  )
  return relay(
    track_tail_index(
      window_size,
      k,
      level_decay=level_decay,
      per_layer=per_layer,
      shard_axis_name=shard_axis_name,
    ),
    _unless_rejected(listener) if unless_rejected else listener,
    sgd(learning_rate, momentum, nesterov),
  )
