"""How often does a spike filter fire, without a spike and with one?

    python benchmarks/false_alarms.py [--steps 1000000]

Every rule sees the same norms, one a step, in one jitted scan. The rules of
others are restated from their papers and documentation, with their defaults;
none of their code runs here. Prints two tables, and writes them into README.md.
"""

import argparse

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats
import tables

import htga_optax

P = 1e-3


def ours(window_size, k):
  """clip_by_tail_quantile on an update of one entry."""
  tx = htga_optax.clip_by_tail_quantile(P, window_size, k)

  def step(state, r):
    _, new = tx.update(r[None], state)
    return new, new.exceedance_count > state.exceedance_count

  return step, tx.init(jnp.zeros([1]))


def mean_and_deviations(window_size=128, deviations=6.0):
  """Skip beyond mean + 6 standard deviations of the last 128 norms
  (as Levanter and MaxText have it)."""

  def step(state, r):
    window, count = state
    fires = r > jnp.mean(window) + deviations * jnp.std(window, ddof=1)
    fires &= count >= window_size
    # A skipped step enters the window too.
    return (jnp.append(window[1:], r), count + 1), fires

  return step, (jnp.zeros([window_size]), jnp.int32(0))


def z_score(z_most=2.5, decay=0.97, warm_up=25):
  """ZClip: z-score by moving averages of mean and variance, z at most 2.5;
  a clipped norm mu + sigma z_most^2/z enters the averages."""

  def step(state, r):
    mean, variance, count, first = state
    first = first.at[jnp.minimum(count, warm_up)].set(r)
    deviation = jnp.sqrt(variance) + 1e-6
    z = (r - mean) / deviation
    fires = (z > z_most) & (count >= warm_up)
    r = jnp.where(fires, mean + deviation * z_most**2 / z, r)
    new_mean = decay * mean + (1 - decay) * r
    variance = decay * variance + (1 - decay) * (r - new_mean) ** 2
    starts = count == warm_up - 1
    mean = jnp.where(starts, jnp.mean(first[:warm_up]), new_mean)
    variance = jnp.where(starts, jnp.var(first[:warm_up]), variance)
    return (mean, variance, count + 1, first), fires

  zero = jnp.zeros([])
  return step, (zero, zero, jnp.int32(0), jnp.zeros([warm_up + 1]))


def percentile(q):
  """AutoClip: beyond the q-th percentile of all norms so far."""

  def fires(norms):
    # Only steps at which the percentile is renewed need the whole history.
    fired = np.zeros(len(norms), bool)
    at = 1
    while at < len(norms):
      end = min(max(at + 1, at * 101 // 100), len(norms))
      fired[at:end] = norms[at:end] > np.percentile(norms[:at], q)
      at = end
    return fired

  return fires


RULES = {
  "`clip_by_tail_quantile(1e-3)`": ours(1024, 128),
  "the same, W=256, k=32": ours(256, 32),
  "mean + 6 sd of 128": mean_and_deviations(),
  "z-score 2.5 (ZClip)": z_score(),
  "99.9th percentile of all": percentile(99.9),
  "10th percentile of all (AutoClip)": percentile(10),
}


def fire(rule, norms):
  """At which steps a rule fires."""
  if callable(rule):
    return rule(norms)
  step, state = rule
  run = jax.jit(lambda xs: lax.scan(step, state, xs)[1])
  return np.asarray(run(jnp.asarray(norms, jnp.float32)))


def laws():
  """Name -> (sample of n values, quantile function)."""
  return {
    "half-normal": stats.halfnorm(),
    "lognormal": stats.lognorm(1),
    "abs(t_3)": None,
    "Pareto(1.5)": stats.pareto(1.5),
    "chi(1000)": stats.chi(1000),
  }


def quantile(law, u):
  """The value that the law exceeds with probability u."""
  return stats.t.isf(u / 2, 3) if law is None else law.isf(u)


def autoregressive(rng, steps, phi):
  """Standard normal, with correlation phi^h between steps h apart."""
  from scipy.signal import lfilter

  noise = rng.standard_normal(steps + 1000)
  return lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)[1000:]


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--steps", type=int, default=1_000_000)
  steps = parser.parse_args().steps
  rng = np.random.default_rng(0)
  time = np.arange(steps)
  depth = -np.log(10) * (time % 20_000) / 20_000  # tenfold in 20,000 steps

  alarms, caught = {}, {}
  for name, law in laws().items():
    norms = quantile(law, rng.random(steps))
    alarms[name] = norms
    is_spike = rng.random(steps) < 1e-3
    spiked = np.where(is_spike, 10 * quantile(law, P), norms)
    caught[name] = spiked, is_spike
  for name in ("half-normal", "Pareto(1.5)"):
    law = laws()[name]
    tail = special.ndtr(-autoregressive(rng, steps, 0.9))
    alarms[f"{name}, AR(0.9)"] = quantile(law, tail)
    fresh = quantile(law, rng.random(steps))
    alarms[f"{name}, falls tenfold in 20,000"] = fresh * np.exp(depth)
    alarms[f"{name}, rises tenfold in 20,000"] = fresh * np.exp(-depth)

  settled = time >= 1024
  head = ["norms", *RULES]
  rows = [head, ["---"] * len(head)]
  for name, norms in alarms.items():
    rates = [np.mean(fire(rule, norms)[settled]) for rule in RULES.values()]
    rows.append([name, *(f"{1e3 * rate:.2f}" for rate in rates)])
  spikes = [head, ["---"] * len(head)]
  for name, (norms, is_spike) in caught.items():
    rates = [
      np.mean(fire(rule, norms)[settled & is_spike]) for rule in RULES.values()
    ]
    spikes.append([name, *(f"{100 * rate:.1f} %" for rate in rates)])
  lines = [
    f"{tables.machine()}; `python benchmarks/false_alarms.py --steps {steps}`",
    "",
    "Steps clipped in a thousand, without a spike; wanted: 1.",
    "",
    *("| " + " | ".join(row) + " |" for row in rows),
    "",
    "Spikes caught, of 10 times the law's 99.9 % quantile, one step in 1000.",
    "",
    *("| " + " | ".join(row) + " |" for row in spikes),
  ]
  tables.write("false alarms", lines)


if __name__ == "__main__":
  main()
