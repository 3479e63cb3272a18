r"""Noise of a heavy-tailed law of its own on a step.

An update u gets alpha-stable noise, whatever the gradient,

    u' = u + s_t xi,    E exp(i t xi) = exp(-|t|^alpha).

Alpha and the scale may be constant, follow a schedule of the step, or answer a
reading, as alpha answers the sharpness of the loss in AHTSGD.

Noise is a function of the key, the step and the leaf's place in the tree, never
of the device: what is computed twice is the same twice.
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
  r"""Responses of AHTSGD: an alpha that follows the sharpness of the loss.

  .. math::
    \alpha = 1 + \sigma(v (\log s - c)) \ \text{(rising)}, \qquad
    \alpha = 2 - \sigma(v (\log s - c)) \ \text{(falling)}, \qquad
    \alpha = 2 - \sigma(v (\log s/s_{slow} - c)) \ \text{(growth)}

  These are reconstructions. The summary of AHTSGD from which this was built
  says that alpha lies in [1, 2] and follows an average of the log-sharpness by
  a sigmoid, not which way: heavy noise early, and Gaussian where training
  settles at the edge of stability, is "rising"; low alpha where sharpness is
  high is "falling"; heavy while it still grows is "growth". The constants v and
  c are not given.

  Args:
    response: one of the three.
    center: c, a number or a schedule of the step, in units of the log-sharpness
      (for "growth" of the log-growth, with 0 where it stays). At the edge of
      stability :math:`s = 2/\eta`.
    steepness: v.
    alpha_min: a lower bound; at alpha = 1 the noise has no mean.

  Returns:
    A :class:`Reading` for :func:`add_stable_noise`, of `sharpness` or
    `sharpness_growth`.

  Raises:
    ValueError: another response; alpha_min outside (0, 2].

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
    of which a summary was read.
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
    """What later members of a relay get, and what a log shows."""
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

  with an independent :math:`\xi` for every entry (:func:`stable.sample`); at
  :math:`\alpha = 2` it is N(0, 2), so :math:`\sigma = 1/\sqrt2` is unit
  Gaussian noise. With `learning_rate` the scale is that of a step of length
  :math:`\eta` of the SDE :math:`dX = -\nabla f\,dt + \sigma\,dL^\alpha`
  (Euler-Maruyama, textbook): put it behind the learning rate then. Without, the
  scale is in the units of the updates where it stands; before a learning rate
  that means :math:`\sigma\eta`.

  Noise depends on the key, on how many steps were taken and on how many leaves
  come before, not on their shapes, nor on devices:

  - Under `jax.jit`, however arrays are sharded, it is the noise of one device:
    every shard has its own part of it.
  - Under `jax.pmap` and `jax.shard_map` with replicated parameters, every
    device adds the same noise, as data parallelism needs.
  - Under `jax.shard_map` with parameters split by hand, shards would repeat
    each other: name the axes in `shard_axis_name` (forgotten, it is an error,
    unless `check_vma=False`). Their index is
    then folded into the key, so that noise changes with the number of shards.
    All leaves must be split over them; a replicated one would come apart.

  A step with an update that is not finite is dropped: it is zero, without
  noise. It counts as a step, so later steps have the noise of a run without it.
  There is no noise either while a reading is not known (0), where alpha or the
  scale is not positive, or the scale is not finite; an alpha above 2 counts as
  2. This is for schedules and readings: an invalid constant is an error.

  What it does not do: know which parameters are frozen; wrap it in
  `optax.masked`. Two of these with one key add the same noise twice.

  Args:
    alpha: the tail index, in (0, 2], smaller is heavier: a number, a schedule
      of the count, or a :class:`Reading`. Below 1 jumps have no mean.
    scale: :math:`\sigma`, at least 0, likewise.
    key: a seed, a typed key or key data; the state holds the data, which
      checkpoints keep (static for `optax.inject_hyperparams`).
    learning_rate: :math:`\eta`, a number or a schedule of the count; None for
      a scale of its own.
    relative: whether the scale is in units of the root mean square of the
      leaf's updates (over real numbers: a complex one is two). A leaf of zeros
      then gets no noise.
    isotropic: whether all entries jump together, in a direction without
      preference: one positive amplitude :math:`\sqrt A` for the tree times
      Gaussian entries, see :func:`stable.isotropic`.
    max_jump: the largest :math:`|\xi|`, in units of the scale; a sample
      beyond it is put there. Isotropic: the largest :math:`\sqrt A`, which is
      1 at alpha = 2. None for no cap.
    shard_axis_name: axes of `jax.shard_map` over which parameters are split.

  Returns:
    The transformation. `optax.tree.get` finds `noise_tail_index` in its state,
    an :class:`AddStableNoiseState`. Leaves keep their dtypes; noise is sampled
    in float32 and the sum ends at the largest number of the dtype. Compiled, it
    is added as it is sampled and never stored (checked on CPU).

  Raises:
    TypeError: a key that is none; updates that are not floating point.
    ValueError: alpha outside (0, 2], scale negative or not finite, max_jump
      not positive, a batch of keys; a reading that is missing or a tree.

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
    Stochastic Processes, of the step's scale.
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
    # Not the constant 2, for which XLA would keep parts of samples in memory.
    law = jnp.where(finite, 2.0, 1.0) if isotropic else a

    def noisy(x, s):
      if jnp.iscomplexobj(x):
        return lax.complex(noisy(x.real, s), noisy(x.imag, s))

      def add(x, s, key, law, most, finite):  # closed over, they had a mesh
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
  """Lets XLA shard what is in between, where axes of a mesh are explicit."""
  sharding = jax.typeof(like).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return function
  return auto_axes(function, out_sharding=sharding)


def _count(x: jax.Array) -> int:
  """The real numbers in a leaf, at least one."""
  return max(x.size * (1 + jnp.iscomplexobj(x)), 1)
