"""Measures the tail index of the entries of the updates."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from htga_optax import _checks, coordinates, norms
from htga_optax._layers import (
  PerLayer,
  check_per_layer,
  check_same_layers,
  layer_names,
  layers_of,
)
from htga_optax._states import known_state


@known_state
class TrackCoordinateTailIndexState(NamedTuple):
  """The state of :func:`track_coordinate_tail_index`.

  Attributes:
    coordinate_tail_index: the last finite estimate, float32 [] (per layer:
      [layers]); 0 before the first.
    age: steps since the last measurement, int32 [].
  """

  coordinate_tail_index: jax.Array
  age: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """Returns the values for later members of a relay and for logs."""
    return {"coordinate_tail_index": self.coordinate_tail_index}


def track_coordinate_tail_index(
  tail_fraction: float | None = None,
  every_k_steps: int | None = None,
  *,
  per_layer: PerLayer = False,
  shard_axis_name: norms.AxisName = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the entries of the updates; changes nothing.

  :func:`track_tail_index` measures the norms of many steps; this tracker
  measures the entries of one step, by :func:`coordinates.hill`. If a step has
  no estimate (an entry is not finite), the reading keeps the last estimate.

  Args:
    tail_fraction: the share of the entries that form the tail (static), None
      for 0.01. The reading is 0 for a layer or a tree whose tail has fewer than
      eight entries.
    every_k_steps: the number of steps from one measurement to the next
      (static), None for 10. The first step is measured. A measurement reads the
      updates about 18 times.
    per_layer: False for all entries together, True for an index of every leaf,
      or a regular expression as in :func:`by_norm`.
    shard_axis_name: mapped axes over which you split the updates by hand; None
      under jit.

  Returns:
    The transformation. Its state is a :class:`TrackCoordinateTailIndexState`.

  Raises:
    TypeError: `every_k_steps` is not a static integer, or the updates are not
      floating point.
    ValueError: `tail_fraction` is outside (0, 1), or `every_k_steps` is below
      one.

  Examples:
    >>> import jax.numpy as jnp, numpy as np, optax
    >>> import htga_optax
    >>> track = htga_optax.track_coordinate_tail_index(every_k_steps=1)
    >>> tx = optax.chain(track, optax.sgd(0.1))
    >>> grads = jnp.asarray(np.random.default_rng(0).standard_t(2, size=10000))
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> print(f"{optax.tree.get(state, 'coordinate_tail_index'):.1f}")
    2.0
  """
  period = _checks.check_size("every_k_steps", every_k_steps, 10)
  fraction = 0.01 if tail_fraction is None else tail_fraction
  coordinates.tail_size(0, fraction)
  check_per_layer(per_layer)

  def layers(updates):
    for x, (_, size) in zip(
      jax.tree.leaves(updates), layers_of(updates, per_layer)
    ):
      yield from [x[i] for i in range(size)] if size else [x]

  def measure(updates):
    hill = lambda tree: coordinates.hill(tree, fraction, shard_axis_name)
    if not per_layer:
      return hill(updates)
    return jnp.stack([hill(layer) for layer in layers(updates)])

  @jax.jit  # if the caller does not jit, all steps share one compilation
  def measured(updates, state):
    old = state.coordinate_tail_index

    def look():
      new = measure(updates)
      return jnp.where(jnp.isfinite(new), new, old)

    return TrackCoordinateTailIndexState(
      coordinate_tail_index=lax.cond(state.age == 0, look, lambda: old),
      age=(state.age + 1) % period,
    )

  def init_fn(params):
    shape = [len(layer_names(params, per_layer))] if per_layer else []
    return TrackCoordinateTailIndexState(
      coordinate_tail_index=jnp.zeros(shape, jnp.float32),
      age=jnp.zeros([], jnp.int32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if per_layer:
      check_same_layers(
        "track_coordinate_tail_index",
        state.coordinate_tail_index.size,
        updates,
        params,
        per_layer,
      )
    for x in jax.tree.leaves(updates) if shard_axis_name is None else ():
      _checks.check_same_axes(
        "track_coordinate_tail_index", "a leaf", "shard_axis_name", x, state
      )
    if not jax.tree.leaves(updates):
      return updates, state
    return updates, measured(updates, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
