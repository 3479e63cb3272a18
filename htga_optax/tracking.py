"""Trackers: transformations that measure the updates and pass them on.

    r_t = ||u_t||,    alpha_t = estimate(r_1, ..., r_t),    u'_t = u_t

What a tracker reads is a field of its state with a name found once, so that
`optax.tree.get(opt_state, "tail_index")` logs it without a callback, and what
its `readings()` offer reaches the later members of a `relay`. Its place in
the chain says what is measured: the raw gradient, the clipped one, the step.
"""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import checks, coordinates, gradient_noise, norms, streaming

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
  in a sentence, and :func:`unless_rejected` makes a listener wait. Of
  independent Pareto norms 3 percent of the steps are flagged (W = 256, k = 25;
  `benchmarks/coverage.py`), with AR(0.9) 8 and with AR(0.97) 28 percent; of
  :math:`|t_3|`, whose tail begins late, 10 percent, of half-normal norms 81 and
  of those of a Gaussian vector 28 (W = 1024, k = 64: 99 and 67). A misfit shows
  in a run of many windows, not in the first; a stable law with
  :math:`\alpha=1.8`, which reads as lighter than it is, is flagged in 9.

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
    2.0 (1.0 to 3.6)
  """
  if estimator is None:
    estimator = streaming.windowed_hill(window_size, k)

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
    estimator_state = norms.each(
      estimator.update, per_layer, state.estimator_state, r
    )
    estimate = norms.each(estimator.estimate, per_layer, estimator_state)
    drift, misfit = (
      jnp.where(jnp.isfinite(x), x, 0.0)
      for x in (estimate.drift, estimate.misfit)
    )
    rejected = jnp.maximum(jnp.abs(drift), jnp.abs(misfit)) > _REJECTION

    def spread(values):
      return norms.spread(values, updates, per_layer)

    def where(condition, new, old):
      return jax.tree.map(jnp.where, spread(condition), new, old)

    known, finite = jnp.isfinite(estimate.tail_index), jnp.isfinite(r)
    count = jax.tree.map(optax.safe_increment, state.nonfinite_count)
    return updates, TrackTailIndexState(
      tail_index=where(known, spread(estimate.tail_index), state.tail_index),
      tail_index_interval=where(
        known[:, None], spread(estimate.interval), state.tail_index_interval
      ),
      tail_model_statistics=spread(jnp.stack([drift, misfit], axis=1)),
      tail_model_rejected=spread(rejected),
      update_norm=where(finite, spread(r), state.update_norm),
      nonfinite_count=where(finite, state.nonfinite_count, count),
      estimator_state=estimator_state,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class TrackCoordinateTailIndexState(NamedTuple):
  """What :func:`track_coordinate_tail_index` knows.

  Attributes:
    coordinate_tail_index: the last finite estimate, float32 [] (per layer: a
      tree of them); 0 while there is none.
    age: steps since the entries were last looked at, int32 [].
  """

  coordinate_tail_index: Any
  age: jax.Array

  def readings(self) -> dict[str, Any]:
    """What later members of a relay are told."""
    return {"coordinate_tail_index": self.coordinate_tail_index}


def track_coordinate_tail_index(
  fraction: float = 0.01,
  every: int = 10,
  *,
  per_layer: bool = False,
  axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the entries of the updates; changes nothing.

  Not of their norms over time, as :func:`track_tail_index`, but of the entries
  of one step, by :func:`coordinates.hill`. Where a step says nothing (an entry
  that is not finite), the last estimate stays.

  Args:
    fraction: the part of the entries that is the tail (static). A leaf or a
      tree whose tail has fewer than eight entries reads 0.
    every: look at every so many steps, from the first on (static); a look reads
      the updates about 18 times.
    per_layer: an index for every leaf, a reading that is a tree.
    axis_name: mapped axes over which the updates are split; None under jit.

  Returns:
    The transformation. Its state is a :class:`TrackCoordinateTailIndexState`.

  Raises:
    TypeError: `every` is not a static integer; updates that are not floating
      point.
    ValueError: fraction outside (0, 1), every below one.

  Examples:
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> import htga_optax
    >>> tx = optax.chain(
    ...     htga_optax.track_coordinate_tail_index(every=1), optax.sgd(0.1))
    >>> grads = jnp.asarray(np.random.default_rng(0).standard_t(2, size=10000))
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> print(f"{optax.tree.get(state, 'coordinate_tail_index'):.1f}")
    2.0
  """
  checks.check_size("every", every)
  coordinates.tail_size(0, fraction)

  def measure(updates):
    groups = jax.tree.leaves(updates) if per_layer else [updates]
    found = [coordinates.hill(group, fraction, axis_name) for group in groups]
    return norms.spread(jnp.stack(found), updates, per_layer)

  def init_fn(params):
    groups = len(jax.tree.leaves(params)) if per_layer else 1
    zeros = jnp.zeros([groups], jnp.float32)
    return TrackCoordinateTailIndexState(
      coordinate_tail_index=norms.spread(zeros, params, per_layer),
      age=jnp.zeros([], jnp.int32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    old = state.coordinate_tail_index
    if not jax.tree.leaves(updates):
      return updates, state

    def look():
      return jax.tree.map(
        lambda new, old: jnp.where(jnp.isfinite(new), new, old),
        measure(updates),
        old,
      )

    return updates, TrackCoordinateTailIndexState(
      coordinate_tail_index=lax.cond(state.age == 0, look, lambda: old),
      age=(state.age + 1) % every,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class TrackGradientNoiseState(NamedTuple):
  """What :func:`track_gradient_noise` knows.

  Attributes:
    gradient_noise_scale: the ratio of the averages, in examples, float32 [];
      0 while it is not known.
    noise_norm: the norm of the noise of `batch_size` examples in the last step
      that was finite, float32 []; 0 before the first.
    moments: the debiased moving averages, as :class:`gradient_noise.Moments`
      (`covariance_trace`, `squared_gradient_norm`); 0 before the first step.
    moments_weight: the moving average of ones, not debiased, float32 [].
  """

  gradient_noise_scale: jax.Array
  noise_norm: jax.Array
  moments: gradient_noise.Moments
  moments_weight: jax.Array

  def readings(self) -> dict[str, Any]:
    """What later members of a relay are told."""
    return {
      "gradient_noise_scale": self.gradient_noise_scale,
      "noise_norm": self.noise_norm,
    }


def track_gradient_noise(
  batch_size: ArrayLike,
  other_batch_size: ArrayLike | None = None,
  shared_size: ArrayLike = 0,
  *,
  decay: ArrayLike = 0.95,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the noise by a second batch's gradient; changes nothing.

  .. math::
    B_t = \frac{\overline{s}_t}{\overline{q}_t}, \qquad
    \|noise_t\| = \sqrt{s_t / n_a}

  where :math:`s_t` and :math:`q_t` are the step's estimates of
  :math:`\operatorname{tr}(\Sigma)` and :math:`|G|^2` by
  :func:`gradient_noise.moments` and the bars are debiased moving averages. The
  second gradient is an argument of the update:

      tx.update(grads, state, params, other_updates=other_grads)

  It must be taken at the same parameters, and what earlier members of a chain
  do to the updates is not done to it: put the tracker first. A step whose
  moments are not finite leaves the state as it is.

  The second gradient costs nothing where micro-batches are accumulated. Inside
  `optax.MultiSteps` over m of them of n examples, the updates are the mean of
  all and the last gradient is that of a part: track_gradient_noise(m * n, n, n)
  with `other_updates=grads`.

  What it does not do: while the average of :math:`q` is not positive, which
  happens where the noise hides the gradient, the noise scale is not known and
  reads 0, which does not mean small; `squared_gradient_norm` tells. The ratio
  is biased while G changes within the average, and it is the simple noise
  scale, which takes the curvature for the same in all directions. With a
  tail index below 2 there is no :math:`\Sigma`, the averages are those of
  the largest draws, and only the noise norm means anything.

  Args:
    batch_size: :math:`n_a`, the examples behind the updates (their mean).
    other_batch_size: those behind `other_updates`; None for `batch_size`.
    shared_size: how many examples are in both; 0 for independent batches.
    decay: of the averages, in [0, 1), which span 1/(1 - decay) steps. On a
      linear regression of 20 weights, with batches as large as the noise scale,
      19 readings in 20 are within 20 percent at 0.95, with a quarter of that
      batch two thirds are: the smaller it is, the longer the average must be.

  Returns:
    The transformation. Its state is a :class:`TrackGradientNoiseState`.

  Raises:
    TypeError: updates that are not floating point.
    ValueError: sizes that cannot be, decay outside [0, 1); no `other_updates`,
      or a tree that is not like the updates (inside `optax.masked` and
      `optax.partition` pass them `mask_compatible_extra_args=True`).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> import htga_optax
    >>> tx = optax.chain(
    ...     htga_optax.track_gradient_noise(batch_size=32), optax.sgd(0.1))
    >>> params = jnp.zeros(1000)
    >>> state, update = tx.init(params), jax.jit(tx.update)
    >>> rng = np.random.default_rng(0)
    >>> for _ in range(50):  # tr(Sigma) = 1000, |G|^2 = 10: a scale of 100
    ...   a, b = rng.normal(0.1, 32**-0.5, size=(2, 1000))
    ...   updates, state = update(a, state, other_updates=b)
    >>> for name in ("gradient_noise_scale", "noise_norm"):
    ...   print(f"{optax.tree.get(state, name):.1f}")
    99.6
    5.6

  References:
    McCandlish et al. (2018), An empirical model of large-batch training,
    arXiv:1812.06162, appendix A, which averages before it divides too.
  """
  gradient_noise.check_sizes(batch_size, other_batch_size, shared_size)
  checks.check_number("decay", decay, lambda v: 0 <= v < 1, "be in [0, 1)")

  def init_fn(params):
    del params
    zero = lambda: jnp.zeros([], jnp.float32)
    return TrackGradientNoiseState(
      gradient_noise_scale=zero(),
      noise_norm=zero(),
      moments=gradient_noise.Moments(zero(), zero()),
      moments_weight=zero(),
    )

  def update_fn(
    updates, state, params=None, *, other_updates=None, **extra_args
  ):
    del params, extra_args
    structure = jax.tree.structure(other_updates)
    if structure != jax.tree.structure(updates):
      raise ValueError(
        "track_gradient_noise needs a second gradient like the updates: pass"
        " other_updates= to update (and mask_compatible_extra_args=True to"
        f" optax.masked and optax.partition), got {structure}."
      )
    moments = gradient_noise.moments(
      updates, other_updates, batch_size, other_batch_size, shared_size
    )
    delta = jnp.asarray(decay, jnp.float32)
    weight = delta * state.moments_weight + (1 - delta)
    # m_t/w_t for m_t = delta m_(t-1) + (1 - delta) x_t, and w_t that of ones.
    step = (1 - delta) / weight
    s, q = (
      step * x + (1 - step) * average
      for x, average in zip(moments, state.moments)
    )
    ratio = s / jnp.where(q > 0, q, 1.0)
    new = TrackGradientNoiseState(
      gradient_noise_scale=jnp.where((q > 0) & jnp.isfinite(ratio), ratio, 0.0),
      noise_norm=jnp.sqrt(moments.covariance_trace / batch_size),
      moments=gradient_noise.Moments(s, q),
      moments_weight=weight,
    )
    heard = jnp.isfinite(s) & jnp.isfinite(q)
    return updates, jax.tree.map(
      lambda new, old: jnp.where(heard, new, old), new, state
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
