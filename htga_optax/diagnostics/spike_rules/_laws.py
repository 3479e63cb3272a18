"""Implements each rule as a law of one norm, with a state of earlier norms."""

from typing import NamedTuple, cast

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks
from htga_optax._by_norm import Controller

_LARGEST = 3e38  # the level of AdaGC before the first norm
# The intervals of AutoClip are those between float32 numbers of 9 bits, from
# 2^-32 to 2^32.
_DEPTH, _DROPPED, _FIRST = 6 + 9, 23 - 9, (127 - 32) << 9


def _one_more(count: jax.Array) -> jax.Array:
  return jnp.asarray(optax.safe_increment(count))


def _down_to(most: jax.Array, r: jax.Array) -> jax.Array:
  """The factor that scales a norm r down to at most `most`."""
  exceeds = r > most
  return jnp.where(exceeds, most / jnp.where(exceeds, r, 1.0), 1.0)


def law_of(transformation: optax.GradientTransformation) -> Controller:
  """Makes a law of one norm from a transformation that only scales updates.

  Args:
    transformation: a transformation that multiplies an update by a number that
      depends on its norm, as `optax.clip_by_global_norm` does.

  Returns:
    The law. Its state is the state of the transformation.

  Raises:
    TypeError: the argument is not a gradient transformation.

  Examples:
    >>> import optax
    >>> from htga_optax.diagnostics import spike_rules
    >>> clip = lambda: spike_rules.law_of(optax.clip_by_global_norm(2.0))
    >>> spike_rules.apply([1.0, 4.0], {"clip at 2": clip})
    {'clip at 2': array([1., 2.])}
  """
  tx = _checks.check_transformation("law_of", transformation)

  def update(r, state):
    scaled, state = tx.update(r[None], state)
    scaled = cast(jax.Array, scaled)[0]
    return jnp.where(r > 0, scaled / jnp.where(r > 0, r, 1.0), 1.0), state

  return Controller(
    init=lambda: tx.init(jnp.zeros([1])),
    update=update,
    drop=lambda r, state: tx.update(r[None], state)[1],
  )


class _WindowState(NamedTuple):
  window: jax.Array
  norm_count: jax.Array


def mean_and_deviations(
  deviations: ArrayLike = 6.0,
  window_size: int | None = None,
  *,
  skip: bool = True,
) -> Controller:
  r"""Skips or clips a step far above the mean of the last norms.

  .. math:: r_t > \bar r + c \, s

  Here :math:`\bar r` is the mean and s the standard deviation of the last 128
  norms before this one. The rule acts once there are 64 norms. The window keeps
  every norm unclipped, so that a new level becomes the baseline.

  With 6 deviations and `skip` it is the rule of OLMo-core
  (`SkipStepOptimizer`), Levanter (`SkipStepConfig`) and MaxText
  (`skip_step_on_spikes`), which apply it to the loss as well. With 3 deviations
  and `skip=False` it is `clip_update_by_historical_norm` of Levanter, which
  comes after Adam and therefore takes the norms of updates.

  Args:
    deviations: the factor c, at least 0.
    window_size: how many norms (static); None for 128. The rule acts once half
      as many are there.
    skip: whether such a step is skipped; otherwise it is clipped at the bound.

  Returns:
    The law.

  Raises:
    TypeError: the size is not a static integer.
    ValueError: `deviations` is negative, or the size is below 1.
  """
  _checks.check_scale("deviations", deviations)
  window_size = _checks.check_size("window_size", window_size, 128)

  def init():
    return _WindowState(jnp.zeros([window_size]), jnp.zeros([], jnp.int32))

  def update(r, state):
    there = jnp.arange(window_size) < state.norm_count
    n = jnp.minimum(state.norm_count, window_size).astype(jnp.float32)
    mean = jnp.sum(state.window) / jnp.maximum(n, 1)
    squares = jnp.where(there, (state.window - mean) ** 2, 0.0)
    deviation = jnp.sqrt(jnp.sum(squares) / jnp.maximum(n - 1, 1))
    most = mean + deviations * jnp.maximum(deviation, 1e-6)
    fires = (n >= window_size // 2) & (r > most)
    factor = jnp.where(fires, 0.0 if skip else _down_to(most, r), 1.0)
    window = state.window.at[state.norm_count % window_size].set(r)
    count = _one_more(state.norm_count)
    return factor, _WindowState(window, count)

  return Controller(init, update)


class _ZClipState(NamedTuple):
  mean: jax.Array
  variance: jax.Array
  first: jax.Array
  norm_count: jax.Array


def zclip(
  z_most: ArrayLike = 2.5,
  decay: ArrayLike = 0.97,
  warm_up: int | None = None,
  *,
  max_norm: ArrayLike | None = None,
) -> Controller:
  r"""ZClip: clips a step by the distance of its norm from a moving mean.

  .. math::
    z = \frac{r - m}{s + 10^{-6}} > z_0 \quad\Rightarrow\quad
    r' = m + \frac{z_0^2 s}{z}, \qquad
    m \leftarrow d m + (1-d) r', \quad
    s^2 \leftarrow d s^2 + (1-d) (r' - m)^2

  A larger spike is clipped to a smaller norm. The moments m and s are computed
  from the clipped norms, and begin with those of the first 25 norms.

  Args:
    z_most: z_0.
    decay: d, per step.
    warm_up: how many norms the moments begin with (static); None for 25. Only
      `max_norm` clips these.
    max_norm: an additional fixed bound of the norm, which does not affect the
      moments. The authors' code has a default of 1 here. In a run whose norms
      are above 1, that bound then does most of the clipping. None for the rule
      alone.

  Returns:
    The law.

  Raises:
    TypeError: the size is not a static integer.
    ValueError: `z_most` or `max_norm` is not positive, `decay` is outside
      [0, 1), or the size is below 1.

  References:
    Kumar, Owen, Chowdhury and Güra (2025), ZClip: adaptive spike mitigation for
    LLM pre-training, arXiv:2504.02507.
  """
  _checks.check_number("z_most", z_most, lambda v: v > 0, "be positive")
  _checks.check_number("decay", decay, lambda v: 0 <= v < 1, "be in [0, 1)")
  _checks.check_number("max_norm", max_norm, lambda v: v > 0, "be positive")
  size = _checks.check_size("warm_up", warm_up, 25)
  bound = jnp.inf if max_norm is None else max_norm

  def init():
    zero = jnp.zeros([])
    return _ZClipState(zero, zero + 0, jnp.zeros([size]), jnp.int32(0))

  def update(r, state):
    mean, variance, first, count = state
    deviation = jnp.sqrt(variance)
    z = (r - mean) / (deviation + 1e-6)
    starts = count < size
    fires = ~starts & (z > z_most)
    kept = mean + deviation * z_most**2 / jnp.where(fires, z, 1.0)
    kept = jnp.where(fires, kept, r)
    moved = decay * mean + (1 - decay) * kept
    spread = decay * variance + (1 - decay) * (kept - moved) ** 2
    first = first.at[jnp.minimum(count, size - 1)].set(
      jnp.where(starts, r, first[-1])
    )
    new = _ZClipState(
      mean=jnp.where(starts, jnp.mean(first), moved),
      variance=jnp.where(starts, jnp.var(first), spread),
      first=first,
      norm_count=_one_more(count),
    )
    return _down_to(jnp.minimum(kept, bound), r), new

  return Controller(init, update)


class _AdaGCState(NamedTuple):
  level: jax.Array
  norm_count: jax.Array


def adagc(
  relative: ArrayLike = 1.05,
  decay: ArrayLike = 0.98,
  warm_up: ArrayLike = 100,
  *,
  max_norm: ArrayLike = 1.0,
) -> Controller:
  r"""AdaGC: clips at a multiple of the moving mean of the clipped norms.

  .. math::
    r' = \min(r, \lambda \gamma), \qquad
    \gamma \leftarrow d \gamma + (1-d) r'

  Before step 100 it clips at a norm of 1, and gamma is the smallest of these
  clipped norms. The authors apply the rule to every tensor, and the clip of the
  warm-up to the norm of all tensors. `by_norm(adagc(), per_layer=True)` does
  the same, except that its warm-up is per layer too. A norm of 0 in the warm-up
  stops the training, because every step after the warm-up is clipped to 0.

  Args:
    relative: lambda.
    decay: d, per step.
    warm_up: the first step that is clipped at the moving mean, counted from 1.
    max_norm: the norm at which earlier steps are clipped.

  Returns:
    The law.

  Raises:
    ValueError: `relative` or `max_norm` is not positive, or `decay` is outside
      [0, 1).

  References:
    Wang, Li et al. (2025), AdaGC: improving training stability for large
    language model pretraining, arXiv:2502.11034.
  """
  _checks.check_number("relative", relative, lambda v: v > 0, "be positive")
  _checks.check_number("decay", decay, lambda v: 0 <= v < 1, "be in [0, 1)")
  _checks.check_number("max_norm", max_norm, lambda v: v > 0, "be positive")

  def init():
    return _AdaGCState(jnp.float32(_LARGEST), jnp.int32(0))

  def update(r, state):
    level, count = state
    starts = count + 1 < warm_up
    most = jnp.where(starts, max_norm, relative * level)
    kept = jnp.minimum(r, most)
    moved = decay * level + (1 - decay) * kept
    level = jnp.where(starts, jnp.minimum(level, kept), moved)
    new = _AdaGCState(level, _one_more(count))
    return _down_to(most, r), new

  return Controller(init, update)


class _AutoClipState(NamedTuple):
  counts: jax.Array


def autoclip(percentile: ArrayLike = 10.0) -> Controller:
  r"""AutoClip: clips at a percentile of all norms so far, this one included.

  The history is unbounded. Therefore a binary tree counts how many norms were
  in each of 32,768 intervals between 2e-10 and 4e9. The result is the
  percentile of norms that are rounded up by at most 1 part in 512. The state
  takes 256 kB.

  Args:
    percentile: the percentile, from 0 to 100.

  Returns:
    The law.

  Raises:
    ValueError: the percentile is outside [0, 100].

  References:
    Seetharaman et al. (2020), AutoClip: adaptive gradient clipping for source
    separation networks, arXiv:2007.14469.
  """
  _checks.check_number(
    "percentile", percentile, lambda v: 0 <= v <= 100, "be in [0, 100]"
  )

  def at_rank(counts, rank):
    """The upper end of the interval of the norm at a rank, counted from 0."""
    node = 1
    for _ in range(_DEPTH):
      below = counts[2 * node]
      right = rank >= below
      node = 2 * node + right.astype(jnp.int32)
      rank -= jnp.where(right, below, 0)
    end = (node - 2**_DEPTH + 1 + _FIRST) << _DROPPED
    return lax.bitcast_convert_type(end, jnp.float32)

  def update(r, state):
    interval = (lax.bitcast_convert_type(r, jnp.int32) >> _DROPPED) - _FIRST
    leaf = jnp.clip(interval, 0, 2**_DEPTH - 1) + 2**_DEPTH
    counts = state.counts.at[leaf >> jnp.arange(_DEPTH + 1)].add(1)
    last = counts[1] - 1
    place = last.astype(jnp.float32) * jnp.float32(percentile / 100)
    rank = jnp.floor(place).astype(jnp.int32)
    ranks = jnp.minimum(jnp.stack([rank, rank + 1]), last)
    low, high = jax.vmap(at_rank, (None, 0))(counts, ranks)
    most = low + (place - rank.astype(jnp.float32)) * (high - low)
    return _down_to(most, r), _AutoClipState(counts)

  return Controller(
    lambda: _AutoClipState(jnp.zeros([2 ** (_DEPTH + 1)], jnp.int32)), update
  )


class _MovingMeanState(NamedTuple):
  mean: jax.Array
  norm_count: jax.Array


def moving_mean(
  multiple: ArrayLike = 20.0, decay: ArrayLike = 0.99
) -> Controller:
  r"""Skips a step whose norm is at least a multiple of the moving mean.

  .. math:: r_t \geq c \, m

  Here m is the bias-corrected moving mean of the norms that were not skipped.
  It is the rule of axlearn (`skip_and_clip_by_global_norm` with
  `drop_norm_by_grad_norm_ema`). As in that code, the mean is 1 before the first
  norm, and skipped norms do not enter it. Therefore the rule skips every step
  of a run whose norms begin at 20 and stay there. It also skips every step
  after a level rises twentyfold at once.

  Args:
    multiple: the factor c, at least 0.
    decay: the decay of the mean, per step.

  Returns:
    The law.

  Raises:
    ValueError: `multiple` is not positive, or `decay` is outside (0, 1).
  """
  _checks.check_number("multiple", multiple, lambda v: v > 0, "be positive")
  _checks.check_number("decay", decay, lambda v: 0 < v < 1, "be in (0, 1)")

  def init():
    return _MovingMeanState(jnp.ones([]), jnp.int32(0))

  def update(r, state):
    mean, count = state
    takes = r < multiple * mean
    rate = (1 - decay) / (
      1 - jnp.float32(decay) ** (count + 1).astype(jnp.float32)
    )
    new = _MovingMeanState(mean + rate * (r - mean), _one_more(count))
    return takes.astype(jnp.float32), optax.tree.where(takes, new, state)

  return Controller(init, update)
