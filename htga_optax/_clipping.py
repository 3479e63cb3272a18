r"""Clipping at a quantile of the norms, with a stated rate of false alarms.

A fixed clipping norm says nothing about how often it acts; mean + 6 standard
deviations says it for a Gaussian law. Here the k largest of the last W norms
r_1, ..., r_W are fitted by a generalized Pareto law over the threshold
u = r_(k+1), which holds for heavy and light tails alike, and

    q_p = u + (sigma/xi) ((W p/k)^-xi - 1)

is the norm that a step exceeds with probability p. A step above it is scaled
to it:

    g' = g min(1, q_p/||g||).

The window keeps min(r, 1.5 q_p). So one spike, however large, moves the
quantile as little as a norm just above it, and yet a level that has risen for
good lifts the quantile within some dozen steps.
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
from htga_optax.estimators._pareto import ParetoTail, pareto_tail, quantile_of
from htga_optax.estimators._samples import check_tail_size

# A norm enters the window as at most so many times the quantile. At 1 the
# window would keep clipped norms, and the rate be half as high again; without
# a bound, frequent spikes would hide each other.
_KEPT = 1.5
_LARGEST = 3e38
# The norms and the tail from which on there is a quantile.
_FEWEST = 64
_SMALLEST_TAIL = 5


@known_state
class ClipByTailQuantileState(NamedTuple):
  """The state of :func:`clip_by_tail_quantile`; per layer with axis [layers].

  Attributes:
    step_count: the steps so far, int32 [], for a schedule of `max_norm`.
    tail_quantile: the norm beyond which the last step would have been clipped,
      float32 []; 0 while there is none.
    exceedance_count: how many steps were beyond it or not finite, int32 [].
    window: the last W norms.
    tail_fit: threshold, xi and sigma of their tail, float32 [3]; sigma is 0
      while there is no fit.
  """

  step_count: jax.Array
  tail_quantile: jax.Array
  exceedance_count: jax.Array
  window: order_statistics.SortedWindow
  tail_fit: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """What later members of a relay get, and what a log shows."""
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
  skip: bool = False,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Clips a step whose norm exceeds the 1 - p quantile of the last norms.

  .. math::
    g' = g \min(1, \hat q_p/\|g\|), \qquad
    \hat q_p = u + \frac{\hat\sigma}{\hat\xi}
      \Bigl(\bigl(\tfrac{W p}{k}\bigr)^{-\hat\xi} - 1\Bigr)

  as :func:`optax.clip_by_global_norm` with a norm that follows the run, and
  that a step without a spike exceeds about once in 1/p steps, whatever the
  law of its norm: xi and sigma are those of
  :func:`estimators.generalized_pareto_fit` on the k norms above the threshold
  u. Over a million steps without a spike, at p = 1e-3, it clips 1.2 to 1.4 in a
  thousand on half-normal, lognormal, :math:`|t_3|`, Pareto(1.5) and chi(1000)
  norms alike, 1.8 to 1.9 on autocorrelated ones (AR(0.9), half-normal and
  Pareto), 0.6 to 1.2 on a level that falls tenfold in 20,000 steps and 1.5 to
  2.1 on one that rises so; of spikes of ten times the true quantile it misses
  one in a thousand on Pareto(1.5), and fewer on the others
  (`benchmarks/false_alarms.py`, with other rules beside it).

  Before the 64th norm nothing is clipped, unless by `max_norm`. From then on
  the tail is the same share of the norms there are, and with few norms the rate
  is higher: at p = 1e-3 it is 4.4 in a thousand up to 128 norms, 2.5 up to 256,
  1.7 up to 512 and 1.4 up to 1024 (means of the five laws; the same command). A
  run that goes on need not start blind: `history` takes the norms of its log.

  Norms that are equal because they were rounded are spread over what the
  resolution leaves open. If the k + 1 largest are equal (behind another
  clipping), the quantile is that norm; if all are, nothing is clipped, and it
  reads 0. A step whose norm is not finite is dropped: its update is zero.

  Args:
    exceedance_rate: p, the rate of false alarms, in (0, k/W). Below 1/W it is
      extrapolated.
    window_size: W, the norms it rests on (static); None for 1024. With 256
      norms (k = 32) the rate is twice as high as stated, and 3 in 100 spikes
      pass on Pareto(1.5).
    k: how many of them are the tail (static), from 5 on; None for 128. Fewer
      are noisier, and more look into the body of the law.
    max_norm: an upper bound of the norm, in force from the first step on: a
      number, a schedule, a :class:`Reading`, or None.
    history: norms before the first step, oldest first, as of a log; those that
      are not finite are left out.
    skip: whether such a step is dropped instead of scaled.
    per_layer: False for one norm, True for a window and a quantile of every
      leaf, or a regular expression as in :func:`by_norm`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. `optax.tree.get` finds `tail_quantile` and
    `exceedance_count` in its state, a :class:`ClipByTailQuantileState`.

  Raises:
    TypeError: a size is not a static integer, a history is traced; updates
      that are not floating point.
    ValueError: exceedance_rate outside (0, k/W), k < 5, or k not below W;
      max_norm not positive; a history per layer, of several axes, or with a
      negative norm.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import clip_by_tail_quantile
    >>> tx = clip_by_tail_quantile(exceedance_rate=1e-3)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for r in np.abs(np.random.default_rng(0).standard_t(3, size=1100)):
    ...   _, state = update(jnp.asarray([r]), state)
    >>> spike, state = update(jnp.asarray([1e6]), state)
    >>> print(spike.round(1), optax.tree.get(state, "exceedance_count"))
    [12.1] 5

  References:
    Zhang and Stephens (2009), as of the fit; the estimate of a quantile from
    the tail above it is that of peaks over a threshold, Davison and Smith
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
  arrivals = _last_norms(history, window_size, per_layer)
  refit = _refit_where_changed(_fit)

  def tail_size(window):
    """The norms so far, and how many of them are the tail."""
    n = jnp.sum(window.ascending >= 0)
    return n, n * k // window_size

  def largest_of(window):
    return window.ascending[-(k + 1) :]

  def quantile(window, tail_fit):
    n, tail = tail_size(window)
    enough = (n >= fewest) & (tail >= _SMALLEST_TAIL)
    threshold, xi, sigma = tail_fit
    fit = ParetoTail(threshold, xi, sigma, enough & (sigma > 0))
    share = jnp.where(enough, tail / jnp.maximum(n, 1), 1.0)
    q = quantile_of(fit, share, exceedance_rate)
    # A tail of equal norms has no fit, but they are the quantile unless the
    # rest of the window equals them.
    smallest, u, r = window.ascending[
      jnp.stack([window_size - n, window_size - 1 - tail, window_size - 1])
    ]
    flat = jnp.where(enough & (smallest < r) & (u == r), r, 0.0)
    return jnp.clip(jnp.where(fit.usable, q, flat), 0.0, _LARGEST)

  def init():
    past = order_statistics.sorted_window(jnp.array(arrivals))
    return ClipByTailQuantileState(
      step_count=jnp.zeros([], jnp.int32),
      tail_quantile=jnp.zeros([], jnp.float32),
      exceedance_count=jnp.zeros([], jnp.int32),
      window=past,
      tail_fit=_fit(largest_of(past), jnp.maximum(tail_size(past)[1], 1)),
    )

  def update(r, state, max_norm):
    q = quantile(state.window, state.tail_fit)
    most = jnp.minimum(jnp.where(q > 0, q, jnp.inf), max_norm)
    exceeds = r > most
    scale = 0.0 if skip else most / jnp.where(exceeds, r, 1.0)
    kept = jnp.where(q > 0, _KEPT * q, _LARGEST)
    window = order_statistics.push(state.window, jnp.minimum(r, kept))
    old, new = largest_of(state.window), largest_of(window)
    (_, before), (_, size) = tail_size(state.window), tail_size(window)
    in_tail = jnp.arange(k + 1) >= k - size
    # The fit costs more than all else, and most norms are not in the tail.
    changed = jnp.any((old != new) & in_tail) | (size != before)
    tail_fit = refit(
      *lax.stop_gradient((changed, new, jnp.maximum(size, 1), state.tail_fit))
    )
    return jnp.where(exceeds, scale, 1.0), state._replace(
      tail_quantile=q,
      exceedance_count=_counted(exceeds, state.exceedance_count),
      window=window,
      tail_fit=tail_fit,
    )

  def drop(r, state):
    return state._replace(
      tail_quantile=quantile(state.window, state.tail_fit),
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


def _last_norms(
  history: Sequence[float] | np.ndarray | None,
  window_size: int,
  per_layer: PerLayer,
) -> np.ndarray:
  """What a window has in it after a history of norms, oldest first."""
  empty = np.full([window_size], -1.0, np.float32)  # as empty_window
  if history is None:
    return empty
  if per_layer:
    raise ValueError(
      "history is one of global norms: leave it out with per_layer, or wrap the"
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
    raise ValueError(f"history must be one of norms, got {np.min(x)}.")
  x = x[np.isfinite(x)][-window_size:]
  return np.concatenate([empty[x.size :], x])


def _fit(largest: jax.Array, size: jax.Array) -> jax.Array:
  """The fit to the `size` largest, over the one below; zeros without one."""
  fit = pareto_tail(largest, size)
  found = jnp.stack([fit.threshold, fit.xi, fit.sigma])
  return jnp.where(fit.usable & jnp.all(jnp.isfinite(found)), found, 0.0)


def _refit_where_changed(fit: Callable[..., jax.Array]) -> Callable[..., Any]:
  """Makes (changed, tail, size, old) -> fit(tail, size) where it changed.

  `jax.vmap` would turn a `lax.cond` into both of its branches. Mapped, this
  fits the tails that have changed one by one.
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
    # The places of those that have changed, first.
    place = jnp.argsort(~changed)

    def body(i, fits):
      return fits.at[place[i]].set(fit(tail[place[i]], size[place[i]]))

    return lax.fori_loop(0, jnp.sum(changed), body, old), True

  return refit
