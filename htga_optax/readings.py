r"""Arguments that may be constant, follow a schedule, or answer a reading.

value_t = v,    schedule(t),    response(reading_t)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Reading(NamedTuple):
  """An argument that answers what a tracker reads, step by step.

  Attributes:
    name: of the reading, as the tracker offers it and as `update` takes it.
    response: reading -> value, both numbers, float32 [], or a schedule of the
      step. What it says of a reading of 0, which is one not known yet, is not
      heard.

  Examples:
    >>> import jax
    >>> from htga_optax import Reading
    >>> falling = Reading("sharpness", lambda s: 2 - jax.nn.sigmoid(s - 20))
    >>> falling.name
    'sharpness'
  """

  name: str
  response: Callable[[jax.Array], optax.ScalarOrSchedule]


def value_of(
  listener: str,
  argument: optax.ScalarOrSchedule | Reading,
  count: jax.Array,
  extra_args: dict[str, Any],
) -> jax.Array:
  """An argument's value in this step, float32 []; 0 where it is not known."""
  if not isinstance(argument, Reading):
    value = argument(count) if callable(argument) else argument
    return jnp.asarray(value, jnp.float32)
  name, response = argument
  reading = extra_args.get(name)
  if reading is None:
    raise ValueError(
      f"{listener} needs the reading `{name}`: put a tracker of it before it in"
      f" htga_optax.relay(...), or pass {name}= to update."
    )
  if [jnp.shape(x) for x in jax.tree.leaves(reading)] != [()]:
    raise ValueError(f"{listener} takes one number of `{name}`, got {reading}.")
  (reading,) = jax.tree.leaves(reading)
  reading = jnp.asarray(reading, jnp.float32)
  known = reading != 0
  value = response(jnp.where(known, reading, 1.0))
  value = value(count) if callable(value) else value
  return jnp.where(known, jnp.asarray(value, jnp.float32), 0.0)
