"""Trackers: transformations that measure the updates and pass them on.

    r_t = ||u_t||,    alpha_t = estimate(r_1, ..., r_t),    u'_t = u_t

What a tracker reads is a field of its state with a name found once, so that
`optax.tree.get(opt_state, "tail_index")` logs it without a callback, and what
its `readings()` offer reaches the later members of a `relay`. Its place in
the chain says what is measured: the raw gradient, the clipped one, the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from htga_optax import norms, streaming

# Standard deviations from which a tail model is rejected.
_REJECTION = 2.5


class TrackTailIndexState(NamedTuple):
  """What :func:`track_tail_index` knows; a tree per layer where it says so.

  Attributes:
    tail_index: the last finite estimate, float32 [] (per layer: a tree of
      them); 0 while there is none.
    tail_index_interval: its interval, float32 [2]; zeros while there is none.
    tail_model_statistics: how far the norms are from what the estimate takes
      for granted, float32 [2]: drift and misfit of
      :class:`estimators.TailEstimate`, standard normal if all is well.
    tail_model_rejected: whether one of them is beyond 2.5, bool [].
    update_norm: the last finite norm, float32 [].
    nonfinite_count: how many norms were not finite, int32 [].
    estimator_state: the streaming estimators, stacked [groups, ...].
  """

  tail_index: Any
  tail_index_interval: Any
  tail_model_statistics: Any
  tail_model_rejected: Any
  update_norm: Any
  nonfinite_count: Any
  estimator_state: Any

  def readings(self) -> dict[str, Any]:
    """What later members of a relay are told."""
    return {
      "tail_index": self.tail_index,
      "tail_index_interval": self.tail_index_interval,
      "tail_model_rejected": self.tail_model_rejected,
    }


def track_tail_index(
  window_size: int = 256,
  k: int = 16,
  *,
  estimator: streaming.StreamingEstimator | None = None,
  per_layer: bool = False,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the norm of the updates; changes nothing.

  .. math::
    r_t = \|u_t\|, \qquad
    \hat\alpha_t = \Bigl(\frac1k \sum_{i=1}^{k}
      \log\frac{r_{(i)}}{r_{(k+1)}}\Bigr)^{-1}

  over the order statistics of the last W norms. Norms that are not finite are
  counted and never enter the window; where there is no estimate (a window of
  equal norms, say) the last one stays. There is none before the window is
  full: the reading is 0 then, and listeners leave the updates alone.

  The interval holds on dependent norms (:func:`intervals.interval`). Whether
  there is a tail at all is a question of its own: a trend within the window
  reads as one, and so does every law. `tail_model_rejected` says when the
  k largest norms lie too early or too late in the window (drift), or when norms
  exceed the threshold otherwise than a Pareto tail would (misfit, tested on
  each norm before it enters the window); :func:`diagnostics.explain` puts it
  in a sentence, and :func:`unless_rejected` makes a listener wait. On
  independent Pareto norms FALSE

  Under `optax.MultiSteps` it sees one norm per real step only if it is inside.

  Args:
    window_size: W, how many norms the estimate rests on (static).
    k: how many of them are the tail (static); more is less noisy, more biased.
    estimator: any streaming estimator instead of the windowed Hill estimator
      of that `window_size` and `k`.
    per_layer: a window for every leaf, and readings that are trees like the
      updates, instead of one for the global norm.

  Returns:
    The transformation. Its state is a :class:`TrackTailIndexState`.

  Raises:
    TypeError, ValueError: sizes that cannot be (see
      :func:`streaming.windowed_hill`); updates that are not floating point.

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> import htga_optax
    >>> tx = optax.chain(
    ...     htga_optax.track_tail_index(window_size=100, k=10), optax.sgd(0.1))
    >>> params = jnp.zeros(2)
    >>> state, update = tx.init(params), jax.jit(tx.update)
    >>> for r in np.random.default_rng(0).pareto(1.5, size=200) + 1:
    ...   updates, state = update(jnp.asarray([r, 0.0]), state)
    >>> tail_index = optax.tree.get(state, "tail_index")
    >>> low, high = optax.tree.get(state, "tail_index_interval")
    >>> print(f"{tail_index:.1f} ({low:.1f} to {high:.1f})")
    2.0 (1.0 to 3.5)
  """
  if estimator is None:
    estimator = streaming.windowed_hill(window_size, k)

  def each(function, *args):
    """Maps over groups; a single group keeps its lax.cond a branch."""
    if per_layer:
      return jax.vmap(function)(*args)
    one = function(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], one)

  def init_fn(params):
    groups = len(jax.tree.leaves(params)) if per_layer else 1

    def zeros(shape, dtype):
      return norms.spread(jnp.zeros(shape, dtype), params, per_layer)

    return TrackTailIndexState(
      tail_index=zeros([groups], jnp.float32),
      tail_index_interval=zeros([groups, 2], jnp.float32),
      tail_model_statistics=zeros([groups, 2], jnp.float32),
      tail_model_rejected=zeros([groups], jnp.bool),
      update_norm=zeros([groups], jnp.float32),
      nonfinite_count=zeros([groups], jnp.int32),
      estimator_state=jax.tree.map(
        lambda x: jnp.broadcast_to(x, (groups, *x.shape)), estimator.init()
      ),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    r = norms.norms(updates, per_layer)
    if r.size == 0:  # a tree without leaves, per layer: nothing to measure
      return updates, state
    estimator_state = each(estimator.update, state.estimator_state, r)
    estimate = each(estimator.estimate, estimator_state)
    statistics = jnp.stack([estimate.drift, estimate.misfit], axis=1)
    rejected = jnp.any(jnp.abs(statistics) > _REJECTION, axis=1)

    def spread(values):
      return norms.spread(values, updates, per_layer)

    def where(condition, new, old):
      return jax.tree.map(jnp.where, spread(condition), new, old)

    known, finite = jnp.isfinite(estimate.tail_index), jnp.isfinite(r)
    known_pair = known[:, None]
    count = jax.tree.map(optax.safe_increment, state.nonfinite_count)
    return updates, TrackTailIndexState(
      tail_index=where(known, spread(estimate.tail_index), state.tail_index),
      tail_index_interval=where(
        known_pair, spread(estimate.interval), state.tail_index_interval
      ),
      tail_model_statistics=where(
        known_pair, spread(statistics), state.tail_model_statistics
      ),
      tail_model_rejected=where(
        known, spread(rejected), state.tail_model_rejected
      ),
      update_norm=where(finite, spread(r), state.update_norm),
      nonfinite_count=where(finite, state.nonfinite_count, count),
      estimator_state=estimator_state,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
