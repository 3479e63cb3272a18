"""One sentence with the value in it, for an argument that cannot be right.

Only concrete numbers are looked at: under `optax.inject_hyperparams` every
numeric argument is a tracer, about which nothing can be said at trace time.
"""

from collections.abc import Callable
import numbers
from typing import Any

import jax
from jax import dtypes
from jax.core import Tracer
import jax.numpy as jnp
from jax.tree_util import keystr
from jax.typing import ArrayLike
import numpy as np
import optax


def check_number(
  name: str, value: object, holds: Callable[..., bool], must: str
) -> None:
  """Raises ValueError unless `value` is not a concrete number or holds.

  Args:
    name: the argument's name, as the user wrote it.
    value: what was passed; tracers, arrays and None pass unseen.
    holds: the predicate (nan fails every comparison, as it should).
    must: how the sentence goes on after "must".

  Raises:
    ValueError: "`name` must `must`, got `value`."

  Examples:
    >>> check_number("tau", 2.0, lambda v: v > 0, "be positive")
    >>> check_number("tau", -1.0, lambda v: v > 0, "be positive")
    Traceback (most recent call last):
    ValueError: tau must be positive, got -1.0.
  """
  if isinstance(value, numbers.Real) and not holds(value):
    raise ValueError(f"{name} must {must}, got {value}.")


def check_scale(name: str, value: object) -> None:
  """Raises ValueError for a concrete number that is negative or not finite."""
  check_number(
    name,
    value,
    lambda v: 0 <= v < float("inf"),
    "be a finite number of at least 0",
  )


def check_order(low_name: str, low: Any, high_name: str, high: Any) -> None:
  """Raises ValueError for bounds that are not finite or not in order."""
  check_number(high_name, high, lambda v: v < float("inf"), "be finite")
  if not isinstance(low, jax.Array):
    check_number(
      high_name, high, lambda v: v >= low, f"be at least {low_name}={low}"
    )


def check_size(name: str, value: object, default: int | None = None) -> int:
  """Returns a static size of at least one, or says what is wrong with it.

  Args:
    name: the argument's name, as the user wrote it.
    value: what was passed.
    default: the size where None was passed. Sizes are None by default, and no
      numbers, lest `optax.inject_hyperparams` trace what nobody has given.

  Returns:
    The size as a Python int.

  Raises:
    TypeError: it is not a concrete integer (`optax.inject_hyperparams` makes
      tracers of all numbers that are not named in `static_args`).
    ValueError: it is below one.
  """
  if value is None and default is not None:
    return default
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(
      f"{name} must be a static integer, got {value!r}; under"
      f" optax.inject_hyperparams pass static_args=({name!r}, ...)."
    )
  check_number(name, value, lambda v: v >= 1, "be at least 1")
  return int(value)


def check_sample(name: str, x: Any) -> Any:
  """Returns a sample of real numbers, without what has no value.

  Args:
    name: the argument's name, as the user wrote it.
    x: a sample. Entries of a masked array that are masked, and nulls of a
      column of polars, are no values.

  Returns:
    An array of jax as it is, anything else as an array of NumPy.

  Raises:
    ValueError: it is complex.

  Examples:
    >>> import numpy as np
    >>> print(check_sample("x", np.ma.masked_less([1.0, -2.0, 3.0], 0)))
    [1. 3.]
    >>> check_sample("x", [1j])
    Traceback (most recent call last):
    ValueError: x is complex: give its absolute values, or its real part.
  """
  is_null = getattr(x, "is_null", None)  # of polars
  if is_null is not None:
    x = np.ma.masked_array(x, np.asarray(is_null(), bool))
  if isinstance(x, np.ma.MaskedArray):
    x = x.compressed() if x.ndim == 1 else x
  parts = x if isinstance(x, (list, tuple)) else [x]
  of_jax = [
    isinstance(v, jax.Array) or hasattr(v, "__jax_array__") for v in parts
  ]
  found = jnp.asarray(x) if any(of_jax) else np.asarray(x)
  if jnp.issubdtype(found.dtype, jnp.complexfloating):
    raise ValueError(
      f"{name} is complex: give its absolute values, or its real part."
    )
  return found


def check_transformation(
  taker: str, transform: Any
) -> optax.GradientTransformationExtraArgs:
  """Returns a transformation that takes extra arguments.

  Raises:
    TypeError: it is neither a gradient transformation nor, as
      `optax.MultiSteps`, an object with its two functions.
  """
  if isinstance(transform, optax.MultiSteps):
    # Its own gradient_transformation() loses the extra arguments.
    return optax.GradientTransformationExtraArgs(
      transform.init,
      transform.update,  # pyright: ignore[reportArgumentType]
    )
  if not (hasattr(transform, "init") and hasattr(transform, "update")):
    raise TypeError(
      f"{taker} takes gradient transformations, got"
      f" {type(transform).__name__} {transform!r}."
    )
  return optax.with_extra_args_support(transform)


def check_same_axes(
  name: str, what: str, argument: str, value: Any, state: Any
) -> None:
  """Raises ValueError where a value differs over mapped axes, a state not.

  Args:
    name: the transformation's name.
    what: the value's.
    argument: the argument that would name the axes.
    value: an array.
    state: what the value would become a part of, a tree of arrays.
  """
  leaves = jax.tree.leaves_with_path(state)
  # A clock goes on whatever the value is.
  held = [_axes(x) for path, x in leaves if keystr(path) != ".step_count"]
  over = _axes(value) - frozenset().union(*held)
  if held and over:
    names = ", ".join(map(repr, sorted(over)))
    raise ValueError(
      f"{name}: {what} differs over the mapped axis {names}, and the state does"
      f" not: name the axis in {argument} if arrays are split over it, or"
      " average the gradient over it by jax.lax.pmean."
    )


def _axes(x: Any) -> frozenset[str]:
  """The mapped axes of `jax.shard_map` over which an array differs."""
  kind = jax.typeof(x)
  # JAX 0.7 keeps them as `vma` of the type, later ones in a part of it.
  found = getattr(kind, "manual_axis_type", kind)
  return getattr(found, "varying", None) or getattr(found, "vma", frozenset())


def check_key(key: ArrayLike) -> tuple[Any, Any]:
  """The data of one key, on the host if concrete, and its implementation.

  Args:
    key: a seed, a typed key or key data.

  Returns:
    The data, and what `jax.random.wrap_key_data` takes as `impl`.

  Raises:
    TypeError: it is none of these.
    ValueError: it is a batch of keys, or data of another size.
  """
  if isinstance(key, numbers.Integral) and not isinstance(key, bool):
    typed = jax.random.key(int(key))
  elif isinstance(key, jax.Array) and jnp.issubdtype(
    key.dtype, dtypes.prng_key
  ):
    typed = key
  elif isinstance(key, (jax.Array, np.ndarray)) and key.dtype == jnp.uint32:
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
    if key.shape[-1:] != size:
      raise ValueError(
        f"key data must be of shape {size}, got shape {key.shape}."
      )
    typed = jax.random.wrap_key_data(jnp.asarray(key))
  else:
    raise TypeError(
      "key must be an integer seed, a typed key or uint32 key data, got"
      f" {key!r}; under optax.inject_hyperparams pass static_args=('key',)."
    )
  if typed.shape:
    raise ValueError(
      f"key must be one key, got shape {typed.shape}; use jax.vmap."
    )
  data = jax.random.key_data(typed)
  if not isinstance(data, Tracer):
    data = np.asarray(data)  # of no mesh, and copied by every init
  return data, jax.random.key_impl(typed)
