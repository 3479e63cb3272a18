"""Passes readings to a function on the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from htga_optax import _checks


class TellState(NamedTuple):
  """The state of :func:`tell`.

  Attributes:
    step_count: the steps so far, int32 [].
  """

  step_count: jax.Array


def tell(
  callback: Callable[[int, dict[str, Any]], Any],
  every_k_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Calls a function on the host with the readings; changes nothing.

  Put it into a relay after the trackers whose readings you need, at the end for
  all readings. It is for training loops that do not return the state: those of
  flowjax, gpjax and dynamax return parameters and losses, and discard the
  state. Where you have the state, :func:`readings` is simpler and costs
  nothing.

  The call is a `jax.debug.callback`. The device does not wait for it. Calls may
  come out of order; the step in each call shows the order. Under `jax.vmap`
  there is a call for every member, under `jax.pmap` and `jax.shard_map` one for
  every device. Before the program ends, wait for the last call with
  `jax.effects_barrier()`.

  Args:
    callback: (step, readings) -> anything. The step counts from 0. The readings
      of the members before are a dict by name: a number is a float; an interval
      or a reading per layer is a NumPy array.
    every_k_steps: the number of steps from one call to the next; the first step
      has one (static); None for 100.

  Returns:
    The transformation. Its state is a :class:`TellState`.

  Raises:
    TypeError, ValueError: `every_k_steps` is not a static integer of at least
      one; `callback` is not a function; `update` gets no `readings`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> from htga_optax import relay, tell, track_tail_index
    >>> tx = relay(
    ...     track_tail_index(),
    ...     tell(lambda step, read: print(step, read["update_norm"]), 2),
    ...     optax.sgd(0.1))
    >>> params = jnp.asarray([3.0, 4.0])
    >>> state, update = tx.init(params), jax.jit(tx.update)
    >>> for _ in range(4):
    ...   _, state = update(params, state, params)
    ...   jax.effects_barrier()
    0 5.0
    2 5.0
  """
  if not callable(callback):
    raise TypeError(f"callback must be a function, got {callback!r}.")
  period = _checks.check_size("every_k_steps", every_k_steps, 100)

  def on_host(due, step, given):
    if due:  # under jax.vmap there may be a call in every step
      callback(
        int(step),
        {k: np.asarray(x) if x.ndim else float(x) for k, x in given.items()},
      )

  @jax.jit  # compiled once, if the training step is not jitted
  def told(state, given):
    due = state.step_count % period == 0
    lax.cond(
      due,
      lambda: jax.debug.callback(on_host, due, state.step_count, given),
      lambda: None,
    )
    return TellState(jnp.asarray(optax.safe_increment(state.step_count)))

  def init_fn(params):
    del params
    return TellState(jnp.zeros([], jnp.int32))

  def update_fn(updates, state, params=None, *, readings=None, **extra_args):
    del params, extra_args
    if readings is None:
      raise ValueError(
        "tell needs readings: put it after a tracker in htga_optax.relay(...),"
        " or pass readings= to update."
      )
    return updates, told(state, readings)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
