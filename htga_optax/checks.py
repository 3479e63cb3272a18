"""One sentence with the value in it, for an argument that cannot be right.

Only concrete numbers are looked at: under `optax.inject_hyperparams` every
numeric argument is a tracer, about which nothing can be said at trace time.
"""

from collections.abc import Callable
import numbers

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


def check_size(name: str, value: object) -> int:
  """Returns a static size of at least one, or says what is wrong with it.

  Args:
    name: the argument's name, as the user wrote it.
    value: what was passed.

  Returns:
    The size as a Python int.

  Raises:
    TypeError: it is not a concrete integer (`optax.inject_hyperparams` makes
      tracers of all numbers that are not named in `static_args`).
    ValueError: it is below one.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(
      f"{name} must be a static integer, got {value!r}; under"
      f" optax.inject_hyperparams pass static_args=({name!r}, ...)."
    )
  check_number(name, value, lambda v: v >= 1, "be at least 1")
  return int(value)


def check_transformation(taker: str, transform: object) -> None:
  """Raises TypeError unless `transform` is a gradient transformation."""
  if not isinstance(transform, optax.GradientTransformation):
    raise TypeError(
      f"{taker} takes gradient transformations, got"
      f" {type(transform).__name__} {transform!r}."
    )
