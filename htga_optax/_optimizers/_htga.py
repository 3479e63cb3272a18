"""HTGA: raises the gradient's norm to a power that follows its tail index."""

from typing import Literal

from jax.typing import ArrayLike
import optax

from htga_optax import norms
from htga_optax._amplify import amplify, ratio_exponent, sigmoid_exponent
from htga_optax._amplify import unless_rejected as _unless_rejected
from htga_optax._layers import PerLayer
from htga_optax._optimizers._sgd import sgd
from htga_optax._relay import relay
from htga_optax._tracking import track_tail_index
from htga_optax.streaming import LEVEL_DECAY


def scale_by_htga(
  window_size: int | None = None,
  k: int | None = None,
  *,
  target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  response: Literal["sigmoid", "ratio"] = "sigmoid",
  level_decay: ArrayLike | None = LEVEL_DECAY,
  per_layer: PerLayer = False,
  unless_rejected: bool = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Heavy-Tail Gradient Amplification (HTGA), in the letters of its proposal.

  .. math::
    g' = \tau \Bigl(\frac{\|g\|}{\tau}\Bigr)^{\gamma(\hat\alpha)}
      \frac{g}{\|g\|}, \qquad
    \gamma(\hat\alpha) = \gamma_{max} s + \gamma_{min} (1 - s), \quad
    s = \sigma(\beta(\alpha_{target} - \hat\alpha))

  It is a relay of :func:`htga_optax.track_tail_index` and
  :func:`htga_optax.amplify`. The tail index :math:`\hat\alpha` is Hill's
  estimate over the last W gradient norms, each divided by the level of the
  norms before it. HTGA is the identity until the window is full.

  Unless `unless_rejected` is set, it does not test whether the tail is a power
  law at all. The index of a light tail reads large. With the default response
  such a tail gets :math:`\gamma_{min}`: HTGA then pulls all norms towards
  :math:`\tau`.

  Args:
    window_size: W, the number of norms for the tail index (static); None for
      256.
    k: the number of largest norms that form the tail (static); None for 16.
    target: :math:`\alpha_{target}`, the tail index in the middle of the
      response.
    beta: steepness of the sigmoid; > 0 amplifies heavy tails (the proposal's
      formula), < 0 light ones (its text). See
      :func:`htga_optax.sigmoid_exponent`.
    gamma_min: exponent at one end, at least 0.
    gamma_max: exponent at the other end.
    tau: the scale; None for the geometric mean of the norms.
    tau_decay: decay of that mean.
    response: "sigmoid", or "ratio" for :math:`\gamma = \hat\alpha /
      \alpha_{target}` within the bounds, see
      :func:`htga_optax.ratio_exponent`. "ratio" does not use `beta`.
    level_decay: decay of the level by which norms are divided for the tail
      index; None does not divide them, as in the proposal.
    per_layer: True for a window, a scale and an exponent of every leaf, or a
      regular expression as in :func:`htga_optax.by_norm`.
    unless_rejected: whether to be the identity while a Pareto tail is
      rejected, see :func:`htga_optax.unless_rejected`.
    shard_axis_name: mapped axes of `jax.shard_map` over which the updates are
      split by hand; None under jit and for data parallelism.

  Returns:
    The transformation, for `optax.chain`. :func:`htga_optax.readings` finds
    `tail_index`, `tail_index_interval`, `update_norm` and `amplification` in
    its state. If you pass sizes under `optax.inject_hyperparams`, make them
    static: `static_args=("window_size", "k")`.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import scale_by_htga
    >>> tx = optax.chain(scale_by_htga(), optax.sgd(0.1))
    >>> params = {"w": jnp.ones(3)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.ones(3)}, state, params)
    >>> print(optax.tree.get(state, "amplification"))
    1.0
  """
  exponents = {
    "sigmoid": lambda: sigmoid_exponent(target, beta, gamma_min, gamma_max),
    "ratio": lambda: ratio_exponent(target, gamma_min, gamma_max),
  }
  if response not in exponents:
    raise ValueError(
      f"response must be one of {sorted(exponents)}, got {response!r}."
    )
  listener = amplify(
    exponents[response](),
    tau,
    tau_decay,
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
  )


def htga(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike | None = None,
  *,
  nesterov: bool = False,
  window_size: int | None = None,
  k: int | None = None,
  target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  response: Literal["sigmoid", "ratio"] = "sigmoid",
  level_decay: ArrayLike | None = LEVEL_DECAY,
  per_layer: PerLayer = False,
  unless_rejected: bool = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD on amplified gradients.

  .. math:: \theta_{t+1} = \theta_t - \eta_t g'_t

  :math:`g'` is that of :func:`scale_by_htga`, which explains all arguments that
  are not listed here. The optional momentum is taken of :math:`g'`.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    momentum: decay of the momentum; None for none.
    nesterov: whether the momentum is Nesterov's.

  Returns:
    The optimizer.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> import htga_optax
    >>> tx = htga_optax.htga(learning_rate=0.1, momentum=0.9)
    >>> params = jnp.asarray([3.0, 4.0])
    >>> state = tx.init(params)
    >>> @jax.jit
    ... def step(params, state):
    ...   grads = jax.grad(lambda x: jnp.sum(x**2))(params)
    ...   updates, state = tx.update(grads, state, params)
    ...   return optax.apply_updates(params, updates), state
    >>> for _ in range(100):
    ...   params, state = step(params, state)
    >>> bool(jnp.sum(params**2) < 1e-3)
    True
  """
  return relay(
    scale_by_htga(
      window_size,
      k,
      target=target,
      beta=beta,
      gamma_min=gamma_min,
      gamma_max=gamma_max,
      tau=tau,
      tau_decay=tau_decay,
      response=response,
      level_decay=level_decay,
      per_layer=per_layer,
      unless_rejected=unless_rejected,
      shard_axis_name=shard_axis_name,
    ),
    sgd(learning_rate, momentum, nesterov),
  )
