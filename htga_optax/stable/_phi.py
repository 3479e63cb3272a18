"""The characteristic function of a stable law."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from htga_optax.stable._arguments import _parameters
from htga_optax.stable._sampling import _skewed


def phi(t: ArrayLike, alpha: ArrayLike, beta: ArrayLike = 0.0) -> jax.Array:
  r"""Characteristic function of the law of :func:`sample`, in S0.

  .. math::
    \phi(t) = E e^{itX} = \exp\bigl(-|t|^\alpha (1 + i\beta\,\mathrm{sgn}(t)
      \tan\tfrac{\pi\alpha}2 (|t|^{1-\alpha} - 1))\bigr)

  At alpha = 1 it is the limit, in which :math:`\tfrac2\pi\log|t|` replaces the
  last two factors.

  Args:
    t: the argument, any shape.
    alpha: the tail index, in (0, 2]; it broadcasts with t.
    beta: the skewness, in [-1, 1]; it broadcasts with t.

  Returns:
    The values, complex64, of the common shape.

  Raises:
    ValueError: alpha or beta is a number out of range.

  Examples:
    >>> from htga_optax import stable
    >>> print(f"{stable.phi(2.0, 1.0, beta=1.0):.3f}")
    0.086-0.105j
  """
  alpha, beta = _parameters(alpha, beta)
  t = jnp.asarray(t, jnp.float32)
  eps, _, _, tan = _skewed(alpha, beta)
  log_t = jnp.log(jnp.maximum(jnp.abs(t), 1e-37))
  decay = jnp.exp(jnp.minimum(alpha * log_t, 7.0))  # exp(-exp(7)) is 0
  decay = jnp.where(t == 0, 0.0, decay)
  phase = -jnp.sign(t) * decay * tan * jnp.expm1(eps * log_t)
  size = jnp.exp(-decay)
  return lax.complex(size * jnp.cos(phase), size * jnp.sin(phase))
