"""Trains a small Transformer on characters, for spike_training.py."""

import gzip
import math
import pathlib
import sys

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
from spike_training import is_corrupted

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
import models

STEPS, WARM_UP = 1000, 50
BATCH, LENGTH, WIDTH = 8, 32, 32
TEST = 128  # the number of test windows


def characters(data_dir):
  """The training and the test text as tokens, and the number of tokens."""
  texts = []
  for part in ("train", "test"):
    path = pathlib.Path(data_dir).expanduser() / f"ptb.{part}.txt"
    unzip = open if path.exists() else gzip.open
    path = path if path.exists() else path.with_suffix(".txt.gz")
    with unzip(path, "rt", encoding="utf-8") as file:
      texts.append(file.read())
  tokens = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
  train, test = (np.array([tokens[c] for c in text]) for text in texts)
  return train, test, len(tokens)


def windows(text, starts):
  at = starts[:, None] + jnp.arange(LENGTH)
  return text[at], text[at + 1]


def trainer(optimizer, data_dir):
  """Makes a function (rate, seed, corrupted) -> (test loss, share clipped)."""
  train, test, size = characters(data_dir)
  train, test = jnp.asarray(train, jnp.int32), jnp.asarray(test, jnp.int32)
  example = jax.ShapeDtypeStruct([LENGTH], jnp.int32)
  make = lambda key: models.make(
    "transformer", example, size, nnx.Rngs(key), WIDTH
  )
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(jax.random.key(0))))
  schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, WARM_UP, STEPS)

  def loss_fn(params, x, y):
    logits = nnx.merge(graphdef, params)(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses)

  def run(rate, seed, corrupted):
    first, rest = jax.random.split(jax.random.key(seed))
    params = nnx.state(make(first))

    def step(carry, t):
      params, state = carry
      key, shuffle = jax.random.split(jax.random.fold_in(rest, t))
      starts = jax.random.randint(key, [BATCH], 0, train.size - LENGTH)
      x, y = windows(train, starts)
      shuffled = jax.random.permutation(shuffle, y.ravel()).reshape(y.shape)
      y = jnp.where(corrupted & is_corrupted(t), shuffled, y)
      grads = jax.grad(loss_fn)(params, x, y)
      updates, state = optimizer.update(grads, state, params)
      updates = jax.tree.map(lambda u: -rate * schedule(t) * u, updates)
      return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    (params, state), _ = lax.scan(step, carry, jnp.arange(STEPS))
    starts = jnp.arange(TEST) * ((test.size - LENGTH) // TEST)
    loss = loss_fn(params, *windows(test, starts))
    # Runs that failed get the loss of a guess.
    loss = jnp.where(loss < math.log(size), loss, math.log(size))
    return loss, optax.tree.get(state, "clipped_count") / STEPS

  return run
