"""Measures the gradient noise by the gradient of a second batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from htga_optax import _checks, gradient_noise
from htga_optax._states import known_state


@known_state
class TrackGradientNoiseState(NamedTuple):
  """The state of :func:`track_gradient_noise`.

  Attributes:
    gradient_noise_scale: the ratio of the averages, in examples, float32 [];
      0 while it is unknown.
    noise_norm: the norm of the noise of `batch_size` examples in the last
      finite step, float32 []; 0 before the first.
    moments: the debiased moving averages, as :class:`gradient_noise.Moments`
      (`covariance_trace`, `squared_gradient_norm`); 0 before the first step.
    moments_weight: the moving average of a constant 1, not debiased, float32
      [].
  """

  gradient_noise_scale: jax.Array
  noise_norm: jax.Array
  moments: gradient_noise.Moments
  moments_weight: jax.Array

  def readings(self) -> dict[str, jax.Array]:
    """Returns the values for later members of a relay and for logs."""
    return {
      "gradient_noise_scale": self.gradient_noise_scale,
      "noise_norm": self.noise_norm,
    }


def track_gradient_noise(
  batch_size: ArrayLike,
  other_batch_size: ArrayLike | None = None,
  shared_size: ArrayLike = 0,
  *,
  decay: ArrayLike = 0.95,
) -> optax.GradientTransformationExtraArgs:
  r"""Measures the gradient noise by a second gradient; changes nothing.

  .. math::
    B_t = \frac{\overline{s}_t}{\overline{q}_t}, \qquad
    \|noise_t\| = \sqrt{s_t / n_a}

  :math:`s_t` and :math:`q_t` are the estimates of
  :math:`\operatorname{tr}(\Sigma)` and :math:`|G|^2` in step t, by
  :func:`gradient_noise.moments`. The bars are debiased moving averages. The
  second gradient is an argument of the update:

      tx.update(grads, state, params, other_updates=other_grads)

  Compute it at the same parameters. Put the tracker first in a chain, since
  earlier members change the updates but not the second gradient. A step whose
  moments are not finite does not change the state.

  The second gradient has no cost if you accumulate micro-batches. Inside
  `optax.MultiSteps` over m micro-batches of n examples, the updates are the
  mean over all examples, and the last gradient is the mean over a part: use
  track_gradient_noise(m * n, n, n) with `other_updates=grads`.

  The noise scale has limits. While the average of :math:`q` is not positive,
  which happens if the noise hides the gradient, the noise scale is unknown and
  its reading is 0. A reading of 0 therefore does not mean a small noise scale;
  `squared_gradient_norm` shows the reason. The ratio is biased while G changes
  within the memory of the averages. It is the simple noise scale, which assumes
  the same curvature in all directions. With a tail index below 2,
  :math:`\Sigma` does not exist, the largest draws dominate the averages, and
  only the noise norm has a meaning.

  Args:
    batch_size: :math:`n_a`, the number of examples in the updates, which are
      their mean.
    other_batch_size: the number of examples in `other_updates`; None for
      `batch_size`.
    shared_size: how many examples are in both; 0 for independent batches.
    decay: the decay of the averages, in [0, 1); they span 1/(1 - decay) steps.
      A smaller batch needs a longer average: at 0.95 on a linear regression of
      20 weights, 19 readings in 20 are within 20 percent if the batches are as
      large as the noise scale, and two thirds if they are a quarter of that.

  Returns:
    The transformation. Its state is a :class:`TrackGradientNoiseState`.

  Raises:
    TypeError: the updates are not floating point.
    ValueError: the sizes are invalid, `decay` is outside [0, 1), or
      `other_updates` is missing or differs from the updates in structure or
      shapes (if the tracker is inside `optax.masked` or `optax.partition`, pass
      `mask_compatible_extra_args=True` to them).

  Examples:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> import htga_optax
    >>> tx = optax.chain(
    ...     htga_optax.track_gradient_noise(batch_size=32), optax.sgd(0.1))
    >>> params = jnp.zeros(1000)
    >>> state, update = tx.init(params), jax.jit(tx.update)
    >>> rng = np.random.default_rng(0)
    >>> for _ in range(50):  # tr(Sigma) = 1000, |G|^2 = 10: a scale of 100
    ...   a, b = rng.normal(0.1, 32**-0.5, size=(2, 1000))
    ...   updates, state = update(a, state, other_updates=b)
    >>> for name in ("gradient_noise_scale", "noise_norm"):
    ...   print(f"{optax.tree.get(state, name):.1f}")
    99.6
    5.6

  References:
    McCandlish et al. (2018), An empirical model of large-batch training,
    arXiv:1812.06162, appendix A, which also averages before it divides.
  """
  gradient_noise.check_sizes(batch_size, other_batch_size, shared_size)
  _checks.check_number("decay", decay, lambda v: 0 <= v < 1, "be in [0, 1)")

  def init_fn(params):
    del params
    zero = lambda: jnp.zeros([], jnp.float32)
    return TrackGradientNoiseState(
      gradient_noise_scale=zero(),
      noise_norm=zero(),
      moments=gradient_noise.Moments(zero(), zero()),
      moments_weight=zero(),
    )

  def update_fn(
    updates, state, params=None, *, other_updates=None, **extra_args
  ):
    del params, extra_args
    structure = jax.tree.structure(other_updates)
    if structure != jax.tree.structure(updates):
      raise ValueError(
        "track_gradient_noise needs a second gradient with the structure of the"
        " updates: pass other_updates= to update (and"
        " mask_compatible_extra_args=True to optax.masked and optax.partition),"
        f" got {structure}."
      )
    moments = gradient_noise.moments(
      updates, other_updates, batch_size, other_batch_size, shared_size
    )
    delta = jnp.asarray(decay, jnp.float32)
    weight = delta * state.moments_weight + (1 - delta)
    # The average is m_t/w_t with m_t = delta m_(t-1) + (1 - delta) x_t. w_t is
    # m_t for x_t = 1.
    step = (1 - delta) / weight
    s, q = (
      step * x + (1 - step) * average
      for x, average in zip(moments, state.moments)
    )
    ratio = s / jnp.where(q > 0, q, 1.0)
    new = TrackGradientNoiseState(
      gradient_noise_scale=jnp.where((q > 0) & jnp.isfinite(ratio), ratio, 0.0),
      noise_norm=jnp.sqrt(moments.covariance_trace / batch_size),
      moments=gradient_noise.Moments(s, q),
      moments_weight=weight,
    )
    return updates, optax.tree.where(
      jnp.isfinite(s) & jnp.isfinite(q), new, state
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
