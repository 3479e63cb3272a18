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

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import checks, estimators, norms, order_statistics

# A norm enters the window as at most so many times the quantile. At 1 the
# window would keep clipped norms, and the rate be half as high again; without
# a bound, frequent spikes would hide each other.
_KEPT = 1.5
_LARGEST = 3e38


class ClipByTailQuantileState(NamedTuple):
  """What :func:`clip_by_tail_quantile` knows; a tree per layer where it says.

  Attributes:
    tail_quantile: the norm beyond which the last step would have been clipped,
      float32 [] (per layer: a tree of them); 0 while there is none.
    exceedance_count: how many steps were beyond it or not finite, int32 [].
    window: the norms, stacked [groups, W].
    tail_fit: xi and sigma of their tail, float32 [groups, 2]; sigma is 0 while
      there is no fit.
  """

  tail_quantile: Any
  exceedance_count: Any
  window: order_statistics.SortedWindow
  tail_fit: jax.Array


def clip_by_tail_quantile(
  p: ArrayLike = 1e-3,
  window_size: int = 1024,
  k: int = 128,
  *,
  skip: bool = False,
  per_layer: bool = False,
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
    p: the rate of false alarms, in (0, k/W). Below 1/W it is extrapolated.
    window_size: W, the norms it rests on (static). With 256 norms (k = 32) the
      rate is twice as high as stated, and 3 in 100 spikes pass on Pareto(1.5).
    k: how many of them are the tail (static), from 5 on. Fewer are noisier,
      and more look into the body of the law.
    skip: whether such a step is dropped instead of scaled.
    per_layer: a window and a quantile for every leaf.

  Returns:
    The transformation. `optax.tree.get` finds `tail_quantile` and
    `exceedance_count` in its state, a :class:`ClipByTailQuantileState`.

  Raises:
    TypeError: a size is not a static integer; updates that are not floating
      point.
    ValueError: p outside (0, k/W), k < 5, or k not below W.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from htga_optax import clip_by_tail_quantile
    >>> tx = clip_by_tail_quantile(p=1e-3)
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
  checks.check_size("window_size", window_size)
  estimators.check_tail_size(k, window_size, "a window of")
  checks.check_number("k", k, lambda v: v >= 5, "be at least 5")
  largest = k / window_size
  checks.check_number(
    "p", p, lambda v: 0 < v < largest, f"be in (0, k/window_size = {largest:g})"
  )

  def tail_of(window):
    return window.ascending[-(k + 1) :]

  def fit(tail):
    pair = jnp.stack(estimators.generalized_pareto_fit(tail[1:] - tail[0]))
    return jnp.where(jnp.all(jnp.isfinite(pair)), pair, 0.0)

  def quantile(window, tail_fit):
    xi, sigma = tail_fit
    q = estimators.generalized_pareto_isf(p / largest, xi, sigma)
    known = (window.ascending[0] >= 0) & (sigma > 0)
    return jnp.where(known, jnp.minimum(tail_of(window)[0] + q, _LARGEST), 0.0)

  def see(window, tail_fit, r, q):
    most = jnp.where(q > 0, _KEPT * q, _LARGEST)
    r = jnp.where(jnp.isfinite(r), jnp.minimum(r, most), r)
    seen = order_statistics.push(window, r)
    old, new = tail_of(window), tail_of(seen)
    # The fit costs more than all else, and most norms are not in the tail.
    return seen, lax.cond(
      jnp.any(old != new), lambda: fit(new), lambda: tail_fit
    )

  def init_fn(params):
    groups = len(jax.tree.leaves(params)) if per_layer else 1

    def zeros(dtype):
      return norms.spread(jnp.zeros([groups], dtype), params, per_layer)

    window = order_statistics.empty_window(window_size)
    return ClipByTailQuantileState(
      tail_quantile=zeros(jnp.float32),
      exceedance_count=zeros(jnp.int32),
      window=jax.tree.map(
        lambda x: jnp.broadcast_to(x, (groups, *x.shape)), window
      ),
      tail_fit=jnp.zeros([groups, 2], jnp.float32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    r = norms.norms(updates, per_layer)
    if r.size == 0:  # a tree without leaves, per layer: nothing to clip
      return updates, state
    q = norms.each(quantile, per_layer, state.window, state.tail_fit)
    finite = jnp.isfinite(r)
    exceeds = (q > 0) & (r > q)
    scale = 0.0 if skip else q / jnp.where(exceeds, r, 1.0)
    factor = jnp.where(exceeds, scale, 1.0)
    factor = jnp.where(jnp.all(finite), factor, 0.0)
    window, tail_fit = norms.each(
      see, per_layer, state.window, state.tail_fit, r, q
    )
    counted = norms.spread(exceeds | ~finite, updates, per_layer)
    return norms.scale(updates, factor, per_layer), ClipByTailQuantileState(
      tail_quantile=norms.spread(q, updates, per_layer),
      exceedance_count=jax.tree.map(
        lambda above, count: jnp.where(
          above, optax.safe_increment(count), count
        ),
        counted,
        state.exceedance_count,
      ),
      window=window,
      tail_fit=tail_fit,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
