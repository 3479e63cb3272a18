import jax
import jax.numpy as jnp
import numpy as np
import pytest

from htga_optax import norms


@pytest.mark.parametrize("size", [1e-33, 1e-30, 1e-11, 1.0, 1e18, 1e25, 1e37])
@pytest.mark.parametrize("per_layer", [False, True])
def test_norms_neither_overflow_nor_vanish(size, per_layer):
  rng = np.random.default_rng(0)
  tree = [size * rng.standard_normal(s) for s in ((3, 4), (5,), ())]
  exact = [np.linalg.norm(np.ravel(x)) for x in tree]
  if not per_layer:
    exact = np.linalg.norm(exact)
  measure = norms.layer_norms if per_layer else norms.norm
  got = measure([jnp.float32(x) for x in tree])
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  assert got.dtype == jnp.float32


def test_layers_of_every_size_at_once():
  sizes = np.float32([0.0, 1e-30, 1.0, 1e30])
  rows = jnp.outer(sizes, jnp.ones(4))
  for got in (
    norms.layer_norms(list(rows)),
    norms.layer_norms({"stacked": rows}, "stacked"),
  ):
    np.testing.assert_allclose(got, 2 * sizes, rtol=1e-6)


def test_a_constant_of_zeros_has_norm_zero():
  """XLA evaluates it while it compiles, in another order."""
  assert jax.jit(lambda: norms.norm(jnp.zeros(8)))() == 0
  assert jax.jit(lambda: norms.layer_norms([jnp.zeros(8)]))() == 0


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_stacked_layers_of_other_dtypes(dtype):
  x = np.random.default_rng(0).standard_normal([3, 4, 5]).astype(dtype)
  expected = [np.linalg.norm(row.ravel().astype("complex128")) for row in x]
  got = norms.layer_norms({"blocks": {"w": jnp.asarray(x)}}, r"^blocks/")
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  halved = norms.scale({"w": jnp.asarray(x)}, jnp.float32([1, 0.5, 0]), "w")
  np.testing.assert_allclose(halved["w"][1], 0.5 * x[1], rtol=1e-3)
  assert not np.any(halved["w"][2])


def test_a_layer_of_zeros_is_the_only_large_one_that_is_read_twice():
  """Each large leaf has its own conditional inside the one for all leaves."""
  tree = [jnp.ones([2**15]), jnp.zeros([2**15]), jnp.zeros(8)]
  np.testing.assert_allclose(norms.layer_norms(tree), [2**7.5, 0, 0], rtol=1e-6)
  hlo = jax.jit(norms.layer_norms).lower(tree).compile().as_text()
  assert hlo.count(" conditional(") == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norms_of_nonfinite_updates_are_not_finite(bad):
  tree = [jnp.ones(3), jnp.float32([1.0, bad])]
  assert not np.isfinite(norms.norm(tree))
  np.testing.assert_array_equal(
    np.isfinite(norms.layer_norms(tree)), [True, False]
  )


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
def test_gradient_of_the_norm(size):
  x = size * jnp.float32([3.0, 4.0])
  expected = [0.6, 0.8] if size else [0.0, 0.0]
  got = jax.grad(norms.norm)(x)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_common_case_reads_the_gradient_once():
  """A tracker and the listener after it share one norm."""
  tree = [jnp.ones([64, 64])]

  def twice(tree):
    return norms.norm(tree) * norms.scale(tree, norms.norm(tree))[0].sum()

  hlo = jax.jit(twice).lower(tree).compile().as_text()
  assert hlo.count(" conditional(") == 1


def test_updates_must_be_floating_point():
  tree = {"a": jnp.ones(2), "b": {"c": jnp.arange(3)}}
  with pytest.raises(TypeError, match="got int32 at 'b/c'"):
    norms.norm(tree)


def test_scale_saturates_instead_of_overflowing():
  got = norms.scale(jnp.float16([6e4, -6e4, 1.0]), jnp.float32(3.0))
  np.testing.assert_array_equal(got, np.float16([65504, -65504, 3]))
  got = norms.scale(jnp.float16([np.inf, np.nan]), jnp.float32(0.0))
  np.testing.assert_array_equal(got, [0, 0])


@pytest.mark.parametrize("size", [1.0, 1e25, 1e-30])
def test_norms_of_shards_are_those_of_the_whole(size):
  """For mapped axes, of `jax.vmap` and of `jax.shard_map`."""
  rng = np.random.default_rng(3)
  tree = {
    "w": size * rng.standard_normal((4, 2, 6)),
    "blocks": size * rng.standard_normal((4, 3, 5)),
  }
  tree = jax.tree.map(jnp.float32, tree)

  def of_a_shard(tree):
    return (
      norms.norm(tree, "shard"),
      norms.layer_norms(tree, "blocks", "shard"),
      norms.over_shards(norms.norm(tree), "shard", mean=True),
    )

  whole, layers, mean = jax.vmap(of_a_shard, axis_name="shard")(tree)
  w, blocks = (np.float64(tree[name]) for name in ("w", "blocks"))
  expected = np.sqrt(np.sum(w**2) + np.sum(blocks**2))
  np.testing.assert_allclose(whole, [expected] * 4, rtol=1e-5)
  np.testing.assert_allclose(mean, [expected / 2] * 4, rtol=1e-5)
  by_layer = [*np.sqrt(np.sum(blocks**2, axis=(0, 2))), np.linalg.norm(w)]
  np.testing.assert_allclose(layers, [by_layer] * 4, rtol=1e-5)
