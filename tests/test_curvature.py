"""Curvature beside dense Hessians in float64, closed forms and matfree."""

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


def problem(dtype=jnp.float32):
  """A small network over a tree with a None leaf: loss of a batch, params."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  params = {"a": draw(4, 5), "b": draw(5), "c": draw(5, 3), "frozen": None}
  x, y = draw(16, 4), draw(16, 3)

  def model(p, x=x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]

  def loss(p, x=x, y=y):
    return jnp.mean((model(p, x) - y) ** 2)

  return loss, params, model, x, y


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
def dense(of="hessian"):
  """The matrix, by jax.hessian of a vector in float64."""
  with float64():
    loss, params, model, _, y = problem(jnp.float64)
    from jax.flatten_util import ravel_pytree

    vector, unravel = ravel_pytree(params)
    if of == "hessian":
      return np.asarray(jax.hessian(lambda v: loss(unravel(v)))(vector))
    jacobian = jax.jacobian(lambda v: model(unravel(v)).ravel())(vector)
    return np.asarray(jacobian.T @ jacobian * 2 / y.size)


def matvecs(of="hessian"):
  loss, params, model, _, y = problem()
  if of == "hessian":
    return curvature.hessian(loss, params), params
  square = lambda out: jnp.mean((out - y) ** 2)
  return curvature.gauss_newton(model, square, params), params


def of_matrix(matrix):
  matrix = jnp.asarray(matrix, jnp.float32)
  return lambda v: matrix @ v


def with_eigenvalues(eigenvalues, seed=0):
  q, _ = np.linalg.qr(
    np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2)
  )
  return q @ np.diag(eigenvalues) @ q.T


# -- products -----------------------------------------------------------------


@pytest.mark.parametrize("of", ["hessian", "gauss_newton"])
def test_products_are_those_of_the_dense_matrix(of):
  matvec, params = matvecs(of)
  v = np.random.default_rng(1).standard_normal(len(dense(of)))
  product = matvec(unflat(v, params))
  assert product["frozen"] is None
  # float32 against float64: the largest entry to five digits.
  expected = dense(of) @ v
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
  trace, error = curvature.hutchinson_trace(matvec, params, KEY, m)
  off = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
  # The error of a standard deviation from 2000 draws is 2 to 3 percent.
  np.testing.assert_allclose(error, np.sqrt(2 * off / m), rtol=0.1)
  assert abs(trace - np.trace(matrix)) < 3 * error


def test_hutchinson_diagonal():
  matvec, params = matvecs()
  matrix, m = dense(), 2000
  diagonal, error = curvature.hutchinson_diagonal(matvec, params, KEY, m)
  assert diagonal["frozen"] is None
  expected = np.sqrt(np.sum(matrix**2, 1) - np.diag(matrix) ** 2) / m**0.5
  np.testing.assert_allclose(flat(error), expected, rtol=0.15)
  z = (flat(diagonal) - np.diag(matrix)) / expected
  assert np.abs(z).max() < 4  # 38 entries: once in 400 keys
  assert 0.6 < np.std(z) < 1.4


def test_error_is_exact_for_a_diagonal_matrix_and_unknown_for_one_draw():
  matvec = lambda v: jnp.arange(5.0) * v
  for m, error in ((1, np.nan), (2, 0.0)):
    estimate = curvature.hutchinson_trace(matvec, jnp.zeros(5), KEY, m)
    np.testing.assert_allclose(estimate.value, 10.0, rtol=1e-6)
    np.testing.assert_equal(np.float64(estimate.standard_error), error)


def test_hutchpp_is_exact_in_low_rank_and_better_where_few_are_large():
  few = with_eigenvalues([9.0, 3.0, 1.0] + [0.0] * 37)
  trace, _ = curvature.hutchpp_trace(of_matrix(few), jnp.zeros(40), KEY, 15)
  np.testing.assert_allclose(trace, 13.0, rtol=1e-5)

  decaying = 1 / np.arange(1, 201) ** 2
  matvec, like = of_matrix(with_eigenvalues(decaying)), jnp.zeros(200)

  def error(estimator):
    estimates = jax.jit(
      jax.vmap(lambda key: estimator(matvec, like, key, 60).value)
    )(jax.random.split(KEY, 40))
    return np.sqrt(np.mean((np.asarray(estimates) - decaying.sum()) ** 2))

  # The tail beyond the twentieth has a Frobenius norm 150 times smaller.
  assert error(curvature.hutchpp_trace) < error(curvature.hutchinson_trace) / 20


def test_hutchpp_error_is_that_of_the_rest():
  """Over keys, estimates scatter as the standard error says."""
  matrix = with_eigenvalues(np.linspace(-1, 1, 60))
  matvec = of_matrix(matrix)
  trace, error = jax.jit(
    jax.vmap(
      lambda key: curvature.hutchpp_trace(matvec, jnp.zeros(60), key, 30)
    )
  )(jax.random.split(KEY, 300))
  assert abs(np.mean(trace)) < 4 * np.std(trace) / 300**0.5
  # Estimated from 10 draws: a mean variance over 300 of them to 4 percent.
  np.testing.assert_allclose(
    np.sqrt(np.mean(error**2)), np.std(trace), rtol=0.15
  )


@pytest.mark.parametrize(
  "estimator",
  [
    curvature.hutchinson_trace,
    curvature.hutchinson_diagonal,
    curvature.hutchpp_trace,
  ],
)
def test_num_matvecs_is_the_cost(estimator):
  calls = []

  def matvec(v):
    calls.append(1)
    return 2 * v

  with jax.disable_jit():
    estimator(matvec, jnp.zeros(4), KEY, 7)
  # eval_shape, which costs nothing, calls it once.
  assert len(calls) == 7 + 1


# -- eigenvalues --------------------------------------------------------------


@pytest.mark.parametrize("basis_size", [2, 3, 12])
@pytest.mark.parametrize(
  "eigenvalues",
  [
    [-5.0, -1.0, 0.0, 0.5, 1.0, 2.0],  # the largest in modulus is negative
    [-3.0, -2.0, -1.5, -1.0, -0.75, -0.5],
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [2.0] * 6,
    [-2.0] * 6,
  ],
)
def test_top_eigenvalue_is_the_largest(eigenvalues, basis_size):
  matrix = with_eigenvalues(eigenvalues)
  start = jax.random.normal(KEY, (6,))
  pair = curvature.top_eigenvalue(of_matrix(matrix), start, 120, basis_size)
  top, scale = max(eigenvalues), np.abs(eigenvalues).max()
  np.testing.assert_allclose(pair.value, top, atol=2e-5 * scale)
  np.testing.assert_allclose(
    matrix @ pair.vector, top * pair.vector, atol=5e-3 * scale
  )
  np.testing.assert_allclose(np.linalg.norm(pair.vector), 1.0, rtol=1e-5)


@pytest.mark.parametrize("basis_size", [2, 10])
def test_estimate_is_a_lower_bound_within_its_residual(basis_size):
  eigenvalues = np.linspace(-2, 3, 50)
  matvec = of_matrix(with_eigenvalues(eigenvalues))
  top = jax.jit(lambda x: curvature.top_eigenvalue(matvec, x, 10, basis_size))
  for key in jax.random.split(KEY, 10):
    value, y, residual = top(jax.random.normal(key, (50,)))
    assert value < 3 + 1e-5
    assert np.abs(eigenvalues - value).min() < residual + 1e-5
    np.testing.assert_allclose(
      np.linalg.norm(matvec(y) - value * y), residual, rtol=1e-3, atol=1e-4
    )


def test_of_a_network():
  matvec, params = matvecs()
  top = np.linalg.eigvalsh(dense())[-1]
  start = curvature.sample_like(jax.random.normal, KEY, params)
  for size in (2, 30):
    pair = curvature.top_eigenvalue(matvec, start, 60, size)
    np.testing.assert_allclose(pair.value, top, rtol=1e-4)
    assert pair.vector["frozen"] is None


@pytest.mark.parametrize("count", [1, 4])
def test_power_iteration_is_that_of_two_vectors(count):
  """Two products are a product and a second derivative along a line."""
  loss, params, *_ = problem()
  start = curvature.sample_like(jax.random.normal, KEY, params)
  value, vector = curvature.power_iteration(loss, params, start, count)
  pair = curvature.top_eigenvalue(
    curvature.hessian(loss, params), start, 2 * count
  )
  np.testing.assert_allclose(value, pair.value, rtol=1e-4)
  np.testing.assert_allclose(flat(vector), flat(pair.vector), atol=1e-4)


def test_a_warm_start_goes_on():
  """Five calls of two products from where the last ended are one of ten."""
  matvec = of_matrix(with_eigenvalues(np.linspace(-2, 3, 50)))
  start = jax.random.normal(KEY, (50,))
  vector = start
  for _ in range(5):
    pair = curvature.top_eigenvalue(matvec, vector, 2)
    vector = pair.vector
  once = curvature.top_eigenvalue(matvec, start, 10)
  np.testing.assert_allclose(pair.value, once.value, rtol=1e-5)


def test_lanczos_beside_matfree():
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


def test_traces_beside_matfree():
  stochtrace = pytest.importorskip("matfree.stochtrace", reason="of dev")
  matrix = with_eigenvalues(np.linspace(0, 1, 50))
  estimate = stochtrace.estimator_monte_carlo_mean_and_sem(
    stochtrace.monte_carlo_trace(),
    sampler=stochtrace.sampler_signs(jnp.zeros(50), num=500),
  )
  mean, error = estimate(of_matrix(matrix), KEY)
  ours = curvature.hutchinson_trace(of_matrix(matrix), jnp.zeros(50), KEY, 500)
  np.testing.assert_allclose(ours.standard_error, error, rtol=0.15)
  assert abs(ours.value - mean) < 4 * 2**0.5 * error


@pytest.mark.parametrize("basis_size", [2, 4])
def test_edges_of_the_top_eigenvalue(basis_size):
  top = functools.partial(
    curvature.top_eigenvalue, num_matvecs=4, basis_size=basis_size
  )
  one = top(lambda v: {"w": -3 * v["w"]}, {"w": jnp.ones([])})
  np.testing.assert_allclose(one.value, -3.0, rtol=1e-6)
  zero = top(jnp.zeros_like, jnp.ones(5))  # a plateau
  assert zero.value == 0
  np.testing.assert_allclose(np.linalg.norm(zero.vector), 1.0, rtol=1e-6)
  nothing = top(lambda v: 3 * v, jnp.zeros(5))  # no vector to start from
  assert nothing.value == 0 and not np.any(nothing.vector)
  assert top(lambda v: v, {}).value == 0  # no parameters
  assert curvature.hutchpp_trace(lambda v: v, {}, KEY, 6).value == 0
  assert np.isnan(top(lambda v: v * jnp.nan, jnp.ones(5)).value)


# -- sharpness ----------------------------------------------------------------


def test_expected_sharpness_of_a_bowl():
  """L(nu) = nu'Hnu/2: mean delta^2 tr H/2, variance delta^4 ||H||^2/2."""
  h = np.linspace(0, 2, 300)
  loss = lambda w: jnp.sum(jnp.asarray(h, jnp.float32) * w**2) / 2
  value, error = curvature.expected_sharpness(
    loss, jnp.zeros(300), KEY, scale=0.1, num_samples=2000
  )
  np.testing.assert_allclose(
    error, 0.01 * np.sqrt(np.sum(h**2) / 2 / 2000), rtol=0.1
  )
  assert abs(value - 0.01 * h.sum() / 2) < 3 * error


def test_expected_sharpness_counts_falls_as_rises():
  value, _ = curvature.expected_sharpness(
    lambda w: -50 * jnp.sum(w**2), jnp.zeros(1000), KEY
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
  """All that average a loss over devices."""
  loss, _, model, *_ = problem()
  mean = functools.partial(loss, x=x, y=y)
  square = lambda out: jnp.mean((out - y) ** 2)
  start = jax.tree.map(jnp.ones_like, params)
  return (
    curvature.hessian(mean, params, axis_name)(start),
    curvature.gauss_newton(
      functools.partial(model, x=x), square, params, axis_name
    )(start),
    curvature.top_eigenvalue(
      curvature.hessian(mean, params, axis_name), start, 4
    ).value,
    curvature.power_iteration(mean, params, start, 1, axis_name)[0],
    curvature.expected_sharpness(
      mean, params, KEY, 0.1, 3, axis_name=axis_name
    ).value,
    curvature.sam_sharpness(mean, params, axis_name=axis_name),
  )


def close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    actual,
    expected,
  )


@pytest.mark.slow  # by the same average as under shard_map
def test_pmap_averages_the_loss():
  _, params, _, x, y = problem()
  split = lambda a: a.reshape(8, 2, -1)
  actual = jax.pmap(
    lambda x, y: sharpnesses(params, x, y, "data"), axis_name="data"
  )(split(x), split(y))
  for device in (0, 7):
    close(
      jax.tree.map(lambda a: a[device], actual),  # noqa: B023
      sharpnesses(params, x, y),
    )


def test_shard_map_averages_the_loss():
  _, params, _, x, y = problem()
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


def test_sharded_arrays_need_nothing():
  _, params, _, x, y = problem()
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  shard = NamedSharding(mesh, P("data"))
  actual = jax.jit(sharpnesses)(
    params, jax.device_put(x, shard), jax.device_put(y, shard)
  )
  close(actual, sharpnesses(params, x, y))


# -- cost ---------------------------------------------------------------------


@pytest.mark.parametrize("by_line", [False, True])
def test_power_iteration_keeps_two_vectors(by_line):
  """Of a network whose activations are small beside its parameters."""
  params = {"a": jnp.ones([512, 512]), "b": jnp.ones([512, 512])}
  x = jnp.ones([2, 512])
  loss = lambda p: jnp.sum(jnp.tanh(x @ p["a"]) @ p["b"])

  @jax.jit
  def look(params, vector):
    if by_line:
      return curvature.power_iteration(loss, params, vector)
    return curvature.top_eigenvalue(curvature.hessian(loss, params), vector, 2)

  memory = look.lower(params, params).compile().memory_analysis()
  size = 4 * curvature.dimension(params)
  assert memory.temp_size_in_bytes < 2.1 * size


def test_products_share_one_linearisation():
  """A product in a loop computes nothing of the loss itself again."""
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
      lambda f, w: curvature.hutchinson_trace(f, w, KEY, 0),
      "num_matvecs must be at least 1, got 0",
    ),
    (
      lambda f, w: curvature.hutchinson_diagonal(f, w, KEY, 2.0),
      "num_matvecs must be a static integer, got 2.0",
    ),
    (
      lambda f, w: curvature.hutchpp_trace(f, w, KEY, 2),
      "num_matvecs must be at least 3, got 2",
    ),
    (
      lambda f, w: curvature.lanczos(f, w, -1),
      "num_matvecs must be at least 1, got -1",
    ),
    (
      lambda f, w: curvature.top_eigenvalue(f, w, 5),
      "num_matvecs must be a multiple of basis_size=2, got 5",
    ),
    (
      lambda f, w: curvature.top_eigenvalue(f, w, 5, 1),
      "basis_size must be at least 2, got 1",
    ),
    (
      lambda f, w: curvature.expected_sharpness(jnp.sum, w, KEY, -1.0),
      "scale must be positive and finite, got -1.0",
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
