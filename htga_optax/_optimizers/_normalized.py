"""SGD with momentum of a fixed norm."""

from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Argument, drop_nonfinite
from htga_optax._layers import PerLayer
from htga_optax._normalize import normalize
from htga_optax._relay import relay


def normalized_sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike = 0.9,
  eps: Argument = 0.0,
  *,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Normalised SGD with momentum, for gradients with a heavy tail.

  .. math::
    m_t = \mu m_{t-1} + (1 - \mu) g_t, \qquad
    \theta_{t+1} = \theta_t - \eta_t \frac{m_t}{\sqrt{\epsilon^2 + \|m_t\|^2}}

  It is a relay of `optax.ema`, :func:`htga_optax.normalize` and the learning
  rate. It needs neither a tail index nor a threshold. In theory, normalisation
  alone is enough for convergence if the noise has a moment of an order above 1
  (Sun, Liu and Yuan). With eps = 0 the length of every step is the learning
  rate. The rate is then in units of the parameters, and the parameters come to
  rest only if it decays.

  With equal tuning it was better than SGD with momentum on two of four tasks
  (`benchmarks/study/comparison.md`), also where no tail is heavy.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    momentum: :math:`\mu`, the decay of the momentum, in [0, 1).
    eps: :math:`\epsilon`, at least 0, in units of the gradient: a number, a
      schedule, or a :class:`Reading`. Momentum far below it gives short steps.
    per_layer: True to normalise every leaf by its own norm, or a regular
      expression as in :func:`htga_optax.by_norm`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The optimizer.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.

  Examples:
    >>> import jax.numpy as jnp
    >>> import htga_optax
    >>> tx = htga_optax.normalized_sgd(learning_rate=0.1)
    >>> params = jnp.zeros(2)
    >>> grads = jnp.asarray([3e6, 4e6])
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates.round(2))
    [-0.06 -0.08]

  References:
    Cutkosky and Mehta (2020), Momentum improves normalized SGD,
    arXiv:2002.03305. Sun, Liu and Yuan (2025), Revisiting gradient
    normalization and clipping for nonconvex SGD under heavy-tailed noise,
    arXiv:2410.16561.
  """
  _checks.check_scale("learning_rate", learning_rate)
  _checks.check_number(
    "momentum", momentum, lambda v: 0 <= v < 1, "be in [0, 1)"
  )
  return relay(
    drop_nonfinite(shard_axis_name),
    optax.ema(momentum, debias=False),
    normalize(eps, per_layer=per_layer, shard_axis_name=shard_axis_name),
    optax.scale_by_learning_rate(learning_rate),
  )
