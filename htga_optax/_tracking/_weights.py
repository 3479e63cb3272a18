"""Measures the tail index of the spectra of the parameters."""

from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import optax

from htga_optax import _checks, spectra
from htga_optax._layers import (
  PerLayer,
  check_per_layer,
  is_floating,
  layer_names,
  layers_of,
)
from htga_optax._states import known_state


@known_state
class TrackWeightTailIndexState(NamedTuple):
  """The state of :func:`track_weight_tail_index`.

  Attributes:
    weight_tail_index: the last estimate of each layer, float32 [layers]; 0 for
      a layer that is no matrix, and before the first estimate.
    weight_age: steps since the last measurement, int32 [].
  """

  weight_tail_index: jax.Array
  weight_age: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """Returns the values for later members of a relay and for logs."""
    return {"weight_tail_index": self.weight_tail_index}


def track_weight_tail_index(
  every_k_steps: int | None = None,
  smallest: int | None = None,
  *,
  relative: bool = True,
  per_layer: PerLayer = True,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the weights' spectra; changes nothing.

  Every leaf of the parameters that is a matrix has a reading. It is
  :func:`spectra.relative_tail_index`, or the published exponent PL_Alpha_Hill
  (:func:`spectra.alpha_hill`). Matrices of one shape are measured together. If
  a matrix has no estimate (an entry is not finite, or its rank is below half),
  its reading keeps the last one.

  A measurement is a decomposition of every matrix. One of 512 x 512 takes
  about 60 ms on a CPU, as long as many training steps: hence the default of 200
  steps. The measurement is under `lax.cond`, so the steps between cost nothing.
  Under `jax.jit`, sharded parameters are gathered for a measurement.

  Args:
    every_k_steps: the number of steps from one measurement to the next
      (static); the first step is measured. None for 200.
    smallest: the smallest number of rows and columns of a matrix (static); see
      :func:`spectra.matrix_shape`. None for 50.
    relative: True for the index over that of an untrained matrix: 1 for an
      untrained one, smaller for a heavier spectrum. False for PL_Alpha_Hill.
    per_layer: True if every leaf is a layer, or a regular expression that
      matches the paths of leaves with stacked layers, as in :func:`by_norm`.

  Returns:
    The transformation. Its `update` needs `params`. Its state is a
    :class:`TrackWeightTailIndexState`.

  Raises:
    TypeError: a size is not a static integer, or `per_layer` has another type.
    ValueError: a size is below one, `per_layer` is False, or `update` gets no
      parameters.

  Examples:
    >>> import jax, optax
    >>> from htga_optax import by_layer, track_weight_tail_index
    >>> params = {"dense": jax.random.normal(jax.random.key(0), (256, 256)),
    ...           "bias": jax.numpy.zeros(256)}
    >>> tx = optax.chain(track_weight_tail_index(), optax.sgd(0.1))
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> index = by_layer(state[0].weight_tail_index, params)
    >>> print(f"{index['dense']:.1f} {index['bias']:.1f}")
    1.0 0.0

  References:
    Zhou et al. (2023), arXiv:2312.00359, for PL_Alpha_Hill. The ratio to an
    untrained matrix is derived here.
  """
  period = _checks.check_size("every_k_steps", every_k_steps, 200)
  least = _checks.check_size("smallest", smallest, 50)
  check_per_layer(per_layer)
  if not per_layer:
    raise ValueError(
      "per_layer must be True or a regular expression, got"
      f" {per_layer!r}: each matrix has a spectrum of its own."
    )
  estimate = (
    spectra.relative_tail_index
    if relative
    else lambda w: spectra.alpha_hill(spectra.eigenvalues(w))
  )

  def matrices(params):
    """Yields (place, matrix) of all layers that are matrices."""
    place = 0
    names = layers_of(params, per_layer)
    leaves = filter(is_floating, jax.tree.leaves(params))
    for leaf, (_, size) in zip(map(jnp.asarray, leaves), names):
      for x in [leaf[i] for i in range(size)] if size else [leaf]:
        rows, columns = spectra.matrix_shape(x.shape, least)
        if rows and not jnp.iscomplexobj(x):
          yield place, _gathered(x).reshape(rows, columns)
        place += 1

  def measure(params, old):
    groups: dict[tuple[int, ...], list[Any]] = {}
    for place, matrix in matrices(params):
      groups.setdefault(matrix.shape, []).append((place, matrix))
    new = old
    for group in groups.values():
      places, stack = zip(*group)
      found = estimate(jnp.stack([x.astype(jnp.float32) for x in stack]))
      new = new.at[np.array(places)].set(found)
    return jnp.where(new > 0, new, old)

  @jax.jit  # if the caller does not jit, all steps share one compilation
  def measured(params, state):
    old = state.weight_tail_index
    return TrackWeightTailIndexState(
      weight_tail_index=lax.cond(
        state.weight_age == 0, lambda: measure(params, old), lambda: old
      ),
      weight_age=(state.weight_age + 1) % period,
    )

  def init_fn(params):
    return TrackWeightTailIndexState(
      weight_tail_index=jnp.zeros(
        [len(layer_names(params, per_layer))], jnp.float32
      ),
      weight_age=jnp.zeros([], jnp.int32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError(
        "track_weight_tail_index needs the parameters: pass them to update."
      )
    names = layer_names(params, per_layer)
    if len(names) != state.weight_tail_index.size:
      raise ValueError(
        "track_weight_tail_index has a state of"
        f" {state.weight_tail_index.size} layers, but the parameters have"
        f" {len(names)}: call init with these parameters."
      )
    if not names:
      return updates, state
    return updates, measured(params, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _gathered(x: jax.Array) -> jax.Array:
  """The whole matrix on every device, where axes of the mesh are explicit."""
  mesh = jax.typeof(x).sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))
