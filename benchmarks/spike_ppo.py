"""Trains PPO in environments of gymnax, for spike_training.py."""

from typing import NamedTuple

import gymnax
import jax
from jax import lax
import jax.numpy as jnp
import optax
from spike_training import is_corrupted

UPDATES, ENVS, LENGTH = 60, 8, 128
EPOCHS, BATCHES, WIDTH = 4, 4, 64
DISCOUNT, LAMBDA, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.01, 0.5
GRADIENTS = UPDATES * EPOCHS * BATCHES


class Transition(NamedTuple):
  obs: jax.Array
  action: jax.Array
  log_prob: jax.Array
  value: jax.Array
  reward: jax.Array
  done: jax.Array


def dense(key, n, m, scale):
  weights = jax.nn.initializers.orthogonal(scale)(key, (n, m))
  return {"w": weights, "b": jnp.zeros(m)}


def network(key, n, actions):
  keys = iter(jax.random.split(key, 6))
  tower = lambda out, scale: [
    dense(next(keys), n, WIDTH, 2**0.5),
    dense(next(keys), WIDTH, WIDTH, 2**0.5),
    dense(next(keys), WIDTH, out, scale),
  ]
  return {"policy": tower(actions, 0.01), "value": tower(1, 1.0)}


def forward(layers, x):
  for layer in layers[:-1]:
    x = jnp.tanh(x @ layer["w"] + layer["b"])
  return x @ layers[-1]["w"] + layers[-1]["b"]


def policy_and_value(params, obs):
  logits = jax.nn.log_softmax(forward(params["policy"], obs))
  return logits, forward(params["value"], obs)[..., 0]


def loss_fn(params, batch, advantage, target):
  logits, value = policy_and_value(params, batch.obs)
  log_prob = jnp.take_along_axis(logits, batch.action[:, None], 1)[:, 0]
  ratio = jnp.exp(log_prob - batch.log_prob)
  advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
  clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
  policy = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
  entropy = -jnp.sum(jnp.exp(logits) * logits, axis=-1).mean()
  return policy + VALUE * jnp.mean((value - target) ** 2) - ENTROPY * entropy


def advantages_of(steps, last_value):
  def back(carry, step):
    advantage, following = carry
    goes_on = 1.0 - step.done
    delta = step.reward + DISCOUNT * following * goes_on - step.value
    advantage = delta + DISCOUNT * LAMBDA * goes_on * advantage
    return (advantage, step.value), advantage

  start = (jnp.zeros_like(last_value), last_value)
  return lax.scan(back, start, steps, reverse=True)[1]


def trainer(optimizer, name):
  """Makes a function (rate, seed, corrupted) -> (return, share clipped)."""
  env, env_params = gymnax.make(name)
  reset = jax.vmap(env.reset, (0, None))
  act = jax.vmap(env.step, (0, 0, 0, None))

  def experience(carry, key):
    """Steps all environments once; sums the returns of finished episodes."""
    params, obs, env_state, so_far, (returns, episodes) = carry
    choose, move = jax.random.split(key)
    logits, value = policy_and_value(params, obs)
    action = jax.random.categorical(choose, logits)
    log_prob = jnp.take_along_axis(logits, action[:, None], 1)[:, 0]
    keys = jax.random.split(move, ENVS)
    new_obs, env_state, reward, terminated, truncated, _ = act(
      keys, env_state, action, env_params
    )
    done = (terminated | truncated).astype(jnp.float32)
    so_far = so_far + reward
    total = (returns + jnp.sum(done * so_far), episodes + jnp.sum(done))
    step = Transition(obs, action, log_prob, value, reward, done)
    so_far = so_far * (1 - done)
    return (params, new_obs, env_state, so_far, total), step

  def run(rate, seed, corrupted):
    first, second, rest = jax.random.split(jax.random.key(seed), 3)
    obs, env_state = reset(jax.random.split(second, ENVS), env_params)
    params = network(first, obs.shape[-1], env.num_actions)

    def gradient_step(carry, inputs):
      params, state, t = carry
      batch, advantage, target, key = inputs
      bad = corrupted & is_corrupted(t)
      order = jax.random.permutation(key, target.size)
      advantage = jnp.where(bad, advantage[order], advantage)
      target = jnp.where(bad, target[order], target)
      grads = jax.grad(loss_fn)(params, batch, advantage, target)
      updates, state = optimizer.update(grads, state, params)
      left = 1 - t / GRADIENTS
      updates = jax.tree.map(lambda u: -rate * left * u, updates)
      return (optax.apply_updates(params, updates), state, t + 1), None

    def update(carry, i):
      params, state, t, obs, env_state, so_far = carry
      play, shuffle = jax.random.split(jax.random.fold_in(rest, i))
      zero = (jnp.zeros([]), jnp.zeros([]))
      (_, obs, env_state, so_far, total), steps = lax.scan(
        experience,
        (params, obs, env_state, so_far, zero),
        jax.random.split(play, LENGTH),
      )
      advantage = advantages_of(steps, policy_and_value(params, obs)[1])
      data = (steps, advantage, advantage + steps.value)
      data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)

      def epoch(carry, key):
        order, *keys = jax.random.split(key, 1 + BATCHES)
        order = jax.random.permutation(order, ENVS * LENGTH)
        batches = jax.tree.map(
          lambda x: x[order].reshape(BATCHES, -1, *x.shape[1:]), data
        )
        return lax.scan(gradient_step, carry, (*batches, jnp.stack(keys)))

      (params, state, t), _ = lax.scan(
        epoch, (params, state, t), jax.random.split(shuffle, EPOCHS)
      )
      return (params, state, t, obs, env_state, so_far), total

    carry = (params, optimizer.init(params), jnp.int32(0), obs, env_state)
    carry, (returns, episodes) = lax.scan(
      update, (*carry, jnp.zeros(ENVS)), jnp.arange(UPDATES)
    )
    late = slice(-UPDATES // 4, None)
    score = jnp.sum(returns[late]) / jnp.maximum(jnp.sum(episodes[late]), 1)
    return score, optax.tree.get(carry[1], "clipped_count") / GRADIENTS

  return run
