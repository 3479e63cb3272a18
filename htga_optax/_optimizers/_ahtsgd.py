"""AHTSGD: SGD with stable noise whose alpha follows the sharpness."""

from typing import Any, Literal, cast

import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks
from htga_optax._by_norm import Argument, drop_nonfinite
from htga_optax._noise import Response, add_stable_noise, sharpness_alpha
from htga_optax._optimizers._sgd import sgd
from htga_optax._relay import relay
from htga_optax._sharpness import Source, track_sharpness
from htga_optax._truncation import truncate
from htga_optax.curvature import AxisName


def ahtsgd(
  learning_rate: optax.ScalarOrSchedule,
  scale: optax.ScalarOrSchedule,
  *,
  key: ArrayLike,
  alpha: Response | Argument = "rising",
  steepness: ArrayLike = 1.0,
  center: optax.ScalarOrSchedule | None = None,
  alpha_min: ArrayLike = 1.05,
  scaling: Literal["sde", "gradient"] = "sde",
  momentum: ArrayLike | None = None,
  nesterov: bool = False,
  threshold: Argument | None = None,
  max_jump: ArrayLike | None = None,
  source: Source = "top_eigenvalue",
  every_k_steps: int | None = None,
  decay: ArrayLike = 0.95,
  slow_decay: ArrayLike = 0.99,
  num_matvecs: int | None = None,
  axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with stable noise whose alpha follows the sharpness (AHTSGD).

  .. math::
    \theta_{t+1} = \theta_t - \eta_t g_t + \epsilon_t \xi_t, \qquad
    \xi_t \sim S_{\alpha_t}, \qquad
    \epsilon_t = \sigma \eta_t^{1/\alpha_t}

  It is a relay of :func:`htga_optax.track_sharpness`, `optax.sgd`,
  :func:`htga_optax.add_stable_noise` and, with a threshold,
  :func:`htga_optax.truncate`; see there for more. `update` takes the loss::

      tx.update(grads, state, params, value_fn=lambda p: loss_fn(p, batch))

  or the number `sharpness`. Alpha follows the sharpness by a response of
  :func:`htga_optax.sharpness_alpha`. Alpha is in the middle of its range at the
  edge of stability: :math:`s = 2/\eta`, with momentum :math:`2(1+\beta)/\eta`,
  with Nesterov's :math:`2(1+\beta)/(\eta(1+2\beta))`. The responses are
  reconstructions, and so is the scale: that of the Euler-Maruyama scheme of an
  SDE. For the annealed variant, pass a schedule as alpha; nothing is then
  measured. Noise is also added to a step whose gradient is not finite.

  It does not choose the scale. Every parameter gets noise, so the length of a
  step's noise grows with the number d of parameters: at alpha = 2 it is
  :math:`\sigma \sqrt{2 \eta d}`. Without `threshold` it does not bound a jump:
  in `examples/zero_init.py` a single jump undid the training for some seeds.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    scale: :math:`\sigma`, at least 0, a number or a schedule; 0 is SGD.
    key: the key of the noise: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    alpha: the name of a response to the sharpness; or a number, a schedule (for
      example from 1 to 2) or a :class:`Reading`. With these three, the
      sharpness is not measured.
    steepness: v, of the response.
    center: c, the log-sharpness in the middle of the response, a number or a
      schedule. None for the edge of stability; for "growth", None is 0.
    alpha_min: a lower bound of the response.
    scaling: "sde" as above, or "gradient" for :math:`\epsilon = \sigma\eta`,
      the scale of noise in the gradient.
    momentum: decay of the momentum; None for none. The momentum does not
      contain the noise.
    nesterov: whether the momentum is Nesterov's.
    threshold: b, the longest step, noise included: a number, a schedule or a
      :class:`Reading`; None for steps of any length.
    max_jump: the largest :math:`|\xi|`; None for no cap.
    source: the source of the sharpness. For it and all arguments below, see
      :func:`htga_optax.track_sharpness`.
    every_k_steps: the number of steps from one measurement to the next
      (static); None for 10.
    decay: the decay of the average per measurement.
    slow_decay: the decay of the slow average, for "growth".
    num_matvecs: the cost of one measurement (static); None for 1.
    axis_name: mapped axes over which the loss is averaged.

  Returns:
    The optimizer. :func:`htga_optax.readings` finds `noise_tail_index`, and
    `sharpness` where it is measured. There is no noise before the first
    sharpness.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.
    ValueError: `update` gets neither the sharpness nor the loss.

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
    of which only a summary was read. Cohen et al. (2021), Gradient descent on
    neural networks typically occurs at the edge of stability, arXiv:2103.00065.
  """
  if scaling not in ("sde", "gradient"):
    raise ValueError(f"scaling must be sde or gradient, got {scaling!r}.")
  _checks.check_scale("scale", scale)

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
    alpha = sharpness_alpha(cast(Response, alpha), center, steepness, alpha_min)
    tracker = track_sharpness(
      source,
      every_k_steps,
      decay,
      slow_decay=slow_decay,
      num_matvecs=num_matvecs,
      axis_name=axis_name,
    )
    members.append(tracker)
  members += [
    drop_nonfinite(),
    sgd(learning_rate, momentum, nesterov),
    add_stable_noise(
      alpha,
      scale if scaling == "sde" else gradient_scale,
      key=key,
      learning_rate=learning_rate if scaling == "sde" else None,
      max_jump=max_jump,
    ),
  ]
  if threshold is not None:
    members.append(truncate(threshold))
  return relay(*members)


def _at(value: optax.ScalarOrSchedule, count: ArrayLike) -> Any:
  return value(count) if callable(value) else value
