"""The parts of PPO: a network, its loss, experience from gymnax, advantages."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

ENVS, LENGTH = 8, 128  # environments, and steps of each between two updates
DISCOUNT, LAMBDA, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.01, 0.5
WIDTH = 64


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


class Games(NamedTuple):
  """The environments between two updates.

  Attributes:
    obs: the observations, flat, [ENVS, n].
    states: the states of the environments.
    so_far: the return of each unfinished episode, [ENVS].
    returns: the sum of the returns of all finished episodes, [].
    episodes: how many episodes are finished, [].
  """

  obs: jax.Array
  states: object
  so_far: jax.Array
  returns: jax.Array
  episodes: jax.Array


def player(name):
  """Makes (start, play, n, actions) for an environment of gymnax.

  `start` is key -> Games. `play` is (params, games, key) -> (games, data),
  where data has the transitions, the advantages and the targets of the value,
  each [ENVS * LENGTH, ...].
  """
  import gymnax

  env, env_params = gymnax.make(name)
  reset = jax.vmap(env.reset, (0, None))
  act = jax.vmap(env.step, (0, 0, 0, None))
  flat = lambda obs: obs.reshape(ENVS, -1).astype(jnp.float32)

  def start(key):
    obs, states = reset(jax.random.split(key, ENVS), env_params)
    zero = jnp.zeros([])
    return Games(flat(obs), states, jnp.zeros(ENVS), zero, zero)

  def play(params, games, key):
    def step(games, key):
      choose, move = jax.random.split(key)
      logits, value = policy_and_value(params, games.obs)
      action = jax.random.categorical(choose, logits)
      log_prob = jnp.take_along_axis(logits, action[:, None], 1)[:, 0]
      keys = jax.random.split(move, ENVS)
      obs, states, reward, terminated, truncated, _ = act(
        keys, games.states, action, env_params
      )
      done = (terminated | truncated).astype(jnp.float32)
      so_far = games.so_far + reward
      after = Games(
        flat(obs),
        states,
        so_far * (1 - done),
        games.returns + jnp.sum(done * so_far),
        games.episodes + jnp.sum(done),
      )
      return after, Transition(games.obs, action, log_prob, value, reward, done)

    games, steps = lax.scan(step, games, jax.random.split(key, LENGTH))
    advantage = advantages_of(steps, policy_and_value(params, games.obs)[1])
    data = (steps, advantage, advantage + steps.value)
    return games, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)

  shape = env.observation_space(env_params).shape
  size = 1
  for n in shape:
    size *= n
  return start, play, size, env.num_actions
