"""SGD with heavy-tailed mini-batch noise and truncated steps."""

from jax.typing import ArrayLike
import optax

from htga_optax._by_norm import Argument, drop_nonfinite
from htga_optax._optimizers._sgd import sgd
from htga_optax._relay import relay
from htga_optax._truncation import inflate_gradient_noise, truncate


def truncated_heavy_tailed_sgd(
  learning_rate: optax.ScalarOrSchedule,
  threshold: Argument | None,
  *,
  key: ArrayLike,
  alpha: ArrayLike = 1.4,
  scale: optax.ScalarOrSchedule | None = 0.5,
  gate: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with heavy-tailed noise and truncated steps, against sharp minima.

  .. math::
    \theta_{t+1} = \theta_t - \varphi_b\bigl(\eta_t (g_{SB} + Z_t (g_{SB^*} -
      g_{LB}))\bigr), \qquad \varphi_b(w) = w \min(1, b/\|w\|)

  It is a relay of :func:`htga_optax.inflate_gradient_noise`, `optax.sgd` and
  :func:`htga_optax.truncate`; see there for more. The source compares these
  methods, and each is a choice of arguments:

  ========  =======  ===================================  =====  =========
  method    updates  noise_updates                        scale  threshold
  ========  =======  ===================================  =====  =========
  Our 1     g_SB     g_SB* - g_LB, SB* independent of SB  c      b
  Our 2     g_SB     g_SB - g_LB                          c      b
  SB+Noise  g_SB     as of either                         c      None
  SB+Clip   g_SB     none                                 None   b
  SB        g_SB     none                                 None   None
  LB        g_LB     none                                 None   None
  ========  =======  ===================================  =====  =========

  The source's settings for a VGG11 on CIFAR-10, read from public code, are: a
  rate of 0.01, batches of 32 and 256, b = 0.25, and no noise in the last sixth
  of the run. Here, a schedule for `scale` turns the noise off.

  Args:
    learning_rate: :math:`\eta`, a number or a schedule.
    threshold: b, the longest step, in units of the parameters: a number, a
      schedule or a :class:`Reading`; None for steps of any length.
    key: the key of the noise: a seed, a typed key or key data (static for
      `optax.inject_hyperparams`).
    alpha: a, the tail index of Z, positive.
    scale: c, a number or a schedule; None for no noise and no second gradient.
    gate: C; a Z that is not above it counts as 0.

  Returns:
    The optimizer. Its `update` takes `noise_updates`; see
    :func:`htga_optax.noise_gradient`. `optax.tree.get` finds `noise_factor`.

  Raises:
    TypeError, ValueError: an invalid argument; the message contains its value.
    ValueError: `noise_updates` is missing.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> from htga_optax import noise_gradient, truncated_heavy_tailed_sgd
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2
    >>> tx = truncated_heavy_tailed_sgd(0.1, threshold=0.5, key=0)
    >>> w = jnp.float32(0.0)
    >>> state = tx.init(w)
    >>> @jax.jit
    ... def step(w, state, large):
    ...   small, other = large[:2], large[2:4]
    ...   z = optax.tree.get(state, "noise_factor")
    ...   updates, state = tx.update(
    ...       jax.grad(loss)(w, small), state, w,
    ...       noise_updates=noise_gradient(loss, w, other, large, z))
    ...   return optax.apply_updates(w, updates), state
    >>> for key in jax.random.split(jax.random.key(0), 200):
    ...   w, state = step(w, state, 5 + jax.random.normal(key, (16,)))
    >>> bool(4 < w < 6)
    True

  References:
    Wang, Oh and Rhee (2021), Eliminating sharp minima from SGD with truncated
    heavy-tailed noise, arXiv:2102.04297.
  """
  first = drop_nonfinite()
  if scale is not None:
    first = inflate_gradient_noise(alpha, scale, gate, key=key)
  last = [] if threshold is None else [truncate(threshold)]
  return relay(first, sgd(learning_rate), *last)
