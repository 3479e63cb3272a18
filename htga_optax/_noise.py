r"""Adds noise with a heavy-tailed law to the updates.

An update u gets alpha-stable noise that does not depend on the gradient::

    u' = u + s_t xi,    E exp(i t xi) = exp(-|t|^alpha).

Alpha and the scale may be constant, follow a schedule of the step, or follow a
reading. In AHTSGD alpha follows the sharpness of the loss.

Noise is a function of the key, the step and the leaf's place in the tree. It
never depends on the device, so all devices that compute the same leaf get the
same noise.
"""

from collections.abc import Callable
import itertools
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, auto_axes
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms, stable
from htga_optax._by_norm import Argument
from htga_optax._relay import Reading, reading_of, value_of
from htga_optax._states import known_state

Response = Literal["rising", "falling", "growth"]


def sharpness_alpha(
  response: Response = "rising",
  center: optax.ScalarOrSchedule = 0.0,
  steepness: ArrayLike = 1.0,
  alpha_min: ArrayLike = 1.05,
) -> Reading:
  r"""Makes an alpha that follows the sharpness of the loss, for AHTSGD.

  .. math::
    \alpha = 1 + \sigma(v (\log s - c)) \ \text{(rising)}, \qquad
    \alpha = 2 - \sigma(v (\log s - c)) \ \text{(falling)}, \qquad
    \alpha = 2 - \sigma(v (\log s/s_{slow} - c)) \ \text{(growth)}

  These are reconstructions, built from a summary of AHTSGD. The summary states
  that alpha lies in [1, 2] and is a sigmoid of an average of the log-sharpness.
  It does not state the direction, nor the constants v and c. The responses
  differ in the direction:

  - "rising": noise is heavy early, and Gaussian where training settles at the
    edge of stability;
  - "falling": alpha is low where the sharpness is high;
  - "growth": noise is heavy while the sharpness still grows.

  Args:
    response: one of the three.
    center: c, a number or a schedule of the step, in units of the
      log-sharpness. For "growth" it is in units of the log-growth, which is 0
      where the sharpness stays the same. At the edge of stability
      :math:`s = 2/\eta`.
    steepness: v, the steepness of the sigmoid.
    alpha_min: a lower bound of alpha; at alpha = 1 the noise has no mean.

  Returns:
    A :class:`Reading` for :func:`add_stable_noise`, of `sharpness` or
    `sharpness_growth`.

  Raises:
    ValueError: `response` is none of the three, or alpha_min is outside (0, 2].

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import sharpness_alpha
    >>> for kind in ("rising", "falling"):
    ...   alpha = sharpness_alpha(kind, center=jnp.log(20.0), steepness=2.0)
    ...   print(*(f"{alpha.response(s):.2f}" for s in (2.0, 20.0, 200.0)))
    1.05 1.50 1.99
    1.99 1.50 1.05

  References:
    Adaptive Heavy-Tailed Stochastic Gradient Descent (2025), arXiv:2508.21353,
    of which only a summary was read.
  """
  if response not in get_args(Response):
    raise ValueError(
      f"response must be rising, falling or growth, got {response!r}."
    )
  _checks.check_number(
    "alpha_min", alpha_min, lambda v: 0 < v <= 2, "be in (0, 2]"
  )

  def alpha_of(sharpness):
    def schedule(count):
      c = center(count) if callable(center) else center
      heavy = jax.nn.sigmoid(steepness * (jnp.log(sharpness) - c))
      alpha = 1 + heavy if response == "rising" else 2 - heavy
      return jnp.maximum(alpha, alpha_min)

    return schedule if callable(center) else schedule(0)

  name = "sharpness_growth" if response == "growth" else "sharpness"
  return Reading(name, alpha_of)


@known_state
class AddStableNoiseState(NamedTuple):
  """The state of :func:`add_stable_noise`.

  Attributes:
    step_count: the steps so far, int32 [].
    rng_key: the data of the key, uint32; it never changes.
    noise_tail_index: alpha of the last step, float32 []; 0 before the first
      step and for a step without noise.
  """

  step_count: jax.Array
  rng_key: jax.Array
  noise_tail_index: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {"noise_tail_index": self.noise_tail_index}


def add_stable_noise(
  alpha: Argument,
  scale: Argument,
  *,
  key: ArrayLike,
  learning_rate: optax.ScalarOrSchedule | None = None,
  relative: bool = False,
  isotropic: bool = False,
  max_jump: ArrayLike | None = None,
  shard_axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adds alpha-stable noise to the updates.

  .. math::
    u'_t = u_t + s_t \xi_t, \qquad E e^{i\tau\xi} = e^{-|\tau|^{\alpha_t}},
    \qquad s_t = \sigma_t \quad\text{or}\quad \sigma_t \eta_t^{1/\alpha_t}

  Every entry gets an independent :math:`\xi` (:func:`stable.sample`). At
  :math:`\alpha = 2` it is N(0, 2), so :math:`\sigma = 1/\sqrt2` is unit
  Gaussian noise. With `learning_rate` the scale is that of a step of length
  :math:`\eta` of the SDE :math:`dX = -\nabla f\,dt + \sigma\,dL^\alpha`
  (Euler-Maruyama, textbook); then put the transformation after the learning
  rate. Without it, the scale is in the units of the updates at this place of
  the chain: before a learning rate, :math:`\sigma` adds noise of scale
  :math:`\sigma\eta` to the step.

  Noise depends on the key, on the number of steps so far and on the number of
  leaves before the leaf. It does not depend on the shapes of those leaves, nor
  on devices:

  - Under `jax.jit`, however arrays are sharded, the noise is that of one
    device: every shard gets its own part of it.
  - Under `jax.pmap` and `jax.shard_map` with replicated parameters, every
    device adds the same noise, as data parallelism needs.
  - Under `jax.shard_map` with parameters split by hand, all shards would get
    the same noise: name the axes in `shard_axis_name`. (If you forget it, there
    is an error, unless `check_vma=False`.) The index of the shard is then
    folded into the key, so the noise depends on the number of shards. All
    leaves must be split over these axes; the copies of a replicated leaf would
    become different.

  A step with an update that is not finite is dropped: it is zero, without
  noise. It counts as a step, so later steps have the noise of a run without it.
  There is also no noise while a reading is not known (0), where alpha or the
  scale is not positive, and where the scale is not finite. An alpha above 2
  counts as 2. These rules are for schedules and readings: an invalid constant
  is an error.

  What it does not do: it does not know which parameters are frozen; wrap it in
  `optax.masked`. Two of these transformations with one key add the same noise
  twice.

  Args:
    alpha: the tail index, in (0, 2], smaller is heavier: a number, a schedule
      of the step, or a :class:`Reading`. Below 1 jumps have no mean.
    scale: :math:`\sigma`, at least 0: a number, a schedule of the step, or a
      :class:`Reading`.
    key: a seed, a typed key or key data. The state holds the data, so
      checkpoints contain it (static for `optax.inject_hyperparams`).
    learning_rate: :math:`\eta`, a number or a schedule of the step; None for a
      scale that does not depend on it.
    relative: whether the scale is in units of the root mean square of the
      leaf's updates (over real numbers: a complex one counts as two). A leaf of
      zeros then gets no noise.
    isotropic: whether all entries jump together, in a uniformly random
      direction: one positive amplitude :math:`\sqrt A` for the tree times
      Gaussian entries, see :func:`stable.isotropic`.
    max_jump: the largest :math:`|\xi|`, in units of the scale; a larger sample
      is clipped to it. With `isotropic`, the largest :math:`\sqrt A`, which is
      1 at alpha = 2. None for no cap.
    shard_axis_name: axes of `jax.shard_map` over which parameters are split.

  Returns:
    The transformation. `optax.tree.get` finds `noise_tail_index` in its state,
    an :class:`AddStableNoiseState`. Leaves keep their dtypes. Noise is sampled
    in float32, and the sum is at most the largest number of the dtype. Compiled
    code adds the noise while it samples and never stores it (checked on CPU).

  Raises:
    TypeError: `key` is not a key, or the updates are not floating point.
    ValueError: alpha is outside (0, 2]; scale is negative or not finite;
      max_jump is not positive; `key` is a batch of keys; a reading is missing
      or is a tree.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import add_stable_noise
    >>> tx = optax.chain(
    ...     optax.sgd(0.1),
    ...     add_stable_noise(1.5, 0.01, key=0, learning_rate=0.1))
    >>> params = jnp.ones(3)
    >>> state = tx.init(params)
    >>> updates, state = tx.update(jnp.ones(3), state, params)
    >>> print(updates.shape, optax.tree.get(state, "noise_tail_index"))
    (3,) 1.5

  References:
    Janicki and Weron (1994), Simulation and Chaotic Behavior of Alpha-Stable
    Stochastic Processes, for the scale of a step.
  """
  _checks.check_number("alpha", alpha, lambda v: 0 < v <= 2, "be in (0, 2]")
  _checks.check_scale("scale", scale)
  _checks.check_scale("learning_rate", learning_rate)
  _checks.check_number("max_jump", max_jump, lambda v: v > 0, "be positive")
  rng_key, impl = _checks.check_key(key)

  def init_fn(params):
    del params
    return AddStableNoiseState(
      step_count=jnp.zeros([], jnp.int32),
      rng_key=jnp.array(rng_key),
      noise_tail_index=jnp.zeros([], jnp.float32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params
    sizes = None
    if relative:
      sizes = norms.layer_norms(updates)
      sizes = norms.over_shards(sizes, shard_axis_name, mean=True)
      finite = jnp.all(jnp.isfinite(sizes))
    else:
      finite = jnp.isfinite(norms.norm(updates, shard_axis_name))

    _checks.check_same_axes(
      "add_stable_noise", "an update", "shard_axis_name", finite, state
    )

    def value(argument):
      reading = reading_of("add_stable_noise", argument, extra_args)
      return value_of(argument, state.step_count, reading, unknown=0.0)

    a, s = value(alpha), value(scale)
    known = (a > 0) & (s > 0) & (s < jnp.inf)
    a = jnp.where(known, jnp.minimum(a, 2.0), 2.0)
    if learning_rate is not None:
      s = s * value(learning_rate) ** (1 / a)
    s = jnp.where(known, s, 0.0)

    most = jnp.float32(jnp.inf) if max_jump is None else jnp.float32(max_jump)
    step_key = jax.random.wrap_key_data(state.rng_key, impl=impl)
    step_key = jax.random.fold_in(step_key, state.step_count)
    amplitude_key, leaf_key = jax.random.split(step_key)
    if isotropic:
      amplitude = jnp.sqrt(stable.positive(amplitude_key, a / 2))
      s = s * jnp.minimum(amplitude, most)
    if shard_axis_name is not None:
      leaf_key = jax.random.fold_in(leaf_key, lax.axis_index(shard_axis_name))
    place = itertools.count()
    # Not the constant 2: with it XLA would keep parts of samples in memory.
    law = jnp.where(finite, 2.0, 1.0) if isotropic else a

    def noisy(x, s):
      if jnp.iscomplexobj(x):
        return lax.complex(noisy(x.real, s), noisy(x.imag, s))

      # All are arguments, since in a closure they would have a mesh.
      def add(x, s, key, law, most, finite):
        xi = stable.sample(key, law, shape=x.shape)
        if not isotropic:
          xi = jnp.clip(xi, -most, most)
        return norms.add(x, s * xi, finite)

      key = jax.random.fold_in(leaf_key, next(place))
      return _as_sharded(add, x)(x, s, key, law, most, finite)

    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, updates))
    each = [s] * len(leaves)
    if sizes is not None:
      each = [s * r / _count(x) ** 0.5 for x, r in zip(leaves, sizes)]
    return jax.tree.unflatten(
      structure, list(map(noisy, leaves, each))
    ), AddStableNoiseState(
      step_count=jnp.asarray(optax.safe_increment(state.step_count)),
      rng_key=state.rng_key,
      noise_tail_index=jnp.where(finite & known, a, 0.0),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _as_sharded(function: Callable[..., Any], like: jax.Array) -> Any:
  """Lets XLA shard intermediate arrays, where axes of a mesh are explicit."""
  sharding = jax.typeof(like).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return function
  return auto_axes(function, out_sharding=sharding)


def _count(x: jax.Array) -> int:
  """The number of real numbers in a leaf, at least one."""
  return max(x.size * (1 + jnp.iscomplexobj(x)), 1)
