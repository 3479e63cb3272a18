"""Measures how often a rule against spikes fires, without and with a spike.

`python benchmarks/false_alarms.py` writes four tables into
benchmarks/README.md. Every rule gets the same norms, one a step.
`diagnostics.spike_rules` describes the rules.
"""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import laws
import numpy as np
from scipy import stats
import tables

import htga_optax
from htga_optax.diagnostics import spike_rules

P = 1e-3
STEPS = 1_000_000
SETTLED = 1024  # how many steps at the beginning do not count
RUNS = 1_000  # how many short runs
PERIOD = 20_000  # the number of steps in which a level changes tenfold


# -- rules ------------------------------------------------------------------


def ours(*sizes, **options):
  clip = htga_optax.clip_by_tail_quantile(P, *sizes, **options)
  return spike_rules.law_of(clip)


RULES = {
  "`clip_by_tail_quantile(1e-3)`": ours,
  "the same, W = 256, k = 32": lambda: ours(256, 32),
  "the same, `level_decay=None`": lambda: ours(level_decay=None),
  "mean + 6 sd of 128": spike_rules.mean_and_deviations,
  "z-score of 2.5 (ZClip)": spike_rules.zclip,
  "99.9th percentile of all": lambda: spike_rules.autoclip(99.9),
  "10th percentile of all (AutoClip)": spike_rules.autoclip,
}


def fire(norms):
  """For each rule, at which steps it fires, [rules, steps]."""
  return [x < norms for x in spike_rules.apply(norms, RULES).values()]


# -- norms ------------------------------------------------------------------

# Functions of q: the value that a norm exceeds with probability q.
LAWS = {
  "half-normal": stats.halfnorm().isf,
  "lognormal": stats.lognorm(1).isf,
  r"\|Student-t(3)\|": lambda q: stats.t.isf(q / 2, 3),
  "Pareto(1.5)": stats.pareto(1.5).isf,
  "chi(1000)": stats.chi(1000).isf,
}


def without_spikes(rng):
  """Yields (norms, {name: at which steps to count}) for each series."""
  time = np.arange(STEPS)
  settled = time >= SETTLED
  for name, isf in LAWS.items():
    yield isf(rng.random(STEPS)), {name: settled}
  for name in ("half-normal", "Pareto(1.5)"):
    isf = LAWS[name]
    series = laws.copula(laws.autoregressive(0.9), isf)
    yield series(rng, (STEPS,)), {f"{name}, AR(0.9)": settled}

    # The level falls in even periods and rises in odd ones, never abruptly.
    part, falls = time % PERIOD / PERIOD, time // PERIOD % 2 == 0
    level = 10 ** -np.where(falls, part, 1 - part)
    yield (
      isf(rng.random(STEPS)) * level,
      {
        f"{name}, falls tenfold in 20,000": settled & falls,
        f"{name}, rises tenfold in 20,000": settled & ~falls,
      },
    )
    jumps = f"{name}, the same fall, then tenfold at once"
    yield isf(rng.random(STEPS)) * 10**-part, {jumps: settled}
    often = f"{name}, tenfold up or down every 5,000"
    yield isf(rng.random(STEPS)) * 10.0 ** (time // 5000 % 2), {often: settled}


def false_alarms(rng):
  rows = []
  for norms, places in without_spikes(rng):
    fired = fire(norms)
    for name, place in places.items():
      rates = (f"{1e3 * np.mean(f[place]):.2f}" for f in fired)
      rows.append([name, *rates])
  head = ["clipped without a spike, in 1,000 steps", *RULES]
  return tables.table(head, rows)


def spikes_caught(rng):
  rows = []
  for name, isf in LAWS.items():
    is_spike = rng.random(STEPS) < 1e-3
    norms = np.where(is_spike, 10 * isf(P), isf(rng.random(STEPS)))
    place = is_spike & (np.arange(STEPS) >= SETTLED)
    fired = fire(norms)
    rows.append([name, *(f"{100 * np.mean(f[place]):.1f}" for f in fired)])
  return tables.table(["spikes caught, percent", *RULES], rows)


# -- our clip, with few norms or many equal ones ----------------------------


def states(norms):
  """The quantile and the count after each step of clip_by_tail_quantile."""
  tx = htga_optax.clip_by_tail_quantile(P)

  def step(state, r):
    _, state = tx.update(r[None], state)
    return state, (state.tail_quantile, state.exceedance_count)

  return lax.scan(step, tx.init(jnp.zeros([1])), norms)[1]


def first_steps(rng):
  """How often our clip acts while its window fills, over `RUNS` runs."""
  ends = [2**i for i in range(6, 11)]
  rows = []
  for name, isf in LAWS.items():
    norms = jnp.asarray(isf(rng.random((RUNS, SETTLED))), jnp.float32)
    _, count = jax.jit(jax.vmap(states))(norms)
    clipped = np.diff(np.mean(count, axis=0)[np.array(ends) - 1])
    rates = 1e3 * clipped / np.diff(ends)
    rows.append([name, *(f"{rate:.1f}" for rate in rates)])
  spans = [f"steps {a} to {b}" for a, b in itertools.pairwise(ends)]
  head = [f"clipped in 1,000 of the first steps, {RUNS} runs", *spans]
  return tables.table(head, rows)


TIES = {
  "no ties": lambda x, rng: x,
  "two decimals at a median of 0.12": lambda x, rng: np.round(
    0.12 * x / np.median(x), 2
  ),
  "bfloat16": lambda x, rng: np.asarray(jnp.asarray(x, jnp.bfloat16), float),
  "half of the norms 0": lambda x, rng: np.where(
    rng.random(x.size) < 0.5, 0, x
  ),
  "clipped at the 90 % quantile": lambda x, rng: np.minimum(
    x, np.quantile(x, 0.9)
  ),
}


def with_ties(rng):
  rows = []
  for name, isf in LAWS.items():
    x, cells = isf(rng.random(STEPS // 10)), []
    for tie in TIES.values():
      norms = jnp.asarray(tie(x, rng), jnp.float32)
      quantile, count = map(np.asarray, jax.jit(states)(norms))
      rate = (count[-1] - count[SETTLED]) / (x.size - SETTLED)
      unknown = 100 * np.mean(quantile[SETTLED:] == 0)
      cells.append(f"{1e3 * rate:.2f} ({unknown:.0f} %)")
    rows.append([name, *cells])
  head = ["clipped in 1,000 steps (steps without a quantile)", *TIES]
  return tables.table(head, rows)


if __name__ == "__main__":
  rng = np.random.default_rng(0)
  lines = [tables.machine("make tables"), "", *false_alarms(rng)]
  lines += ["", *spikes_caught(rng), "", *first_steps(rng)]
  lines += ["", *with_ties(rng)]
  tables.write("false alarms", lines)
