r"""Listeners that change the size of an update by the tail index read of it.

HTGA changes the law of the norm r = ||g|| by a power around a scale tau,

    g' = tau (r/tau)^gamma g/r = exp((gamma - 1)(log r - log tau)) g,

where the response gamma(alpha) answers the tail index alpha. With gamma and
tau frozen,

    P(||g'|| > x) = P(r > tau (x/tau)^(1/gamma)) ~ x^(-alpha/gamma),

so the tail index of ||g'|| is alpha/gamma: gamma > 1 makes the tail heavier
(norms above tau grow, those below shrink), gamma < 1 lighter (norms are pulled
towards tau), gamma = 1 is the identity and gamma = 0 normalised SGD. The
response gamma = alpha/target therefore puts the index on the target.

The tail-index learning rate scales all updates of the time alike:

    g' = (alpha/target)^beta g.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import checks, norms

# An amplified norm stays below this, which leaves float32 room for a momentum
# and a learning rate.
_LARGEST_LOG_NORM = math.log(1e30)


def sigmoid_exponent(
  target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
) -> Callable[[jax.Array], jax.Array]:
  r"""Response of HTGA: a sigmoid between two exponents.

  .. math::
    \gamma(\alpha) = \gamma_{max} s + \gamma_{min} (1 - s), \qquad
    s = \sigma(\beta (\alpha_{target} - \alpha))

  The proposal of HTGA contradicts itself. By its formula (:math:`\beta > 0`,
  the default here) tails heavier than the target get :math:`\gamma_{max}`: the
  heavy is amplified, for exploration, a positive feedback. The sentence under
  the formula gives :math:`\gamma_{max}` to tails lighter than the target,
  which drives the output towards it, a negative feedback: that is
  :math:`\beta < 0`.

  Args:
    target: :math:`\alpha_{target}`, the tail index in the middle.
    beta: steepness; its sign is that of the feedback.
    gamma_min: the lower exponent, at least 0.
    gamma_max: the upper exponent.

  Returns:
    The response, tail index -> exponent, of any shape.

  Raises:
    ValueError: target not positive, gamma_min negative or above gamma_max.

  Examples:
    >>> from htga_optax import sigmoid_exponent
    >>> for beta in (2.0, -2.0):
    ...   gamma = sigmoid_exponent(target=2.0, beta=beta)
    ...   print(f"{gamma(1.0):.2f} {gamma(2.0):.2f} {gamma(9.0):.2f}")
    1.38 1.00 0.50
    0.62 1.00 1.50

  References:
    Formula as stated in the HTGA proposal, sections 3.2 and 3.3.
  """
  _check_exponents(target, gamma_min, gamma_max)

  def exponent(tail_index):
    s = jax.nn.sigmoid(beta * (target - tail_index))
    return jnp.asarray(gamma_max * s + gamma_min * (1 - s))

  return exponent


def ratio_exponent(
  target: ArrayLike = 2.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
) -> Callable[[jax.Array], jax.Array]:
  r"""Response that puts the tail index on the target.

  .. math:: \gamma(\alpha) = \mathrm{clip}(\alpha/\alpha_{target},
    \gamma_{min}, \gamma_{max})

  Within the bounds, the tail index of the amplified norms is
  :math:`\alpha/\gamma = \alpha_{target}` (derived for this package: exact for
  a power law with frozen scale; no formula of the HTGA proposal).

  Args:
    target: the tail index wanted.
    gamma_min: lower bound, at least 0.
    gamma_max: upper bound.

  Returns:
    The response, tail index -> exponent, of any shape.

  Raises:
    ValueError: target not positive, gamma_min negative or above gamma_max.

  Examples:
    >>> from htga_optax import ratio_exponent
    >>> gamma = ratio_exponent(target=2.0)
    >>> print(gamma(1.5), gamma(9.0))
    0.75 1.5
  """
  _check_exponents(target, gamma_min, gamma_max)

  def exponent(tail_index):
    return jnp.clip(tail_index / target, gamma_min, gamma_max)

  return exponent


class AmplifyState(NamedTuple):
  """What :func:`amplify` knows.

  Attributes:
    amplification: ||g'||/||g|| of the last step, float32 [] (per layer: a tree
      of them); 1 before the first, 0 for a step that was dropped.
    log_norm: moving averages of log r, not debiased, and of ones, which
      debias it, float32 [groups, 2].
  """

  amplification: Any
  log_norm: jax.Array


def amplify(
  exponent: Callable[[jax.Array], ArrayLike],
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  *,
  per_layer: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Heavy-tail gradient amplification, steered by the reading `tail_index`.

  .. math::
    g' = \tau \Bigl(\frac{r}{\tau}\Bigr)^{\gamma(\hat\alpha)} \frac{g}{r},
    \qquad r = \|g\|, \qquad g' = 0 \text{ where } r = 0

  The scale :math:`\tau` is a number, or the geometric mean of the norms,

  .. math::
    \log\tau_t = \frac{m_t}{1 - \delta^t}, \qquad
    m_t = \delta m_{t-1} + (1 - \delta) \log r_t

  (the proposal says "running average of gradient norms"; an average of the
  norms themselves means nothing for :math:`\alpha \le 1` and is unstable below
  2). While there is no tail index (a reading of 0), updates pass unchanged. A
  norm is never lifted above 1e30. A step whose norm is not finite is dropped:
  its update is zero, so that the state behind it survives, and
  :math:`\tau` does not see it.

  Args:
    exponent: the response :math:`\gamma(\hat\alpha)`, as
      :func:`sigmoid_exponent`, :func:`ratio_exponent` or any function of the
      tail index (a static argument for `optax.inject_hyperparams`).
    tau: the scale, in units of the norm; None for the geometric mean.
    tau_decay: :math:`\delta` in [0, 1); the mean spans 1/(1 - tau_decay) steps.
    per_layer: a norm, a scale and an exponent for every leaf. The reading is
      then a tree like the updates, or a number for all leaves.

  Returns:
    The transformation, for use in :func:`htga_optax.relay` behind
    :func:`htga_optax.track_tail_index`, or with `tail_index=` given to
    `update`. Its state is an :class:`AmplifyState`.

  Raises:
    TypeError: `exponent` is not a function, or updates are not floating point.
    ValueError: tau not positive, tau_decay outside [0, 1), no reading, or a
      reading of another structure.

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
  if not callable(exponent):
    raise TypeError(
      "exponent must be a function of the tail index such as"
      f" sigmoid_exponent(), got {exponent!r}."
    )
  checks.check_number("tau", tau, lambda v: 0 < v < jnp.inf, "be positive")
  checks.check_number(
    "tau_decay", tau_decay, lambda v: 0 <= v < 1, "be in [0, 1)"
  )

  def init_fn(params):
    groups = len(jax.tree.leaves(params)) if per_layer else 1
    return AmplifyState(
      amplification=norms.spread(
        jnp.ones([groups], jnp.float32), params, per_layer
      ),
      log_norm=jnp.zeros([groups, 2], jnp.float32),
    )

  def update_fn(updates, state, params=None, *, tail_index=None, **extra_args):
    del params, extra_args
    tail_index = _reading("amplify", tail_index, updates, per_layer)
    r = norms.norms(updates, per_layer)
    finite = jnp.all(jnp.isfinite(r))
    seen = finite & (r > 0)
    log_r = jnp.log(jnp.where(seen, r, 1.0))

    decay = jnp.where(seen, jnp.asarray(tau_decay, jnp.float32), 1.0)
    log_norm, weight = (
      decay * old + (1 - decay) * new
      for old, new in zip(state.log_norm.T, (log_r, 1.0))
    )
    if tau is None:
      log_tau = log_norm / jnp.where(weight > 0, weight, 1.0)
    else:
      log_tau = jnp.log(jnp.asarray(tau, jnp.float32))

    known = tail_index > 0
    gamma = exponent(jnp.where(known, tail_index, 1.0))
    gamma = jnp.where(known, jnp.asarray(gamma, jnp.float32), 1.0)
    headroom = jnp.maximum(_LARGEST_LOG_NORM - log_r, 0.0)
    log_factor = jnp.minimum((gamma - 1) * (log_r - log_tau), headroom)
    log_factor = jnp.where(seen, log_factor, 0.0)
    factor = jnp.exp(jnp.where(finite, log_factor, -jnp.inf))
    return norms.scale(updates, factor, per_layer), AmplifyState(
      amplification=norms.spread(factor, updates, per_layer),
      log_norm=jnp.stack([log_norm, weight], axis=1),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class ScaleByTailIndexState(NamedTuple):
  """What :func:`scale_by_tail_index` knows.

  Attributes:
    rate_scale: the last factor, float32 [] (per layer: a tree of them); 1
      before the first, 0 for a step that was dropped.
  """

  rate_scale: Any


def scale_by_tail_index(
  beta: ArrayLike = 1.0,
  target: ArrayLike = 2.0,
  *,
  min_scale: ArrayLike = 0.5,
  max_scale: ArrayLike = 2.0,
  per_layer: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Tail-index learning rate, steered by the reading `tail_index`.

  .. math:: \eta_t = \eta_0 \, \mathrm{clip}\bigl(
    (\hat\alpha_t/\alpha_0)^\beta, c_{min}, c_{max}\bigr)

  With :math:`\beta > 0` heavier tails get a *lower* rate, although the
  proposal this comes from speaks of amplifying them: take :math:`\beta < 0`
  for that. The bounds are ours: a light tail has no index and reads as a large
  one (112 for the norms of a Gaussian vector), which unbounded would multiply
  the rate by 56. While there is no tail index, updates pass unchanged. A step
  with an update that is not finite is dropped: its update is zero.

  Args:
    beta: the sensitivity, of either sign; 0 is the identity.
    target: :math:`\alpha_0`, the tail index at which the rate is unchanged.
    min_scale: lower bound of the factor, positive.
    max_scale: upper bound of the factor.
    per_layer: a rate for every leaf, from a reading that is a tree.

  Returns:
    The transformation, for use in :func:`htga_optax.relay` behind
    :func:`htga_optax.track_tail_index`, or with `tail_index=` given to
    `update`. Its state is a :class:`ScaleByTailIndexState`.

  Raises:
    TypeError: updates are not floating point.
    ValueError: target or min_scale not positive, min_scale above max_scale, no
      reading, or a reading of another structure.

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
  checks.check_number("beta", beta, lambda v: abs(v) < jnp.inf, "be finite")
  checks.check_number("target", target, lambda v: v > 0, "be positive")
  checks.check_number("min_scale", min_scale, lambda v: v > 0, "be positive")
  _check_order("min_scale", min_scale, "max_scale", max_scale)

  def init_fn(params):
    groups = len(jax.tree.leaves(params)) if per_layer else 1
    one = jnp.ones([groups], jnp.float32)
    return ScaleByTailIndexState(norms.spread(one, params, per_layer))

  def update_fn(updates, state, params=None, *, tail_index=None, **extra_args):
    del state, params, extra_args
    tail_index = _reading("scale_by_tail_index", tail_index, updates, per_layer)
    known = tail_index > 0
    ratio = jnp.where(known, tail_index / target, 1.0)
    factor = jnp.where(known, jnp.clip(ratio**beta, min_scale, max_scale), 1.0)
    finite = jnp.all(jnp.isfinite(norms.norms(updates, per_layer)))
    factor = jnp.where(finite, factor.astype(jnp.float32), 0.0)
    return norms.scale(updates, factor, per_layer), ScaleByTailIndexState(
      norms.spread(factor, updates, per_layer)
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def unless_rejected(
  listener: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Lets a listener act only while the tail model is not rejected.

  Where :func:`htga_optax.track_tail_index` reads `tail_model_rejected`, the
  listener is told that there is no tail index (a reading of 0), and every
  listener of this package then leaves the updates alone: HTGA becomes the
  identity on a warm-up or a light tail, layer by layer if asked.

  Args:
    listener: a transformation steered by the reading `tail_index`.

  Returns:
    The transformation; its state is the listener's.

  Raises:
    TypeError: `listener` is not a gradient transformation.
    ValueError: a reading is missing, or one is per layer and the other not.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import scale_by_tail_index, unless_rejected
    >>> tx = unless_rejected(scale_by_tail_index(beta=1.0, target=2.0))
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> state = tx.init(grads)
    >>> for rejected in (False, True):
    ...   updates, state = tx.update(
    ...       grads, state, tail_index=1.5, tail_model_rejected=rejected)
    ...   print(updates)
    [2.25 3.  ]
    [3. 4.]
  """
  checks.check_transformation("unless_rejected", listener)
  listener = optax.with_extra_args_support(listener)

  def update_fn(
    updates,
    state,
    params=None,
    *,
    tail_index=None,
    tail_model_rejected=None,
    **extra_args,
  ):
    if tail_index is None or tail_model_rejected is None:
      raise ValueError(
        "unless_rejected needs the readings `tail_index` and"
        " `tail_model_rejected`: put track_tail_index() before it in"
        " htga_optax.relay(...), or pass both to update."
      )
    like = jax.tree.structure(tail_index)
    if jax.tree.structure(tail_model_rejected) != like:
      raise ValueError(
        f"tail_model_rejected must be like tail_index ({like}), got"
        f" {jax.tree.structure(tail_model_rejected)}."
      )
    trusted = jax.tree.map(
      lambda alpha, rejected: jnp.where(rejected, 0.0, alpha),
      tail_index,
      tail_model_rejected,
    )
    return listener.update(
      updates, state, params, tail_index=trusted, **extra_args
    )

  return optax.GradientTransformationExtraArgs(listener.init, update_fn)


def _reading(
  listener: str, tail_index: Any, updates: Any, per_layer: bool
) -> jax.Array:
  """The reading, one number a group, or a sentence on how to get it."""
  if tail_index is None:
    raise ValueError(
      f"{listener} needs the reading `tail_index`: put track_tail_index()"
      " before it in htga_optax.relay(...), or pass tail_index= to update."
    )
  return norms.gather(tail_index, updates, per_layer, "tail_index")


def _check_exponents(target, gamma_min, gamma_max) -> None:
  checks.check_number("target", target, lambda v: v > 0, "be positive")
  checks.check_number("gamma_min", gamma_min, lambda v: v >= 0, "be at least 0")
  _check_order("gamma_min", gamma_min, "gamma_max", gamma_max)


def _check_order(low_name, low, high_name, high) -> None:
  checks.check_number(high_name, high, lambda v: v < jnp.inf, "be finite")
  if not isinstance(low, jax.Array):
    checks.check_number(
      high_name, high, lambda v: v >= low, f"be at least {low_name}={low}"
    )
