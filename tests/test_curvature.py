"""Curvature compared with dense float64 Hessians, closed forms and matfree."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from htga_optax import curvature

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def full_precision():
  """By default, matrix products on a GPU have only ten bits."""
  with jax.default_matmul_precision("highest"):
    yield


def problem(dtype=jnp.float32):
  """A small network over a tree with a None leaf: loss, params, a batch."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  params = {"a": draw(4, 5), "b": draw(5), "c": draw(5, 3), "frozen": None}
  x, y = draw(16, 4), draw(16, 3)

  def loss(p, x=x, y=y):
    return jnp.mean((jnp.tanh(x @ p["a"] + p["b"]) @ p["c"] - y) ** 2)

  return loss, params, x, y


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def unflat(vector, like):
  leaves, structure = jax.tree.flatten(like)
  parts = np.split(vector, np.cumsum([x.size for x in leaves])[:-1])
  return jax.tree.unflatten(
    structure,
    [jnp.asarray(p, x.dtype).reshape(x.shape) for p, x in zip(parts, leaves)],
  )


def float64():
  if hasattr(jax, "enable_x64"):
    return jax.enable_x64(True)
  from jax.experimental import enable_x64

  return enable_x64()


@functools.cache
def dense():
  """The matrix, by jax.hessian of a vector in float64."""
  with float64():
    loss, params, *_ = problem(jnp.float64)
    from jax.flatten_util import ravel_pytree

    vector, unravel = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda v: loss(unravel(v)))(vector))


def matvecs():
  loss, params, *_ = problem()
  return curvature.hessian(loss, params), params


def of_matrix(matrix):
  matrix = jnp.asarray(matrix, jnp.float32)
  return lambda v: matrix @ v


def with_eigenvalues(eigenvalues, seed=0):
  q, _ = np.linalg.qr(
    np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2)
  )
  return q @ np.diag(eigenvalues) @ q.T


# -- products -----------------------------------------------------------------


def test_products_are_those_of_the_dense_matrix():
  matvec, params = matvecs()
  v = np.random.default_rng(1).standard_normal(len(dense()))
  product = matvec(unflat(v, params))
  assert product["frozen"] is None
  # float32 and float64 agree to five digits of the largest entry.
  expected = dense() @ v
  np.testing.assert_allclose(
    flat(product), expected, atol=1e-5 * np.abs(expected).max()
  )


def test_products_in_float64():
  with float64():
    loss, params, *_ = problem(jnp.float64)
    v = np.random.default_rng(1).standard_normal(len(dense()))
    product = curvature.hvp(loss, params, unflat(v, params))
    np.testing.assert_allclose(flat(product), dense() @ v, rtol=1e-10)


def test_complex_leaves_are_pairs_of_real_ones():
  """L = x^2 + 3 xy + 5 y^2 of z = x + iy."""
  loss = lambda z: z.real**2 + 3 * z.real * z.imag + 5 * z.imag**2
  product = curvature.hvp(loss, jnp.complex64(1 + 2j), jnp.complex64(1 - 1j))
  np.testing.assert_allclose(product, (2 - 3) + 1j * (3 - 10))


def test_products_keep_dtypes():
  loss = lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 4).astype("float32")
  params = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.bfloat16)}
  product = curvature.hvp(loss, params, jax.tree.map(jnp.ones_like, params))
  assert product["a"].dtype == jnp.float32
  assert product["b"].dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(product["b"]), 12.0)


# -- traces -------------------------------------------------------------------


def test_hutchinson_trace():
  matvec, params = matvecs()
  matrix, m = dense(), 2000
  trace, error = curvature.hutchinson_trace(matvec, params, m, key=KEY)
  off = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
  # A standard deviation from 2000 draws has an error of 2 to 3 percent.
  np.testing.assert_allclose(error, np.sqrt(2 * off / m), rtol=0.1)
  assert abs(trace - np.trace(matrix)) < 3 * error


def test_error_is_exact_for_a_diagonal_matrix_and_unknown_for_one_draw():
  matvec = lambda v: jnp.arange(5.0) * v
  for m, error in ((1, np.inf), (2, 0.0)):
    estimate = curvature.hutchinson_trace(matvec, jnp.zeros(5), m, key=KEY)
    np.testing.assert_allclose(estimate.value, 10.0, rtol=1e-6)
    np.testing.assert_equal(np.float64(estimate.standard_error), error)


def test_num_matvecs_is_the_cost():
  calls = []

  def matvec(v):
    calls.append(1)
    return 2 * v

  with jax.disable_jit():
    curvature.hutchinson_trace(matvec, jnp.zeros(4), 7, key=KEY)
  assert len(calls) == 7


# -- eigenvalues --------------------------------------------------------------


def bowl(matrix):
  """A loss whose Hessian is a matrix."""
  matrix = jnp.asarray(matrix, jnp.float32)
  return lambda w: w @ matrix @ w / 2


def restarted(matvec, vector, basis_size, times):
  """Lanczos' method, restarted several times from its last vector."""
  zero = jnp.zeros([])
  pair, _ = lax.scan(
    lambda pair, _: (
      curvature.top_eigenvalue(matvec, pair.vector, basis_size),
      None,
    ),
    curvature.Eigenpair(zero, vector, zero),
    length=times,
  )
  return pair


@pytest.mark.parametrize("method", ["power iteration", 2, 3, 12])
@pytest.mark.parametrize(
  "eigenvalues",
  [
    [-5.0, -1.0, 0.0, 0.5, 1.0, 2.0],  # the largest modulus is negative
    [-3.0, -2.0, -1.5, -1.0, -0.75, -0.5],
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [2.0] * 6,
    [-2.0] * 6,
  ],
)
def test_top_eigenvalue_is_the_largest(eigenvalues, method):
  """Also with more vectors than dimensions."""
  matrix = with_eigenvalues(eigenvalues)
  start = jax.random.normal(KEY, (6,))
  if method == "power iteration":
    value, vector = curvature.power_iteration(
      bowl(matrix), jnp.ones(6), start, 60
    )
  else:
    times = 1 if method == 12 else 120 // method
    value, vector, _ = restarted(of_matrix(matrix), start, method, times)
  top, scale = max(eigenvalues), np.abs(eigenvalues).max()
  np.testing.assert_allclose(value, top, atol=2e-5 * scale)
  np.testing.assert_allclose(matrix @ vector, top * vector, atol=5e-3 * scale)
  np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-5)


@pytest.mark.parametrize("basis_size", [2, 10])
def test_estimate_is_a_lower_bound_within_its_residual(basis_size):
  eigenvalues = np.linspace(-2, 3, 50)
  matvec = of_matrix(with_eigenvalues(eigenvalues))
  top = jax.jit(lambda x: restarted(matvec, x, basis_size, 10 // basis_size))
  for key in jax.random.split(KEY, 10):
    value, y, residual = top(jax.random.normal(key, (50,)))
    assert value < 3 + 1e-5
    assert np.abs(eigenvalues - value).min() < residual + 1e-5
    np.testing.assert_allclose(
      np.linalg.norm(matvec(y) - value * y), residual, rtol=1e-3, atol=1e-4
    )


def test_top_eigenvalue_of_a_network():
  loss, params, *_ = problem()
  top = np.linalg.eigvalsh(dense())[-1]
  start = curvature.sample_like(jax.random.normal, params, key=KEY)
  by_lanczos = curvature.top_eigenvalue(
    curvature.hessian(loss, params), start, 30
  )
  by_power = curvature.power_iteration(loss, params, start, 30)
  for value, vector in (by_lanczos[:2], by_power):
    np.testing.assert_allclose(value, top, rtol=1e-4)
    assert vector["frozen"] is None


@pytest.mark.parametrize("count", [1, 4])
def test_power_iteration_equals_lanczos_with_two_vectors(count):
  """A product and a second derivative along a line equal two products."""
  loss, params, *_ = problem()
  start = curvature.sample_like(jax.random.normal, params, key=KEY)
  value, vector = curvature.power_iteration(loss, params, start, count)
  pair = restarted(curvature.hessian(loss, params), start, 2, count)
  np.testing.assert_allclose(value, pair.value, rtol=1e-4)
  vector, expected = flat(vector), flat(pair.vector)
  expected = expected * np.sign(vector @ expected)  # eigh chooses the sign
  np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_a_warm_start_continues():
  """Five calls of one step each equal one call of five steps."""
  loss = bowl(with_eigenvalues(np.linspace(-2, 3, 50)))
  iterate = functools.partial(curvature.power_iteration, loss, jnp.ones(50))
  start = jax.random.normal(KEY, (50,))
  vector = start
  for _ in range(5):
    value, vector = iterate(vector, 1)
  once, _ = iterate(start, 5)
  np.testing.assert_allclose(value, once, rtol=1e-5)


def test_lanczos_agrees_with_matfree():
  decomp = pytest.importorskip("matfree.decomp", reason="of the dev extra")
  matrix = with_eigenvalues(np.linspace(-2, 3, 50) ** 3)
  start = jax.random.normal(KEY, (50,))
  ours = curvature.lanczos(of_matrix(matrix), start, 12)
  theirs = decomp.tridiag_sym(12, materialize=False)(of_matrix(matrix), start)
  diagonal, off_diagonal = theirs.J_small
  np.testing.assert_allclose(ours.diagonal, diagonal, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(
    ours.off_diagonal[:-1], off_diagonal, rtol=1e-3, atol=1e-3
  )
  q = np.asarray(ours.basis)
  np.testing.assert_allclose(q @ q.T, np.eye(12), atol=1e-5)
  t = q @ matrix @ q.T
  np.testing.assert_allclose(np.diag(t), ours.diagonal, atol=1e-4)


def test_traces_agree_with_matfree():
  stochtrace = pytest.importorskip("matfree.stochtrace", reason="of dev")
  matrix = with_eigenvalues(np.linspace(0, 1, 50))
  estimate = stochtrace.estimator_monte_carlo_mean_and_sem(
    stochtrace.monte_carlo_trace(),
    sampler=stochtrace.sampler_signs(jnp.zeros(50), num=500),
  )
  mean, error = estimate(of_matrix(matrix), KEY)
  ours = curvature.hutchinson_trace(
    of_matrix(matrix), jnp.zeros(50), 500, key=KEY
  )
  np.testing.assert_allclose(ours.standard_error, error, rtol=0.15)
  assert abs(ours.value - mean) < 4 * 2**0.5 * error


@pytest.mark.parametrize("method", ["power iteration", "Lanczos"])
def test_edges_of_the_top_eigenvalue(method):
  def top(loss, params, start=None):
    start = params if start is None else start
    if method == "Lanczos":
      return curvature.top_eigenvalue(
        curvature.hessian(loss, params), start, 4
      )[:2]
    return curvature.power_iteration(loss, params, start, 4)

  square = lambda w: jnp.sum(w**2)
  one, _ = top(lambda p: -1.5 * p["w"] ** 2, {"w": jnp.ones([])})
  np.testing.assert_allclose(one, -3.0, rtol=1e-6)
  flat, vector = top(lambda w: 0 * square(w), jnp.ones(5))  # a flat loss
  assert flat == 0
  np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-6)
  nothing, vector = top(square, jnp.ones(5), jnp.zeros(5))  # start: zeros
  assert nothing == 0 and not np.any(vector)
  assert top(lambda p: jnp.float32(3.0), {})[0] == 0  # no parameters
  assert np.isnan(top(lambda w: jnp.nan * square(w), jnp.ones(5))[0])


# -- sharpness ----------------------------------------------------------------


def test_expected_sharpness_of_a_bowl():
  """L(nu) = nu'Hnu/2 has mean delta^2 tr H/2 and variance delta^4 ||H||^2/2."""
  h = np.linspace(0, 2, 300)
  loss = lambda w: jnp.sum(jnp.asarray(h, jnp.float32) * w**2) / 2
  value, error = curvature.expected_sharpness(
    loss,
    jnp.zeros(300),
    perturbation_scale=0.1,
    num_samples=2000,
    key=KEY,
  )
  np.testing.assert_allclose(
    error, 0.01 * np.sqrt(np.sum(h**2) / 2 / 2000), rtol=0.1
  )
  assert abs(value - 0.01 * h.sum() / 2) < 3 * error


def test_expected_sharpness_counts_falls_as_rises():
  value, _ = curvature.expected_sharpness(
    lambda w: -50 * jnp.sum(w**2), jnp.zeros(1000), key=KEY
  )
  np.testing.assert_allclose(value, 5.0, rtol=0.02)


def test_sam_sharpness():
  loss, params, *_ = problem()
  gradient = jax.grad(loss)(params)
  size = np.linalg.norm(flat(gradient))
  moved = jax.tree.map(lambda p, g: p + 0.1 * g / size, params, gradient)
  np.testing.assert_allclose(
    curvature.sam_sharpness(loss, params, rho=0.1),
    loss(moved) - loss(params),
    rtol=1e-5,
  )
  assert curvature.sam_sharpness(lambda w: jnp.sum(w**2), jnp.zeros(3)) == 0


# -- devices ------------------------------------------------------------------


def sharpnesses(params, x, y, axis_name=None):
  """All functions that average a loss over devices."""
  loss, *_ = problem()
  mean = functools.partial(loss, x=x, y=y)
  start = jax.tree.map(jnp.ones_like, params)
  return (
    curvature.hessian(mean, params, axis_name)(start),
    curvature.top_eigenvalue(
      curvature.hessian(mean, params, axis_name), start, 4
    ).value,
    curvature.power_iteration(mean, params, start, 1, axis_name)[0],
    curvature.expected_sharpness(
      mean, params, 0.1, 3, axis_name, key=KEY
    ).value,
    curvature.sam_sharpness(mean, params, axis_name=axis_name),
  )


def close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    actual,
    expected,
  )


@pytest.mark.slow  # shard_map takes the same average
@pytest.mark.devices(8)
def test_pmap_averages_the_loss():
  _, params, x, y = problem()
  split = lambda a: a.reshape(8, 2, -1)
  actual = jax.pmap(
    lambda x, y: sharpnesses(params, x, y, "data"), axis_name="data"
  )(split(x), split(y))
  for device in (0, 7):
    close(
      jax.tree.map(lambda a: a[device], actual),  # noqa: B023
      sharpnesses(params, x, y),
    )


@pytest.mark.devices(8)
def test_shard_map_averages_the_loss():
  _, params, x, y = problem()
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  actual = jax.jit(
    jax.shard_map(
      lambda p, x, y: sharpnesses(p, x, y, "data"),
      mesh=mesh,
      in_specs=(P(), P("data"), P("data")),
      out_specs=P(),
    )
  )(params, x, y)
  close(actual, sharpnesses(params, x, y))


@pytest.mark.devices(8)
def test_sharded_arrays_need_no_arguments():
  _, params, x, y = problem()
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  shard = NamedSharding(mesh, P("data"))
  actual = jax.jit(sharpnesses)(
    params, jax.device_put(x, shard), jax.device_put(y, shard)
  )
  close(actual, sharpnesses(params, x, y))


# -- cost ---------------------------------------------------------------------


@pytest.mark.parametrize("basis_size", [None, 4])
def test_memory(basis_size):
  """Power iteration keeps two vectors; Lanczos' method keeps m + 3.

  The activations of this network are smaller than its parameters.
  """
  params = {"a": jnp.ones([512, 512]), "b": jnp.ones([512, 512])}
  x = jnp.ones([2, 512])
  loss = lambda p: jnp.sum(jnp.tanh(x @ p["a"]) @ p["b"])

  @jax.jit
  def measure(params, vector):
    if basis_size is None:
      return curvature.power_iteration(loss, params, vector)
    matvec = curvature.hessian(loss, params)
    return curvature.top_eigenvalue(matvec, vector, basis_size)

  memory = measure.lower(params, params).compile().memory_analysis()
  vectors = 2 if basis_size is None else basis_size + 3
  size = 4 * curvature.dimension(params)
  assert memory.temp_size_in_bytes < (vectors + 0.1) * size


def test_products_share_one_linearisation():
  """A product in a loop does not evaluate the loss again."""
  traced = []

  def loss(w):
    traced.append(1)
    return jnp.sum(jnp.sin(w) ** 2)

  matvec = curvature.hessian(loss, jnp.ones(3))
  lax.map(matvec, jnp.ones([4, 3]))
  assert len(traced) == 1


# -- bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
  "call, message",
  [
    (
      lambda f, w: curvature.hutchinson_trace(f, w, 0, key=KEY),
      "num_matvecs must be at least 1, got 0",
    ),
    (
      lambda f, w: curvature.hutchinson_trace(f, w, 2.0, key=KEY),
      "num_matvecs must be a static integer, got 2.0",
    ),
    (
      lambda f, w: curvature.lanczos(f, w, -1),
      "num_matvecs must be at least 1, got -1",
    ),
    (
      lambda f, w: curvature.top_eigenvalue(f, w, 0),
      "num_matvecs must be at least 1, got 0",
    ),
    (
      lambda f, w: curvature.power_iteration(jnp.sum, w, w, 0),
      "num_matvecs must be at least 1, got 0",
    ),
    (
      lambda f, w: curvature.expected_sharpness(jnp.sum, w, -1.0, key=KEY),
      "perturbation_scale must be positive and finite, got -1.0",
    ),
    (
      lambda f, w: curvature.expected_sharpness(
        jnp.sum, w, num_samples=0, key=KEY
      ),
      "num_samples must be at least 1, got 0",
    ),
    (
      lambda f, w: curvature.sam_sharpness(jnp.sum, w, 0.0),
      "rho must be positive and finite, got 0.0",
    ),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises((TypeError, ValueError), match=message):
    call(lambda v: v, jnp.ones(3))
