"""Times noise on a step, against Gaussian noise and against SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import TREES

import htga_optax

STABLE = "add_stable_noise(1.5, 0.01)"


def stable_noise():
  return htga_optax.add_stable_noise(1.5, 0.01, key=0)


def gaussian_noise():
  return optax.add_noise(eta=1e-4, gamma=0.0, key=0)


def compiled(step, *carry):
  """A function that takes a step, in place, and waits for it."""
  carry = [jax.tree.map(jnp.copy, x) for x in carry]
  donated = tuple(range(len(carry)))
  step = jax.jit(step, donate_argnums=donated).lower(*carry).compile()

  def run():
    carry[:] = step(*carry)
    jax.block_until_ready(carry)

  return run


def update_of(tx, params):
  """A function that adds noise to a gradient, in place."""
  grads = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), params)
  return compiled(tx.update, grads, tx.init(params))


@pytest.mark.parametrize(
  "tree", ["CNN (1M)", "ResNet-18 of width 16 (1M)", "ResNet-18 (12M)"]
)
def test_noise_over_gaussian_noise(race, tree):
  params = TREES[tree]()
  race(
    f"noise on an update of {tree}: `{STABLE}` over `optax.add_noise`",
    update_of(stable_noise(), params),
    update_of(gaussian_noise(), params),
    rounds=100 if "1M" in tree else 20,
  )


IMAGES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
LABELS = np.arange(64) % 10


def loss_fn(params, rows):
  """The cross entropy of the CNN of `TREES`; each layer halves the images."""
  x = jnp.asarray(IMAGES)[rows] / 255
  for i in range(5):
    x = jax.lax.conv_general_dilated(
      x,
      params[f"conv{i}/kernel"],
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + params[f"conv{i}/bias"])
  logits = x.mean((1, 2)) @ params["head/kernel"] + params["head/bias"]
  labels = jnp.asarray(LABELS)[rows]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses)


def step_of(tx, noise=False):
  """A function that takes a step of 32 images, including the gradient."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.05 * rng.standard_normal(x.shape), x.dtype),
    TREES["CNN (1M)"](),
  )

  def step(params, state):
    small, large = jnp.arange(32), jnp.arange(64)
    extra = {}
    if noise:
      z = optax.tree.get(state, "noise_factor")
      extra["noise_updates"] = htga_optax.noise_gradient(
        loss_fn, params, small, large, z
      )
    grads = jax.grad(loss_fn)(params, small)
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state

  return compiled(step, params, tx.init(params))


@pytest.mark.parametrize(
  "name, noise", [(STABLE, stable_noise()), ("optax.add_noise", None)]
)
def test_step_with_noise_over_sgd(race, name, noise):
  noise = noise or gaussian_noise()
  race(
    f"a step of CNN (1M), 32 images: `chain(sgd, {name})` over `sgd`",
    step_of(optax.chain(optax.sgd(0.01), noise)),
    step_of(optax.sgd(0.01)),
    rounds=20,
  )


@pytest.mark.parametrize("gate", [0.0, 2.09], ids=str)
def test_truncated_step_over_sgd(race, gate):
  """With an open gate, a step has SB* of 32 and LB of 64 additional images.

  If the gate is at the 90 % quantile of Z, the median step has none of them.
  """
  tx = htga_optax.truncated_heavy_tailed_sgd(0.01, 0.25, key=0, gate=gate)
  closed = f", gate={gate}" * bool(gate)
  race(
    "a step of CNN (1M), 32 images and 96 more where the gate is open:"
    f" `truncated_heavy_tailed_sgd(0.01, 0.25{closed})` over `sgd`",
    step_of(tx, noise=True),
    step_of(optax.sgd(0.01)),
    rounds=20,
  )
