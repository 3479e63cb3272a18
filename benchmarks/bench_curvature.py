"""Times the curvature of a loss, against gradients and against matfree.

The networks are those of the examples: the CNN of examples/quickstart.py, as
patches and matrix products, on 8x8 and on 28x28 images, and an MLP with one
hidden layer. Batches have 128 examples.
"""

import jax
import jax.numpy as jnp
from models import patches
import numpy as np
import optax
import pytest

import htga_optax
from htga_optax import curvature

KEY = jax.random.key(0)
SIZE = 128


def cross_entropy(logits, y):
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def weights(*shapes):
  rng = np.random.default_rng(0)
  return {
    f"layer{i}": {
      "kernel": jnp.asarray(rng.normal(0, s[0] ** -0.5, s), jnp.float32),
      "bias": jnp.zeros(s[1]),
    }
    for i, s in enumerate(shapes)
  }


def batch(*shape):
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.standard_normal((SIZE, *shape)), jnp.float32)
  return x, jnp.asarray(rng.integers(0, 10, SIZE))


def dense(layer, x):
  return x @ layer["kernel"] + layer["bias"]


def mlp():
  x, y = batch(784)

  def loss(p):
    hidden = jax.nn.relu(dense(p["layer0"], x))
    return cross_entropy(dense(p["layer1"], hidden), y)

  return loss, weights((784, 128), (128, 10))


def cnn(side):
  x, y = batch(side, side, 1)
  strides = (1 if side < 16 else 2, 2)
  last = side // (strides[0] * strides[1])

  def loss(p):
    h = jax.nn.relu(dense(p["layer0"], patches(x, strides[0])))
    h = jax.nn.relu(dense(p["layer1"], patches(h, strides[1])))
    h = jax.nn.relu(dense(p["layer2"], h.reshape(SIZE, -1)))
    return cross_entropy(dense(p["layer3"], h), y)

  return loss, weights((9, 16), (144, 32), (last * last * 32, 64), (64, 10))


NETWORKS = {
  "MLP (102k)": mlp,
  "CNN on 8x8 (38k)": lambda: cnn(8),
  "CNN on 28x28 (106k)": lambda: cnn(28),
}
over_networks = pytest.mark.parametrize("network", NETWORKS)


def ready(function, *args):
  function = jax.jit(function).lower(*args).compile()
  return lambda: jax.block_until_ready(function(*args))


@over_networks
def test_product_over_gradient(race, network):
  loss, params = NETWORKS[network]()
  v = curvature.sample_like(jax.random.normal, params, key=KEY)
  race(
    f"a Hessian-vector product, {network}, over a gradient",
    ready(lambda p, v: curvature.hvp(loss, p, v), params, v),
    ready(jax.grad(loss), params),
    1.7,
    rounds=60,
  )


def steps(tx, loss, params, count):
  """A function that takes `count` steps, in place, and waits for them."""
  params = jax.tree.map(jnp.copy, params)
  carry = [params, tx.init(params)]

  def step(params, state):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params, value_fn=loss)
    return optax.apply_updates(params, updates), state

  step = jax.jit(step, donate_argnums=(0, 1)).lower(*carry).compile()

  def run():
    for _ in range(count):
      carry[:] = step(*carry)
    jax.block_until_ready(carry)

  return run


@over_networks
def test_step_over_gaussian_noise(race, network):
  """The noise of both is small, so that both time the same training."""
  loss, params = NETWORKS[network]()
  race(
    f"a step of `ahtsgd(every_k_steps=10)`, {network}, over SGD and"
    " `optax.add_noise`",
    steps(
      htga_optax.ahtsgd(1e-3, 1e-4, key=0, every_k_steps=10), loss, params, 50
    ),
    steps(
      optax.with_extra_args_support(
        optax.chain(optax.sgd(1e-3), optax.add_noise(1e-10, 0.0, 0))
      ),
      loss,
      params,
      50,
    ),
    1.3,
    rounds=20,
    per=50,
  )


@over_networks
def test_trace_over_matfree(race, network):
  stochtrace = pytest.importorskip("matfree.stochtrace", reason="of dev")
  loss, params = NETWORKS[network]()
  theirs = stochtrace.estimator_monte_carlo_mean_and_sem(
    stochtrace.monte_carlo_trace(),
    sampler=stochtrace.sampler_signs(params, num=10),
  )

  def product(v, p):
    return jax.jvp(jax.grad(loss), (p,), (v,))[1]

  race(
    f"the trace from 10 products, {network}, over matfree",
    ready(
      lambda p, key: curvature.hutchinson_trace(
        curvature.hessian(loss, p), p, 10, key=key
      ),
      params,
      KEY,
    ),
    ready(lambda p, key: theirs(product, key, p), params, KEY),
    1.0,
    rounds=10,
  )


@over_networks
def test_top_eigenvalue_over_matfree(race, network):
  decomp = pytest.importorskip("matfree.decomp", reason="of dev")
  from matfree import eig

  loss, params = NETWORKS[network]()
  start = curvature.sample_like(jax.random.normal, params, key=KEY)
  theirs = eig.eigh_partial(decomp.tridiag_sym(10))

  def product(v, p):
    return jax.jvp(jax.grad(loss), (p,), (v,))[1]

  def ours(p, v):
    return curvature.top_eigenvalue(curvature.hessian(loss, p), v, 10)

  race(
    f"the top eigenpair from 10 products, {network}, over matfree",
    ready(ours, params, start),
    ready(lambda p, v: theirs(product, v, p), params, start),
    1.0,
    rounds=10,
  )
