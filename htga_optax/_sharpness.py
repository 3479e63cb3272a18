r"""Tracks the sharpness of the loss, for listeners that respond to it.

A measurement s_t is one of four numbers. The reading is a debiased geometric
mean over the measurements::

    s_t = lambda_max, tr H, tr H/d or E|L(theta + nu) - L(theta)|
    m_t = decay m_(t-1) + (1 - decay) log s_t,    sharpness = exp(m_t/w_t)

where w_t is the same average of ones. Only one in every few steps measures. The
mean is geometric because sharpness spans decades while a network trains. A mean
is needed because a measurement on one batch is noisy.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
from jax.core import Tracer
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, _losses, curvature
from htga_optax._states import known_state

Source = Literal[
  "top_eigenvalue", "trace", "mean_eigenvalue", "expected_sharpness"
]


@known_state
class TrackSharpnessState(NamedTuple):
  """The state of :func:`track_sharpness`.

  Attributes:
    sharpness: the moving geometric mean, float32 []; 0 before the first
      measurement.
    sharpness_growth: the ratio of `sharpness` to the slow average, float32 [];
      0 before the first measurement.
    sharpness_estimate: the last finite measurement, float32 []; 0 before the
      first.
    log_averages: the fast and the slow average of the logarithm, not debiased,
      float32 [2].
    log_weights: the same averages of ones, float32 [2].
    measurement_count: the number of measurements so far, finite or not, int32
      [].
    sharpness_age: steps since the last measurement, int32 [].
    rng_key: the data of the key, uint32; it never changes.
    top_vector: the vector with which power iteration continues, a tree like the
      parameters; None for other sources.
  """

  sharpness: jax.Array
  sharpness_growth: jax.Array
  sharpness_estimate: jax.Array
  log_averages: jax.Array
  log_weights: jax.Array
  measurement_count: jax.Array
  sharpness_age: jax.Array
  rng_key: jax.Array
  top_vector: Any

  def readings(self) -> dict[str, Any]:
    """The readings, for later members of a relay and for logs."""
    return {
      "sharpness": self.sharpness,
      "sharpness_growth": self.sharpness_growth,
      "sharpness_estimate": self.sharpness_estimate,
    }


def track_sharpness(
  source: Source = "top_eigenvalue",
  every_k_steps: int | None = None,
  decay: ArrayLike = 0.95,
  *,
  slow_decay: ArrayLike = 0.99,
  num_matvecs: int | None = None,
  perturbation_scale: ArrayLike = 0.01,
  floor: ArrayLike = 1e-6,
  key: ArrayLike | None = None,
  axis_name: curvature.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the sharpness of the loss; changes nothing.

  `update` takes the loss, as in the line searches of optax, or a sharpness that
  was measured elsewhere::

      tx.update(grads, state, params, value_fn=lambda p: loss_fn(p, batch))
      tx.update(grads, state, params, sharpness=s)

  The sources are:

  - "top_eigenvalue": :math:`\lambda_{max}`, by `curvature.power_iteration`;
  - "trace": :math:`\operatorname{tr} H`, by `curvature.hutchinson_trace`;
  - "mean_eigenvalue": :math:`\operatorname{tr} H / d` for d parameters, by the
    same;
  - "expected_sharpness": :math:`E|L(\theta+\nu)-L(\theta)|`, by losses.

  A product with the Hessian costs 1.4 to 2.2 gradients (see `curvature.hvp`).
  The measurement is under `lax.cond`, so the steps between two measurements
  cost nothing more. Under `jax.vmap` every step measures, unless both `init`
  and the scan over steps are inside the mapped function: then all members share
  one clock. Inside `optax.MultiSteps` each micro-step counts as a step. A
  sharpness that is passed by hand is used in every step that has one.

  Power iteration continues with the vector of the last measurement. Its values
  are lower bounds, and the first few are too low. The average is taken over
  logarithms. A sharpness below `floor` counts as `floor`; the trace can be
  negative at a saddle. A measurement that is not finite is ignored, and the
  readings stay.

  With several devices: under `jax.jit` nothing needs to be done; under
  `jax.pmap` and `jax.shard_map` with replicated parameters, name the axes in
  `axis_name`. The vector and the products have the dtypes of the parameters; in
  bfloat16 they have few digits. On CPU, XLA is slow at gradients of
  convolutions inside any `lax.cond` or `lax.scan` (jax issue 12868; 30 times
  slower for a 5x5 convolution here). There, write convolutions as products of
  patches, or measure outside of the step and pass the number. In a step that is
  not jitted, each measurement is compiled.

  If JAX can differentiate a loss only in reverse (`jax.custom_vjp`, and so
  diffrax's default adjoint), its top eigenvalue cannot be measured: use the
  source "expected_sharpness", or `diffrax.DirectAdjoint()`.

  What it does not do: it does not work inside `optax.masked` or
  `optax.partition`, whose parameters are not those that `value_fn` takes. The
  sharpness of one batch is larger than that of the whole sample; the smaller
  the batch, the larger it is.

  Args:
    source: the quantity to measure.
    every_k_steps: the number of steps from one measurement to the next; the
      first step measures (static); None for 10.
    decay: the decay of the average per measurement, in [0, 1). The
      reconstruction of AHTSGD has 0.95 and a measurement in each step.
    slow_decay: the decay of the slow average, with which `sharpness_growth`
      compares.
    num_matvecs: the number of products in one measurement, or of losses for the
      expected sharpness (static); None for 1.
    perturbation_scale: :math:`\delta` of the expected sharpness, in units of
      the parameters.
    floor: the smallest sharpness, positive, in units of the source.
    key: the key for random numbers: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`); None for 0.
    axis_name: mapped axes over which the loss is averaged; None under jit.

  Returns:
    The transformation. Its readings are `sharpness`, `sharpness_growth` and
    `sharpness_estimate`. Its state is a :class:`TrackSharpnessState`.

  Raises:
    TypeError: a size is not a static integer, or the key is not a key.
    ValueError: an invalid argument; the message contains its value. Or `update`
      gets neither `value_fn` with parameters nor `sharpness`.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import track_sharpness
    >>> loss = lambda w: jnp.sum(jnp.asarray([1.0, 3.0, 10.0]) * w**2) / 2
    >>> tx = optax.chain(track_sharpness(every_k_steps=1), optax.sgd(0.01))
    >>> w = jnp.ones(3)
    >>> state = tx.init(w)
    >>> for _ in range(5):
    ...   _, state = tx.update(w, state, w, value_fn=loss)
    >>> print(f"{optax.tree.get(state, 'sharpness_estimate'):.3f}")
    10.000
  """
  measures = {
    "top_eigenvalue": _top_eigenvalue,
    "trace": _trace,
    "mean_eigenvalue": _mean_eigenvalue,
    "expected_sharpness": _expected_sharpness(perturbation_scale),
  }
  if source not in measures:
    raise ValueError(
      f"source must be one of {sorted(measures)}, got {source!r}."
    )
  period = _checks.check_size("every_k_steps", every_k_steps, 10)
  matvecs = _checks.check_size("num_matvecs", num_matvecs, 1)
  for name, value in (("decay", decay), ("slow_decay", slow_decay)):
    _checks.check_number(name, value, lambda v: 0 <= v < 1, "be in [0, 1)")
  for name, value in (
    ("perturbation_scale", perturbation_scale),
    ("floor", floor),
  ):
    _checks.check_number(
      name, value, lambda v: 0 < v < jnp.inf, "be positive and finite"
    )
  rng_key, impl = _checks.check_key(0 if key is None else key)

  def init_fn(params):
    zero = lambda dtype=jnp.float32, shape=(): jnp.zeros(shape, dtype)
    vector = None
    if source == "top_eigenvalue":
      start = jax.random.wrap_key_data(jnp.array(rng_key), impl=impl)
      vector = curvature.sample_like(
        jax.random.normal, _losses.floating(params), key=start
      )
    return TrackSharpnessState(
      sharpness=zero(),
      sharpness_growth=zero(),
      sharpness_estimate=zero(),
      log_averages=zero(shape=(2,)),
      log_weights=zero(shape=(2,)),
      measurement_count=zero(jnp.int32),
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
    if sharpness is None and (value_fn is None or params is None):
      raise ValueError(
        "track_sharpness needs the loss or its sharpness: pass params and"
        " value_fn= (params -> loss) to update, or sharpness= with a number of"
        " your own. If other code calls update, bind the loss with"
        " htga_optax.with_value_fn(tx, loss)."
      )
    last = state.sharpness_estimate, state.top_vector

    def measure():
      assert value_fn is not None
      loss_fn = _losses.loss_of(value_fn, params, extra_args)
      theta = jax.tree.map(jnp.asarray, _losses.floating(params))
      one = jax.random.wrap_key_data(state.rng_key, impl=impl)
      one = jax.random.fold_in(one, state.measurement_count)
      try:
        value, vector = measures[source](
          loss_fn, theta, one, state.top_vector, matvecs, axis_name
        )
      except (NotImplementedError, TypeError) as error:
        if "custom_" in str(error):  # JAX's message on custom derivatives
          raise TypeError(
            f"track_sharpness cannot measure the {source} of a loss that JAX"
            " differentiates only in reverse: pass"
            ' source="expected_sharpness" or, with diffrax, use'
            f" DirectAdjoint(). ({error})"
          ) from error
        raise
      # The loss may be nan where a product with the Hessian is finite.
      loss = loss_fn(theta)
      loss = loss if axis_name is None else lax.pmean(loss, axis_name)
      _checks.check_same_axes(
        "track_sharpness", "the loss", "axis_name", loss, last[0]
      )
      finite = jnp.isfinite(loss) & jnp.isfinite(value)
      new = jnp.asarray(value, jnp.float32), vector
      # Selected here, so that only a step that measures reads two vectors.
      return finite, *optax.tree.where(finite, new, last)

    if sharpness is not None:
      due = jnp.asarray(True)
      value, vector = jnp.asarray(sharpness, jnp.float32), state.top_vector
      finite = jnp.isfinite(value)
      value = jnp.where(finite, value, state.sharpness_estimate)
    else:
      if state.top_vector is not None:
        _losses.check_like(
          "track_sharpness", _losses.floating(params), state.top_vector
        )
      due = state.sharpness_age == 0
      skip = lambda: (jnp.asarray(False), *last)
      if isinstance(due, Tracer):
        finite, value, vector = lax.cond(due, measure, skip)
      else:  # without jit, lax.cond would compile both branches
        finite, value, vector = measure() if due else skip()

    delta = jnp.stack(
      [jnp.asarray(d, jnp.float32) for d in (decay, slow_decay)]
    )
    log = jnp.log(jnp.maximum(value, floor))
    averages = delta * state.log_averages + (1 - delta) * log
    weights = delta * state.log_weights + (1 - delta)
    # A decay just below 1 is 1 in float32. Its weight then stays 0, and the
    # reading stays 0, which means that it is not known.
    fast, slow = averages / jnp.where(weights > 0, weights, 1.0)
    state = state._replace(top_vector=vector)
    new = state._replace(
      sharpness=jnp.where(weights[0] > 0, jnp.exp(fast), 0.0),
      sharpness_growth=jnp.where(
        jnp.all(weights > 0), jnp.exp(fast - slow), 0.0
      ),
      sharpness_estimate=value,
      log_averages=averages,
      log_weights=weights,
    )
    return updates, optax.tree.where(finite, new, state)._replace(
      measurement_count=jnp.where(
        due,
        optax.safe_increment(state.measurement_count),
        state.measurement_count,
      ),
      sharpness_age=(state.sharpness_age + 1) % period,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _top_eigenvalue(value_fn, params, key, vector, num_matvecs, axis_name):
  del key
  return curvature.power_iteration(
    value_fn, params, vector, num_matvecs, axis_name
  )


def _trace(value_fn, params, key, vector, num_matvecs, axis_name):
  matvec = curvature.hessian(value_fn, params, axis_name)
  trace = curvature.hutchinson_trace(matvec, params, num_matvecs, key=key)
  return trace.value, vector


def _mean_eigenvalue(value_fn, params, key, vector, num_matvecs, axis_name):
  trace, _ = _trace(value_fn, params, key, vector, num_matvecs, axis_name)
  return trace / max(curvature.dimension(params), 1), vector


def _expected_sharpness(perturbation_scale) -> Callable[..., Any]:
  def measure(value_fn, params, key, vector, num_matvecs, axis_name):
    estimate = curvature.expected_sharpness(
      value_fn, params, perturbation_scale, num_matvecs, axis_name, key=key
    )
    return estimate.value, vector

  return measure
