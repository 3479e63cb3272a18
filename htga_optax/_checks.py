"""Checks arguments: an error is one sentence that contains the invalid value.

Only concrete numbers are checked. Under `optax.inject_hyperparams` every
numeric argument is a tracer, whose value is unknown at trace time.
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
  """Raises ValueError for a concrete number that does not satisfy `holds`.

  Args:
    name: the argument's name in the public API.
    value: the argument. Tracers, arrays and None are not checked.
    holds: the predicate. (nan fails every comparison, as it should.)
    must: the end of the sentence after "must".

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
  """Raises ValueError unless `high` is finite and at least `low`."""
  check_number(high_name, high, lambda v: v < float("inf"), "be finite")
  if not isinstance(low, jax.Array):
    check_number(
      high_name, high, lambda v: v >= low, f"be at least {low_name}={low}"
    )


def check_size(name: str, value: object, default: int | None = None) -> int:
  """Returns a static size of at least one, or raises an error.

  Args:
    name: the argument's name in the public API.
    value: the argument.
    default: the size if the argument is None. The defaults of public functions
      are None and not numbers, since `optax.inject_hyperparams` also traces
      default numbers.

  Returns:
    The size as a Python int.

  Raises:
    TypeError: `value` is not a concrete integer. (`optax.inject_hyperparams`
      turns all numbers that are not named in `static_args` into tracers.)
    ValueError: `value` is below one.
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
  """Returns a sample of real numbers, without missing values.

  Args:
    name: the argument's name in the public API.
    x: a sample. Masked entries of a masked array and nulls of a polars column
      are missing values.

  Returns:
    A JAX array for a JAX array, and a NumPy array for everything else.

  Raises:
    ValueError: `x` is complex.

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
    TypeError: `transform` does not have the two functions of a gradient
      transformation, as for example `optax.MultiSteps` has.
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
  name: str, what: str, argument: str | None, value: Any, state: Any
) -> None:
  """Raises ValueError if a value, but not the state, differs over an axis.

  Args:
    name: the name of the transformation.
    what: the name of the value.
    argument: the name of the argument that takes the axes; None if there is no
      such argument.
    value: an array.
    state: the state that the value updates, a tree of arrays.
  """
  leaves = jax.tree.leaves_with_path(state)
  # The step count does not depend on the value.
  held = [_axes(x) for path, x in leaves if keystr(path) != ".step_count"]
  over = _axes(value) - frozenset().union(*held)
  if held and over:
    names = ", ".join(map(repr, sorted(over)))
    remedy = "it needs whole arrays, so keep it outside of jax.shard_map"
    if argument:
      remedy = (
        f"name the axis in {argument} if arrays are split over it, or average"
        " the gradient over it with jax.lax.pmean"
      )
    raise ValueError(
      f"{name}: {what} differs over the mapped axis {names}, but the state does"
      f" not: {remedy}."
    )


def _axes(x: Any) -> frozenset[str]:
  """The mapped axes of `jax.shard_map` over which an array differs."""
  kind = jax.typeof(x)
  # JAX 0.7 has them as `vma` of the type, later versions in a part of it.
  found = getattr(kind, "manual_axis_type", kind)
  return getattr(found, "varying", None) or getattr(found, "vma", frozenset())


def check_key(key: ArrayLike) -> tuple[Any, Any]:
  """Returns the data of one key, on the host if concrete, and its `impl`.

  Args:
    key: a seed, a typed key or key data.

  Returns:
    The data, and the argument `impl` of `jax.random.wrap_key_data`.

  Raises:
    TypeError: `key` is neither a seed, nor a typed key, nor key data.
    ValueError: `key` is a batch of keys, or data of a wrong size.
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
    data = np.asarray(data)  # belongs to no mesh; every init copies it
  return data, jax.random.key_impl(typed)
