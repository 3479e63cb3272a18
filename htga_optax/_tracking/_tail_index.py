"""Measures the tail index of the norm of the updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, norms, streaming
from htga_optax._by_norm import Controller, by_norm
from htga_optax._layers import PerLayer
from htga_optax._states import known_state
from htga_optax.streaming import LEVEL_DECAY
from htga_optax.streaming._level import level

# A statistic beyond this many standard deviations rejects the tail model.
_REJECTION = 2.5


@known_state
class TrackTailIndexState(NamedTuple):
  """The state of :func:`track_tail_index`.

  With `per_layer` every field has a leading axis [layers].

  Attributes:
    tail_index: the estimate, float32 []; 0 while there is no estimate. It is at
      most `streaming.LIGHTEST` (1e6), the value for a tail that is lighter than
      any power law.
    tail_index_interval: its interval, float32 [2]; zeros while there is no
      estimate.
    tail_model_statistics: two tests of the assumptions of the estimate, float32
      [2]. They are drift and misfit of :class:`estimators.TailEstimate`,
      standard normal if the model holds.
    tail_model_rejected: whether one of them is beyond 2.5 in absolute value,
      bool [].
    update_norm: the last finite norm, float32 [].
    nonfinite_count: how many norms were not finite, int32 [].
    level: the logarithm of the level of the norms and the weight of its
      average, float32 [2]; () without a level.
    estimator_state: the state of the streaming estimator.
  """

  tail_index: jax.Array
  tail_index_interval: jax.Array
  tail_model_statistics: jax.Array
  tail_model_rejected: jax.Array
  update_norm: jax.Array
  nonfinite_count: jax.Array
  level: Any
  estimator_state: Any

  def readings(self) -> dict[str, jax.Array]:
    """Returns the values for later members of a relay and for logs."""
    return {
      "tail_index": self.tail_index,
      "tail_index_interval": self.tail_index_interval,
      "tail_model_rejected": self.tail_model_rejected,
      "update_norm": self.update_norm,
      "nonfinite_count": self.nonfinite_count,
    }


def track_tail_index(
  window_size: int | None = None,
  k: int | None = None,
  *,
  estimator: streaming.StreamingEstimator | None = None,
  level_decay: ArrayLike | None = LEVEL_DECAY,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the norm of the updates; changes nothing.

  .. math::
    x_t = \frac{\|u_t\|}{L_{t-1}}, \qquad
    \hat\alpha_t = \Bigl(\frac1k \sum_{i=1}^{k}
      \log\frac{x_{(i)}}{x_{(k+1)}}\Bigr)^{-1}

  :math:`x_{(i)}` are the order statistics of the last W values :math:`x_t`.
  Each is a norm divided by the level of the norms before it,

  .. math::
    \log L_t = \log L_{t-1} + a_t \operatorname{clip}
      (\log\|u_t\| - \log L_{t-1}, -1, 1),
    \qquad a_t = \frac{1 - d}{1 - d^t}.

  Without the level, norms that fall or rise during the run would appear as a
  tail, or hide one. No norm moves :math:`\log L` by more than :math:`a_t`, so
  that a power law keeps its index. `benchmarks/README.md` has the costs and the
  benefits of the level.

  Norms that are not finite are counted and never enter the window. Before the
  window is full there is no estimate: the reading is 0, and listeners leave the
  updates unchanged. The reading is 1e6 if the tail is lighter than any power
  law, for example if the k + 1 largest norms are equal.

  The interval holds on dependent norms (:func:`intervals.series_interval`). It
  does not tell whether there is a tail: every law has an estimate, and so has a
  trend that the level does not follow. `tail_model_rejected` is a test of this.
  It is true if the k largest norms lie too early or too late in the window
  (drift), or if norms do not exceed the threshold as a Pareto tail would
  (misfit, tested on each norm before it enters the window).
  :func:`diagnostics.explain` describes it in a sentence, and
  :func:`unless_rejected` makes a listener wait.

  With W = 256 and k = 25 it is true in 2 percent of the steps for independent
  Pareto norms, and in 83 percent for half-normal norms (`benchmarks/README.md`
  has other laws). It is true more often for strongly dependent Pareto norms. It
  is rarely true for a stable law with :math:`\alpha=1.8`, which appears lighter
  than it is. A misfit shows in a run of many windows, not in the first.

  With `optax.MultiSteps`, put the tracker inside: it then measures one norm per
  real step.

  Args:
    window_size: W, how many norms the estimate uses (static); None for 256.
    k: how many of them form the tail (static), None for 16; a larger k has less
      noise and more bias.
    estimator: any streaming estimator that replaces the windowed Hill estimator
      of that `window_size` and `k`; its values are the norms divided by their
      level.
    level_decay: d, the decay of the level, in (0, 1); its memory is 1/(1 - d)
      steps. None for no level: the values are then the norms.
    per_layer: False for the global norm, True for a window and readings of
      every leaf, or a regular expression for the paths of leaves that hold
      stacked layers; see :func:`by_norm`.
    shard_axis_name: mapped axes over which you split the updates by hand.

  Returns:
    The transformation. Its state is a :class:`TrackTailIndexState`.

  Raises:
    TypeError: a size is not a static integer, or the updates are not floating
      point.
    ValueError: a size is out of range (see :func:`streaming.windowed_hill`), or
      `level_decay` is outside (0, 1).

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
    2.0 (1.0 to 3.7)
  """
  if estimator is None:
    estimator = streaming.windowed_hill(
      _checks.check_size("window_size", window_size, 256),
      _checks.check_size("k", k, 16),
    )

  follow = level(level_decay)

  def init():
    return TrackTailIndexState(
      tail_index=jnp.zeros([], jnp.float32),
      tail_index_interval=jnp.zeros([2], jnp.float32),
      tail_model_statistics=jnp.zeros([2], jnp.float32),
      tail_model_rejected=jnp.zeros([], jnp.bool),
      update_norm=jnp.zeros([], jnp.float32),
      nonfinite_count=jnp.zeros([], jnp.int32),
      level=follow.init(),
      estimator_state=estimator.init(),
    )

  def update(r, state):
    over_level = r / follow.scale(state.level, r)
    estimator_state = estimator.update(state.estimator_state, over_level)
    tail_index, interval, drift, misfit = estimator.estimate(estimator_state)
    statistics = _known(jnp.stack([drift, misfit]))
    return None, state._replace(
      tail_index=jnp.minimum(_known(tail_index), streaming.LIGHTEST),
      tail_index_interval=_known(interval),
      tail_model_statistics=statistics,
      tail_model_rejected=jnp.max(jnp.abs(statistics)) > _REJECTION,
      update_norm=r,
      level=follow.update(state.level, r),
      estimator_state=estimator_state,
    )

  def drop(r, state):
    count = state.nonfinite_count
    return state._replace(
      nonfinite_count=jnp.where(
        jnp.isfinite(r), count, optax.safe_increment(count)
      )
    )

  return by_norm(
    Controller(init, update, drop),
    per_layer=per_layer,
    shard_axis_name=shard_axis_name,
    name="track_tail_index",
  )


def _known(estimate: jax.Array) -> jax.Array:
  """Replaces nan by zero, since a user's estimator may return nan."""
  return jnp.where(jnp.isnan(estimate), 0.0, estimate)
