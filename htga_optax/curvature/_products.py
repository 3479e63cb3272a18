"""Multiplies vectors by the Hessian of a loss."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

Matvec = Callable[[Any], Any]
AxisName = str | tuple[str, ...] | None


def hvp(loss_fn: Callable[[Any], jax.Array], params: Any, v: Any) -> Any:
  r"""Multiplies a vector by the Hessian of a loss.

  .. math:: H v = \frac{d}{dt} \nabla L(\theta + t v) \Big|_{t=0}

  In a ReLU network a gradient takes two products of matrices for the first
  layer and three for every other layer. A product with the Hessian takes three
  and seven; some of these run in parallel on several cores. Its cost is
  therefore 1.5 gradients where the first layer is the largest, and up to 7/3
  elsewhere (`make bench`).

  Args:
    loss_fn: params -> loss, a real number.
    params: :math:`\theta`, floating-point leaves.
    v: a tree like `params`, of the same shapes.

  Returns:
    :math:`Hv`, a tree like `params`, in its dtypes.

  Raises:
    TypeError, ValueError: the trees differ (JAX's own errors).

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> loss = lambda w: w["a"] ** 2 * w["b"]
    >>> w = {"a": jnp.float32(3.0), "b": jnp.float32(5.0)}
    >>> v = {"a": jnp.float32(1.0), "b": jnp.float32(0.0)}
    >>> print({k: float(x) for k, x in curvature.hvp(loss, w, v).items()})
    {'a': 10.0, 'b': 6.0}
  """
  return hessian(loss_fn, params)(v)


def hessian(
  loss_fn: Callable[[Any], jax.Array],
  params: Any,
  axis_name: AxisName = None,
) -> Matvec:
  """The Hessian of a loss as a function of vectors, see :func:`hvp`.

  Everything that does not depend on the vector is computed once for all
  products: the activations of one gradient and their derivatives. They stay in
  memory as long as products are computed.

  Args:
    loss_fn: params -> loss, a real number.
    params: the point, floating-point leaves. Products have their dtypes; in
      bfloat16 they have few digits.
    axis_name: mapped axes (`jax.pmap`, `jax.shard_map`, `jax.vmap`) over whose
      members the loss is averaged; None under jit, however arrays are sharded.

  Returns:
    The product, a function of trees like `params`.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import curvature
    >>> matvec = curvature.hessian(lambda w: jnp.sum(w**4), jnp.arange(3.0))
    >>> print(matvec(jnp.ones(3)))
    [ 0. 12. 48.]
  """

  def gradient(params):
    return average(
      jax.grad(lambda p: average(loss_fn(p), axis_name))(params), axis_name
    )

  _, tangent = jax.linearize(gradient, params)

  def matvec(v):
    # JAX's gradient over complex leaves is the conjugate of the direction of
    # steepest ascent.
    v = jax.tree.map(lambda p, x: jnp.asarray(x, jnp.result_type(p)), params, v)
    return jax.tree.map(jnp.conj, tangent(v))

  return matvec


def average(tree: Any, axis_name: AxisName) -> Any:
  """The mean over mapped axes, if there are any."""
  return tree if axis_name is None else lax.pmean(tree, axis_name)
