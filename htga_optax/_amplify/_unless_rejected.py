"""Makes a listener act only while the tail model is not rejected."""

import jax.numpy as jnp
import optax

from htga_optax import _checks


def unless_rejected(
  listener: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Lets a listener act only while the tail model is not rejected.

  While the reading `tail_model_rejected` of :func:`track_tail_index` is true,
  the listener gets a tail index of 0 ("not known"), and every listener of this
  package then leaves the updates unchanged. So HTGA is the identity on a
  warm-up or a light tail. Per layer, this holds for each layer by itself.

  Args:
    listener: a transformation steered by the reading `tail_index`.

  Returns:
    The transformation; its state is the listener's.

  Raises:
    TypeError: `listener` is not a gradient transformation.
    ValueError: a reading is missing, or only one of the two is per layer.

  Examples:
    >>> import jax.numpy as jnp
    >>> from htga_optax import scale_by_tail_index, unless_rejected
    >>> tx = unless_rejected(scale_by_tail_index(beta=1.0, target=2.0))
    >>> grads = jnp.asarray([3.0, 4.0])
    >>> state = tx.init(grads)
    >>> for rejected in (False, True):
    ...   updates, state = tx.update(
    ...       grads, state, tail_index=1.5, tail_model_rejected=rejected)
    ...   print(updates)
    [2.25 3.  ]
    [3. 4.]
  """
  inner = _checks.check_transformation("unless_rejected", listener)

  def update_fn(
    updates,
    state,
    params=None,
    *,
    tail_index=None,
    tail_model_rejected=None,
    **extra_args,
  ):
    if tail_index is None or tail_model_rejected is None:
      raise ValueError(
        "unless_rejected needs the readings `tail_index` and"
        " `tail_model_rejected`: put track_tail_index() before it in"
        " htga_optax.relay(...), or pass both to update."
      )
    if jnp.shape(tail_model_rejected) != jnp.shape(tail_index):
      raise ValueError(
        "tail_model_rejected must have the shape of tail_index,"
        f" {jnp.shape(tail_index)}, got {jnp.shape(tail_model_rejected)}."
      )
    trusted = jnp.where(tail_model_rejected, 0.0, tail_index)
    return inner.update(
      updates, state, params, tail_index=trusted, **extra_args
    )

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)
