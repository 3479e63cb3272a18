"""How many kernels and arrays a step has. On a GPU their number is the cost."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

import htga_optax

LEAVES = 16
# The largest number over `clip_by_global_norm` on JAX 0.7 to 0.12: of fusions
# anywhere in the program, of operations in its main computation; the number of
# conditionals, and of arrays in the state.
LARGEST = {
  "track_tail_index": (htga_optax.track_tail_index(), 51, 45, 2, 10),
  "scale_by_htga": (htga_optax.scale_by_htga(), 57, 54, 2, 13),
  "scale_by_htga, per layer": (
    htga_optax.scale_by_htga(per_layer=True),
    113,
    88,
    2,
    13,
  ),
  "clip_by_tail_quantile": (htga_optax.clip_by_tail_quantile(), 86, 50, 2, 7),
  "clip_by_tail_quantile, per layer": (
    htga_optax.clip_by_tail_quantile(per_layer=True),
    138,
    80,
    1,
    7,
  ),
}


def counted(tx):
  """Fusions, operations in the main computation, conditionals, state arrays."""
  params = {f"w{i}": jnp.zeros([8, 8 + i]) for i in range(LEAVES)}
  tx = optax.chain(tx, optax.sgd(0.1))
  state = tx.init(params)

  def step(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  step = jax.jit(step, donate_argnums=(1, 2))
  text = step.lower(params, state, params).compile().as_text()
  main = text[text.index("ENTRY") :]
  return (
    len(re.findall(r" fusion\(", text)),
    len(re.findall(r"= .*? [a-z\-]+\(", main)),
    len(re.findall(r" conditional\(", text)),
    len(jax.tree.leaves(state)),
  )


@pytest.mark.cpu
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] * ("per layer" in name))
    for name in LARGEST
  ],
)
def test_a_step_does_not_grow(name):
  """Before a number here is raised, measure the change on a GPU."""
  tx, fusions, operations, conditionals, arrays = LARGEST[name]
  least = counted(optax.clip_by_global_norm(1.0))
  found = counted(tx)
  assert found[0] - least[0] <= fusions
  assert found[1] - least[1] <= operations
  assert found[2] <= conditionals
  assert found[3] <= arrays


@pytest.mark.cpu
@pytest.mark.slow  # since a quick program has other kernels
def test_small_leaves_of_one_shape_share_their_kernels():
  """`optax.global_norm` has up to three kernels for each leaf."""
  leaves = [jnp.zeros([64])] * 32
  norm = jax.jit(htga_optax.norms.norm)
  text = norm.lower(leaves).compile().as_text()
  assert len(re.findall(r" fusion\(", text)) < len(leaves)
