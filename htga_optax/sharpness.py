r"""A tracker of the sharpness of the loss, for listeners that answer it.

    s_t = lambda_max, tr H, tr H/d or E|L(theta + nu) - L(theta)|
    m_t = decay m_(t-1) + (1 - decay) log s_t,    sharpness = exp(m_t/w_t)

where w_t is the same average of ones: a geometric mean over looks, one every so
many steps, debiased. Sharpness spans decades while a network trains, and what
one batch says of it is noisy.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import checks, curvature

Source = Literal[
  "top_eigenvalue", "trace", "mean_eigenvalue", "expected_sharpness"
]


class TrackSharpnessState(NamedTuple):
  """What :func:`track_sharpness` knows.

  Attributes:
    sharpness: the moving geometric mean, float32 []; 0 while there is none.
    sharpness_growth: by which factor it exceeds the slow one, float32 []; 0
      while there is none.
    sharpness_estimate: the last one that was finite, float32 []; 0 before.
    log_averages: of the logarithm, the fast and the slow one, not debiased,
      float32 [2].
    log_weights: the same averages of ones, float32 [2].
    look_count: how many estimates were asked for, finite or not, int32 [].
    sharpness_age: steps since the last one, int32 [].
    rng_key: the data of the key, uint32; it never changes.
    top_vector: where power iteration goes on, a tree like the parameters; None
      for other sources.
  """

  sharpness: jax.Array
  sharpness_growth: jax.Array
  sharpness_estimate: jax.Array
  log_averages: jax.Array
  log_weights: jax.Array
  look_count: jax.Array
  sharpness_age: jax.Array
  rng_key: jax.Array
  top_vector: Any

  def readings(self) -> dict[str, Any]:
    """What later members of a relay are told."""
    return {
      "sharpness": self.sharpness,
      "sharpness_growth": self.sharpness_growth,
    }


def track_sharpness(
  source: Source = "top_eigenvalue",
  every: int = 10,
  decay: ArrayLike = 0.95,
  *,
  slow_decay: ArrayLike = 0.99,
  num_matvecs: int = 1,
  scale: ArrayLike = 0.01,
  floor: ArrayLike = 1e-6,
  key: ArrayLike = 0,
  axis_name: curvature.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the sharpness of the loss; changes nothing.

  The loss is an argument of the update, as for the line searches of optax, and
  so is a sharpness that was measured elsewhere:

      tx.update(grads, state, params, value_fn=lambda p: loss_fn(p, batch))
      tx.update(grads, state, params, sharpness=s)

  | source | sharpness | by |
  |---|---|---|
  | "top_eigenvalue" | :math:`\lambda_{max}` | `curvature.power_iteration` |
  | "trace" | :math:`\operatorname{tr} H` | `curvature.hutchinson_trace` |
  | "mean_eigenvalue" | :math:`\operatorname{tr} H / d` | the same |
  | "expected_sharpness" | :math:`E|L(\theta+\nu)-L(\theta)|` | losses |

  Power iteration goes on where the last look ended. A product with the Hessian
  costs 1.4 to 2.2 gradients (see `curvature.hvp`). Between looks the step costs
  nothing more: the look is under `lax.cond`. (Under `jax.vmap` it is taken each
  step, unless `init` and the scan over steps are inside what is mapped: the
  clock is then one for all. Inside `optax.MultiSteps` each micro-step counts.)
  A sharpness passed by hand is heard in every step that has one.

  Estimates are averaged as logarithms, those below `floor` (a saddle's trace
  may be negative) as `floor`; one that is not finite is not heard, and the
  reading stays. Power iteration gives lower bounds, and the first few looks are
  too low.

  Average over devices: under `jax.jit` nothing is to be done; under `jax.pmap`
  and `jax.shard_map` with replicated parameters name the axes. The vector is in
  the dtypes of the parameters, and so are products: those of bfloat16 have few
  digits. XLA on CPU is slow at gradients of convolutions in any `lax.cond` or
  `lax.scan` (jax issue 12868; 30 times on a 5x5 convolution tried here): write
  them as products of patches there, or measure outside and pass the number.

  What it does not do: see through `optax.masked` or `optax.partition`, whose
  parameters are not those that `value_fn` takes. A sharpness of one batch is
  larger than that of the whole sample: the smaller the batch, the more so.

  Args:
    source: what to measure.
    every: look every so many steps, from the first on (static).
    decay: of the average, in [0, 1), per look. The reconstruction of AHTSGD has
      0.95, and a look each step.
    slow_decay: that of the slow average, with which `sharpness_growth` compares
      it.
    num_matvecs: the products of a look, or the losses of the expected sharpness
      (static).
    scale: :math:`\delta` of the expected sharpness, in units of the parameters.
    floor: the smallest sharpness, positive, in units of the source.
    key: of what is random: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    axis_name: mapped axes over which the loss is averaged; None under jit.

  Returns:
    The transformation. `optax.tree.get` finds `sharpness`, `sharpness_growth`
    and `sharpness_estimate` in its state, a :class:`TrackSharpnessState`.

  Raises:
    TypeError: sizes that are not static integers; a key that is none.
    ValueError: an argument that cannot be, with its value; an update with
      neither `value_fn` and parameters nor `sharpness`.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import track_sharpness
    >>> loss = lambda w: jnp.sum(jnp.asarray([1.0, 3.0, 10.0]) * w**2) / 2
    >>> tx = optax.chain(track_sharpness(every=1), optax.sgd(0.01))
    >>> w = jnp.ones(3)
    >>> state = tx.init(w)
    >>> for _ in range(5):
    ...   _, state = tx.update(w, state, w, value_fn=loss)
    >>> print(f"{optax.tree.get(state, 'sharpness_estimate'):.3f}")
    10.000
  """
  looks = {
    "top_eigenvalue": _top_eigenvalue,
    "trace": _trace,
    "mean_eigenvalue": _mean_eigenvalue,
    "expected_sharpness": _expected_sharpness(scale),
  }
  if source not in looks:
    raise ValueError(f"source must be one of {sorted(looks)}, got {source!r}.")
  checks.check_size("every", every)
  checks.check_size("num_matvecs", num_matvecs)
  for name, value in (("decay", decay), ("slow_decay", slow_decay)):
    checks.check_number(name, value, lambda v: 0 <= v < 1, "be in [0, 1)")
  for name, value in (("scale", scale), ("floor", floor)):
    checks.check_number(
      name, value, lambda v: 0 < v < jnp.inf, "be positive and finite"
    )
  rng_key, impl = checks.check_key(key)

  def init_fn(params):
    zero = lambda dtype=jnp.float32, shape=(): jnp.zeros(shape, dtype)
    vector = None
    if source == "top_eigenvalue":
      start = jax.random.wrap_key_data(jnp.array(rng_key), impl=impl)
      vector = curvature.sample_like(jax.random.normal, start, params)
    return TrackSharpnessState(
      sharpness=zero(),
      sharpness_growth=zero(),
      sharpness_estimate=zero(),
      log_averages=zero(shape=(2,)),
      log_weights=zero(shape=(2,)),
      look_count=zero(jnp.int32),
      sharpness_age=zero(jnp.int32),
      rng_key=jnp.array(rng_key),
      top_vector=vector,
    )

  def update_fn(
    updates,
    state,
    params=None,
    *,
    value_fn=None,
    sharpness=None,
    **extra_args,
  ):
    del extra_args
    if sharpness is None and (value_fn is None or params is None):
      raise ValueError(
        "track_sharpness needs the loss or its sharpness: pass params and"
        " value_fn= (params -> loss) to update, or sharpness= with a number of"
        " your own."
      )

    def look():
      assert value_fn is not None
      one = jax.random.wrap_key_data(state.rng_key, impl=impl)
      value, vector = looks[source](
        value_fn,
        params,
        jax.random.fold_in(one, state.look_count),
        state.top_vector,
        num_matvecs,
        axis_name,
      )
      # A product with the Hessian may not see that the loss is nan.
      loss = value_fn(params)
      loss = loss if axis_name is None else lax.pmean(loss, axis_name)
      value = jnp.where(jnp.isfinite(loss), value, jnp.nan)
      value = jnp.asarray(value, jnp.float32)
      # Chosen here, so that a step without a look does not read two vectors.
      return value, _choose(jnp.isfinite(value), vector, state.top_vector)

    if sharpness is not None:
      due = jnp.asarray(True)
      value, vector = jnp.asarray(sharpness, jnp.float32), state.top_vector
    else:
      due = state.sharpness_age == 0
      value, vector = lax.cond(
        due, look, lambda: (state.sharpness_estimate, state.top_vector)
      )

    heard = due & jnp.isfinite(value)
    delta = jnp.stack(
      [jnp.asarray(d, jnp.float32) for d in (decay, slow_decay)]
    )
    log = jnp.log(jnp.maximum(value, floor))
    averages = delta * state.log_averages + (1 - delta) * log
    weights = delta * state.log_weights + (1 - delta)
    fast, slow = averages / weights
    state = state._replace(top_vector=vector)
    new = state._replace(
      sharpness=jnp.exp(fast),
      sharpness_growth=jnp.exp(fast - slow),
      sharpness_estimate=value,
      log_averages=averages,
      log_weights=weights,
    )
    return updates, _choose(heard, new, state)._replace(
      look_count=jnp.where(
        due, optax.safe_increment(state.look_count), state.look_count
      ),
      sharpness_age=(state.sharpness_age + 1) % every,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _choose(which: jax.Array, new: Any, old: Any) -> Any:
  return jax.tree.map(lambda new, old: jnp.where(which, new, old), new, old)


def _top_eigenvalue(value_fn, params, key, vector, num_matvecs, axis_name):
  del key
  return curvature.power_iteration(
    value_fn, params, vector, num_matvecs, axis_name
  )


def _trace(value_fn, params, key, vector, num_matvecs, axis_name):
  matvec = curvature.hessian(value_fn, params, axis_name)
  trace = curvature.hutchinson_trace(matvec, params, key, num_matvecs)
  return trace.value, vector


def _mean_eigenvalue(value_fn, params, key, vector, num_matvecs, axis_name):
  trace, _ = _trace(value_fn, params, key, vector, num_matvecs, axis_name)
  return trace / max(curvature.dimension(params), 1), vector


def _expected_sharpness(scale) -> Callable[..., Any]:
  def look(value_fn, params, key, vector, num_matvecs, axis_name):
    estimate = curvature.expected_sharpness(
      value_fn, params, key, scale, num_matvecs, axis_name
    )
    return estimate.value, vector

  return look
