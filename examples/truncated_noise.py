r"""Trains with truncated heavy-tailed noise on FashionMNIST with wrong labels.

    python examples/truncated_noise.py                     # half an hour
    python examples/truncated_noise.py --steps 1000 --seeds 2  # a minute

Six methods train a small conv net (5x5x10, 5x5x10, 50, 10: 11,330 parameters)
on 1,000 images with their labels and 200 images with random labels:

    LB          g_LB                                large batches
    SB          g_SB                                small batches
    SB+Clip     g_SB,                    truncated  steps no longer than b
    SB+Noise    g_SB + Z (g_SB* - g_LB)             Z is heavy-tailed
    Our 1       g_SB + Z (g_SB* - g_LB), truncated  SB* is another small batch
    Our 2       g_SB + Z (g_SB  - g_LB), truncated

with P(Z > z) = (1 + z/c)^-a. All six are
`htga_optax.truncated_heavy_tailed_sgd` with different arguments. The claim
(Wang, Oh and Rhee, arXiv 2102.04297, the source of the names) is that the last
two methods find flatter minima, and that these generalise better. The sharpness
is the one of this paper, for the training loss L:

    E |L(theta + nu) - L(theta)|,  nu ~ N(0, 0.01^2 I), 100 draws.

The paper states these settings for this problem: the net, the images, a rate of
0.07, small batches of 20, and 20,000 steps; for all problems, a = 1.4 and
c = 0.5. It does not state the following settings, which are those for CIFAR-10:
b = 0.25, and no noise in the last sixth of the run. The following settings are
this example's own: large batches of 100 (8 small batches in the paper, 5 here);
a Z below its 90 % quantile counts as 0 (a reference implementation does this to
save time; values above the quantile contribute 69 % of the mean of Z); batches
are drawn with replacement; SB+Noise uses another small batch; initial weights
are Flax's. Every seed has its own images, wrong labels and initial weights, and
all methods share them. Nothing is tuned.

Seeds run in parallel threads. Under `jax.vmap` over seeds every step would need
the large batch, and a Z of 0 would save nothing.

What it does not show: other networks and data. A net that has memorised the
wrong labels has a loss of almost 0, and the sharpness near such a point is
small.
"""

import cli

with cli.one_line("truncated_noise"):
  import argparse
  from collections.abc import Callable
  from concurrent import futures
  import datetime
  import functools
  import math
  import os
  from pathlib import Path
  import platform
  import shlex
  import sys
  import threading
  from typing import NamedTuple

  # Threads are for the seeds, not for the parts of a small matrix product.
  os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
  )

  import data
  from flax import nnx
  import jax
  from jax import flatten_util, lax
  import jax.numpy as jnp
  import numpy as np
  import optax
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
  from rich.table import Table
  from scipy import stats

  import htga_optax

CHUNKS = 20  # parts of a run; measurements follow each part
DRAWS = 100  # perturbations for the expected sharpness
DELTA = 0.01  # standard deviation of a perturbation
BLOCK = 100  # images that are classified at once
WATCHED = 2000  # test images during a run; all are used after it


class Method(NamedTuple):
  """A method: its batch, its noise, and whether it truncates the step."""

  large: bool = False
  noise: str | None = None
  truncated: bool = False


METHODS = {
  "LB": Method(large=True),
  "SB": Method(),
  "SB+Clip": Method(truncated=True),
  "SB+Noise": Method(noise="other"),
  "Our 1": Method(noise="other", truncated=True),
  "Our 2": Method(noise="same", truncated=True),
}
LOOKS = pictures.looks(*METHODS)


class Net(nnx.Module):
  """Two 5x5 convolutions to 10 channels with pooling, and two dense layers.

  The images are the last axis everywhere, and a convolution is the product of a
  matrix and patches. On a CPU this is five times as fast as XLA's convolution.
  """

  def __init__(self, shape: tuple[int, ...], classes: int, rngs: nnx.Rngs):
    height, width, channels = shape
    self.conv1 = nnx.Linear(25 * channels, 10, rngs=rngs)
    self.conv2 = nnx.Linear(250, 10, rngs=rngs)
    pixels = (height // 4 - 3) * (width // 4 - 3)
    self.dense = nnx.Linear(10 * pixels, 50, rngs=rngs)
    self.head = nnx.Linear(50, classes, rngs=rngs)

  def __call__(self, images: jax.Array) -> jax.Array:
    """The logits [classes, n] of uint8 images [n, height, width, channels]."""
    x = jnp.transpose(images, (3, 1, 2, 0)).astype(jnp.float32) / 255
    x = nnx.relu(pool(times(self.conv1, patches(x))))
    x = nnx.relu(pool(times(self.conv2, patches(x))))
    x = nnx.relu(times(self.dense, x.reshape(-1, x.shape[-1])))
    return times(self.head, x)


def patches(x: jax.Array) -> jax.Array:
  """The 5x5 patches of x [c, h, w, n], as [25 c, h - 4, w - 4, n]."""
  h, w = x.shape[1] - 4, x.shape[2] - 4
  corners = [(i, j) for i in range(5) for j in range(5)]
  return jnp.concatenate([x[:, i : i + h, j : j + w] for i, j in corners])


def times(layer: nnx.Linear, x: jax.Array) -> jax.Array:
  """Applies a linear layer along the first axis."""
  y = layer.kernel[...].T @ x.reshape(len(x), -1) + layer.bias[...][:, None]
  return y.reshape(-1, *x.shape[1:])


def pool(x: jax.Array) -> jax.Array:
  """The maximum of every 2x2 pixels of x [c, h, w, n]."""
  c, h, w, n = x.shape
  return x.reshape(c, h // 2, 2, w // 2, 2, n).max((2, 4))


class Problem(NamedTuple):
  """The training images of one seed. The last ones have random labels."""

  images: jax.Array
  labels: jax.Array


class Settings(NamedTuple):
  """The arguments of the training. They are hashable."""

  steps: int
  small: int
  large: int
  learning_rate: float
  threshold: float
  alpha: float
  scale: float
  gate: float
  noise_until: float


def make_problem(
  dataset: data.Dataset, clean: int, wrong: int, seed: int
) -> Problem:
  """Draws images, and random labels for the last `wrong` of them."""
  rng = np.random.default_rng(seed)
  rows = rng.choice(len(dataset.x_train), clean + wrong, replace=False)
  labels = dataset.y_train[rows]
  labels[clean:] = rng.integers(0, classes_of(dataset), wrong)
  return Problem(jnp.asarray(dataset.x_train[rows]), jnp.asarray(labels))


def classes_of(dataset: data.Dataset) -> int:
  """The number of classes."""
  return 1 + int(max(dataset.y_train.max(), dataset.y_test.max()))


def make_optimizer(
  method: Method, settings: Settings, key: jax.Array | int
) -> optax.GradientTransformationExtraArgs:
  """Makes the optimizer of a method."""
  s = settings
  stop = s.noise_until * s.steps
  # The quantile of Z. The bounds avoid an overflow for an invalid `alpha`.
  exponent = -math.log1p(-s.gate) / max(s.alpha, 1e-3)
  gate = s.scale * math.expm1(min(exponent, 700.0))
  return htga_optax.truncated_heavy_tailed_sgd(
    s.learning_rate,
    s.threshold if method.truncated else None,
    key=key,
    alpha=s.alpha,
    scale=(lambda step: jnp.where(step < stop, s.scale, 0.0))
    if method.noise
    else None,
    gate=gate,
  )


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The cross entropies [n] for logits [classes, n]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)


class Examiner:
  """Measures a net: jitted functions that do not depend on the method."""

  def __init__(self, model: Callable[[jax.Array], nnx.Module]):
    self.graphdef, _ = nnx.split(
      nnx.eval_shape(lambda: model(jax.random.key(0)))
    )
    self.begin = jax.jit(lambda key: nnx.state(model(key)))
    self.logits = jax.jit(self._logits)
    self.sharpness = jax.jit(self._sharpness)

  def _logits(self, params, images):
    """The logits [classes, n], a block of images at a time, which is faster."""
    net, n = nnx.merge(self.graphdef, params), len(images)
    if n <= BLOCK:
      return net(images)
    images = jnp.pad(images, [(0, -n % BLOCK), *[(0, 0)] * 3])
    blocks = lax.map(net, images.reshape(-1, BLOCK, *images.shape[1:]))
    return jnp.concatenate(list(blocks), axis=1)[:, :n]

  def _sharpness(self, params, key, problem):
    """E |L(theta + nu) - L(theta)|."""
    flat, unravel = flatten_util.ravel_pytree(params)

    def loss(flat):
      logits = self._logits(unravel(flat), problem.images)
      return jnp.mean(losses(logits, problem.labels))

    here = loss(flat)

    def change(key):
      return abs(loss(flat + DELTA * jax.random.normal(key, flat.shape)) - here)

    return jnp.mean(lax.map(change, jax.random.split(key, DRAWS)))

  def examine(self, params, problem: Problem, clean: int) -> dict[str, float]:
    """The training loss, and the accuracies on both kinds of images."""
    logits = np.asarray(self.logits(params, problem.images))
    right = logits.argmax(0) == np.asarray(problem.labels)
    return {
      "loss": float(np.mean(losses(jnp.asarray(logits), problem.labels))),
      "clean": float(np.mean(right[:clean])),
      "wrong": float(np.mean(right[clean:])),
    }

  def test(self, params, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that the net classifies correctly."""
    classes = np.asarray(self.logits(params, images)).argmax(0)
    return float(np.mean(classes == labels))


class Trainer:
  """Trains with one method. `advance` is jitted and takes a chunk of steps."""

  def __init__(self, method: Method, settings: Settings, examiner: Examiner):
    self.method, self.settings, self.examiner = method, settings, examiner
    self.advance = jax.jit(self._advance)

  def _advance(self, carry, key, start, problem):
    """The new parameters and state, and the share of steps of b or longer."""
    s, method = self.settings, self.method
    tx = make_optimizer(method, s, 0)  # the state has the key of the noise

    def loss_fn(params, rows):
      net = nnx.merge(self.examiner.graphdef, params)
      return jnp.mean(losses(net(problem.images[rows]), problem.labels[rows]))

    def step(carry, number):
      params, state = carry
      keys = jax.random.split(jax.random.fold_in(key, number), 3)
      sizes = (s.small, s.small, s.large)
      small, other, large = (
        jax.random.randint(k, [n], 0, len(problem.labels))
        for k, n in zip(keys, sizes)
      )
      grads = jax.grad(loss_fn)(params, large if method.large else small)
      extra = {}
      if method.noise:
        z = optax.tree.get(state, "noise_factor")
        batch = small if method.noise == "same" else other
        noise = htga_optax.noise_gradient(loss_fn, params, batch, large, z)
        extra["noise_updates"] = noise
      updates, state = tx.update(grads, state, params, **extra)
      long = optax.tree.norm(updates) > 0.999 * s.threshold
      return (optax.apply_updates(params, updates), state), long

    numbers = start + jnp.arange(s.steps // CHUNKS)
    carry, long = lax.scan(step, carry, numbers)
    return carry, jnp.mean(long)


class Results(NamedTuple):
  """All measurements.

  Attributes:
    curves: for each method and quantity, [seeds, CHUNKS].
    final: for each method and quantity, [seeds].
  """

  curves: dict[str, dict[str, np.ndarray]]
  final: dict[str, dict[str, np.ndarray]]


def train(
  trainer: Trainer,
  dataset: data.Dataset,
  clean: int,
  wrong: int,
  seed: int,
  tick: Callable[[], None],
) -> tuple[list[dict[str, float]], dict[str, float]]:
  """Makes one run; returns the measurements of each chunk and of the end."""
  examiner = trainer.examiner
  problem = make_problem(dataset, clean, wrong, seed)
  key, sharpness_key, noise_key = jax.random.split(jax.random.key(seed), 3)
  params = examiner.begin(key)
  tx = make_optimizer(trainer.method, trainer.settings, noise_key)
  carry, log = (params, tx.init(params)), []
  chunk = trainer.settings.steps // CHUNKS
  some = dataset.x_test[:WATCHED], dataset.y_test[:WATCHED]
  for start in range(0, trainer.settings.steps, chunk):
    carry, long = trainer.advance(carry, key, start, problem)
    log.append(examiner.examine(carry[0], problem, clean))
    log[-1]["test"] = examiner.test(carry[0], *some)
    log[-1]["long"] = float(long)
    tick()
  final = {
    **log[-1],
    "test": examiner.test(carry[0], dataset.x_test, dataset.y_test),
    "long": float(np.mean([x["long"] for x in log])),
    "sharpness": float(examiner.sharpness(carry[0], sharpness_key, problem)),
  }
  return log, final


def compare(
  dataset: data.Dataset, settings: Settings, args: argparse.Namespace
) -> Results:
  """Trains with all methods and seeds, in threads, with a progress bar."""
  shape, classes = dataset.x_train.shape[1:], classes_of(dataset)
  model = lambda key: Net(shape, classes, nnx.Rngs(key))
  examiner, stopped = Examiner(model), threading.Event()
  pool = futures.ThreadPoolExecutor(args.threads)
  columns = (
    TextColumn("{task.description:8}"),
    BarColumn(bar_width=20),
    TextColumn("{task.percentage:3.0f}%"),
    TimeElapsedColumn(),
  )
  total = args.seeds * CHUNKS
  with Progress(*columns) as progress:
    bars = {name: progress.add_task(name, total=total) for name in args.methods}

    def tick(name):
      progress.advance(bars[name])
      if stopped.is_set():
        raise futures.CancelledError

    jobs: dict[str, list[futures.Future]] = {name: [] for name in args.methods}
    trainers = {
      name: Trainer(METHODS[name], settings, examiner) for name in args.methods
    }
    try:
      for seed in range(args.seeds):
        for name, trainer in trainers.items():
          ticked = functools.partial(tick, name)
          some = args.clean, args.wrong, seed, ticked
          jobs[name].append(pool.submit(train, trainer, dataset, *some))
      every = [job for row in jobs.values() for job in row]
      for job in futures.as_completed(every):
        job.result()
    finally:
      stopped.set()
      pool.shutdown(wait=False, cancel_futures=True)
  results = Results({}, {})
  for name, row in jobs.items():
    logs, finals = zip(*(job.result() for job in row))
    results.curves[name] = {
      k: np.array([[x[k] for x in log] for log in logs]) for k in logs[0][0]
    }
    results.final[name] = {
      k: np.array([x[k] for x in finals]) for k in finals[0]
    }
  return results


def half_width(values: np.ndarray) -> float:
  """Half of Student's 95 % interval of a mean; nan for one value."""
  n = len(values)
  if n < 2:
    return math.nan
  return stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)


def mean(values: np.ndarray, digits: int) -> str:
  """A mean and its 95 % interval, as text."""
  if not np.all(np.isfinite(values)):
    return f"diverged: {np.sum(~np.isfinite(values))}"
  half = half_width(values)
  text = f"{values.mean():.{digits}f}"
  return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


HEADINGS = (
  ("test", "test accuracy, %", 100, 2),
  ("clean", "right labels learned, %", 100, 1),
  ("wrong", "random labels learned, %", 100, 1),
  ("loss", "training loss x 1000", 1000, 2),
  ("sharpness", "sharpness x 1000", 1000, 3),
  ("relative", "sharpness / loss", 1, 2),
  ("long", "steps of b or longer, %", 100, 1),
)


def rows_of(results: Results) -> list[list[str]]:
  """The rows of the table, with the head first."""
  head = ["method", *(heading for _, heading, _, _ in HEADINGS)]
  differ = "SB" in results.final and len(results.final) > 1
  if differ:
    head += ["test - SB's, points", "sharpness - SB's, x 1000"]
  rows = [head]
  for name, final in results.final.items():
    row = [name]
    final = final | {"relative": final["sharpness"] / final["loss"]}
    for quantity, _, unit, digits in HEADINGS:
      row.append(mean(unit * final[quantity], digits))
    if differ and name == "SB":
      row += ["", ""]
    elif differ:
      base = results.final["SB"]
      row.append(mean(100 * (final["test"] - base["test"]), 2))
      row.append(mean(1000 * (final["sharpness"] - base["sharpness"]), 3))
    rows.append(row)
  return rows


def reading(results: Results) -> str:
  """Sentences on whether the claim holds here."""
  if "SB" not in results.final:
    return "Without SB there is no method to compare with."
  base, sentences = results.final["SB"], []
  if len(base["test"]) < 2:
    return "One seed does not show how much is chance."
  for name in ("Our 1", "Our 2"):
    if name not in results.final:
      continue
    final = results.final[name]
    verdicts = []
    for quantity, more, less in (
      ("test", "a better test accuracy", "a worse test accuracy"),
      ("sharpness", "a sharper minimum", "a flatter minimum"),
    ):
      gain = final[quantity] - base[quantity]
      half = half_width(gain)
      if not np.all(np.isfinite(gain)):
        verdicts.append("diverged")
      elif not abs(gain.mean()) > half:
        noun = "test accuracy" if quantity == "test" else "sharpness"
        verdicts.append(f"no difference in {noun} beyond the seeds' spread")
      else:
        verdicts.append(more if gain.mean() > 0 else less)
    sentences.append(
      f"In comparison with SB, {name} has {' and '.join(verdicts)}."
    )
  return " ".join(sentences) or "Neither Our 1 nor Our 2 was run."


def machine() -> str:
  """The machine and the versions."""
  cpu = platform.processor() or platform.machine()
  info = Path("/proc/cpuinfo")
  if info.exists():
    names = [x for x in info.read_text().splitlines() if "model name" in x]
    cpu = names[0].split(":")[1].strip() if names else cpu
  import flax

  versions = f"jax {jax.__version__}, optax {optax.__version__}"
  return (
    f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()},"
    f" {versions}, flax {flax.__version__}; {datetime.date.today().isoformat()}"
  )


def report(path: Path, command: str, results: Results, title: str) -> None:
  """Puts the table into a Markdown file, in the place of this command."""
  head, *rows = rows_of(results)
  cells = [head, ["---"] * len(head), *rows]
  lines = [
    f"`{command}`",
    "",
    f"{title} ({machine()}):",
    "",
    *("| " + " | ".join(row) + " |" for row in cells),
    "",
    reading(results),
  ]
  begin, end = f"<!-- {command}: begin -->\n", f"<!-- {command}: end -->\n"
  text = path.read_text() if path.exists() else "# Results\n"
  if begin not in text:
    text += f"\n{begin}{end}"
  before, rest = text.split(begin)
  after = rest.split(end, 1)[1]
  path.write_text(before + begin + "\n".join(lines) + "\n" + end + after)


def draw(results: Results, path: Path, settings: Settings, title: str) -> None:
  """Writes the picture: two quantities over the steps, and the end of runs."""
  axes = pictures.panels(1, 3, height=4.6, width=11)[0]
  steps = np.arange(1, CHUNKS + 1) * settings.steps / CHUNKS / 1000
  for name, curves in results.curves.items():
    for ax, quantity in ((axes[0], "test"), (axes[1], "wrong")):
      values, look = 100 * curves[quantity], LOOKS[name]
      low, high = values.min(0), values.max(0)
      ax.fill_between(steps, low, high, color=look.color, alpha=0.12, lw=0)
      ax.plot(steps, np.median(values, 0), label=name, **look.line)
  for name, final in results.final.items():
    x, y = final["sharpness"], 100 * final["test"]
    mark = LOOKS[name].points
    axes[2].plot(x, y, markersize=4, alpha=0.5, **mark)
    look = {"markersize": 10, "markeredgecolor": "white", "zorder": 3}
    axes[2].plot(np.exp(np.mean(np.log(x))), y.mean(), **look, **mark)
  for ax in axes[:2]:
    stop = settings.noise_until * settings.steps / 1000
    ax.axvline(stop, color="0.4", lw=1, ls=":")
    ax.margins(x=0)
    ax.set_xlabel("thousands of steps; noise until the dotted line")
  axes[0].set_ylabel("test accuracy, %")
  axes[1].set_ylabel("random labels learned, %")
  axes[2].set(xscale="log", xlabel="expected sharpness")
  axes[2].set_ylabel("test accuracy, %")
  leave_out(axes, results)
  headings = (
    "test accuracy, median and range",
    "random labels memorised",
    "at the end: seeds, and means",
  )
  lines = [x for x in axes[0].get_lines() if x.get_label() in METHODS]
  for line, name in zip(lines, results.final):
    line.set(marker=LOOKS[name].marker, markevery=4, markersize=5)
  pictures.save(path, axes, headings, title, lines, columns=len(lines))


def leave_out(axes, results: Results) -> None:
  """Limits the axes of accuracy and sharpness to the methods that learn."""
  ends = {n: np.median(f["test"]) for n, f in results.final.items()}
  learned = [n for n in ends if ends[n] > max(ends.values()) / 2]
  curves = np.concatenate([results.curves[n]["test"] for n in learned])
  finals = np.concatenate([results.final[n]["test"] for n in learned])
  for ax, values in ((axes[0], curves), (axes[2], finals)):
    low, high = 100 * values.min(), 100 * values.max()
    margin = 0.06 * (high - low) + 0.1
    ax.set_ylim(low - margin, high + margin)
  sharp = np.concatenate([results.final[n]["sharpness"] for n in learned])
  sharp = sharp[np.isfinite(sharp) & (sharp > 0)]
  if len(sharp):
    axes[2].set_xlim(sharp.min() / 1.4, sharp.max() * 1.4)
  if lost := [f"{n}: {100 * ends[n]:.0f} %" for n in ends if n not in learned]:
    text = {"transform": axes[0].transAxes, "fontsize": "small", "va": "bottom"}
    axes[0].text(0.03, 0.02, "below: " + ", ".join(lost), **text)


def methods(text: str) -> list[str]:
  """Parses an argument that must name some of the methods."""
  names = [name.strip() for name in text.split(",")]
  for name in names:
    if name not in METHODS:
      raise argparse.ArgumentTypeError(
        f"must be some of {', '.join(METHODS)}, got {name!r}"
      )
  return [name for name in METHODS if name in names]


def share(text: str) -> float:
  """Parses an argument that must be in [0, 1]."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
  return value


def text_file(text: str) -> Path:
  """Parses an argument that must be the path of a writable file."""
  path = Path(text).expanduser()
  if path.is_dir() or not os.access(path.parent, os.W_OK):
    raise argparse.ArgumentTypeError(f"cannot write {text}")
  return path


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("truncated_noise", __doc__)
  add = parser.add_argument
  names = ", ".join(("digits", *data.TFDS_NAMES))
  add(
    "--methods", type=methods, default=list(METHODS), help='such as "SB,Our 2"'
  )
  add("--steps", type=cli.count, default=20_000, help="made a multiple of 20")
  add("--seeds", type=cli.count, default=5, help="number of seeds")
  add("--learning-rate", type=float, default=0.07)
  add("--threshold", type=float, default=0.25, help="b, the longest step")
  add("--alpha", type=float, default=1.4, help="a, tail index of Z")
  add("--scale", type=float, default=0.5, help="c, scale of Z")
  add("--gate", type=share, default=0.9, help="Z is 0 below this quantile")
  add("--noise-until", type=share, default=5 / 6, help="share of steps")
  add("--small", type=cli.count, default=20, help="images in a small batch")
  add("--large", type=cli.count, default=100, help="images in a large batch")
  add("--clean", type=cli.count, default=1000, help="images with their labels")
  add("--wrong", type=cli.count, default=200, help="images with random labels")
  add("--dataset", default="fashion_mnist", help=f"{names} or a PATH.npz")
  add("--data-dir", help="the folder of TFDS data sets")
  add("--threads", type=cli.count, default=os.cpu_count() or 1)
  add(
    "--output", type=cli.picture, default="truncated_noise.png", metavar="PNG"
  )
  add("--report", type=text_file, metavar="MD", help="a page for the table")
  args = parser.parse_args(argv)
  args.steps = -(-args.steps // CHUNKS) * CHUNKS
  args.settings = Settings(*(getattr(args, k) for k in Settings._fields))
  try:
    if args.gate == 1:
      raise ValueError("gate must be below 1, got 1.0.")
    # A schedule of the scale is not checked, so check the number.
    htga_optax.inflate_gradient_noise(args.alpha, args.scale, key=0)
    make_optimizer(METHODS["Our 1"], args.settings, 0)
  except ValueError as error:
    parser.error(str(error))
  return args


def command_line(argv: list[str]) -> str:
  """The command, without the arguments that do not change the results."""
  kept, rest = [], iter(argv)
  for word in rest:
    name, equals, _ = word.partition("=")
    if name in ("--output", "--report", "--data-dir", "--threads"):
      if not equals:
        next(rest)
    else:
      kept.append(word)
  return shlex.join(["python", "examples/truncated_noise.py", *kept])


def check(dataset: data.Dataset, args: argparse.Namespace) -> None:
  """Checks the size and the number of the images."""
  height, width = dataset.x_train.shape[1:3]
  if height % 4 or width % 4 or min(height, width) < 16:
    raise data.DataError(
      "heights and widths must be 16, 20, 24, ..., those of"
      f" {dataset.name} are {height} and {width}."
    )
  asked, there = args.clean + args.wrong, len(dataset.x_train)
  if asked > there:
    raise data.DataError(
      f"{asked} training images are needed, and {dataset.name} has {there}."
    )


def main(argv: list[str] | None = None) -> None:
  """Loads, trains, prints and draws. A failure prints one line."""
  argv = sys.argv[1:] if argv is None else argv
  args = parse(argv)
  failures = (data.DataError, OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("truncated_noise", *failures):
    run(args, command_line(argv))


def run(args: argparse.Namespace, command: str) -> Results:
  """Makes one comparison, from the data to the picture."""
  dataset = data.load_images(args.dataset, args.data_dir)
  check(dataset, args)
  results = compare(dataset, args.settings, args)
  title = (
    f"{dataset.name}, {args.clean:,} labels and {args.wrong:,} random ones:"
    f" {args.steps:,} steps, {args.seeds} seeds"
  )
  draw(results, args.output, args.settings, title)
  table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
  table.title_justify = "left"
  # One column for each method is narrower.
  head, *rows = zip(*rows_of(results))
  for i, heading in enumerate(head):
    table.add_column(heading, justify="right" if i else "left")
  for row in rows:
    table.add_row(row[0], *(cell.replace(" ± ", "\n± ") for cell in row[1:]))
  console = Console(markup=False)
  console.print(table)
  console.print(reading(results))
  if args.report:
    title += "; means with 95 % t-intervals over seeds"
    report(args.report, command, results, title)
  console.print(f"Picture: {args.output}", soft_wrap=True)
  return results


if __name__ == "__main__":
  main()
