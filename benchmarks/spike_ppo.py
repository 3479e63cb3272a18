"""Trains PPO in environments of gymnax, for spike_training.py."""

import jax
from jax import lax
import jax.numpy as jnp
import optax
import ppo
from spike_training import is_corrupted

UPDATES, EPOCHS, BATCHES = 60, 4, 4
GRADIENTS = UPDATES * EPOCHS * BATCHES


def trainer(optimizer, name):
  """Makes a function (rate, seed, corrupted) -> (return, share clipped)."""
  start, play, size, actions = ppo.player(name)

  def run(rate, seed, corrupted):
    first, second, rest = jax.random.split(jax.random.key(seed), 3)
    games = start(second)
    params = ppo.network(first, size, actions)

    def gradient_step(carry, inputs):
      params, state, t = carry
      batch, advantage, target, key = inputs
      bad = corrupted & is_corrupted(t)
      order = jax.random.permutation(key, target.size)
      advantage = jnp.where(bad, advantage[order], advantage)
      target = jnp.where(bad, target[order], target)
      grads = jax.grad(ppo.loss_fn)(params, batch, advantage, target)
      updates, state = optimizer.update(grads, state, params)
      left = 1 - t / GRADIENTS
      updates = jax.tree.map(lambda u: -rate * left * u, updates)
      return (optax.apply_updates(params, updates), state, t + 1), None

    def update(carry, i):
      params, state, t, games = carry
      key, shuffle = jax.random.split(jax.random.fold_in(rest, i))
      before = games
      games, data = play(params, games, key)
      total = (games.returns - before.returns, games.episodes - before.episodes)

      def epoch(carry, key):
        order, *keys = jax.random.split(key, 1 + BATCHES)
        order = jax.random.permutation(order, ppo.ENVS * ppo.LENGTH)
        batches = jax.tree.map(
          lambda x: x[order].reshape(BATCHES, -1, *x.shape[1:]), data
        )
        return lax.scan(gradient_step, carry, (*batches, jnp.stack(keys)))

      (params, state, t), _ = lax.scan(
        epoch, (params, state, t), jax.random.split(shuffle, EPOCHS)
      )
      return (params, state, t, games), total

    carry = (params, optimizer.init(params), jnp.int32(0), games)
    carry, (returns, episodes) = lax.scan(update, carry, jnp.arange(UPDATES))
    late = slice(-UPDATES // 4, None)
    score = jnp.sum(returns[late]) / jnp.maximum(jnp.sum(episodes[late]), 1)
    return score, optax.tree.get(carry[1], "clipped_count") / GRADIENTS

  return run
