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
    exact = [np.linalg.norm(exact)]
  got = norms.norms([jnp.float32(x) for x in tree], per_layer)
  np.testing.assert_allclose(got, exact, rtol=1e-6)
  assert got.dtype == jnp.float32


def test_layers_of_every_size_at_once():
  sizes = np.float32([0.0, 1e-30, 1.0, 1e30])
  got = norms.norms(list(jnp.outer(sizes, jnp.ones(4))), per_layer=True)
  np.testing.assert_allclose(got, 2 * sizes, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(bad):
  tree = [jnp.ones(3), jnp.float32([1.0, bad])]
  assert not np.isfinite(norms.norms(tree)[0])
  np.testing.assert_array_equal(
    np.isfinite(norms.norms(tree, per_layer=True)), [True, False]
  )


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
def test_gradient_of_the_norm(size):
  x = size * jnp.float32([3.0, 4.0])
  expected = [0.6, 0.8] if size else [0.0, 0.0]
  got = jax.grad(lambda x: norms.norms(x)[0])(x)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_common_case_reads_the_gradient_once():
  """A tracker and a listener that follow each other share one norm."""
  tree = [jnp.ones([64, 64])]

  def twice(tree):
    return norms.norms(tree) * norms.scale(tree, norms.norms(tree))[0].sum()

  hlo = jax.jit(twice).lower(tree).compile().as_text()
  assert hlo.count(" conditional(") == 1


def test_updates_must_be_floating_point():
  tree = {"a": jnp.ones(2), "b": {"c": jnp.arange(3)}}
  with pytest.raises(TypeError, match=r"got int32 at \['b'\]\['c'\]"):
    norms.norms(tree)


def test_scale_saturates_instead_of_overflowing():
  got = norms.scale(jnp.float16([6e4, -6e4, 1.0]), jnp.float32([3.0]))
  np.testing.assert_array_equal(got, np.float16([65504, -65504, 3]))
  got = norms.scale(jnp.float16([np.inf, np.nan]), jnp.float32([0.0]))
  np.testing.assert_array_equal(got, [0, 0])


def test_gather_undoes_spread():
  tree = {"a": jnp.ones(2), "b": jnp.ones(3)}
  values = jnp.float32([1.0, 2.0])
  shown = norms.spread(values, tree, per_layer=True)
  assert shown == {"a": 1.0, "b": 2.0}
  np.testing.assert_array_equal(
    norms.gather(shown, tree, True, "tail_index"), values
  )
  np.testing.assert_array_equal(norms.gather(3.0, tree, True, "x"), [3, 3])
  with pytest.raises(ValueError, match="tail_index must be a number, or"):
    norms.gather(shown, tree, False, "tail_index")
