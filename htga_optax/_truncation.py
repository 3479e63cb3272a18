r"""Gives mini-batch noise a heavy tail, and truncates steps.

The gradient noise of mini-batches is the difference between the gradients of a
small and of a large batch. An update u gets this noise times a heavy-tailed
factor::

    u' = u + Z (g_SB* - g_LB),    P(Z > z) = (1 + z/c)^-a;

A whole step w is truncated to the length b, so that no single jump is longer::

    phi_b(w) = w min(1, b/||w||).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms
from htga_optax._by_norm import Argument, Controller, by_norm
from htga_optax._relay import value_of
from htga_optax._states import known_state

# Factors stay below 1e30, which leaves float32 room for gradients.
_LARGEST_LOG = 69.0


@known_state
class InflateGradientNoiseState(NamedTuple):
  """The state of :func:`inflate_gradient_noise`.

  Attributes:
    noise_factor: Z of the next step, float32 []; 0 where the gate is closed:
      that step then needs no second gradient.
    step_count: the steps so far, int32 [].
    rng_key: the data of the key, uint32; it never changes.
  """

  noise_factor: jax.Array
  step_count: jax.Array
  rng_key: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {"noise_factor": self.noise_factor}


def inflate_gradient_noise(
  alpha: ArrayLike = 1.4,
  scale: optax.ScalarOrSchedule = 0.5,
  gate: ArrayLike = 0.0,
  *,
  key: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
  r"""Gives the noise of a mini-batch gradient a heavy tail.

  .. math::
    g_{heavy} = g_{SB} + Z 1\{Z > C\} (g_{SB^*} - g_{LB}), \qquad
    Z = c (U^{-1/a} - 1), \quad U \sim U(0, 1)

  The updates are :math:`g_{SB}`, the gradient of a small batch. The difference
  between the gradients of a small and of a large batch is noise of mean zero;
  it is an argument of `update`::

      z = optax.tree.get(state, "noise_factor")
      noise = noise_gradient(loss_fn, params, other_batch, large_batch, z)
      updates, state = tx.update(grads, state, params, noise_updates=noise)

  If :math:`SB^*` is another small batch, this is "Our 1" of the source; with
  :math:`SB^* = SB` it is "Our 2". Z follows a Lomax law (Pareto from 0 on):
  P(Z > z) = (1 + z/c)^-a. It is drawn one step ahead, so the state tells
  whether the large batch is needed at all. Z has 32 random bits, so its tail
  ends at P = 1e-10.

  A step is dropped where the updates are not finite, or where the difference is
  not finite while the gate is open: its update is zero. It counts as a step.
  The sum is at most the largest number of the leaf's dtype.

  What it does not do: it does not bound the step; see
  :func:`htga_optax.truncate`. Put it first in a chain: earlier members would
  change the updates, but not the difference. Inside `optax.MultiSteps` the
  difference is that of the last micro-batch.

  Args:
    alpha: a, the tail index of Z, positive; below 1 Z has no mean, below 2 no
      variance.
    scale: c, at least 0: a number, or a schedule of the step (0 turns the noise
      off).
    gate: C, at least 0, in units of Z. A Z that is not above C counts as 0,
      which saves the large batch; the noise of a small Z is then missing. The
      gate is open in a share p of the steps at C = c (p^(-1/a) - 1).
    key: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).

  Returns:
    The transformation. `optax.tree.get` finds `noise_factor` in its state, an
    :class:`InflateGradientNoiseState`.

  Raises:
    TypeError: `key` is not a key, or the updates are not floating point.
    ValueError: alpha is not positive; scale or gate is negative;
      `noise_updates` is missing, or is a tree that is not like the updates
      (inside `optax.masked` and `optax.partition`, give them
      `mask_compatible_extra_args=True`).

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import inflate_gradient_noise
    >>> tx = inflate_gradient_noise(key=1)
    >>> grads, noise = jnp.ones(2), jnp.asarray([1.0, -1.0])
    >>> state = tx.init(grads)
    >>> updates, _ = tx.update(grads, state, noise_updates=noise)
    >>> bool(jnp.allclose(updates, grads + state.noise_factor * noise))
    True

  References:
    Wang, Oh and Rhee (2021), Eliminating sharp minima from SGD with truncated
    heavy-tailed noise, arXiv:2102.04297. The law of Z and its constants were
    read from public reference code.
  """
  _checks.check_number("alpha", alpha, lambda v: 0 < v < jnp.inf, "be positive")
  _checks.check_scale("scale", scale)
  _checks.check_number("gate", gate, lambda v: v >= 0, "be at least 0")
  rng_key, impl = _checks.check_key(key)

  def state_at(step_count, rng_key):
    one = jax.random.wrap_key_data(rng_key, impl=impl)
    word = jax.random.bits(jax.random.fold_in(one, step_count))
    exponential = -jnp.log((word.astype(jnp.float32) + 0.5) * 2.0**-32)
    a = jnp.asarray(alpha, jnp.float32)
    c = value_of(scale, step_count, None, unknown=0.0)
    z = c * jnp.expm1(jnp.minimum(exponential / a, _LARGEST_LOG))
    return InflateGradientNoiseState(
      noise_factor=jnp.where(z > gate, z, 0.0),
      step_count=step_count,
      rng_key=rng_key,
    )

  def init_fn(params):
    del params
    return state_at(jnp.zeros([], jnp.int32), jnp.array(rng_key))

  def update_fn(
    updates, state, params=None, *, noise_updates=None, **extra_args
  ):
    del params, extra_args
    structure = jax.tree.structure(noise_updates)
    if structure != jax.tree.structure(updates):
      raise ValueError(
        "inflate_gradient_noise needs the difference of two gradients, a tree"
        " like the updates: pass noise_updates= to update (and"
        " mask_compatible_extra_args=True to optax.masked and optax.partition),"
        f" got {structure}."
      )
    z = state.noise_factor
    noise = jax.tree.map(lambda x: jnp.where(z > 0, x, 0), noise_updates)
    finite = jnp.isfinite(norms.norm(updates) + norms.norm(noise))
    return jax.tree.map(
      lambda x, y: norms.add(x, _times(z, y), finite), updates, noise
    ), state_at(optax.safe_increment(state.step_count), state.rng_key)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _times(z: jax.Array, y: jax.Array) -> jax.Array:
  wide = norms.wide_dtype(y)
  return z.astype(wide) * y.astype(wide)


def noise_gradient(
  loss_fn: Callable[[Any, Any], jax.Array],
  params: optax.Params,
  small_batch: Any,
  large_batch: Any,
  noise_factor: ArrayLike,
) -> optax.Updates:
  r"""Computes the noise of a small batch's gradient, if it is needed.

  .. math:: \nabla (L_{SB^*} - L_{LB})(\theta) \text{ where } Z > 0,
    \text{ else } 0

  It is one gradient of one difference, under `lax.cond`: with Z = 0 neither
  batch is used. (Under `jax.vmap` over Z, both always are.)

  Args:
    loss_fn: (params, batch) -> the batch's mean loss, a real number.
    params: :math:`\theta`, real floating-point leaves.
    small_batch: :math:`SB^*`, any tree: another small batch ("Our 1"), or that
      of the updates ("Our 2"; its gradient is then computed a second time).
    large_batch: LB.
    noise_factor: Z, of :func:`inflate_gradient_noise`.

  Returns:
    The difference, a tree like `params`, for `noise_updates`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import noise_gradient
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2
    >>> x = jnp.arange(8.0)
    >>> for z in (0.7, 0.0):
    ...   print(noise_gradient(loss, jnp.float32(0.0), x[:2], x, z))
    3.0
    0.0
  """

  def difference(params):
    return loss_fn(params, small_batch) - loss_fn(params, large_batch)

  return lax.cond(
    jnp.asarray(noise_factor) > 0,
    jax.grad(difference),
    lambda params: jax.tree.map(jnp.zeros_like, params),
    params,
  )


class TruncateState(NamedTuple):
  """The state of :func:`truncate`.

  Attributes:
    step_count: the steps so far, int32 [].
  """

  step_count: jax.Array


def truncate(
  threshold: Argument,
  *,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Truncates a step to a length; put it after the learning rate.

  .. math:: \varphi_b(w) = w \min(1, b/\|w\|)

  There is one norm for all leaves. On the whole step it bounds the jump: to
  leave a basin of radius r takes :math:`\lceil r/b \rceil` jumps, however heavy
  the tail. On the gradient, a threshold of b/learning_rate is the same without
  momentum, as long as the rate is constant.

  It differs from `optax.clip_by_global_norm` in four ways:

  - The threshold may follow a schedule or a reading.
  - The norm is taken in float32 whatever the dtypes of the leaves, and does not
    overflow. (In optax, that of float16 leaves is inf from 65504 on, and the
    update is then zero.)
  - A threshold of 0 gives zeros for a zero step. (In optax it gives nan.)
  - A step whose norm is not finite is dropped: its update is zero. (In optax
    the update then contains nan.)

  Args:
    threshold: b, at least 0, in units of the parameters: a number, a schedule
      of the step, or a :class:`Reading`. A negative value of a schedule counts
      as 0. A threshold of inf truncates nothing, nor does a reading that is not
      known.
    shard_axis_name: mapped axes of `jax.shard_map` over which the updates are
      split by hand; without it each shard is truncated separately.

  Returns:
    The transformation. Its state is a :class:`TruncateState`.

  Raises:
    TypeError: the updates are not floating point.
    ValueError: the threshold is negative or nan.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import truncate
    >>> tx = optax.chain(optax.sgd(1.0), truncate(0.25))
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.asarray([3.0, 4.0]), tx.init(params), params)
    >>> print(updates)
    [-0.15 -0.2 ]

  References:
    Wang, Oh and Rhee (2021), Eliminating sharp minima from SGD with truncated
    heavy-tailed noise, arXiv:2102.04297.
  """
  _checks.check_number(
    "threshold", threshold, lambda v: v >= 0, "be at least 0"
  )

  def update(r, state, threshold):
    exceeds = r > threshold
    length = jnp.where(exceeds, jnp.maximum(threshold, 0.0), 1.0)
    return length / jnp.where(exceeds, r, 1.0), state

  return by_norm(
    Controller(lambda: TruncateState(jnp.zeros([], jnp.int32)), update),
    {"threshold": (threshold, float("inf"))},
    shard_axis_name=shard_axis_name,
    name="truncate",
  )
