"""Times the package on an accelerator, as ratios to named opponents.

    python benchmarks/gpu.py            on a GPU (not run there yet)
    python benchmarks/gpu.py --small    a dry run with small sizes, on a CPU

It appends its table to benchmarks/README.md, with the card, the driver, the
versions and the date. (A dry run only prints.) All times are medians of five.

    async      200 calls of a jitted step in place, and one wait at the end, as
               in a training loop
    scanned    the steps in one `lax.scan`
    memory     the largest memory of the compiled step beside that of its
               arguments, from XLA's memory analysis
"""

import argparse
from collections.abc import Callable
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import models
import optax
from rich.progress import track
import tables
from trees import TREES

import htga_optax
from htga_optax import (
  curvature,
  estimators,
  norms,
  order_statistics,
  stable,
  streaming,
)

REPEATS = 5


class Sizes(NamedTuple):
  """The sizes of a run.

  Attributes:
    calls: the calls of a step that are timed together.
    width: the width of the large Transformer; 768 gives GPT-2's 124M.
    images: the number of images in a batch.
    draws: the numbers of draws of noise, and of entries.
    windows: the sizes of windows.
    vgg: the width of VGG-11.
  """

  calls: int = 200
  width: int = 768
  images: int = 256
  draws: tuple[int, ...] = (10**7, 10**8)
  windows: tuple[int, ...] = (256, 4096)
  vgg: int = 64


SMALL = Sizes(20, 48, 16, (10**5,), (256,), 8)


class Row(NamedTuple):
  """A row of the table: what was timed, and the seconds of each, ours first."""

  work: str
  ours: tuple[float, float]  # the median, and the largest of five
  opponent: str
  theirs: tuple[float, float]


def timed(run: Callable[[], Any], per: int = 1) -> tuple[float, float]:
  """The median and the largest of the seconds of a run, divided by `per`."""
  run()
  seconds = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    run()
    seconds.append((time.perf_counter() - start) / per)
  return statistics.median(seconds), max(seconds)


def called(function, *arguments) -> tuple[float, float]:
  """The time of a call of a jitted function."""
  run = jax.jit(function)
  return timed(lambda: jax.block_until_ready(run(*arguments)))


def gpt(width: int) -> dict[str, jax.Array]:
  """Parameters in the shapes of GPT-2, stacked over 12 layers: 16 leaves."""
  layer = lambda *shape: jnp.zeros([12, *shape])
  return {
    "tokens": jnp.zeros([50257, width]),
    "places": jnp.zeros([1024, width]),
    "attention/kernel": layer(width, 3 * width),
    "attention/bias": layer(3 * width),
    "projection/kernel": layer(width, width),
    "projection/bias": layer(width),
    "dense1/kernel": layer(width, 4 * width),
    "dense1/bias": layer(4 * width),
    "dense2/kernel": layer(4 * width, width),
    "dense2/bias": layer(width),
    "norm1/scale": layer(width),
    "norm1/bias": layer(width),
    "norm2/scale": layer(width),
    "norm2/bias": layer(width),
    "norm/scale": jnp.zeros([width]),
    "norm/bias": jnp.zeros([width]),
  }


def noisy(params: Any) -> Any:
  """Gaussian numbers like the parameters."""
  return jax.tree.map(
    lambda x, key: 1e-3 * jax.random.normal(key, x.shape, x.dtype),
    params,
    optax.tree.split_key_like(jax.random.key(0), params),
  )


def step_of(tx):
  """A step in place: (state, params, grads) -> (state, params)."""

  def step(carry, grads):
    state, params = carry
    updates, state = tx.update(grads, state, params)
    return state, optax.apply_updates(params, updates)

  return step


def looped(step, carry, rest, calls: int) -> tuple[float, float]:
  """The time of a step in a Python loop, in place."""
  carry = jax.tree.map(lambda x: jnp.array(x, copy=True), carry)
  compiled = jax.jit(step, donate_argnums=0).lower(carry, rest).compile()
  box = [carry]

  def run():
    for _ in range(calls):
      box[0] = compiled(box[0], rest)
    jax.block_until_ready(box[0])

  return timed(run, calls)


def scanned(step, carry, rest, calls: int) -> tuple[float, float]:
  """The time of a step in a scan."""

  def body(carry, _):
    return step(carry, rest), None

  run = jax.jit(lambda carry: lax.scan(body, carry, length=calls)[0])
  return timed(lambda: jax.block_until_ready(run(carry)), calls)


def chain(front) -> optax.GradientTransformation:
  return optax.chain(front, optax.sgd(0.1))


CLIP = "clip_by_global_norm"
FRONTS = {
  "HTGA": htga_optax.scale_by_htga,
  "HTGA per layer": functools.partial(htga_optax.scale_by_htga, per_layer=True),
  "clip_by_tail_quantile": htga_optax.clip_by_tail_quantile,
}


def updates(sizes: Sizes):
  """Rows of updates alone."""
  trees = {
    f"GPT-2 of width {sizes.width}, 16 leaves": gpt(sizes.width),
    "ResNet-18 (12M), 62 leaves": TREES["ResNet-18 (12M)"](),
  }
  for name, params in trees.items():
    grads = noisy(params)
    for way, timer in (("async", looped), ("scanned", scanned)):

      def time_of(tx, timer=timer, params=params, grads=grads):
        carry = (tx.init(params), params)
        return timer(step_of(tx), carry, grads, sizes.calls)

      theirs = time_of(chain(optax.clip_by_global_norm(1.0)))
      for front, make in FRONTS.items():
        work = f"update, {name}, {way}: {front}"
        yield Row(work, time_of(chain(make())), CLIP, theirs)


def networks(sizes: Sizes):
  """(name, loss, params) of the networks that are trained."""
  images = jax.random.randint(
    jax.random.key(0), [sizes.images, 32, 32, 3], 0, 256
  ).astype(jnp.uint8)
  labels = jnp.arange(sizes.images) % 10
  for name, width in (("cnn", 16), ("vgg11", sizes.vgg)):
    model = models.make(name, images[0], 10, nnx.Rngs(0), width)
    graph, params = nnx.split(model)

    def loss(params, graph=graph):
      logits = nnx.merge(graph, params)(images)
      return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      )

    yield f"{name} on {sizes.images} images", loss, params


def training(sizes: Sizes):
  """Rows of whole training steps."""
  for name, loss, params in networks(sizes):

    def time_of(tx, loss=loss, params=params):
      tx = optax.with_extra_args_support(tx)

      def step(carry, _):
        state, params = carry
        grads = jax.grad(loss)(params)
        out, state = tx.update(grads, state, params, value_fn=loss)
        return state, optax.apply_updates(params, out)

      return looped(step, (tx.init(params), params), (), sizes.calls)

    theirs = time_of(chain(optax.clip_by_global_norm(1.0)))
    for front, make in FRONTS.items():
      work = f"train step, {name}: {front}"
      yield Row(work, time_of(chain(make())), CLIP, theirs)
    noise = optax.add_noise(0.01, 0.0, jax.random.key(0))
    yield Row(
      f"train step, {name}: ahtsgd(every_k_steps=10)",
      time_of(htga_optax.ahtsgd(0.01, 1e-4, key=0, every_k_steps=10)),
      "sgd and optax.add_noise",
      time_of(optax.chain(optax.sgd(0.01), noise)),
    )
    yield Row(
      f"Hessian-vector product, {name}",
      called(functools.partial(curvature.hvp, loss), params, noisy(params)),
      "a gradient",
      called(jax.grad(loss), params),
    )


def windows(sizes: Sizes):
  """Rows of the windowed estimate in a scan."""
  xs = jnp.exp(jax.random.exponential(jax.random.key(0), [2000]) / 1.5)
  for size in sizes.windows:
    k = size // 16
    init, update, estimate = streaming.windowed_hill(size, k)

    def ours(state, x, update=update, estimate=estimate):
      state = update(state, x)
      return state, estimate(state)

    def ring(carry, x, size=size, k=k):
      buffer, i = carry
      buffer = buffer.at[i].set(x)
      return (buffer, (i + 1) % size), estimators.hill(buffer, k)

    def time_of(step, carry):
      run = jax.jit(lambda carry: lax.scan(step, carry, xs))
      return timed(lambda: jax.block_until_ready(run(carry)), xs.size)

    yield Row(
      f"windowed Hill in a scan, W = {size}",
      time_of(ours, init()),
      "a ring buffer and lax.top_k",
      time_of(ring, (jnp.ones(size), jnp.int32(0))),
    )


def draws(sizes: Sizes):
  """Rows of noise and of order statistics."""
  key = jax.random.key(0)
  for n in sizes.draws:
    ours = functools.partial(stable.sample, shape=(n,))
    normal = functools.partial(jax.random.normal, shape=(n,))
    yield Row(
      f"stable noise, {n:.0e} draws",
      called(ours, key, 1.5),
      "jax.random.normal",
      called(normal, key),
    )
    x = normal(key)
    kth = functools.partial(order_statistics.kth_largest, k=n // 100)
    yield Row(
      f"k-th largest of {n:.0e}",
      called(kth, x),
      "jnp.sort",
      called(jnp.sort, x),
    )


def noise(sizes: Sizes):
  """Rows of the noise of an update, and of a norm."""
  params = gpt(sizes.width)
  grads = noisy(params)

  def time_of(tx):
    carry = (tx.init(params), params)
    return looped(step_of(tx), carry, grads, sizes.calls)

  yield Row(
    f"sgd and noise, GPT-2 of width {sizes.width}: add_stable_noise",
    time_of(
      optax.chain(optax.sgd(0.1), htga_optax.add_stable_noise(1.5, 1e-3, key=0))
    ),
    "optax.add_noise",
    time_of(
      optax.chain(optax.sgd(0.1), optax.add_noise(1e-3, 0.0, jax.random.key(0)))
    ),
  )
  yield Row(
    f"norm, GPT-2 of width {sizes.width}",
    called(norms.norm, grads),
    "optax.tree.norm",
    called(optax.tree.norm, grads),
  )


def memory(sizes: Sizes) -> list[tuple[str, float]]:
  """Temporary memory of steps of GPT-2, over that of sgd, in largest leaves."""
  params = jax.eval_shape(lambda: gpt(sizes.width))
  loss = lambda params: sum(
    jnp.sum(jnp.tanh(x) ** 2) for x in jax.tree.leaves(params)
  )

  def bytes_of(tx, **extra):
    tx = optax.with_extra_args_support(tx)

    def step(state, params, grads):
      arguments = {k: f(params, grads) for k, f in extra.items()}
      updates, state = tx.update(grads, state, params, **arguments)
      return state, optax.apply_updates(params, updates)

    state = jax.eval_shape(tx.init, params)
    run = jax.jit(step, donate_argnums=(0, 1))
    found = run.lower(state, params, params).compile().memory_analysis()
    return found.temp_size_in_bytes

  least = bytes_of(optax.sgd(0.1))
  leaf = max(4 * x.size for x in jax.tree.leaves(params))
  cases = {
    "add_stable_noise": (htga_optax.add_stable_noise(1.5, 1e-3, key=0), {}),
    "inflate_gradient_noise": (
      htga_optax.inflate_gradient_noise(key=0),
      {"noise_updates": lambda params, grads: grads},
    ),
    "track_sharpness": (
      htga_optax.track_sharpness(),
      {"value_fn": lambda params, grads: loss},
    ),
  }
  return [
    (name, (bytes_of(chain(tx), **extra) - least) / leaf)
    for name, (tx, extra) in cases.items()
  ]


def driver() -> str:
  """The version of the driver of an NVIDIA card, or nothing."""
  try:
    found = subprocess.run(
      ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return ""
  return f"driver {found.stdout.split()[0]}; "


def lines_of(
  rows: list[Row], memories: list[tuple[str, float]], command: str
) -> list[str]:
  """The table, as lines."""
  time_ = lambda t: f"{1e6 * t[0]:.4g} us (up to {1e6 * t[1]:.4g})"
  cells = [
    [
      row.work,
      time_(row.ours),
      row.opponent,
      time_(row.theirs),
      f"{row.ours[0] / row.theirs[0]:.3g}",
    ]
    for row in rows
  ]
  head = ["work", "ours", "beside it", "time", "ratio"]
  more = [[name, f"{leaves:+.2f}"] for name, leaves in memories]
  return [
    driver() + tables.machine(command),
    "",
    *tables.table(head, cells),
    "",
    *tables.table(["temporary memory over sgd, in largest leaves", ""], more),
  ]


def main() -> None:
  """Parses the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--small", action="store_true", help="small sizes")
  sizes = SMALL if parser.parse_args().small else Sizes()
  if sizes != SMALL and jax.default_backend() == "cpu":
    parser.error("there is no accelerator: take --small for a dry run.")
  parts = (updates, training, windows, draws, noise)
  rows = []
  for part in track(parts, "timing", disable=not os.isatty(1)):
    rows += part(sizes)
  command = f"python benchmarks/gpu.py{' --small' * (sizes == SMALL)}"
  lines = lines_of(rows, memory(sizes), command)
  if sizes == SMALL:
    print("\n".join(lines))
  else:
    tables.append("gpu", lines)


if __name__ == "__main__":
  main()
