"""The k-th largest entry equals that of a sort on the host, bit for bit."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from htga_optax import order_statistics

kth_largest = order_statistics.kth_largest

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


jitted = jax.jit(kth_largest)


def same_bits(x, y):
  x, y = np.asarray(x), np.asarray(y)
  assert x.dtype == y.dtype and x.shape == y.shape
  assert x.tobytes() == y.tobytes(), (x, y)


def check(x, ks, traced=True):
  """Checks x, which has no nan and not zeros of both signs."""
  in_order = np.sort(x, axis=None)
  for k in ks:
    same_bits(jitted(x, k), in_order[-k])
  if not traced:
    same_bits(kth_largest(x, ks[0]), in_order[-ks[0]])


def sample(n, dtype, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_t(2, n).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("n", [1, 2, 17, 1000, 100_003])
def test_equals_a_sort(n, dtype):
  x = sample(n, dtype) + np.asarray(0, dtype)  # no -0.0
  ks = {1, 2, 3, n // 100, n // 2, n - 1, n} & set(range(1, n + 1))
  check(x, sorted(ks), traced=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_every_rank(dtype):
  check(sample(65, dtype), range(1, 66))
  ties = np.random.default_rng(0).integers(-4, 5, 65).astype(dtype)
  check(ties, range(1, 66))
  check(np.full([7], -2.5, dtype), range(1, 8))
  check(-np.abs(sample(9, dtype)), range(1, 10))
  check(np.zeros([3], dtype), range(1, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_edges_of_the_range(dtype):
  """-0.0 is below 0.0, infinities count, and subnormals are distinguished.

  XLA's arithmetic flushes subnormals to zero.
  """
  info = jnp.finfo(dtype)
  tiny, small, most = (
    np.asarray(v, dtype) for v in (info.smallest_subnormal, info.tiny, info.max)
  )
  below_small = np.nextafter(small, np.asarray(0, dtype))
  positive = [tiny, tiny + tiny, below_small, small, most, np.inf]
  negative = [-v for v in positive[::-1]]
  in_order = np.array([*negative, -0.0, 0.0, *positive], dtype)
  x = np.random.default_rng(0).permutation(in_order)
  for k in range(1, x.size + 1):
    same_bits(kth_largest(x, jnp.asarray(k)), in_order[-k])


def test_zeros_of_both_signs_equal_those_of_a_sort():
  x = np.float32([0.0, -0.0, 1.0, -0.0, 0.0, -1.0])
  for k in range(1, 7):
    assert kth_largest(x, k) == np.sort(x)[-k]
  signs = [bool(np.signbit(kth_largest(x, k))) for k in (2, 3, 4, 5)]
  assert signs == [False, False, True, True]


@pytest.mark.parametrize("nan", [np.nan, -np.nan], ids=["nan", "-nan"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_one_nan_makes_every_rank_nan(dtype, nan):
  x = sample(100, dtype)
  x[41] = nan
  for k in (1, 2, 50, 99, 100):
    y = kth_largest(x, k)
    assert y.dtype == dtype and np.isnan(y)
  assert np.isnan(kth_largest(np.full([3], nan, dtype), 2))


def test_float64():
  with jax.enable_x64(True) if hasattr(jax, "enable_x64") else x64():
    x = np.random.default_rng(0).standard_t(2, 1000)
    x[:2] = 1.0, np.nextafter(1.0, 2.0)
    check(x, [1, 10, 500, 1000])
    check(x[:2], [1, 2])
    check(np.float64([5e-324, -5e-324, 0.0]), [1, 2, 3])
    for k in (
      jnp.int64(2**32 + 1),
      jnp.int64(2**63 - 1),
      jnp.uint64(2**64 - 1),
    ):
      assert np.isnan(kth_largest(x, k))
  same_bits(kth_largest(x, 500), np.sort(x.astype(np.float32))[-500])


def x64():
  from jax.experimental import enable_x64

  return enable_x64()


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (3, 5, 7), (2, 0, 3)])
def test_any_shape(shape):
  x = sample(shape, np.float32)
  if x.size:
    check(x, range(1, x.size + 1), traced=False)
  else:
    with pytest.raises(ValueError, match="size of x must be at least 1, got 0"):
      kth_largest(x, 1)


def test_leaves_of_a_tree_are_ranked_together():
  tree = {
    "a": sample((3, 5), np.float32),
    "b": [sample(7, np.float32, 1), None, np.float32(0.5)],
    "c": np.zeros([0, 2], np.float32),
  }
  everything = np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
  in_order = np.sort(everything)
  for k in range(1, everything.size + 1):
    same_bits(jitted(tree, k), in_order[-k])
  with pytest.raises(ValueError, match=r"k must be from 1 to 23, .* got 24"):
    kth_largest(tree, 24)
  with pytest.raises(ValueError, match="size of x must be at least 1"):
    kth_largest({"a": None}, 1)


def test_leaves_of_several_dtypes_are_ranked_in_their_common_dtype():
  """In float32, subnormals of float16 are normal, those of bfloat16 are not."""
  tree = [
    np.float16([1.0, 6e-8, -3.0]),
    np.asarray([1.0078125, -2.0], jnp.bfloat16),
    np.float32([1.001, 0.0]),
  ]
  in_order = np.sort(np.concatenate([x.astype(np.float32) for x in tree]))
  for k in range(1, 8):
    same_bits(kth_largest(tree, k), in_order[-k])


def test_k_may_be_traced_without_a_new_trace():
  traces = []

  @jax.jit
  def f(x, k):
    traces.append(k)
    return kth_largest(x, k)

  x = sample(100, np.float32)
  for k in (1, 7, 100):
    same_bits(f(x, k), np.sort(x)[-k])
  for k in (0, 101, -1):
    assert np.isnan(f(x, k))
  assert len(traces) == 1
  for k in (np.int64(3), jnp.uint8(3), np.asarray(3, np.int8)):
    same_bits(kth_largest(x, k), np.sort(x)[-3])


@pytest.mark.parametrize(
  "x, k, error, sentence",
  [
    (np.zeros(5), 0, ValueError, "k must be from 1 to 5, .* got 0"),
    (np.zeros(5), 6, ValueError, "k must be from 1 to 5, .* got 6"),
    (np.zeros(5), 2**40, ValueError, f"k must be .* got {2**40}"),
    (np.zeros(5), 2.0, TypeError, "k must be an integer, got 2.0"),
    (np.zeros(5), True, TypeError, "k must be an integer, got True"),
    (np.zeros(5), np.ones(2, int), ValueError, r"one number, got shape \(2,\)"),
    (np.zeros(5, int), 1, TypeError, "x must be float16, .* got int32"),
    (np.zeros(5, complex), 1, TypeError, "x must be .* got complex64"),
  ],
)
def test_bad_arguments_are_named(x, k, error, sentence):
  with pytest.raises(error, match=sentence):
    kth_largest(x, k)


def test_more_entries_than_are_counted_are_refused():
  f = functools.partial(kth_largest, k=1)
  with pytest.raises(ValueError, match=f"at most {2**31 - 1} without x64, got"):
    jax.eval_shape(f, jax.ShapeDtypeStruct([2**31], jnp.float16))
  jax.eval_shape(f, jax.ShapeDtypeStruct([2**31 - 1], jnp.float16))


def test_vmap():
  x = sample((4, 3, 50), np.float32)
  x[2, 1, 0] = np.nan
  each = [kth_largest(y, 5) for y in x]
  same_bits(jax.vmap(lambda y: kth_largest(y, 5))(x), np.stack(each))
  ks = jnp.arange(1, 151)
  same_bits(
    jax.vmap(jitted, (None, 0))(x[0], ks),
    np.sort(x[0], axis=None)[::-1],
  )


def test_the_gradient_is_zero():
  x = sample((3, 4), np.float32)
  assert not np.any(jax.grad(lambda x: kth_largest(x, 2))(x))
  y, tangent = jax.jvp(lambda x: kth_largest(x, 2), (x,), (x,))
  assert y == np.sort(x, axis=None)[-2] and tangent == 0

  def clipped(x):
    return jnp.sum(jnp.minimum(x, kth_largest(x, 2)))

  assert np.sum(jax.jit(jax.grad(clipped))(x) == 1) >= 10


# -- what it compiles to ----------------------------------------------------

MOVES = r"(sort|gather|scatter|concatenate|reshape|top-?k|TopK|custom-call)"


def operations(hlo):
  """The (shape, name) of every operation in a module."""
  return re.findall(r"= (\S.*?) ([a-z][\w-]*)\(", hlo)


def test_nothing_of_the_size_of_x_is_moved():
  x = jnp.zeros([100, 1003])
  compiled = jitted.lower(x, 3).compile()
  for shape, name in operations(compiled.as_text()):
    if re.search(MOVES, name) or "copy" in name:
      assert "100" not in shape, (shape, name)
    assert "sort" not in name


@pytest.mark.cpu
def test_it_needs_no_memory_of_the_size_of_x():
  """x is on one of eight devices."""
  x = jnp.zeros([100, 1003])
  compiled = jitted.lower(x, 3).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 10_000


# -- many devices -----------------------------------------------------------

SENDS = "all-|collective|reduce-scatter|send|recv"


def sends_nothing_but_counts(compiled):
  """A device sends one count per comparison, and does not copy its part."""
  crossing = [
    (shape, name)
    for shape, name in operations(compiled.as_text())
    if re.match(SENDS, name)
  ]
  assert crossing  # it was sharded
  for shape, name in crossing:
    assert re.match("all-(gather|reduce)", name), name
    for dims in re.findall(r"\w+\[([\d,]*)\]", shape):
      assert np.prod([int(d) for d in dims.split(",") if d]) <= 8, shape
    assert "s32" in shape and "f32" not in shape
  assert " sort(" not in compiled.as_text()
  assert compiled.memory_analysis().temp_size_in_bytes < 10_000


def set_mesh(mesh):
  """jax.set_mesh, or its name in JAX 0.7."""
  return getattr(jax, "set_mesh", getattr(jax.sharding, "use_mesh", None))(mesh)


@pytest.mark.parametrize(
  "axis_type", [AxisType.Auto, AxisType.Explicit], ids=str
)
@pytest.mark.parametrize(
  "spec", [P("a"), P(None, "b"), P("a", "b"), P(None, ("a", "b"))], ids=str
)
@pytest.mark.devices(8)
def test_named_sharding_sends_nothing_but_counts(axis_type, spec):
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
  host = sample((16, 1000), np.float32), sample((8, 8), np.float32, 1)
  in_order = np.sort(np.concatenate([x.ravel() for x in host]))
  with set_mesh(mesh):
    tree = jax.device_put(host, NamedSharding(mesh, spec))
    f = jitted.lower(tree, jnp.asarray(1)).compile()
    for k in (1, 160, 16_064):
      same_bits(f(tree, jnp.asarray(k)), in_order[-k])
    same_bits(kth_largest(tree, 160), in_order[-160])
  sends_nothing_but_counts(f)


@pytest.mark.parametrize(
  "axis_type", [AxisType.Auto, AxisType.Explicit], ids=str
)
@pytest.mark.devices(8)
def test_a_sharded_intermediate_is_not_gathered(axis_type):
  """XLA chooses the sharding here; no argument of the function has it."""
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
  rows, columns = sample((16, 1), np.float32), sample((1, 1000), np.float32, 1)

  @jax.jit
  def f(rows, columns):
    return kth_largest([-rows, rows * columns], 160, of_magnitudes=True)

  with set_mesh(mesh):
    args = (
      jax.device_put(rows, NamedSharding(mesh, P("a"))),
      jax.device_put(columns, NamedSharding(mesh, P(None, "b"))),
    )
    compiled = f.lower(*args).compile()
    found = compiled(*args)
  sizes = np.abs(np.concatenate([rows.ravel(), (rows * columns).ravel()]))
  same_bits(found, np.sort(sizes)[-160])
  sends_nothing_but_counts(compiled)


@pytest.mark.devices(8)
def test_in_shardings_are_enough():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  x = sample((16, 1000), np.float32)
  f = jax.jit(
    lambda x: kth_largest(x, 160), in_shardings=NamedSharding(mesh, P("a"))
  )
  same_bits(f(x), np.sort(x, axis=None)[-160])
  sends_nothing_but_counts(f.lower(x).compile())


@pytest.mark.devices(8)
def test_an_axis_that_shard_map_leaves_to_the_compiler():
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  x = sample((16, 1000), np.float32)
  x_in = jax.device_put(x, NamedSharding(mesh, P("a", "b")))
  f = jax.jit(
    jax.shard_map(
      lambda x: kth_largest(x, 160, shard_axis_name="a"),
      mesh=mesh,
      in_specs=P("a"),
      out_specs=P(),
      axis_names={"a"},
    )
  )
  same_bits(f(x_in), np.sort(x, axis=None)[-160])
  sends_nothing_but_counts(f.lower(x_in).compile())


@pytest.mark.devices(8)
def test_replicated_arrays_send_nothing():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  x = jax.device_put(sample((16, 100), np.float32), NamedSharding(mesh, P()))
  same_bits(kth_largest(x, 16), np.sort(x, axis=None)[-16])
  hlo = jitted.lower(x, 16).compile().as_text()
  assert not [name for _, name in operations(hlo) if re.match(SENDS, name)]


@pytest.mark.parametrize("kind", ["auto", "explicit"])
@pytest.mark.devices(8)
def test_shard_map(kind):
  axis_type = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[kind]
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
  x = sample((16, 50), np.float32)
  x_in = jax.device_put(x, NamedSharding(mesh, P("a", "b")))
  f = jax.jit(
    jax.shard_map(
      lambda x, k: kth_largest(x, k, shard_axis_name=("a", "b")),
      mesh=mesh,
      in_specs=(P("a", "b"), P()),
      out_specs=P(),
    )
  )
  with set_mesh(mesh):
    for k in (1, 8, 400, 800):
      same_bits(f(x_in, jnp.asarray(k)), np.sort(x, axis=None)[-k])
    assert np.isnan(f(x_in, jnp.asarray(801)))
    hlo = f.lower(x_in, jnp.asarray(1)).compile().as_text()
  assert "all-reduce" in hlo and "all-gather" not in hlo
  assert " sort(" not in hlo


@pytest.mark.devices(8)
def test_shard_map_without_shard_axis_name_ranks_each_part():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  x = sample((8, 50), np.float32)
  f = jax.shard_map(
    lambda x: kth_largest(x, 5)[None],
    mesh=mesh,
    in_specs=P("a"),
    out_specs=P("a"),
  )
  same_bits(jax.jit(f)(x), np.sort(x, axis=1)[:, -5])


@pytest.mark.devices(8)
def test_pmap():
  x = sample((8, 3, 50), np.float32)
  f = jax.pmap(
    lambda x, k: kth_largest(x, k, shard_axis_name="i"), "i", in_axes=(0, None)
  )
  for k in (1, 12, 1200):
    same_bits(f(x, k), np.full([8], np.sort(x, axis=None)[-k]))
  with pytest.raises(
    ValueError, match=r"k must be from 1 to 1200, .* got 1201"
  ):
    jax.pmap(lambda x: kth_largest(x, 1201, "i"), "i")(x)
