"""Amplifies gradients by a power of their norm (HTGA)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Argument, Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._states import known_state

# An amplified norm stays below this. It leaves room in float32 for a momentum
# and a learning rate.
_LARGEST_LOG_NORM = math.log(1e30)


@known_state
class AmplifyState(NamedTuple):
  """The state of :func:`amplify`; per layer with a leading axis [layers].

  Attributes:
    step_count: the steps so far, int32 [].
    amplification: ||g'||/||g|| of the last step, float32 []; 1 before the
      first step, 0 for a step that was dropped.
    log_norm: the moving average of log r, not debiased, and the same average of
      ones, which debiases it, float32 [2].
  """

  step_count: jax.Array
  amplification: jax.Array
  log_norm: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {"amplification": self.amplification}


def amplify(
  exponent: Argument,
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  *,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Raises the norm of the updates to a power (heavy-tail amplification).

  .. math::
    g' = \tau \Bigl(\frac{r}{\tau}\Bigr)^{\gamma} \frac{g}{r},
    \qquad r = \|g\|, \qquad g' = 0 \text{ where } r = 0

  The scale :math:`\tau` is a number, or the geometric mean of the norms,

  .. math::
    \log\tau_t = \frac{m_t}{1 - \delta^t}, \qquad
    m_t = \delta m_{t-1} + (1 - \delta) \log r_t

  The proposal asks for a "running average of gradient norms". An average of the
  norms themselves means nothing for :math:`\alpha \le 1` and is unstable below
  2, hence the geometric mean. While the tail index is not known (a reading of
  0), updates pass unchanged. A norm is never raised above 1e30. A step whose
  norm is not finite is dropped: its update is zero, and :math:`\tau` does not
  change.

  Args:
    exponent: :math:`\gamma`, a number, a schedule of the step, or a
      :class:`Reading` of `tail_index`, made by :func:`sigmoid_exponent` or
      :func:`ratio_exponent`. 1 is the identity, 0 is normalised SGD.
    tau: the scale, in units of the norm; None for the geometric mean.
    tau_decay: :math:`\delta` in [0, 1); the mean spans 1/(1 - tau_decay) steps.
    per_layer: False for one norm, True for a norm, a scale and an exponent of
      every leaf, or a regular expression as in :func:`by_norm`. The reading is
      then a vector [layers], or a number for all layers.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. Put it after :func:`htga_optax.track_tail_index` in
    :func:`htga_optax.relay`, or pass `tail_index=` to `update`. Its state is an
    :class:`AmplifyState`.

  Raises:
    TypeError: `exponent` has another type, or the updates are not floating
      point.
    ValueError: tau is not positive, tau_decay is outside [0, 1), the exponent
      is negative, the reading is missing or is of another number of layers.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import amplify, sigmoid_exponent
    >>> tx = amplify(sigmoid_exponent(target=2.0, beta=1.0), tau=1.0)
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> state = tx.init(grads)
    >>> updates, state = tx.update(grads, state, tail_index=1.0)
    >>> print(f"{state.amplification:.3f}")  # 5^(gamma - 1), gamma = 1.231
    1.450
  """
  if isinstance(exponent, str) or exponent is None:
    raise TypeError(
      "exponent must be a number, a schedule or a Reading such as"
      f" sigmoid_exponent(), got {exponent!r}."
    )
  _checks.check_number("exponent", exponent, lambda v: v >= 0, "be at least 0")
  _checks.check_number("tau", tau, lambda v: 0 < v < jnp.inf, "be positive")
  _checks.check_number(
    "tau_decay", tau_decay, lambda v: 0 <= v < 1, "be in [0, 1)"
  )

  def init():
    return AmplifyState(
      step_count=jnp.zeros([], jnp.int32),
      amplification=jnp.ones([], jnp.float32),
      log_norm=jnp.zeros([2], jnp.float32),
    )

  def update(r, state, exponent):
    seen = r > 0
    log_r = jnp.log(jnp.where(seen, r, 1.0))
    decay = jnp.where(seen, jnp.asarray(tau_decay, jnp.float32), 1.0)
    log_norm = decay * state.log_norm
    log_norm += (1 - decay) * jnp.stack([log_r, jnp.ones_like(log_r)])
    if tau is None:
      mean, weight = log_norm
      log_tau = mean / jnp.where(weight > 0, weight, 1.0)
    else:
      log_tau = jnp.log(jnp.asarray(tau, jnp.float32))
    headroom = jnp.maximum(_LARGEST_LOG_NORM - log_r, 0.0)
    log_factor = jnp.minimum((exponent - 1) * (log_r - log_tau), headroom)
    factor = jnp.exp(jnp.where(seen, log_factor, 0.0))
    return factor, state._replace(amplification=factor, log_norm=log_norm)

  return by_norm(
    Controller(
      init,
      update,
      drop=lambda r, state: state._replace(amplification=jnp.zeros_like(r)),
    ),
    {"exponent": (exponent, 1.0)},
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="amplify",
  )
