"""Ready chains: relays of the floors below, and nothing else.

    scale_by_htga = relay(track_tail_index, amplify)
    htga = chain(scale_by_htga, sgd)
    tail_index_sgd = chain(relay(track_tail_index, scale_by_tail_index), sgd)
    truncated_heavy_tailed_sgd = chain(inflate_gradient_noise, sgd, truncate)
    ahtsgd = relay(track_sharpness, sgd, add_stable_noise, truncate)

What they read is found in their state by `optax.tree.get`.
"""

from typing import Any, Literal, cast

import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import (
  checks,
  modulation,
  noise,
  sharpness,
  tracking,
  truncation,
)
from htga_optax.relay import relay


def scale_by_htga(
  window_size: int = 256,
  k: int = 16,
  *,
  alpha_target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  response: Literal["sigmoid", "ratio"] = "sigmoid",
  per_layer: bool = False,
  unless_rejected: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Heavy-Tail Gradient Amplification (HTGA), in the letters of its proposal.

  .. math::
    g' = \tau \Bigl(\frac{\|g\|}{\tau}\Bigr)^{\gamma(\hat\alpha)}
      \frac{g}{\|g\|}, \qquad
    \gamma(\hat\alpha) = \gamma_{max} s + \gamma_{min} (1 - s), \quad
    s = \sigma(\beta(\alpha_{target} - \hat\alpha))

  with :math:`\hat\alpha` Hill's estimate over the last W gradient norms: the
  relay of :func:`htga_optax.track_tail_index` and :func:`htga_optax.amplify`,
  whose pages say more. Until the window is full, it is the identity.

  What it does not do unless told to by `unless_rejected`: ask whether the tail
  is a power law at all. With the default response a light tail (which reads
  large) gets :math:`\gamma_{min}`, so HTGA then pulls all norms towards
  :math:`\tau`.

  Args:
    window_size: W, the norms that the tail index rests on (static).
    k: how many of them are the tail (static).
    alpha_target: the tail index in the middle of the response.
    beta: steepness of the sigmoid; > 0 amplifies heavy tails (the proposal's
      formula), < 0 light ones (its text). See
      :func:`htga_optax.sigmoid_exponent`.
    gamma_min: exponent at one end, at least 0.
    gamma_max: exponent at the other end.
    tau: the scale; None for the geometric mean of the norms.
    tau_decay: decay of that mean.
    response: "sigmoid", or "ratio" for :math:`\gamma = \hat\alpha /
      \alpha_{target}` within the bounds, see
      :func:`htga_optax.ratio_exponent`; `beta` has no part in it.
    per_layer: a window, a scale and an exponent for every leaf.
    unless_rejected: whether to be the identity while a Pareto tail is
      rejected, see :func:`htga_optax.unless_rejected`.

  Returns:
    The transformation, for `optax.chain`. `optax.tree.get` finds
    `tail_index`, `tail_index_interval`, `update_norm` and `amplification` in
    its state. `optax.inject_hyperparams` takes it with
    `static_args=("window_size", "k")`.

  Raises:
    TypeError, ValueError: an argument that cannot be, with its value.

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
    "sigmoid": lambda: modulation.sigmoid_exponent(
      alpha_target, beta, gamma_min, gamma_max
    ),
    "ratio": lambda: modulation.ratio_exponent(
      alpha_target, gamma_min, gamma_max
    ),
  }
  if response not in exponents:
    raise ValueError(
      f"response must be one of {sorted(exponents)}, got {response!r}."
    )
  listener = modulation.amplify(
    exponents[response](), tau, tau_decay, per_layer=per_layer
  )
  return relay(
    tracking.track_tail_index(window_size, k, per_layer=per_layer),
    modulation.unless_rejected(listener) if unless_rejected else listener,
  )


def htga(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike | None = None,
  *,
  nesterov: bool = False,
  window_size: int = 256,
  k: int = 16,
  alpha_target: ArrayLike = 2.0,
  beta: ArrayLike = 1.0,
  gamma_min: ArrayLike = 0.5,
  gamma_max: ArrayLike = 1.5,
  tau: ArrayLike | None = None,
  tau_decay: ArrayLike = 0.99,
  response: Literal["sigmoid", "ratio"] = "sigmoid",
  per_layer: bool = False,
  unless_rejected: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD on amplified gradients.

  .. math:: \theta_{t+1} = \theta_t - \eta_t g'_t

  with :math:`g'` of :func:`scale_by_htga` and, if asked, momentum on it. A
  gradient that is not finite counts as zero: the momentum survives it.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    momentum: decay of the momentum; None for none.
    nesterov: whether the momentum is Nesterov's.
    window_size: see :func:`scale_by_htga`, as all that follow.
    k: order statistics in the tail.
    alpha_target: tail index in the middle of the response.
    beta: steepness and sign of the response.
    gamma_min: lower exponent.
    gamma_max: upper exponent.
    tau: scale; None for the geometric mean of the norms.
    tau_decay: decay of that mean.
    response: "sigmoid" or "ratio".
    per_layer: one tail index for every leaf.
    unless_rejected: whether to act on a tail that is not rejected only.

  Returns:
    The optimizer.

  Raises:
    TypeError, ValueError: an argument that cannot be, with its value.

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
  return optax.chain(
    scale_by_htga(
      window_size,
      k,
      alpha_target=alpha_target,
      beta=beta,
      gamma_min=gamma_min,
      gamma_max=gamma_max,
      tau=tau,
      tau_decay=tau_decay,
      response=response,
      per_layer=per_layer,
      unless_rejected=unless_rejected,
    ),
    _sgd(learning_rate, momentum, nesterov),
  )


def tail_index_sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike | None = None,
  *,
  nesterov: bool = False,
  window_size: int = 256,
  k: int = 16,
  beta: ArrayLike = 1.0,
  target: ArrayLike = 2.0,
  min_scale: ArrayLike = 0.5,
  max_scale: ArrayLike = 2.0,
  per_layer: bool = False,
  unless_rejected: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD whose learning rate follows the tail index of the gradient.

  .. math:: \theta_{t+1} = \theta_t - \eta_t \, \mathrm{clip}\bigl(
    (\hat\alpha_t/\alpha_0)^\beta, c_{min}, c_{max}\bigr) g_t

  The relay of :func:`htga_optax.track_tail_index` and
  :func:`htga_optax.scale_by_tail_index`, and SGD. With momentum the factor
  scales what enters the momentum, not what leaves it.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    momentum: decay of the momentum; None for none.
    nesterov: whether the momentum is Nesterov's.
    window_size: W, the norms that the tail index rests on (static).
    k: how many of them are the tail (static).
    beta: the sensitivity; > 0 lowers the rate for heavier tails, < 0 raises it.
    target: :math:`\alpha_0`, the tail index at which the rate is unchanged.
    min_scale: lower bound of the factor.
    max_scale: upper bound of the factor.
    per_layer: one tail index and one rate for every leaf.
    unless_rejected: whether to act on a tail that is not rejected only.

  Returns:
    The optimizer.

  Raises:
    TypeError, ValueError: an argument that cannot be, with its value.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> import htga_optax
    >>> tx = htga_optax.tail_index_sgd(learning_rate=0.1, beta=-1.0)
    >>> params = jnp.asarray([3.0, 4.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> print(updates, optax.tree.get(state, "rate_scale"))
    [-0.3 -0.4] 1.0
  """
  listener = modulation.scale_by_tail_index(
    beta,
    target,
    min_scale=min_scale,
    max_scale=max_scale,
    per_layer=per_layer,
  )
  return optax.chain(
    relay(
      tracking.track_tail_index(window_size, k, per_layer=per_layer),
      modulation.unless_rejected(listener) if unless_rejected else listener,
    ),
    _sgd(learning_rate, momentum, nesterov),
  )


def truncated_heavy_tailed_sgd(
  learning_rate: optax.ScalarOrSchedule,
  threshold: optax.ScalarOrSchedule | None,
  key: ArrayLike,
  *,
  tail_index: ArrayLike = 1.4,
  scale: optax.ScalarOrSchedule | None = 0.5,
  gate: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with heavy-tailed noise and truncated steps, against sharp minima.

  .. math::
    \theta_{t+1} = \theta_t - \varphi_b\bigl(\eta_t (g_{SB} + Z_t (g_{SB^*} -
      g_{LB}))\bigr), \qquad \varphi_b(w) = w \min(1, b/\|w\|)

  by :func:`htga_optax.inflate_gradient_noise`, `optax.sgd` and
  :func:`htga_optax.truncate`, whose pages say more. The methods that the source
  compares are one argument apart:

  | method | updates | noise_updates | scale | threshold |
  |---|---|---|---|---|
  | Our 1 | g_SB | g_SB* - g_LB, SB* independent of SB | c | b |
  | Our 2 | g_SB | g_SB - g_LB | c | b |
  | SB+Noise | g_SB | as of either | c | None |
  | SB+Clip | g_SB | | None | b |
  | SB | g_SB | | None | None |
  | LB | g_LB | | None | None |

  The source's settings for a VGG11 on CIFAR-10, read from public code: a rate
  of 0.01, batches of 32 and 256, b = 0.25, and no noise in the last sixth of
  the run, which here is a schedule for `scale`.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    threshold: b, the longest step, in units of the parameters: a number, a
      schedule, or None for steps of any length.
    key: of the noise: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    tail_index: a, of Z, positive.
    scale: c, a number or a schedule; None for no noise, and no second gradient.
    gate: C, up to which Z counts as 0.

  Returns:
    The optimizer, whose update takes `noise_updates`; see
    :func:`htga_optax.noise_gradient`. `optax.tree.get` finds `inflation`.

  Raises:
    TypeError, ValueError: an argument that cannot be, with its value; no
      `noise_updates`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> from htga_optax import noise_gradient, truncated_heavy_tailed_sgd
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2
    >>> tx = truncated_heavy_tailed_sgd(0.1, threshold=0.5, key=0)
    >>> w = jnp.float32(0.0)
    >>> state = tx.init(w)
    >>> @jax.jit
    ... def step(w, state, large):
    ...   small, other = large[:2], large[2:4]
    ...   z = optax.tree.get(state, "inflation")
    ...   updates, state = tx.update(
    ...       jax.grad(loss)(w, small), state, w,
    ...       noise_updates=noise_gradient(loss, w, other, large, z))
    ...   return optax.apply_updates(w, updates), state
    >>> for key in jax.random.split(jax.random.key(0), 200):
    ...   w, state = step(w, state, 5 + jax.random.normal(key, (16,)))
    >>> bool(4 < w < 6)
    True

  References:
    Wang, Oh and Rhee (2021), Eliminating sharp minima from SGD with truncated
    heavy-tailed noise, arXiv:2102.04297.
  """
  members = [_sgd(learning_rate, None, False)]
  if scale is not None:
    members.insert(
      0, truncation.inflate_gradient_noise(key, tail_index, scale, gate)
    )
  if threshold is not None:
    members.append(truncation.truncate(threshold))
  return optax.with_extra_args_support(optax.chain(*members))


def ahtsgd(
  learning_rate: optax.ScalarOrSchedule,
  scale: optax.ScalarOrSchedule,
  key: ArrayLike,
  *,
  alpha: noise.Response | optax.ScalarOrSchedule = "rising",
  steepness: ArrayLike = 1.0,
  center: optax.ScalarOrSchedule | None = None,
  alpha_min: ArrayLike = 1.05,
  scaling: Literal["sde", "gradient"] = "sde",
  momentum: ArrayLike | None = None,
  nesterov: bool = False,
  threshold: optax.ScalarOrSchedule | None = None,
  max_jump: ArrayLike | None = None,
  source: sharpness.Source = "top_eigenvalue",
  every: int = 10,
  decay: ArrayLike = 0.95,
  slow_decay: ArrayLike = 0.99,
  num_matvecs: int = 1,
  axis_name: sharpness.curvature.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with stable noise whose alpha follows the sharpness (AHTSGD).

  .. math::
    \theta_{t+1} = \theta_t - \eta_t g_t + \epsilon_t \xi_t, \qquad
    \xi_t \sim S_{\alpha_t}, \qquad
    \epsilon_t = \sigma \eta_t^{1/\alpha_t}

  by :func:`htga_optax.track_sharpness`, `optax.sgd`,
  :func:`htga_optax.add_stable_noise` and, if asked,
  :func:`htga_optax.truncate`, whose pages say more. The update takes the loss,

      tx.update(grads, state, params, value_fn=lambda p: loss_fn(p, batch))

  or the number `sharpness`. Alpha answers it by a response of
  :func:`htga_optax.sharpness_alpha`, in the middle of its range at the edge of
  stability, :math:`s = 2/\eta`, with momentum :math:`2(1+\beta)/\eta` and with
  Nesterov's :math:`2(1+\beta)/(\eta(1+2\beta))`. The responses are
  reconstructions, and so is the scale, that of the Euler-Maruyama scheme of an
  SDE. The annealed variant is a schedule for alpha, and measures nothing.

  What it does not do: choose the scale. The noise is on every parameter, so the
  length of a step's noise grows with the number d of parameters, at alpha = 2
  as :math:`\sigma \sqrt{2 \eta d}`. Nor does it bound a jump unless told to: a
  single one ended runs of `examples/zero_init.py`, and with `threshold` none.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    scale: :math:`\sigma`, at least 0, a number or a schedule; 0 is SGD.
    key: of the noise: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    alpha: a response to the sharpness by name; or a number or schedule (1 to 2,
      say), and then neither `value_fn` nor `sharpness` is needed.
    steepness: v, of the response.
    center: c, the log-sharpness in the middle of the response, a number or a
      schedule; None for the edge of stability, and for 0 of "growth".
    alpha_min: a lower bound of the response.
    scaling: "sde" as above, or "gradient" for :math:`\epsilon = \sigma\eta`,
      the scale of noise in the gradient.
    momentum: decay of the momentum; None for none. The noise is not in it.
    nesterov: whether the momentum is Nesterov's.
    threshold: b, the longest step, noise included, a number or a schedule; None
      for steps of any length.
    max_jump: the largest :math:`|\xi|`; None for no cap.
    source: of the sharpness, see :func:`htga_optax.track_sharpness`, as all
      that follow.
    every: steps between looks at the sharpness (static).
    decay: of its average, per look.
    slow_decay: of the slow average, for "growth".
    num_matvecs: the cost of a look (static).
    axis_name: mapped axes over which the loss is averaged.

  Returns:
    The optimizer. `optax.tree.get` finds `noise_tail_index`, and `sharpness`
    where it is measured. There is no noise before the first sharpness. A
    gradient that is not finite counts as zero.

  Raises:
    TypeError, ValueError: an argument that cannot be, with its value; no
      sharpness.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> from htga_optax import ahtsgd
    >>> loss = lambda w: jnp.sum(jnp.asarray([1.0, 10.0]) * w**2) / 2
    >>> tx = ahtsgd(learning_rate=0.1, scale=1e-3, key=0)
    >>> w = jnp.ones(2)
    >>> state = tx.init(w)
    >>> @jax.jit
    ... def step(w, state):
    ...   updates, state = tx.update(
    ...       jax.grad(loss)(w), state, w, value_fn=loss)
    ...   return optax.apply_updates(w, updates), state
    >>> for _ in range(100):
    ...   w, state = step(w, state)
    >>> for name in ("sharpness", "noise_tail_index"):
    ...   print(f"{optax.tree.get(state, name):.1f}")  # 1 + sigmoid(log 10/20)
    10.0
    1.3

  References:
    Adaptive Heavy-Tailed Stochastic Gradient Descent (2025), arXiv:2508.21353,
    of which a summary was read. Cohen et al. (2021), Gradient descent on neural
    networks typically occurs at the edge of stability, arXiv:2103.00065.
  """
  if scaling not in ("sde", "gradient"):
    raise ValueError(f"scaling must be sde or gradient, got {scaling!r}.")
  checks.check_scale("scale", scale)

  def edge_of_stability(count):
    beta = 0.0 if momentum is None else momentum
    factor = (1 + beta) / (1 + 2 * beta if nesterov else 1)
    return jnp.log(2 * factor / _at(learning_rate, count))

  def gradient_scale(count):
    return _at(scale, count) * _at(learning_rate, count)

  members: list[optax.GradientTransformation] = []
  if isinstance(alpha, str):
    if center is None:
      center = 0.0 if alpha == "growth" else edge_of_stability
    noise_alpha = noise.sharpness_alpha(
      cast(noise.Response, alpha), center, steepness, alpha_min
    )
    tracker = sharpness.track_sharpness(
      source,
      every,
      decay,
      slow_decay=slow_decay,
      num_matvecs=num_matvecs,
      axis_name=axis_name,
    )
    members.append(tracker)
  else:
    noise_alpha = alpha
  if momentum is not None:  # it must not remember what is not finite
    members.append(truncation.truncate(float("inf")))
  members.append(_sgd(learning_rate, momentum, nesterov))
  members.append(
    noise.add_stable_noise(
      noise_alpha,
      scale if scaling == "sde" else gradient_scale,
      key,
      learning_rate=learning_rate if scaling == "sde" else None,
      max_jump=max_jump,
    )
  )
  if threshold is not None:
    members.append(truncation.truncate(threshold))
  return relay(*members)


def _at(value: optax.ScalarOrSchedule, count: ArrayLike) -> Any:
  return value(count) if callable(value) else value


def _sgd(learning_rate, momentum, nesterov) -> optax.GradientTransformation:
  checks.check_scale("learning_rate", learning_rate)
  checks.check_number(
    "momentum", momentum, lambda v: 0 <= v < 1, "be in [0, 1)"
  )
  return optax.sgd(learning_rate, momentum, nesterov)
