"""Optax's SGD, with checked arguments."""

from jax.typing import ArrayLike
import optax

from htga_optax import _checks


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  momentum: ArrayLike | None = None,
  nesterov: bool = False,
) -> optax.GradientTransformation:
  """`optax.sgd`; the error for an invalid argument contains its value."""
  _checks.check_scale("learning_rate", learning_rate)
  _checks.check_number(
    "momentum", momentum, lambda v: 0 <= v < 1, "be in [0, 1)"
  )
  return optax.sgd(learning_rate, momentum, nesterov)
