"""Times a training that logs every 20th step."""

import pathlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import htga_optax

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
STEPS = 400


def trainer(width):
  """Makes `train(log)`, which trains a dense net for `STEPS` steps."""
  rngs = nnx.Rngs(0)
  model = nnx.Sequential(
    nnx.Linear(64, width, rngs=rngs), nnx.relu, nnx.Linear(width, 10, rngs=rngs)
  )
  graphdef, params = nnx.split(model)
  tx = htga_optax.htga(learning_rate=0.01, momentum=0.9)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal([128, 64]), jnp.float32)
  y = jnp.asarray(rng.integers(0, 10, 128))

  def loss_fn(params):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses)

  def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  step = jax.jit(step, donate_argnums=(0, 1))
  carry = [params, tx.init(params)]

  def train(log=None, read=None):
    for number in range(1, STEPS + 1):
      *carry[:], loss = step(*carry)
      if log and number % 20 == 0:
        log(number, {"loss": loss} | read(carry[1]))
    jax.block_until_ready(carry)

  return train


@pytest.mark.parametrize("width", [64, 2048])
def test_logged_over_not_logged(race, width, monkeypatch, tmp_path):
  """The log is a CSV file with a row for every 20 steps."""
  monkeypatch.syspath_prepend(EXAMPLES)
  import sinks

  read, train = jax.jit(sinks.scalars), trainer(width)
  with sinks.logger(sinks.csv_sink(tmp_path / "run.csv")) as log:
    race(
      f"a step of a {64 * width + 11 * width + 10}-parameter net, logged every"
      " 20 steps, over the same step without a log",
      lambda: train(log, read),
      train,
      per=STEPS,
      unit="us",
    )
