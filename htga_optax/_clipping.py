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

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import custom_batching, lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, estimators, norms, order_statistics
from htga_optax._by_norm import Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._states import known_state
from htga_optax.estimators._pareto import usable_pareto_fit
from htga_optax.estimators._samples import check_tail_size

# A norm enters the window as at most so many times the quantile. At 1 the
# window would keep clipped norms, and the rate be half as high again; without
# a bound, frequent spikes would hide each other.
_KEPT = 1.5
_LARGEST = 3e38


@known_state
class ClipByTailQuantileState(NamedTuple):
  """The state of :func:`clip_by_tail_quantile`; per layer with axis [layers].

  Attributes:
    tail_quantile: the norm beyond which the last step would have been clipped,
      float32 []; 0 while there is none.
    exceedance_count: how many steps were beyond it or not finite, int32 [].
    window: the last W norms.
    tail_fit: xi and sigma of their tail, float32 [2]; sigma is 0 while there is
      no fit.
  """

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

  There is no clipping before the window is full, nor while the k + 1 largest
  norms are equal (as behind another clipping): chain
  `optax.clip_by_global_norm` for the first W steps if they need it. A step
  whose norm is not finite is dropped: its update is zero.

  Args:
    exceedance_rate: p, the rate of false alarms, in (0, k/W). Below 1/W it is
      extrapolated.
    window_size: W, the norms it rests on (static); None for 1024. With 256
      norms (k = 32) the rate is twice as high as stated, and 3 in 100 spikes
      pass on Pareto(1.5).
    k: how many of them are the tail (static), from 5 on; None for 128. Fewer
      are noisier, and more look into the body of the law.
    skip: whether such a step is dropped instead of scaled.
    per_layer: False for one norm, True for a window and a quantile of every
      leaf, or a regular expression as in :func:`by_norm`.
    shard_axis_name: mapped axes over which the updates are split by hand.

  Returns:
    The transformation. `optax.tree.get` finds `tail_quantile` and
    `exceedance_count` in its state, a :class:`ClipByTailQuantileState`.

  Raises:
    TypeError: a size is not a static integer; updates that are not floating
      point.
    ValueError: exceedance_rate outside (0, k/W), k < 5, or k not below W.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import clip_by_tail_quantile
    >>> tx = clip_by_tail_quantile(exceedance_rate=1e-3)
    >>> state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    >>> for r in np.abs(np.random.default_rng(0).standard_t(3, size=1100)):
    ...   _, state = update(jnp.asarray([r]), state)
    >>> spike, state = update(jnp.asarray([1e6]), state)
    >>> print(spike.round(1), optax.tree.get(state, "exceedance_count"))
    [12.1] 1

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
  refit = _refit_where_changed(_fit)

  def tail_of(window):
    return window.ascending[-(k + 1) :]

  def quantile(window, tail_fit):
    xi, sigma = tail_fit
    known = (window.ascending[0] >= 0) & (sigma > 0)
    q = estimators.generalized_pareto_isf(
      exceedance_rate / largest, xi, jnp.where(known, sigma, 1.0)
    )
    return jnp.where(known, jnp.minimum(tail_of(window)[0] + q, _LARGEST), 0.0)

  def init():
    return ClipByTailQuantileState(
      tail_quantile=jnp.zeros([], jnp.float32),
      exceedance_count=jnp.zeros([], jnp.int32),
      window=order_statistics.empty_window(window_size),
      tail_fit=jnp.zeros([2], jnp.float32),
    )

  def update(r, state):
    q = quantile(state.window, state.tail_fit)
    exceeds = (q > 0) & (r > q)
    scale = 0.0 if skip else q / jnp.where(exceeds, r, 1.0)
    most = jnp.where(q > 0, _KEPT * q, _LARGEST)
    window = order_statistics.push(state.window, jnp.minimum(r, most))
    old, new = tail_of(state.window), tail_of(window)
    # The fit costs more than all else, and most norms are not in the tail.
    tail_fit = refit(
      *lax.stop_gradient((jnp.any(old != new), new, state.tail_fit))
    )
    return jnp.where(exceeds, scale, 1.0), ClipByTailQuantileState(
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
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="clip_by_tail_quantile",
  )


def _counted(event: jax.Array, count: jax.Array) -> jax.Array:
  return jnp.where(event, optax.safe_increment(count), count)


def _fit(tail: jax.Array) -> jax.Array:
  """The fit to ascending values over the first; zeros where there is none."""
  xi, sigma, usable = usable_pareto_fit(tail[1:] - tail[0])
  pair = jnp.stack([xi, sigma])
  return jnp.where(usable & jnp.all(jnp.isfinite(pair)), pair, 0.0)


def _refit_where_changed(fit: Callable[[jax.Array], jax.Array]) -> Callable:
  """Makes (changed, tail, old) -> fit(tail) where it changed, old elsewhere.

  `jax.vmap` would turn a `lax.cond` into both of its branches. Mapped, this
  fits the tails that have changed one by one.
  """

  @custom_batching.custom_vmap
  def refit(changed, tail, old):
    return lax.cond(changed, fit, lambda tail: old, tail)

  @refit.def_vmap
  def _(axis_size, in_batched, changed, tail, old):
    changed, tail, old = (
      x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
      for x, batched in zip((changed, tail, old), in_batched)
    )
    # The places of those that have changed, first.
    place = jnp.argsort(~changed)

    def body(i, fits):
      return fits.at[place[i]].set(fit(tail[place[i]]))

    return lax.fori_loop(0, jnp.sum(changed), body, old), True

  return refit
