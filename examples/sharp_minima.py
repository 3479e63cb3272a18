"""Shows that truncated heavy-tailed noise keeps SGD out of sharp minima.

    python examples/sharp_minima.py  # about a minute on two CPU cores

Many chains of SGD start in a sharp minimum of a landscape with two sharp and
two wide minima. There is one landscape in one dimension and one in two. The
gradient noise follows one of three laws:

    heavy                c Z, P(Z > z) = (1 + z)^-1.2 in a random direction
    heavy, truncated     the same, and no step is longer than b = 0.5
    Gaussian             c N(0, 1) in each coordinate

Each optimizer is an optax chain. Its last member truncates the step:

    optax.chain(optax.sgd(1e-3), optax.clip_by_global_norm(0.5))

A chain needs at least l* = ceil(r/b) truncated jumps to leave a basin of radius
r. This takes of the order of eta^-(1 + l*(alpha - 1)) steps at a learning rate
of eta (Wang, Oh and Rhee, arXiv 2102.04297). Therefore chains leave a wide
basin, with l* = 2, later than a sharp one, with l* = 1, and the ratio of the
times grows as eta falls. The example also measures these exit times, in two
basins of the landscape in one dimension. The theory holds in the limit of small
eta: at these eta, the measured power for l* = 2 is 1.36 with an error of 0.02,
and not 1.40.

The constants of the landscape in one dimension are from memory of a paper. The
landscape in two dimensions is this example's own. What it does not show: that
the gradient noise of a neural network is like this, or that wide minima
generalise.
"""

import cli

with cli.one_line("sharp_minima"):
  import argparse
  from collections.abc import Callable
  import functools
  import math
  from pathlib import Path
  from typing import NamedTuple

  import jax
  from jax import lax
  import jax.numpy as jnp
  import numpy as np
  import optax
  import pictures
  from rich import box
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
  from rich.table import Table

  import htga_optax

ALPHA = 1.2  # the tail index of the heavy noise
THRESHOLD = 0.5  # b, the longest truncated step
ETA = 1e-3  # the learning rate of the occupation runs
BLOCK = 100  # steps whose noise is drawn at once, and between kept positions
MEASURED = 5000  # steps for the tail index of the gradient
EXITS = 500  # exits after which the measurement of an exit time ends
FEWEST = 10  # exits; a point with fewer is left out of a fit
LOOKS = pictures.looks("heavy", "heavy, truncated", "Gaussian")
MINIMA = {  # sharp or not
  True: pictures.LOOKS["sharp minimum"],
  False: pictures.LOOKS["wide minimum"],
}


class Landscape(NamedTuple):
  """A loss with known minima, in a box.

  Attributes:
    name: the name of the landscape.
    loss: the loss of a point [d].
    basin: the number of the minimum whose basin contains a point [d].
    minima: the places of the minima [n, d].
    sharp: which minima are sharp [n].
    start: the start of all chains [d], in a sharp basin.
    bound: the bound of the box in every coordinate.
    scale: the scale c of the noise.
  """

  name: str
  loss: Callable[[jax.Array], jax.Array]
  basin: Callable[[jax.Array], jax.Array]
  minima: np.ndarray
  sharp: np.ndarray
  start: np.ndarray
  bound: float
  scale: float


def curve(x: jax.Array) -> jax.Array:
  """The landscape in one dimension, for numbers in [-1.6, 1.6]."""
  y = (x + 1.6) * (x + 1.3) ** 2 * (x - 0.2) ** 2 * (x - 0.7) ** 2 * (x - 1.6)
  y *= (0.05 * jnp.abs(1.65 - x)) ** 0.6
  y *= 1 + 1 / (0.01 + 4 * (x - 0.5) ** 2)
  y *= 1 + 1 / (0.1 + 4 * (x + 1.5) ** 2)
  return y * (1 - 0.25 * jnp.exp(-5 * (x + 0.8) ** 2))


MAXIMA = np.float32([-1.3, 0.2, 0.7])  # of `curve`, between its basins
ONE = Landscape(
  name="one dimension",
  loss=lambda x: curve(x[0]),
  basin=lambda x: jnp.sum(x[0] > MAXIMA),
  minima=np.float32([[-1.5115], [-0.6993], [0.4962], [1.3221]]),
  sharp=np.array([True, False, True, False]),
  start=np.float32([0.3]),
  bound=1.6,
  scale=0.1,
)

# The loss is the minimum of four paraboloids. In the i-th basin the Hessian is
# CURVATURES[i] times the identity, and the loss at the minimum is -DEPTHS[i].
# The nearest other basin is 0.44 from a sharp minimum, which takes one jump,
# and 0.86 from a wide one, which takes two.
CENTRES = 0.65 * np.float32([[-1, 1], [-1, -1], [1, -1], [1, 1]])
CURVATURES = np.float32([60, 2, 60, 2])
DEPTHS = np.float32([6, 1, 6, 1])


def paraboloids(x: jax.Array) -> jax.Array:
  """The values of the four paraboloids [4] at a point [2]."""
  return CURVATURES / 2 * jnp.sum((x - CENTRES) ** 2, axis=-1) - DEPTHS


TWO = Landscape(
  name="two dimensions",
  loss=lambda x: jnp.min(paraboloids(x)),
  basin=lambda x: jnp.argmin(paraboloids(x)),
  minima=CENTRES,
  sharp=CURVATURES > 10,
  start=CENTRES[0],
  bound=1.1,
  scale=0.2,
)


def lomax(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Vectors with a random direction, and lengths with tail index `ALPHA`.

  The length is U^(-1/ALPHA) - 1. U has 32 random bits, so that its smallest
  value is about 1e-10. A float32 in [0, 1) has only 23 random bits: the largest
  length would be about a thousand times smaller.
  """
  length_key, direction_key = jax.random.split(key)
  bits = jax.random.bits(length_key, shape[:-1], jnp.uint32)
  u = (bits.astype(jnp.float32) + 0.5) * 2.0**-32
  length = u ** (-1 / ALPHA) - 1
  if shape[-1] == 1:
    direction = jax.random.rademacher(direction_key, shape, jnp.float32)
  else:
    angle = jax.random.uniform(direction_key, shape[:-1], maxval=2 * math.pi)
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  return length[..., None] * direction


class Law(NamedTuple):
  """A law of the noise, and the last member of the chain."""

  noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
  last: optax.GradientTransformation


LAWS = {
  "heavy": Law(lomax, optax.identity()),
  "heavy, truncated": Law(lomax, optax.clip_by_global_norm(THRESHOLD)),
  "Gaussian": Law(jax.random.normal, optax.identity()),
}


def move(tx, landscape, x, state, noise):
  """One step of one chain: the next point [d] and state."""
  grads = jax.grad(landscape.loss)(x) - landscape.scale * noise
  updates, state = tx.update(grads, state, x)
  return optax.apply_updates(x, updates), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def occupy(
  number: int, name: str, chains: int, blocks: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Runs all chains on one of `LANDSCAPES` under one of `LAWS`.

  Returns:
    The share of the steps in each basin [chains, n], without the first tenth of
    the run, and the positions every `BLOCK` steps [blocks, chains, d].
  """
  landscape, law = LANDSCAPES[number], LAWS[name]
  tx = optax.chain(optax.sgd(ETA), law.last)
  n, d = landscape.minima.shape
  first = blocks // 10

  def step(carry, noise):
    x, state, counts, counted = carry
    x, state = jax.vmap(functools.partial(move, tx, landscape))(x, state, noise)
    x = jnp.clip(x, -landscape.bound, landscape.bound)
    hits = jax.vmap(landscape.basin)(x)[:, None] == jnp.arange(n)
    return (x, state, counts + (hits & counted), counted), None

  def block(carry, i):
    noise = law.noise(jax.random.fold_in(key, i), (BLOCK, chains, d))
    carry, _ = lax.scan(step, (*carry, i >= first), noise)
    return carry[:3], carry[0]

  x = jnp.broadcast_to(landscape.start, (chains, d))
  carry = x, jax.vmap(tx.init)(x), jnp.zeros((chains, n), jnp.int32)
  carry, positions = lax.scan(block, carry, jnp.arange(blocks))
  return carry[2] / ((blocks - first) * BLOCK), positions


@functools.partial(jax.jit, static_argnums=0)
def measure(name: str, key: jax.Array) -> jax.Array:
  """The median tail index of the gradients of a chain in one dimension."""
  tx = optax.chain(
    htga_optax.track_tail_index(window_size=1024, k=50),
    optax.sgd(ETA),
    LAWS[name].last,
  )

  def step(carry, noise):
    x, state = move(tx, ONE, *carry, noise)
    x = jnp.clip(x, -ONE.bound, ONE.bound)
    return (x, state), optax.tree.get(state, "tail_index")

  noise = LAWS[name].noise(key, (MEASURED, 1))
  carry = jnp.asarray(ONE.start), tx.init(ONE.start)
  _, tail_index = lax.scan(step, carry, noise)
  return jnp.median(tail_index[1024:])


class Well(NamedTuple):
  """A basin of `curve` whose exit times are measured, with truncated noise.

  Attributes:
    minimum: the start of a chain, also after each exit.
    low: the left end of the basin.
    high: the right end of the basin.
    etas: the learning rates.
  """

  minimum: float
  low: float
  high: float
  etas: tuple[float, ...]

  @property
  def jumps(self) -> int:
    """The smallest number of jumps that leave the basin, l*."""
    radius = min(self.high - self.minimum, self.minimum - self.low)
    return math.ceil(radius / THRESHOLD)


WELLS = (
  Well(0.4962, 0.2, 0.7, (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)),
  Well(-0.6993, -1.3, 0.2, (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)),
)


@functools.partial(jax.jit, static_argnums=0)
def leave(chains, key, eta, minimum, low, high, blocks):
  """Counts exits until there are `EXITS`, in at most `blocks` blocks.

  A chain that leaves the basin starts again in the minimum, so that no chain
  waits for another. The mean exit time is the number of all steps divided by
  the number of exits.

  Returns:
    The number of exits, and the number of blocks.
  """
  tx = optax.chain(optax.sgd(eta), LAWS["heavy, truncated"].last)

  def step(carry, noise):
    x, state, exits = carry
    x, state = jax.vmap(functools.partial(move, tx, ONE))(x, state, noise)
    out = (x < low) | (x > high)
    return (jnp.where(out, minimum, x), state, exits + jnp.sum(out)), None

  def block(carry):
    carry, i = carry
    noise = lomax(jax.random.fold_in(key, i), (BLOCK, chains, 1))
    return lax.scan(step, carry, noise)[0], i + 1

  x = jnp.full((chains, 1), minimum)
  carry = x, jax.vmap(tx.init)(x), jnp.int32(0)
  unfinished = lambda carry: (carry[0][2] < EXITS) & (carry[1] < blocks)
  carry, i = lax.while_loop(unfinished, block, (carry, jnp.int32(0)))
  return carry[2], i


class Scaling(NamedTuple):
  """The mean exit times of a well, and the power of 1/eta that fits them.

  Attributes:
    well: the well.
    times: the mean exit time in steps, for each learning rate; nan without
      exits.
    exits: the number of exits, for each learning rate.
    slope: the power; nan if fewer than three points have `FEWEST` exits.
    error: the standard error of the slope, from the number of exits alone.
    constant: the logarithm of the fitted time at eta = 1.
  """

  well: Well
  times: np.ndarray
  exits: np.ndarray
  slope: float
  error: float
  constant: float

  @property
  def theory(self) -> float:
    """The slope in the limit eta -> 0."""
    return 1 + self.well.jumps * (ALPHA - 1)


def fit(well: Well, steps: np.ndarray, exits: np.ndarray) -> Scaling:
  """Fits the log times by least squares, with weights 1/variance = exits."""
  times = np.where(exits > 0, steps / np.maximum(exits, 1), np.nan)
  used = exits >= FEWEST
  if np.sum(used) < 3:
    return Scaling(well, times, exits, *[math.nan] * 3)
  weights = exits[used] / np.sum(exits[used])
  x, y = -np.log(np.array(well.etas)[used]), np.log(times[used])
  x0, y0 = weights @ x, weights @ y
  spread = weights @ (x - x0) ** 2
  slope = weights @ ((x - x0) * (y - y0)) / spread
  error = 1 / math.sqrt(np.sum(exits[used]) * spread)
  return Scaling(well, times, exits, slope, error, y0 - slope * x0)


LANDSCAPES = (ONE, TWO)


class Results(NamedTuple):
  """All measurements.

  Attributes:
    shares: for each landscape and law, the share of each chain's steps in each
      basin [chains, n].
    positions: for each landscape and law, [blocks, chains, d].
    tail_index: for each law, the reading of a chain's tracker.
    scalings: one for each well.
  """

  shares: list[dict[str, np.ndarray]]
  positions: list[dict[str, np.ndarray]]
  tail_index: dict[str, float]
  scalings: list[Scaling]


def simulate(chains: int, steps: int, seed: int) -> Results:
  """Runs everything, with a progress bar."""
  blocks = -(-steps // BLOCK)
  keys = iter(jax.random.split(jax.random.key(seed), 100))
  results = Results([], [], {}, [])
  columns = (
    TextColumn("{task.description:28}"),
    BarColumn(bar_width=20),
    MofNCompleteColumn(),
  )
  jobs = (len(LANDSCAPES) + 1) * len(LAWS) + sum(len(w.etas) for w in WELLS)
  with Progress(*columns) as progress:
    bar = progress.add_task("", total=jobs)
    for number, landscape in enumerate(LANDSCAPES):
      for part in results[:2]:
        part.append({})
      for name in LAWS:
        progress.update(bar, description=f"{landscape.name}, {name}")
        done = occupy(number, name, chains, blocks, next(keys))
        for part, values in zip(results[:2], done):
          part[number][name] = np.asarray(values)
        progress.advance(bar)
    for name in LAWS:
      progress.update(bar, description=f"tail index, {name}")
      results.tail_index[name] = float(measure(name, next(keys)))
      progress.advance(bar)
    for well in WELLS:
      counts = []
      for eta in well.etas:
        progress.update(bar, description=f"exits, l* = {well.jumps}")
        done = leave(chains, next(keys), eta, *well[:3], blocks)
        counts.append([int(x) for x in done])
        progress.advance(bar)
      exits, taken = np.transpose(counts)
      results.scalings.append(fit(well, taken * BLOCK * chains, exits))
    progress.update(bar, description="done")
  return results


def new_table(title: str, *headings: str) -> Table:
  """An empty table. All columns but the first hold numbers."""
  table = Table(
    title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
  )
  for i, heading in enumerate(headings):
    table.add_column(heading, justify="right" if i else "left")
  return table


def kind(sharp: bool) -> str:
  """The name of a kind of minimum."""
  return "sharp" if sharp else "wide"


def occupation_table(results: Results, number: int) -> Table:
  """The table of the shares of the steps in each basin, a row for each law."""
  landscape = LANDSCAPES[number]
  minima = [
    "\n".join([kind(sharp), *(f"{x:.2f}" for x in minimum)])
    for minimum, sharp in zip(landscape.minima, landscape.sharp)
  ]
  title = f"{landscape.name}: % of the steps in each basin"
  table = new_table(title, "noise", *minima, "wide\n(std. error)")
  for name, shares in results.shares[number].items():
    cells = [f"{100 * x:.1f}" for x in shares.mean(axis=0)]
    wide = 100 * shares[:, ~landscape.sharp].sum(axis=1)
    error = wide.std() / math.sqrt(max(1, len(wide) - 1))
    table.add_row(name, *cells, f"{wide.mean():.1f} ({error:.1f})")
  return table


def exit_table(scalings: list[Scaling]) -> Table:
  """The table of mean exit times and their powers, a column for each basin."""
  headings = [
    f"basin of {s.well.minimum:.2f}\nl* = {s.well.jumps}" for s in scalings
  ]
  title = "steps to leave a basin, heavy truncated noise"
  table = new_table(title, "learning rate", *headings)
  for eta in sorted({eta for s in scalings for eta in s.well.etas}):
    cells = []
    for s in scalings:
      at = s.well.etas.index(eta) if eta in s.well.etas else -1
      known = at >= 0 and s.exits[at] > 0
      cells.append(f"{s.times[at]:,.0f}" if known else "-")
    table.add_row(f"{eta:.1e}", *cells)
  table.add_section()
  slopes = [f"{s.slope:.3f} ({s.error:.3f})" for s in scalings]
  table.add_row("power of 1/eta (std. error)", *slopes)
  table.add_row("theory, eta -> 0", *[f"{s.theory:.3f}" for s in scalings])
  return table


def missed(results: Results) -> list[str]:
  """A sentence for each expectation that does not hold."""
  sentences = []
  for landscape, shares in zip(LANDSCAPES, results.shares):
    wide = shares["heavy, truncated"].mean(axis=0)[~landscape.sharp].sum()
    if not wide >= 0.95:
      sentences.append(
        f"In {landscape.name}, truncated heavy-tailed noise spends only"
        f" {100 * wide:.1f} % of its steps in the wide minima, not 95 %."
      )
    start = int(landscape.basin(landscape.start))
    stayed = shares["Gaussian"].mean(axis=0)[start]
    if not stayed >= 0.999:
      sentences.append(
        f"In {landscape.name}, Gaussian noise spends"
        f" {100 - 100 * stayed:.1f} % of its steps outside of the first basin."
      )
  for s in results.scalings:
    if math.isnan(s.slope):
      sentences.append(f"Too few exits for a power for l* = {s.well.jumps}.")
    elif not abs(s.slope / s.theory - 1) <= 0.1:
      sentences.append(
        f"The power of the exit times for l* = {s.well.jumps}, {s.slope:.2f},"
        f" differs by more than 10 % from the theory's {s.theory:.2f}."
      )
  return sentences


HOLDS = (
  "Truncated noise spends at least 95 % of its steps in the wide minima."
  " Gaussian noise stays in the basin where it starts. The powers of the exit"
  " times are within 10 % of the theory."
)


def reading(results: Results) -> str:
  """The results in sentences."""
  wide = []
  for landscape, positions in zip(LANDSCAPES, results.positions):
    points = positions["heavy, truncated"].reshape(-1, len(landscape.start))
    basins = np.asarray(jax.jit(jax.vmap(landscape.basin))(points))
    wide.append(f"{100 * np.mean(~landscape.sharp[basins]):.1f} %")
  tails = ", ".join(
    f"{name} {value:.1f}" for name, value in results.tail_index.items()
  )
  return (
    "The table leaves out the first tenth of the steps, in which chains leave"
    " the sharp minimum where they start. Of all steps, truncated noise spends"
    f" {' and '.join(wide)} in the wide minima. The tail index of the gradients"
    f" before truncation is: {tails}. (The index of the heavy noise alone is"
    f" {ALPHA}. The estimate is large for a light tail.) "
    + (" ".join(missed(results)) or HOLDS)
  )


def draw(results: Results, path: Path, title: str) -> None:
  """Writes the picture."""
  axes = pictures.panels(2, 3, height=5.9)
  draw_curve(axes[0, 0])
  draw_histograms(axes[0, 1], results.positions[0])
  draw_paths(axes[0, 2], results.positions[0])
  draw_plane(axes[1, 0], "heavy", results.positions[1])
  draw_plane(axes[1, 1], "heavy, truncated", results.positions[1])
  draw_exits(axes[1, 2], results.scalings)
  headings = (
    "loss in one dimension",
    "where the chains are",
    "one chain of each law",
    "two dimensions, heavy",
    "two dimensions, truncated",
    "mean exit time, truncated",
  )
  minima, _ = axes[0, 0].get_legend_handles_labels()
  handles = minima + pictures.lines(LOOKS)
  pictures.save(path, axes, headings, title, handles, columns=5)


def mark(ax, landscape: Landscape, heights: np.ndarray | None = None) -> None:
  """Marks the minima: of a curve at `heights`, or in a plane."""
  points = np.array(landscape.minima)
  if heights is not None:
    points = np.column_stack([points[:, 0], heights])
  for sharp in (True, False):
    x, y = points[landscape.sharp == sharp].T
    look = {"markersize": 9, "markeredgecolor": "white", "zorder": 5}
    label = f"{kind(sharp)} minimum"
    ax.plot(x, y, label=label, **look, **MINIMA[sharp].points)


def draw_curve(ax) -> None:
  """Draws the landscape in one dimension, the start and the longest step."""
  x = np.linspace(-ONE.bound, ONE.bound, 2000, dtype=np.float32)
  ax.plot(x, curve(x), color="black", lw=1.2)
  mark(ax, ONE, np.asarray(curve(ONE.minima[:, 0])))
  left, y = -0.55, -0.62
  ax.plot([left, left + THRESHOLD], [y, y], "|-k", lw=1.5, markersize=9)
  text = {"ha": "center", "va": "bottom", "fontsize": "small"}
  ax.text(left + THRESHOLD / 2, y + 0.04, f"b = {THRESHOLD}", **text)
  start = float(ONE.start[0]), float(curve(ONE.start[0]))
  arrow = {"arrowstyle": "->"}
  ax.annotate("start", start, (0.3, 0.06), arrowprops=arrow, **text)
  ax.set(xlabel="x", ylabel="loss", ylim=(-0.73, 0.14))


def draw_histograms(ax, positions: dict[str, np.ndarray]) -> None:
  """Draws the share of the steps in each bin of x, on a logarithmic axis."""
  edges = np.linspace(-ONE.bound, ONE.bound, 129)
  for x, sharp in zip(ONE.minima[:, 0], ONE.sharp):
    ax.plot(x, 150, **MINIMA[bool(sharp)].points)
  for name, points in positions.items():
    counts, _ = np.histogram(points[len(points) // 10 :], edges)
    share = 100 * counts / max(1, counts.sum())
    ax.stairs(np.maximum(share, 1e-9), edges, lw=1.3, **LOOKS[name].line)
  ax.set(yscale="log", ylim=(1e-3, 300), xlabel="x")
  ax.set_ylabel(f"% of steps per {edges[1] - edges[0]:.3f}")


def draw_paths(ax, positions: dict[str, np.ndarray]) -> None:
  """Draws one chain of each law."""
  for name, points in positions.items():
    every = max(1, len(points) // 500)
    path = np.concatenate([ONE.start, points[::every, 0, 0]])
    steps = np.arange(len(path)) * every * BLOCK / 1000
    ax.plot(steps, path, lw=1.2, **LOOKS[name].line)
  ax.set(xlabel="thousands of steps", ylabel="x", ylim=(-1.75, 1.75))


def draw_plane(ax, name: str, positions: dict[str, np.ndarray]) -> None:
  """Draws the landscape in two dimensions, and three chains."""
  side = np.linspace(-TWO.bound, TWO.bound, 201, dtype=np.float32)
  grid = np.stack(np.meshgrid(side, side), axis=-1)
  loss = np.asarray(jax.vmap(jax.vmap(TWO.loss))(grid))
  levels = [-5, -3.5, -2, -0.95, -0.8, -0.6, -0.4, -0.2]
  look = {"colors": "0.65", "linewidths": 0.8, "linestyles": "-"}
  ax.contour(side, side, loss, levels, **look)
  points = positions[name]
  for chain in range(min(3, points.shape[1])):
    path = points[:: max(1, len(points) // 200), chain]
    ax.plot(*path.T, color=LOOKS[name].color, lw=0.5)
  mark(ax, TWO)
  text = {"ha": "center", "fontsize": "small"}
  ax.annotate("start", TWO.start, np.add(TWO.start, [0, 0.18]), **text)
  ax.set(xlabel="x", ylabel="y", aspect="equal")
  ax.grid(visible=False)


def draw_exits(ax, scalings: list[Scaling]) -> None:
  """Draws the mean exit times, their fit, and the slope of the theory."""
  for s, sharp in zip(scalings, (True, False)):
    etas, look = np.array(s.well.etas), MINIMA[sharp]
    ax.plot(etas, s.times, markeredgecolor="white", **look.points)
    if math.isnan(s.slope):
      continue
    middle = np.exp(np.mean(np.log(etas)))
    at_middle = math.exp(s.constant) * middle**-s.slope
    fitted = at_middle * (etas / middle) ** -s.slope
    label = rf"$l^*$ = {s.well.jumps}: $\eta^{{-{s.slope:.2f}}}$"
    label += f" (± {s.error:.2f})"
    ax.plot(etas, fitted, label=label, lw=1.2, **look.line)
    theory = at_middle * (etas / middle) ** -s.theory
    label = rf"theory: $\eta^{{-{s.theory:.2f}}}$"
    ax.plot(etas, theory, "k:", lw=1.8, label=label)
  ax.set(xlabel="learning rate η", ylabel="steps")
  # With few chains there may be no exits, and the axes still need limits.
  etas = np.concatenate([s.well.etas for s in scalings])
  times = np.concatenate([s.times[s.exits > 0] for s in scalings] + [[1e5]])
  ax.set(xlim=(etas.min() / 1.5, etas.max() * 1.5), xscale="log")
  ax.set(ylim=(times.min() / 2, times.max() * 100), yscale="log")
  if ax.get_legend_handles_labels()[0]:
    ax.legend(frameon=False, fontsize="small", loc="upper right")


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("sharp_minima", __doc__)
  add = parser.add_argument
  add("--chains", type=cli.count, default=300)
  add("--steps", type=cli.count, default=400_000, help="made a multiple of 100")
  add("--seed", type=functools.partial(cli.count, least=0), default=0)
  add("--output", type=cli.picture, default="sharp_minima.png", metavar="PNG")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs, prints and draws. A failure prints one line."""
  args = parse(argv)
  failures = (OSError, jax.errors.JaxRuntimeError)
  with cli.one_line("sharp_minima", *failures):
    run(args)


def run(args: argparse.Namespace) -> Results:
  """Makes everything, from the chains to the picture."""
  results = simulate(args.chains, args.steps, args.seed)
  steps = -(-args.steps // BLOCK) * BLOCK
  title = f"{args.chains} chains of {steps:,} steps, learning rate {ETA}"
  draw(results, args.output, title)
  console = Console(markup=False)
  for number in range(len(LANDSCAPES)):
    console.print(occupation_table(results, number))
  console.print(exit_table(results.scalings))
  console.print(reading(results))
  console.print(f"Picture: {args.output}", soft_wrap=True)
  return results


if __name__ == "__main__":
  main()
