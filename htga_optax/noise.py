r"""Noise of heavy tails on a step, and the truncation that goes with it.

An update u gets alpha-stable noise of its own, whatever the gradient,

    u' = u + s_t xi,    E exp(i t xi) = exp(-|t|^alpha),

or more of the noise that mini-batches have, by the gradients of a small and of
a large batch and a heavy-tailed factor,

    u' = u + Z (g_SB* - g_LB),    P(Z > z) = (1 + z/c)^-a;

and a whole step w is truncated to length b,

    phi_b(w) = w min(1, b/||w||),

so that no single jump is longer than b. A number among the arguments may be
constant, follow a schedule of the step, or answer a reading: see `Reading`.

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

from htga_optax import checks, norms, stable

Response = Literal["rising", "falling", "growth"]

# Factors stay below 1e30, which leaves float32 room for gradients.
_LARGEST_LOG = 69.0


class Reading(NamedTuple):
  """An argument that answers what a tracker reads, step by step.

  Attributes:
    name: of the reading, as the tracker offers it and as `update` takes it.
    response: reading -> value, both numbers, float32 [], or a schedule of the
      step. What it says of a reading of 0, which is one not known yet, is not
      heard.

  Examples:
    >>> import jax
    >>> from htga_optax import Reading
    >>> falling = Reading("sharpness", lambda s: 2 - jax.nn.sigmoid(s - 20))
    >>> falling.name
    'sharpness'
  """

  name: str
  response: Callable[[jax.Array], optax.ScalarOrSchedule]


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
  checks.check_number(
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


class AddStableNoiseState(NamedTuple):
  """What :func:`add_stable_noise` knows.

  Attributes:
    step_count: steps that were not dropped, int32 [].
    rng_key: the data of the key, uint32; it never changes.
    noise_tail_index: alpha of the last step, float32 []; 0 before the first
      and for a step without noise.
  """

  step_count: jax.Array
  rng_key: jax.Array
  noise_tail_index: jax.Array


def add_stable_noise(
  alpha: optax.ScalarOrSchedule | Reading,
  scale: optax.ScalarOrSchedule | Reading,
  key: ArrayLike,
  *,
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
    each other: name the axes in `shard_axis_name` (forgotten, JAX refuses a
    state that should be replicated, unless `check_vma=False`). Their index is
    then folded into the key, so that noise changes with the number of shards.
    All leaves must be split over them; a replicated one would come apart.

  A step with an update that is not finite is dropped: it is zero, without
  noise, and the count stays. Nor is there noise while a reading is not known
  (0), where alpha or the scale is not positive, or the scale not finite; an
  alpha above 2 counts as 2. These are for schedules and readings, a constant
  that cannot be is an error.

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
  checks.check_number("alpha", alpha, lambda v: 0 < v <= 2, "be in (0, 2]")
  checks.check_scale("scale", scale)
  checks.check_scale("learning_rate", learning_rate)
  checks.check_number("max_jump", max_jump, lambda v: v > 0, "be positive")
  rng_key, impl = checks.check_key(key)

  def init_fn(params):
    del params
    return AddStableNoiseState(
      step_count=jnp.zeros([], jnp.int32),
      rng_key=jnp.array(rng_key),
      noise_tail_index=jnp.zeros([], jnp.float32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params
    sizes = norms.norms(updates, relative)
    if shard_axis_name is not None:
      sizes = _over_shards(sizes, shard_axis_name)
    finite = jnp.all(jnp.isfinite(sizes))

    def value_of(argument):
      return _value("add_stable_noise", argument, state.step_count, extra_args)

    a, s = value_of(alpha), value_of(scale)
    known = (a > 0) & (s > 0) & (s < jnp.inf)
    a = jnp.where(known, jnp.minimum(a, 2.0), 2.0)
    if learning_rate is not None:
      s = s * value_of(learning_rate) ** (1 / a)
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

      def add(x, s, key, law, finite):
        xi = stable.sample(key, law, shape=x.shape)
        if not isotropic:
          xi = jnp.clip(xi, -most, most)
        return _add(x, s * xi, finite)

      return _as_sharded(add, x)(
        x, s, jax.random.fold_in(leaf_key, next(place)), law, finite
      )

    leaves, structure = jax.tree.flatten(updates)
    each = [s] * len(leaves)
    if relative:
      each = [s * r / _count(x) ** 0.5 for x, r in zip(leaves, sizes)]
    return jax.tree.unflatten(
      structure, list(map(noisy, leaves, each))
    ), AddStableNoiseState(
      step_count=jnp.where(
        finite, optax.safe_increment(state.step_count), state.step_count
      ),
      rng_key=state.rng_key,
      noise_tail_index=jnp.where(
        finite, jnp.where(known, a, 0.0), state.noise_tail_index
      ),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class InflateGradientNoiseState(NamedTuple):
  """What :func:`inflate_gradient_noise` knows.

  Attributes:
    inflation: Z of the step to come, float32 []; 0 where the gate is closed, in
      which case that step needs no second gradient.
    step_count: steps that were not dropped, int32 [].
    rng_key: the data of the key, uint32; it never changes.
  """

  inflation: jax.Array
  step_count: jax.Array
  rng_key: jax.Array


def inflate_gradient_noise(
  key: ArrayLike,
  tail_index: ArrayLike = 1.4,
  scale: optax.ScalarOrSchedule = 0.5,
  gate: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""Gives the noise of a mini-batch gradient a heavy tail.

  .. math::
    g_{heavy} = g_{SB} + Z 1\{Z > C\} (g_{SB^*} - g_{LB}), \qquad
    Z = c (U^{-1/a} - 1), \quad U \sim U(0, 1)

  The updates are :math:`g_{SB}`, of a small batch; the difference between the
  gradients of a small and of a large batch, which is noise of mean zero, is an
  argument of the update:

      z = optax.tree.get(state, "inflation")
      noise = noise_gradient(loss_fn, params, other_batch, large_batch, z)
      updates, state = tx.update(grads, state, params, noise_updates=noise)

  With :math:`SB^*` another small batch this is "Our 1" of the source, with
  :math:`SB^* = SB` it is "Our 2". Z is Lomax (Pareto from 0 on), with
  P(Z > z) = (1 + z/c)^-a; it is drawn one step ahead, so that the state tells
  whether the large batch is needed at all. Its 32 random bits end the tail at
  P = 1e-10.

  A step is dropped where the updates are not finite, or the difference is not
  while the gate is open: it is zero, and the state stays as it is. The sum ends
  at the largest number of the leaf's dtype.

  What it does not do: bound the step, see :func:`htga_optax.truncate`. Behind
  a transformation that changes the updates, the difference is not changed with
  them: put it first. Inside `optax.MultiSteps` the difference is that of the
  last micro-batch.

  Args:
    key: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    tail_index: a, of Z, positive; below 1 it has no mean, below 2 no variance.
    scale: c, at least 0: a number, or a schedule of the steps taken (0 turns
      the noise off).
    gate: C, at least 0, in units of Z: what is not above counts as 0, which
      saves the large batch. It is open at a rate p where
      C = c (p^(-1/a) - 1), and what small Z would have added is missing.

  Returns:
    The transformation. `optax.tree.get` finds `inflation` in its state, an
    :class:`InflateGradientNoiseState`.

  Raises:
    TypeError: a key that is none; updates that are not floating point.
    ValueError: tail_index not positive, scale or gate negative; no
      `noise_updates`, or a tree that is not like the updates (inside
      `optax.masked` and `optax.partition` pass them
      `mask_compatible_extra_args=True`).

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import inflate_gradient_noise
    >>> tx = inflate_gradient_noise(key=1)
    >>> grads, noise = jnp.ones(2), jnp.asarray([1.0, -1.0])
    >>> state = tx.init(grads)
    >>> updates, _ = tx.update(grads, state, noise_updates=noise)
    >>> bool(jnp.allclose(updates, grads + state.inflation * noise))
    True

  References:
    Wang, Oh and Rhee (2021), Eliminating sharp minima from SGD with truncated
    heavy-tailed noise, arXiv:2102.04297. The law of Z and its constants are
    read from public reference code.
  """
  checks.check_number(
    "tail_index", tail_index, lambda v: 0 < v < jnp.inf, "be positive"
  )
  checks.check_scale("scale", scale)
  checks.check_number("gate", gate, lambda v: v >= 0, "be at least 0")
  rng_key, impl = checks.check_key(key)

  def state_at(step_count, rng_key):
    one = jax.random.wrap_key_data(rng_key, impl=impl)
    word = jax.random.bits(jax.random.fold_in(one, step_count))
    exponential = -jnp.log((word.astype(jnp.float32) + 0.5) * 2.0**-32)
    a = jnp.asarray(tail_index, jnp.float32)
    c = _value("inflate_gradient_noise", scale, step_count, {})
    z = c * jnp.expm1(jnp.minimum(exponential / a, _LARGEST_LOG))
    return InflateGradientNoiseState(
      inflation=jnp.where(z > gate, z, 0.0),
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
        "inflate_gradient_noise needs the difference of two gradients like the"
        " updates: pass noise_updates= to update (and"
        " mask_compatible_extra_args=True to optax.masked and optax.partition),"
        f" got {structure}."
      )
    z = state.inflation
    noise = jax.tree.map(lambda x: jnp.where(z > 0, x, 0), noise_updates)
    finite = jnp.isfinite(norms.norms(updates) + norms.norms(noise))[0]
    new = state_at(optax.safe_increment(state.step_count), state.rng_key)
    return jax.tree.map(
      lambda x, y: _add(x, z * y, finite), updates, noise
    ), jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def noise_gradient(
  loss_fn: Callable[[Any, Any], jax.Array],
  params: optax.Params,
  small_batch: Any,
  large_batch: Any,
  inflation: ArrayLike,
) -> optax.Updates:
  r"""The noise of a small batch's gradient, if it is needed.

  .. math:: \nabla (L_{SB^*} - L_{LB})(\theta) \text{ where } Z > 0,
    \text{ else } 0

  as one gradient of one difference, under `lax.cond`: with Z = 0 neither batch
  is looked at. (Under `jax.vmap` over Z both always are.)

  Args:
    loss_fn: (params, batch) -> the batch's mean loss, a real number.
    params: :math:`\theta`, real floating-point leaves.
    small_batch: :math:`SB^*`, any tree: another small batch ("Our 1"), or that
      of the updates ("Our 2"; its gradient is then taken a second time).
    large_batch: LB.
    inflation: Z, of :func:`inflate_gradient_noise`.

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
    jnp.asarray(inflation) > 0,
    jax.grad(difference),
    lambda params: jax.tree.map(jnp.zeros_like, params),
    params,
  )


class TruncateState(NamedTuple):
  """What :func:`truncate` knows.

  Attributes:
    step_count: steps that were not dropped, int32 [].
  """

  step_count: jax.Array


def truncate(
  threshold: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
  r"""Truncates a step to a length; put it behind the learning rate.

  .. math:: \varphi_b(w) = w \min(1, b/\|w\|)

  with one norm for all leaves. On the whole step it bounds the jump: to leave a
  basin of radius r takes :math:`\lceil r/b \rceil` of them, however heavy the
  tail. On the gradient, b/learning_rate is the same without momentum, as long
  as the rate is constant.

  It is `optax.clip_by_global_norm`, but that the threshold may follow a
  schedule; that the norm is taken in float32 whatever the leaves are, and does
  not overflow (theirs of float16 is inf from 65504 on, and the update then
  zero); that :math:`b = 0` gives zeros for a zero step (theirs nan); and that
  a step whose norm is not finite is dropped, its update zero and the count
  unchanged (theirs is nan or spreads it).

  What it does not do: see beyond the device. Under `jax.shard_map` with
  parameters split by hand, each shard is truncated for itself.

  Args:
    threshold: b, at least 0, in units of the parameters: a number or a schedule
      of the count, of which a negative value counts as 0; inf truncates
      nothing.

  Returns:
    The transformation. Its state is a :class:`TruncateState`.

  Raises:
    TypeError: updates that are not floating point.
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
  checks.check_number("threshold", threshold, lambda v: v >= 0, "be at least 0")

  def init_fn(params):
    del params
    return TruncateState(step_count=jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params
    b = _value("truncate", threshold, state.step_count, extra_args)
    r = norms.norms(updates)
    finite = jnp.isfinite(r[0])
    exceeds = r > b
    factor = jnp.where(exceeds, jnp.maximum(b, 0.0), 1.0)
    factor = factor / jnp.where(exceeds, r, 1.0)
    return norms.scale(updates, jnp.where(finite, factor, 0.0)), TruncateState(
      step_count=jnp.where(
        finite, optax.safe_increment(state.step_count), state.step_count
      )
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _value(
  listener: str,
  argument: optax.ScalarOrSchedule | Reading,
  count: jax.Array,
  extra_args: dict[str, Any],
) -> jax.Array:
  """An argument's value in this step, float32 []; 0 where it is not known."""
  if not isinstance(argument, Reading):
    value = argument(count) if callable(argument) else argument
    return jnp.asarray(value, jnp.float32)
  name, response = argument
  reading = extra_args.get(name)
  if reading is None:
    raise ValueError(
      f"{listener} needs the reading `{name}`: put a tracker of it before it in"
      f" htga_optax.relay(...), or pass {name}= to update."
    )
  if [jnp.shape(x) for x in jax.tree.leaves(reading)] != [()]:
    raise ValueError(f"{listener} takes one number of `{name}`, got {reading}.")
  (reading,) = jax.tree.leaves(reading)
  reading = jnp.asarray(reading, jnp.float32)
  known = reading != 0
  value = response(jnp.where(known, reading, 1.0))
  value = value(count) if callable(value) else value
  return jnp.where(known, jnp.asarray(value, jnp.float32), 0.0)


def _add(x: jax.Array, y: jax.Array, keep: jax.Array) -> jax.Array:
  """The sum in x's dtype, at most its largest number; zero unless `keep`."""
  if jnp.iscomplexobj(x):
    return lax.complex(_add(x.real, y.real, keep), _add(x.imag, y.imag, keep))
  wide = jnp.promote_types(x.dtype, jnp.float32)
  largest = jnp.finfo(x.dtype).max.astype(wide)
  total = jnp.clip(x.astype(wide) + y.astype(wide), -largest, largest)
  return jnp.where(keep, total, 0).astype(x.dtype)


def _as_sharded(function: Callable[..., Any], like: jax.Array) -> Any:
  """Lets XLA shard what is in between, where axes of a mesh are explicit."""
  sharding = jax.typeof(like).sharding
  if AxisType.Explicit not in sharding.mesh.axis_types:
    return function
  return auto_axes(function, out_sharding=sharding)


def _count(x: jax.Array) -> int:
  """The real numbers in a leaf, at least one."""
  return max(x.size * (1 + jnp.iscomplexobj(x)), 1)


def _over_shards(
  shard_norms: jax.Array, axis_name: str | tuple[str, ...]
) -> jax.Array:
  """The root mean square of norms over shards, without overflow."""
  largest = lax.stop_gradient(lax.pmax(shard_norms, axis_name))
  unit = jnp.where(largest > 0, largest, 1.0)
  mean_square = lax.pmean(lax.square(shard_norms / unit), axis_name)
  zero = mean_square == 0
  return unit * jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1, mean_square)))
