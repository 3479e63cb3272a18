r"""Clips steps at a quantile of the norms, with a stated rate of false alarms.

A fixed clipping norm does not tell how often it acts. The rule "mean + 6
standard deviations" tells it for a Gaussian law only. Here each norm is divided
by the level L of the norms before it, x_t = r_t/L_(t-1), since levels move in a
run. A generalized Pareto law, which holds for heavy and light tails alike, is
fitted to the k largest of the last W ratios, above the threshold u = x_(k+1).
Then::

    q_p = L_(t-1) (u + (sigma/xi) ((W p'/k)^-xi - 1))

is the norm that a step exceeds with probability p. Here p' is p, made smaller
to allow for the error of the fit. A step above this norm is scaled to it::

    g' = g min(1, q_p/||g||).

The window stores a norm as at most 1.5 times the quantile. For the level a norm
counts as at most e times the level, and as at least 1/e of it. So one spike,
however large, moves the quantile as little as a norm just above it. The
quantile still follows a level that has risen for good.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import custom_batching, lax
from jax.core import Tracer
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from htga_optax import _checks, norms, order_statistics
from htga_optax._by_norm import Argument, Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._states import known_state
from htga_optax.estimators._pareto import (
  ParetoTail,
  pareto_tail,
  predictive_rate,
  quantile_of,
)
from htga_optax.estimators._samples import check_tail_size
from htga_optax.streaming import LEVEL_DECAY
from htga_optax.streaming._level import level

# A norm enters the window as at most this multiple of the quantile. At 1 the
# window would hold clipped norms, and the rate would be 1.5 times as high.
# Without a bound, frequent spikes would hide each other.
_KEPT = 1.5
_LARGEST = 3e38
# The smallest numbers of norms, and of norms in the tail, for a quantile.
_FEWEST = 64
_SMALLEST_TAIL = 5


@known_state
class ClipByTailQuantileState(NamedTuple):
  """The state of :func:`clip_by_tail_quantile`; per layer with axis [layers].

  Attributes:
    step_count: the steps so far, int32 [], for a schedule of `max_norm`.
    tail_quantile: the norm above which the last step would have been clipped,
      float32 []; 0 while there is none.
    exceedance_count: the number of steps so far whose norm was above the
      clipping norm or not finite, int32 [].
    level: the logarithm of the norms' level and the weight of its average,
      float32 [2]; () without a level.
    window: the last W norms, divided by their level.
    tail_fit: threshold, xi and sigma of their tail, float32 [3]; sigma is 0
      while there is no fit.
  """

  step_count: jax.Array
  tail_quantile: jax.Array
  exceedance_count: jax.Array
  level: Any
  window: order_statistics.SortedWindow
  tail_fit: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {
      "tail_quantile": self.tail_quantile,
      "exceedance_count": self.exceedance_count,
    }


def clip_by_tail_quantile(
  exceedance_rate: ArrayLike = 1e-3,
  window_size: int | None = None,
  k: int | None = None,
  *,
  max_norm: Argument | None = None,
  history: Sequence[float] | np.ndarray | None = None,
  level_decay: ArrayLike | None = LEVEL_DECAY,
  skip: bool = False,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Clips a step whose norm exceeds the 1 - p quantile of the last norms.

  .. math::
    g' = g \min(1, \hat q/\|g\|), \qquad
    \hat q = L_{t-1} \Bigl(u + \frac{\hat\sigma}{\hat\xi}
      \Bigl(\bigl(\tfrac{W p'}{k}\bigr)^{-\hat\xi} - 1\Bigr)\Bigr)

  It acts as :func:`optax.clip_by_global_norm` with a norm that follows the run.
  Steps without a spike exceed this norm about once in 1/p steps, whatever the
  law of their norms. L is the level of the norms,

  .. math::
    \log L_t = \log L_{t-1} + a_t \operatorname{clip}
      (\log\|g_t\| - \log L_{t-1}, -1, 1),
    \qquad a_t = \frac{1 - d}{1 - d^t},

  and xi and sigma are those of :func:`estimators.generalized_pareto_fit`. The
  fit uses the last W norms, each divided by its level, and takes the k largest
  above the threshold u.

  An estimated quantile is exceeded more often than the true one. The quantile
  is therefore taken at the smaller rate :math:`p' = p/(1 + V/2)`. V is the
  variance of the logarithm of the rate at which it is exceeded: :math:`V = (1 +
  2t^2 - t^3 + t^4/4)/k` with :math:`t = \log(k/(Wp))`, by the delta method for
  maximum likelihood at :math:`\xi = 0` (derived here:
  :ref:`derivation-predictive-rate`).

  At p = 1e-3 it clips 0.95 to 1.1 in a thousand independent norms without a
  spike, for five laws from half-normal to Pareto(1.5), and up to 1.8 where the
  norms are autocorrelated or their level moves. `benchmarks/README.md` has all
  rates, the share of spikes that it misses, and other rules beside it
  (`benchmarks/false_alarms.py`).

  Nothing is clipped before the 64th norm, except by `max_norm`. From then on
  the tail is the same share of the norms so far. With few norms the rate is
  higher: at p = 1e-3 it is about 3 in a thousand up to 128 norms
  (`benchmarks/README.md`). A run that is continued can avoid this start:
  `history` takes the norms of its log.

  Norms that are equal because they were rounded are spread over the interval
  that the rounding leaves open. If all norms are equal, nothing is clipped, and
  the quantile reads 0. A step whose norm is not finite is dropped: its update
  is zero.

  Args:
    exceedance_rate: p, the rate of false alarms, in (0, k/W). Below 1/W it is
      extrapolated.
    window_size: W, the number of norms for the fit (static); None for 1024. A
      window of 256 norms (k = 32) clips more often than stated and misses more
      spikes (`benchmarks/README.md`).
    k: the number of largest norms that form the tail (static), at least 5; None
      for 128. A smaller k is noisier; a larger k includes more of the body of
      the law.
    max_norm: an upper bound of the norm, in force from the first step on: a
      number, a schedule, a :class:`Reading`, or None.
    history: the norms before the first step, oldest first, for example from a
      log; those that are not finite are left out.
    level_decay: d, the decay of the level, in (0, 1); the level's memory is
      1/(1 - d) steps. With None norms are not divided by a level. Then, after
      another clipping, the quantile is the norm of that clipping, and nothing
      more is clipped.
    skip: whether a step above the norm is dropped instead of scaled.
    per_layer: False for one norm, True for a window and a quantile of every
      leaf, or a regular expression as in :func:`by_norm`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. `optax.tree.get` finds `tail_quantile` and
    `exceedance_count` in its state, a :class:`ClipByTailQuantileState`.

  Raises:
    TypeError: a size is not a static integer, `history` is traced, or the
      updates are not floating point.
    ValueError: `exceedance_rate` is outside (0, k/W), k < 5, or k is not below
      W; `max_norm` is not positive; `history` is given with `per_layer`, has
      several axes, or contains a negative norm.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import clip_by_tail_quantile
    >>> tx = clip_by_tail_quantile(exceedance_rate=1e-3)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for r in np.abs(np.random.default_rng(0).standard_t(3, size=1100)):
    ...   _, state = update(jnp.asarray([r]), state)
    >>> spike, state = update(jnp.asarray([1e6]), state)
    >>> print(spike.round(1), optax.tree.get(state, "exceedance_count"))
    [14.8] 2

  References:
    Zhang and Stephens (2009), as for the fit. The quantile is estimated from
    the tail above it by the method of peaks over a threshold, Davison and Smith
    (1990), Models for exceedances over high thresholds, JRSS B 52(3).
  """
  window_size = _checks.check_size("window_size", window_size, 1024)
  k = _checks.check_size("k", k, 128)
  check_tail_size(k, window_size, "a window of")
  _checks.check_number("k", k, lambda v: v >= 5, "be at least 5")
  largest = k / window_size
  _checks.check_number(
    "exceedance_rate",
    exceedance_rate,
    lambda v: 0 < v < largest,
    f"be in (0, k/window_size = {largest:g})",
  )
  _checks.check_number("max_norm", max_norm, lambda v: v > 0, "be positive")
  fewest = min(_FEWEST, window_size)
  past = _past_norms(history, per_layer)
  follow = level(level_decay)
  refit = _refit_where_changed(_fit)

  def tail_size(window):
    """The number of norms so far, and how many of them are the tail."""
    n = jnp.sum(window.ascending >= 0)
    return n, n * k // window_size

  def largest_of(window):
    return window.ascending[-(k + 1) :]

  def quantile(window, tail_fit):
    """The quantile of the norms divided by their level."""
    n, tail = tail_size(window)
    enough = (n >= fewest) & (tail >= _SMALLEST_TAIL)
    threshold, xi, sigma = tail_fit
    fit = ParetoTail(threshold, xi, sigma, enough & (sigma > 0))
    share = jnp.where(enough, tail / jnp.maximum(n, 1), 1.0)
    rate = predictive_rate(exceedance_rate, share, jnp.maximum(tail, 1))
    q = quantile_of(fit, share, rate)
    # A tail of equal norms has no fit. Their value is then the quantile, unless
    # all norms in the window are equal.
    smallest, u, r = window.ascending[
      jnp.stack([window_size - n, window_size - 1 - tail, window_size - 1])
    ]
    flat = jnp.where(enough & (smallest < r) & (u == r), r, 0.0)
    return jnp.clip(jnp.where(fit.usable, q, flat), 0.0, _LARGEST)

  def times(over_level, scale):
    return jnp.minimum(over_level * scale, _LARGEST)

  def init():
    level_state = follow.init()
    window = order_statistics.empty_window(window_size)
    tail_fit = jnp.zeros([3], jnp.float32)
    if past.size:
      level_state, over_level = lax.scan(
        lambda state, r: (follow.update(state, r), r / follow.scale(state, r)),
        level_state,
        jnp.asarray(past),
      )
      ratios = jnp.concatenate([window.arrivals, over_level])
      window = order_statistics.sorted_window(ratios[-window_size:])
      tail_fit = _fit(largest_of(window), jnp.maximum(tail_size(window)[1], 1))
    return ClipByTailQuantileState(
      step_count=jnp.zeros([], jnp.int32),
      tail_quantile=jnp.zeros([], jnp.float32),
      exceedance_count=jnp.zeros([], jnp.int32),
      level=level_state,
      window=window,
      tail_fit=tail_fit,
    )

  def update(r, state, max_norm):
    scale = follow.scale(state.level, r)
    over_level = quantile(state.window, state.tail_fit)
    q = times(over_level, scale)
    most = jnp.minimum(jnp.where(q > 0, q, jnp.inf), max_norm)
    exceeds = r > most
    factor = 0.0 if skip else most / jnp.where(exceeds, r, 1.0)
    kept = jnp.where(over_level > 0, _KEPT * over_level, _LARGEST)
    window = order_statistics.push(state.window, jnp.minimum(r / scale, kept))
    old, new = largest_of(state.window), largest_of(window)
    (_, before), (_, size) = tail_size(state.window), tail_size(window)
    in_tail = jnp.arange(k + 1) >= k - size
    # The fit costs more than all the rest, and most norms do not change the
    # tail.
    changed = jnp.any((old != new) & in_tail) | (size != before)
    tail_fit = refit(
      *lax.stop_gradient((changed, new, jnp.maximum(size, 1), state.tail_fit))
    )
    return jnp.where(exceeds, factor, 1.0), state._replace(
      tail_quantile=q,
      exceedance_count=_counted(exceeds, state.exceedance_count),
      level=follow.update(state.level, r),
      window=window,
      tail_fit=tail_fit,
    )

  def drop(r, state):
    over_level = quantile(state.window, state.tail_fit)
    return state._replace(
      tail_quantile=times(over_level, follow.scale(state.level, 1.0)),
      exceedance_count=_counted(~jnp.isfinite(r), state.exceedance_count),
    )

  return by_norm(
    Controller(init, update, drop),
    {"max_norm": (jnp.inf if max_norm is None else max_norm, float("inf"))},
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="clip_by_tail_quantile",
  )


def _counted(event: jax.Array, count: jax.Array) -> jax.Array:
  return jnp.where(event, optax.safe_increment(count), count)


def _past_norms(
  history: Sequence[float] | np.ndarray | None, per_layer: PerLayer
) -> np.ndarray:
  """The finite norms of a history, oldest first."""
  if history is None:
    return np.zeros([0], np.float32)
  if per_layer:
    raise ValueError(
      "history holds global norms: leave it out with per_layer, or wrap the"
      " layers it belongs to in optax.masked."
    )
  if isinstance(history, Tracer):
    raise TypeError(
      "history must not be traced; under optax.inject_hyperparams pass"
      " static_args=('history', ...)."
    )
  x = np.asarray(history, np.float32)
  if x.ndim != 1:
    raise ValueError(f"history must be one-dimensional, got shape {x.shape}.")
  if np.any(x < 0):
    raise ValueError(f"history must hold norms, at least 0, got {np.min(x)}.")
  return x[np.isfinite(x)]


def _fit(largest: jax.Array, size: jax.Array) -> jax.Array:
  """Fits the `size` largest above the next one; zeros if there is no fit."""
  fit = pareto_tail(largest, size, jnp.sum(largest >= 0))
  found = jnp.stack([fit.threshold, fit.xi, fit.sigma])
  return jnp.where(fit.usable & jnp.all(jnp.isfinite(found)), found, 0.0)


def _refit_where_changed(fit: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Makes (changed, tail, size, old) -> fit(tail, size) if changed, else old.

  `jax.vmap` would turn a `lax.cond` into both of its branches. The function
  made here fits only the changed tails when it is mapped, one after the other.
  """

  @custom_batching.custom_vmap
  def refit(changed, tail, size, old):
    return lax.cond(changed, fit, lambda tail, size: old, tail, size)

  @refit.def_vmap
  def _(axis_size, in_batched, *arguments):
    changed, tail, size, old = (
      x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
      for x, batched in zip(arguments, in_batched)
    )
    # The places of the changed tails come first.
    place = jnp.argsort(~changed)

    def body(i, fits):
      return fits.at[place[i]].set(fit(tail[place[i]], size[place[i]]))

    return lax.fori_loop(0, jnp.sum(changed), body, old), True

  return refit
