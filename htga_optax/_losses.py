"""Passes the loss to transformations, as `value_fn`.

`value_fn` is an argument of `update`, as for the line searches of optax.
"""

from collections.abc import Callable
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from htga_optax import _checks
from htga_optax._layers import is_floating, leaf_name


def with_value_fn(
  transform: optax.GradientTransformation, value_fn: Callable[..., jax.Array]
) -> optax.GradientTransformationExtraArgs:
  """Gives a transformation its loss, where other code calls `update`.

  The training loops of numpyro, blackjax, jaxopt and others call `update` with
  the gradient and the parameters alone. :func:`track_sharpness`,
  :func:`ahtsgd` and the line searches of optax need the loss too.

  Args:
    transform: the transformation that needs a loss.
    value_fn: params -> loss, a number. It does not get the batch of the step;
      it uses a batch of its own, a fixed one or the whole sample.

  Returns:
    The transformation; its state is that of `transform`. If `update` gets a
    `value_fn` too, that one counts.

  Raises:
    TypeError: `transform` is not a gradient transformation.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from htga_optax import ahtsgd, with_value_fn
    >>> loss = lambda w: jnp.sum(jnp.asarray([1.0, 10.0]) * w**2) / 2
    >>> tx = with_value_fn(ahtsgd(0.1, scale=1e-3, key=0), loss)
    >>> w = jnp.ones(2)
    >>> _, state = tx.update(w, tx.init(w), w)
    >>> bool(optax.tree.get(state, "sharpness") > 0)
    True
  """
  inner = _checks.check_transformation("with_value_fn", transform)

  def update_fn(updates, state, params=None, **extra_args):
    given = {"value_fn": value_fn} | extra_args
    return inner.update(updates, state, params, **given)

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def floating(params: Any) -> Any:
  """The tree, with None in place of leaves that are not floating point."""
  return jax.tree.map(lambda x: x if is_floating(x) else None, params)


def check_like(name: str, params: Any, like: Any) -> None:
  """Raises ValueError with the leaves that differ, unless structures agree."""
  if jax.tree.structure(params) == jax.tree.structure(like):
    return
  paths = [
    {leaf_name(path) for path, _ in jax.tree.leaves_with_path(tree)}
    for tree in (params, like)
  ]
  leaves = ", ".join(map(repr, sorted(paths[0] ^ paths[1])))
  raise ValueError(
    f"{name}: the parameters of update and those of init differ in"
    f" {leaves or 'their containers'}; give both the same tree."
  )


def loss_of(
  value_fn: Callable[..., Any], params: Any, extra_args: dict[str, Any]
) -> Callable[[Any], jax.Array]:
  """The loss as a function of the floating-point leaves of the parameters.

  Args:
    value_fn: (params, ...) -> loss, one number. Its further parameters are
      taken from `extra_args` by name, as in the line searches of optax.
    params: the parameters. The leaves that are not floating point (integers,
      the functions of an Equinox module) are constants.
    extra_args: the extra arguments of `update`.

  Returns:
    A function of trees like `floating(params)`.
  """
  asked = list(inspect.signature(value_fn).parameters)[1:]
  kwargs = {name: extra_args[name] for name in asked if name in extra_args}

  def loss(part):
    whole = jax.tree.map(
      lambda x, y: y if x is None else x,
      part,
      params,
      is_leaf=lambda x: x is None,
    )
    try:
      value = value_fn(whole, **kwargs)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
      if isinstance(whole, jax.Array) and whole.ndim == 1:
        raise TypeError(
          f"value_fn failed on the parameters, one vector of {whole.size}"
          " numbers. If optax.flatten made it from a tree, unflatten it in"
          f" value_fn. ({error})"
        ) from error
      raise
    if jax.tree.structure(value) != jax.tree.structure(0) or jnp.shape(value):
      got = jax.tree.map(jnp.shape, value)
      raise TypeError(
        f"value_fn must return the loss, one number, got shapes {got}: if it"
        " has further outputs, pass lambda params: value_fn(params)[0]."
      )
    return value

  return loss
