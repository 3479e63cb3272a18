"""Measures the tail index of the spectra of the weights."""

import collections
from collections.abc import Callable, Iterator
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
import numpy as np
import optax

from htga_optax import _checks, spectra
from htga_optax._layers import (
  check_per_layer,
  check_same_layers,
  is_floating,
  layer_names,
  layers_of,
)
from htga_optax._states import known_state
from htga_optax.spectra._tails import known_tail

_NAME = "track_weight_tail_index"


@known_state
class TrackWeightTailIndexState(NamedTuple):
  """The state of :func:`track_weight_tail_index`.

  Attributes:
    weight_tail_index: the tail index of the eigenvalues of every layer, float32
      [layers], which is PL_Alpha_Hill - 1; 0 for a layer that is no matrix, and
      before the first known value.
    weight_tail_ratio: the same divided by the tail index of an untrained matrix
      of the layer's shape, float32 [layers]; 1 for an untrained matrix.
    step_count: the steps so far, int32 [].
  """

  weight_tail_index: jax.Array
  weight_tail_ratio: jax.Array
  step_count: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """The readings, for later members of a relay and for logs."""
    return {
      "weight_tail_index": self.weight_tail_index,
      "weight_tail_ratio": self.weight_tail_ratio,
    }


class Matrices(NamedTuple):
  """The matrices of one leaf.

  Attributes:
    leaf: the index of the leaf among the floating-point leaves.
    shape: rows and columns.
    layers: their positions in the vector of layers.
  """

  leaf: int
  shape: tuple[int, int]
  layers: range


def track_weight_tail_index(
  every_k_steps: int | None = None,
  rows: Callable[[str, tuple[int, ...]], int | None] | None = None,
  *,
  until_step: ArrayLike | None = None,
  per_layer: bool | str = True,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the tail index of the spectra of the weights; changes nothing.

  `update` takes the parameters, those before the step. For each weight matrix W
  with the eigenvalues :math:`\lambda` of W'W it measures, by
  :func:`spectra.tail`,

  .. math::
    a = \mathrm{PL\_Alpha\_Hill}(\lambda) - 1, \qquad
    \text{ratio} = a / a_0(\text{shape of } W)

  where :math:`a_0` is the tail index of an untrained Gaussian matrix. The first
  reading is the number of TempBalance, AlphaDecay and LLR, up to the constant
  1. It depends on the shape of the matrix. The second reading is 1 for an
  untrained matrix of any shape.

  A measurement needs the singular values of every matrix. Its time grows with
  the third power of the size, and may be that of many steps. It needs memory
  for a float32 copy of all matrices of one shape.
  The steps between two measurements cost nothing, since the measurement is
  under `lax.cond`. Under `jax.vmap` every step measures.

  With several devices: under `jax.jit` the parameters may be sharded; each
  matrix is then gathered for the measurement. `jax.shard_map` with parameters
  that are split by hand is an error, since a part of a matrix has another
  spectrum. No derivative passes through the readings.

  Args:
    every_k_steps: the number of steps from one measurement to the next; the
      first step measures (static); None for 200.
    rows: tells which leaves are matrices: a function of the name and the shape
      of a layer that returns how many of its first axes are rows, or None to
      leave the layer out (static). None for :func:`spectra.kernel_rows`, which
      leaves out vectors, embeddings and matrices with fewer than 50
      eigenvalues.
    until_step: the step from which on nothing is measured, so that the readings
      stay; None to measure to the end.
    per_layer: True if every leaf is a layer, or a regular expression that
      matches the paths of leaves with stacked layers, as in :func:`by_norm`.

  Returns:
    The transformation. Its readings are `weight_tail_index` and
    `weight_tail_ratio`, vectors [layers] in the order of
    :func:`htga_optax.layer_names`. They are 0 for layers that are left out. A
    matrix without an estimate keeps its last reading: one that is orthogonal,
    of low rank or not finite. The state is a
    :class:`TrackWeightTailIndexState`.

  Raises:
    TypeError: `every_k_steps` is not a static integer, or `rows` is not a
      function.
    ValueError: `per_layer` is False, `rows` returns an invalid number, `update`
      gets no parameters, or other layers than `init`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> from htga_optax import by_layer, track_weight_tail_index
    >>> params = {"kernel": jax.random.normal(jax.random.key(0), (128, 64)),
    ...           "bias": jnp.zeros(64)}
    >>> tx = optax.chain(track_weight_tail_index(), optax.sgd(0.1))
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> ratio = by_layer(optax.tree.get(state, "weight_tail_ratio"), params)
    >>> print({name: f"{x:.1f}" for name, x in ratio.items()})
    {'bias': '0.0', 'kernel': '1.0'}
  """
  period = _checks.check_size("every_k_steps", every_k_steps, 200)
  rows = spectra.kernel_rows if rows is None else rows
  _checks.check_number(
    "until_step", until_step, lambda v: v >= 0, "be at least 0"
  )
  if not callable(rows):
    raise TypeError(
      f"rows must be a function of a name and a shape, got {rows!r}; under"
      " optax.inject_hyperparams pass static_args=('rows',)."
    )
  check_per_layer(per_layer)
  if not per_layer:
    raise ValueError(f"per_layer must be True or a string, got {per_layer}.")

  def plan(params):
    return tuple(matrices_of(params, rows, per_layer))

  def init_fn(params):
    plan(params)  # raises if rows is invalid
    layers = len(layer_names(params, per_layer))
    return TrackWeightTailIndexState(
      weight_tail_index=jnp.zeros([layers], jnp.float32),
      weight_tail_ratio=jnp.zeros([layers], jnp.float32),
      step_count=jnp.zeros([], jnp.int32),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError(
        f"{_NAME} measures the parameters: pass params to update."
      )
    check_same_layers(
      _NAME, state.weight_tail_index.size, params, params, per_layer
    )
    found = plan(params)
    leaves = [x for x in jax.tree.leaves(params) if is_floating(x)]
    leaves = [jnp.asarray(leaves[m.leaf]) for m in found]
    for x in leaves:
      _checks.check_same_axes(_NAME, "a matrix", None, x, state)
    end = jnp.iinfo(jnp.int32).max if until_step is None else until_step
    due = (state.step_count % period == 0) & (state.step_count < end)
    return updates, _measured(found, due, leaves, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def matrices_of(
  params: Any, rows: Any, per_layer: bool | str
) -> Iterator[Matrices]:
  """Finds the leaves that are matrices."""
  leaves = [x for x in jax.tree.leaves(params) if is_floating(x)]
  start = 0
  for i, (name, size) in enumerate(layers_of(params, per_layer)):
    shape = np.shape(leaves[i])
    layers = range(start, start + max(size, 1))
    start = layers.stop
    inner = shape[1:] if size else shape
    split = rows(name, inner)
    if split is None or not math.prod(shape):
      continue
    if not 0 < split < len(inner):
      raise ValueError(
        f"rows must return None or a number of axes from 1 to {len(inner) - 1}"
        f" for {name!r} of shape {inner}, got {split!r}."
      )
    matrix = math.prod(inner[:split]), math.prod(inner[split:])
    yield Matrices(i, matrix, layers)


@functools.partial(jax.jit, static_argnums=0)
def _measured(
  plan: tuple[Matrices, ...],
  due: jax.Array,
  leaves: list[jax.Array],
  state: TrackWeightTailIndexState,
) -> TrackWeightTailIndexState:
  """The next state; compiled once, if the training step is not jitted."""
  old = spectra.SpectralTail(state.weight_tail_index, state.weight_tail_ratio)
  leaves = lax.stop_gradient(leaves)

  def measure():
    alike = collections.defaultdict(list)
    for m, x in zip(plan, leaves):
      alike[m.shape].append((m.layers, _whole(x).reshape(-1, *m.shape)))
    new = old
    for group in alike.values():
      at = np.concatenate([layers for layers, _ in group])
      stack = jnp.concatenate([_in_float32(x) for _, x in group])
      found, known = jax.vmap(known_tail)(stack)
      new = spectra.SpectralTail(
        *(x.at[at].set(jnp.where(known, y, x[at])) for x, y in zip(new, found))
      )
    return new

  new = lax.cond(due, measure, lambda: old) if plan else old
  count = jnp.asarray(optax.safe_increment(state.step_count))
  return TrackWeightTailIndexState(*new, step_count=count)


def _in_float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32)


def _whole(x: jax.Array) -> jax.Array:
  """Gathers an array; under an Auto mesh XLA does that by itself."""
  mesh = jax.typeof(x).sharding.mesh
  if AxisType.Explicit not in mesh.axis_types:
    return x
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))
