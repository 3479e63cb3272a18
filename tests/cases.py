"""Every public transformation and optimizer, for the laws of test_contract.

Add a new transformation to CASES; it is needed nowhere else.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import htga_optax


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """One transformation under test.

  Attributes:
    name: the test's id.
    factory: makes the transformation.
    kwargs: the arguments of the factory.
    extra_args: readings to pass by hand to a listener on its own, or functions
      that compute a reading (or a loss) from the updates.
    readings: fields that `optax.tree.get` must find exactly once.
    static_args: arguments that `optax.inject_hyperparams` must not trace.
    forgets: whether the measured index no longer depends on a bad, finite step
      after nine more steps. A window drops the step; in a level or an average
      its effect only fades.
    follows_clock: whether the update depends on the number of steps.
    needs_params: whether `update` needs the parameters.
  """

  name: str
  factory: Callable[..., optax.GradientTransformationExtraArgs]
  kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
  extra_args: dict[str, Any] = dataclasses.field(default_factory=dict)
  readings: tuple[str, ...] = ()
  static_args: tuple[str, ...] = ()
  forgets: bool = True
  follows_clock: bool = False
  needs_params: bool = False

  def make(self) -> optax.GradientTransformationExtraArgs:
    return self.factory(**self.kwargs)


# A window that is full after eight steps.
SIZES = {"window_size": 8, "k": 2}
STATIC = ("window_size", "k")
MEASURED = (
  "tail_index",
  "tail_index_interval",
  "tail_model_statistics",
  "tail_model_rejected",
  "update_norm",
  "nonfinite_count",
)

# These pass on updates that are not finite; all others drop such a step.
TRACKERS = (
  htga_optax.track_tail_index,
  htga_optax.track_coordinate_tail_index,
  htga_optax.track_gradient_noise,
  htga_optax.track_sharpness,
  htga_optax.track_weight_tail_index,
  htga_optax.tell,
)


def relay_of_two_listeners(target=2.0, step_size=3.0):
  """Two listeners on one tracker, with an optax transformation between."""
  return htga_optax.relay(
    htga_optax.track_tail_index(**SIZES),
    optax.scale(step_size),
    htga_optax.amplify(htga_optax.ratio_exponent(target)),
    htga_optax.scale_by_tail_index(),
  )


def scaled_by_norms(low=0.5, high=1.5, per_layer=True):
  """Layers with larger norms get larger factors."""
  return htga_optax.relay(
    htga_optax.track_tail_index(**SIZES, level_decay=None, per_layer=per_layer),
    htga_optax.scale_by_layer(
      htga_optax.Reading("update_norm"), low, high, per_layer=per_layer
    ),
  )


def any_matrix(name, shape):
  """Small matrices too, for `track_weight_tail_index`."""
  return len(shape) - 1 if len(shape) > 1 else None


def some_noise(updates):
  """A difference of gradients that does not depend on the updates' values.

  MultiSteps passes the difference of the last micro-step, so a test of it needs
  one that is the same in all micro-steps.
  """
  return jax.tree.map(
    lambda x: jnp.full_like(x, 1 + 1j if jnp.iscomplexobj(x) else 1), updates
  )


def bowl(params):
  """A loss of sharpness 3."""
  squares = jax.tree.map(lambda x: jnp.sum(x.real**2 + x.imag**2), params)
  return 1.5 * sum(jax.tree.leaves(squares))


CASES = [
  Case(
    "track_tail_index",
    htga_optax.track_tail_index,
    SIZES,
    readings=MEASURED,
    static_args=STATIC,
    forgets=False,
  ),
  Case(
    "track_tail_index_per_layer",
    htga_optax.track_tail_index,
    SIZES | {"per_layer": True, "level_decay": None},
    readings=MEASURED,
    static_args=STATIC,
  ),
  Case(
    "track_tail_index_ew_hill",
    htga_optax.track_tail_index,
    {"estimator": htga_optax.streaming.ew_hill(0.5, 0.5)},
    readings=MEASURED,
    static_args=(*STATIC, "estimator"),
    forgets=False,
  ),
  Case(
    "track_gradient_noise",
    htga_optax.track_gradient_noise,
    {"batch_size": 32, "decay": 0.5},
    extra_args={
      "other_updates": lambda updates: jax.tree.map(lambda x: 0.5 * x, updates)
    },
    readings=(
      "gradient_noise_scale",
      "noise_norm",
      "covariance_trace",
      "squared_gradient_norm",
    ),
  ),
  Case(
    "amplify",
    htga_optax.amplify,
    {"exponent": htga_optax.sigmoid_exponent(2.0)},
    extra_args={"tail_index": 1.3},
    readings=("amplification",),
  ),
  Case(
    "amplify_fixed_tau_per_layer",
    htga_optax.amplify,
    {
      "exponent": htga_optax.ratio_exponent(2.0),
      "tau": 0.5,
      "per_layer": True,
    },
    extra_args={"tail_index": 1.3},
    readings=("amplification",),
  ),
  Case(
    "amplify_of_a_number",
    htga_optax.amplify,
    {"exponent": 0.7},
    readings=("amplification",),
  ),
  Case(
    "scale_by_tail_index",
    htga_optax.scale_by_tail_index,
    {"beta": -0.7},
    extra_args={"tail_index": 1.3},
    readings=("rate_scale",),
  ),
  Case(
    "scale_by_tail_index_per_layer",
    htga_optax.scale_by_tail_index,
    {"per_layer": True},
    extra_args={"tail_index": 1.3},
    readings=("rate_scale",),
  ),
  Case(
    "track_coordinate_tail_index",
    htga_optax.track_coordinate_tail_index,
    {"tail_fraction": 0.3, "every_k_steps": 2},
    readings=("coordinate_tail_index",),
    static_args=("tail_fraction", "every_k_steps"),
  ),
  Case(
    "track_coordinate_tail_index_per_layer",
    htga_optax.track_coordinate_tail_index,
    {"tail_fraction": 0.3, "every_k_steps": 1, "per_layer": True},
    readings=("coordinate_tail_index",),
    static_args=("tail_fraction", "every_k_steps"),
  ),
  Case(
    "clip_by_tail_quantile",
    htga_optax.clip_by_tail_quantile,
    {"exceedance_rate": 0.1, "window_size": 8, "k": 5},
    readings=("tail_quantile", "exceedance_count"),
    static_args=STATIC,
  ),
  Case(
    "clip_by_tail_quantile_per_layer",
    htga_optax.clip_by_tail_quantile,
    {
      "exceedance_rate": 0.1,
      "window_size": 8,
      "k": 5,
      "skip": True,
      "per_layer": True,
    },
    readings=("tail_quantile", "exceedance_count"),
    static_args=STATIC,
  ),
  Case(
    "unless_rejected",
    htga_optax.unless_rejected,
    {"listener": htga_optax.scale_by_tail_index()},
    extra_args={"tail_index": 1.3, "tail_model_rejected": False},
    readings=("rate_scale",),
    static_args=("listener",),
  ),
  Case(
    "stable_noise",
    htga_optax.add_stable_noise,
    {"alpha": 1.5, "scale": 0.1, "key": 3},
    readings=("noise_tail_index",),
    static_args=("key",),
    follows_clock=True,
  ),
  Case(
    "stable_noise_of_a_reading",
    htga_optax.add_stable_noise,
    {
      "alpha": htga_optax.Reading("sharpness", lambda s: 2 - s),
      "scale": 0.5,
      "key": 3,
      "learning_rate": 0.1,
      "isotropic": True,
      "max_jump": 10.0,
    },
    extra_args={"sharpness": 0.3},
    readings=("noise_tail_index",),
    static_args=("key",),
    follows_clock=True,
  ),
  Case(
    "stable_noise_relative",
    htga_optax.add_stable_noise,
    {
      "alpha": 1.2,
      "scale": 0.1,
      "key": 3,
      "relative": True,
      "max_jump": 10.0,
    },
    readings=("noise_tail_index",),
    static_args=("key",),
    follows_clock=True,
  ),
  Case(
    "inflate_gradient_noise",
    htga_optax.inflate_gradient_noise,
    {"key": 3, "gate": 0.2},
    extra_args={"noise_updates": some_noise},
    readings=("noise_factor",),
    static_args=("key",),
    follows_clock=True,
  ),
  Case(
    "track_sharpness",
    htga_optax.track_sharpness,
    {"source": "trace", "decay": 0.5},
    extra_args={"sharpness": 0.3},
    readings=("sharpness", "sharpness_growth", "sharpness_estimate"),
    static_args=("every_k_steps", "num_matvecs", "key"),
  ),
  Case(
    "track_sharpness_of_a_loss",
    htga_optax.track_sharpness,
    {"every_k_steps": 2, "decay": 0.5},
    extra_args={"value_fn": lambda updates: bowl},
    readings=("sharpness", "sharpness_growth", "sharpness_estimate"),
    static_args=("every_k_steps", "num_matvecs", "key"),
  ),
  Case(
    "track_weight_tail_index",
    htga_optax.track_weight_tail_index,
    {"every_k_steps": 2, "rows": any_matrix, "per_layer": True},
    readings=("weight_tail_index", "weight_tail_ratio"),
    static_args=("every_k_steps", "rows"),
    needs_params=True,
  ),
  Case(
    "scale_by_layer",
    scaled_by_norms,
    {"per_layer": True},
    readings=(*MEASURED, "layer_factor"),
  ),
  Case(
    "add_decayed_weights_by_layer",
    htga_optax.add_decayed_weights_by_layer,
    {
      "weight_decay": 0.1,
      "reading": htga_optax.Reading("tail_index"),
      "low": 0.5,
      "high": 2.0,
      "ends": (1.0, 2.0),
      "per_layer": True,
    },
    extra_args={"tail_index": 1.3},
    readings=("layer_factor",),
    static_args=("ends",),
    needs_params=True,
  ),
  Case(
    "tell",
    htga_optax.tell,
    {"callback": lambda step, readings: None, "every_k_steps": 2},
    extra_args={"readings": {"tail_index": 1.3}},
    static_args=("callback", "every_k_steps"),
  ),
  Case("truncate", htga_optax.truncate, {"threshold": 1.0}),
  Case("normalize", htga_optax.normalize),
  Case(
    "normalize_smoothly_per_layer",
    htga_optax.normalize,
    {"eps": 0.5, "per_layer": True},
  ),
  Case(
    "sgd_that_drops",
    htga_optax.truncated_heavy_tailed_sgd,
    {"learning_rate": 0.1, "threshold": None, "key": 3, "scale": None},
    static_args=("key",),
  ),
  Case(
    "relay",
    relay_of_two_listeners,
    readings=(*MEASURED, "amplification"),
    forgets=False,
  ),
  Case(
    "scale_by_htga",
    htga_optax.scale_by_htga,
    SIZES,
    readings=(*MEASURED, "amplification"),
    static_args=STATIC,
    forgets=False,
  ),
  Case(
    "scale_by_htga_per_layer",
    htga_optax.scale_by_htga,
    SIZES
    | {
      "per_layer": True,
      "response": "ratio",
      "tau": 2.0,
      "level_decay": None,
      "unless_rejected": True,
    },
    readings=(*MEASURED, "amplification"),
    static_args=STATIC,
  ),
  Case(
    "htga",
    htga_optax.htga,
    SIZES | {"learning_rate": 0.1, "momentum": 0.9, "beta": -1.0},
    readings=(*MEASURED, "amplification"),
    static_args=STATIC,
    forgets=False,
  ),
  Case(
    "tail_index_sgd",
    htga_optax.tail_index_sgd,
    SIZES
    | {
      "learning_rate": 0.1,
      "momentum": 0.9,
      "nesterov": True,
      "level_decay": None,
      "unless_rejected": True,
    },
    readings=(*MEASURED, "rate_scale"),
    static_args=STATIC,
  ),
  Case(
    "normalized_sgd",
    htga_optax.normalized_sgd,
    {"learning_rate": 0.1, "momentum": 0.9},
  ),
  Case(
    "truncated_heavy_tailed_sgd",
    htga_optax.truncated_heavy_tailed_sgd,
    {"learning_rate": 0.1, "threshold": 0.5, "key": 3},
    extra_args={"noise_updates": some_noise},
    readings=("noise_factor",),
    static_args=("key",),
    follows_clock=True,
  ),
  Case(
    "ahtsgd",
    htga_optax.ahtsgd,
    {
      "learning_rate": 0.1,
      "scale": 0.01,
      "key": 3,
      "momentum": 0.9,
      "threshold": 1.0,
      "every_k_steps": 2,
    },
    extra_args={"value_fn": lambda updates: bowl},
    readings=("sharpness", "sharpness_growth", "noise_tail_index"),
    static_args=("key", "every_k_steps", "num_matvecs"),
  ),
]


def given(extra_args: dict[str, Any], updates: Any) -> dict[str, Any]:
  """The extra arguments of one update."""
  return {
    name: value(updates) if callable(value) else value
    for name, value in extra_args.items()
  }


def params() -> dict[str, Any]:
  """A tree with nesting, a scalar, a None leaf and an empty branch."""
  return {
    "dense": {"kernel": jnp.ones([8, 4]), "bias": jnp.zeros([8])},
    "frozen": None,
    "empty": {},
    "scale": jnp.float32(2.0),
  }


def gradients(steps: int, like: Any = None, seed: int = 0) -> Any:
  """Gradients with Pareto(1.5) norms, stacked along a leading axis."""
  rng = np.random.default_rng(seed)
  size = rng.pareto(1.5, steps) + 1

  def leaf(x):
    x = jnp.asarray(x)
    g = rng.standard_normal((steps, *x.shape))
    if jnp.iscomplexobj(x):
      g = g + 1j * rng.standard_normal(g.shape)
    return jnp.asarray(g * size.reshape((-1,) + (1,) * x.ndim), x.dtype)

  return jax.tree.map(leaf, params() if like is None else like)
