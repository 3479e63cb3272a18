"""Measures the errors of estimates, and how quickly they follow a change.

`python benchmarks/estimates.py` writes three tables into benchmarks/README.md:
Hill's estimate at fixed and at automatic k, streaming forms at equal memory,
and the estimates of these after a change. The data are drawn by NumPy and SciPy
with fixed seeds.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import laws
import numpy as np
from scipy import stats
import tables

from htga_optax import estimators, streaming

REPLICATIONS = 2000
SIZES = (256, 1024)

# -- Hill's estimate and k --------------------------------------------------

PARETO = laws.magnitude(stats.pareto(1.5))
POWER_LAWS = {
  "Pareto(1.5)": (PARETO, 1.5),
  "the same - 0.7": (laws.magnitude(stats.pareto(1.5, -0.7)), 1.5),
  "the same + 2": (laws.magnitude(stats.pareto(1.5, 2)), 1.5),
  r"\|Student-t(2)\|": (laws.magnitude(stats.t(2)), 2.0),
  r"\|Student-t(3)\|": (laws.magnitude(stats.t(3)), 3.0),
  r"\|stable(1.5)\|": (laws.magnitude(stats.levy_stable(1.5, 0)), 1.5),
  r"\|stable(1.8)\|": (laws.magnitude(stats.levy_stable(1.8, 0)), 1.8),
  "Burr(2, 1)": (laws.magnitude(stats.burr12(2, 1)), 2.0),
}


def errors(law, tail_index, n):
  """Root mean squares of log(estimate/index), one for each choice of k."""
  x = jnp.asarray(law(np.random.default_rng(0), (REPLICATIONS, n)), jnp.float32)
  ks = [round(share * n) for share in (0.05, 0.1, 0.25)]

  def one(x):
    found = estimators.hill_all(x)
    chosen = estimators.automatic_k(x, max_k=n // 4)
    return found[jnp.stack([*map(jnp.int32, ks), chosen]) - 1]

  found = jax.jit(lambda x: lax.map(one, x, batch_size=100))(x)
  return np.sqrt(np.mean(np.log(found / tail_index) ** 2, axis=0))


def choice_table():
  head = ["root mean square of log(estimate/index)"]
  ks = ("k = 5%", "k = 10%", "k = 25%", "automatic k")
  head += [f"{k}, n = {n}" for n in SIZES for k in ks]
  found = {
    name: np.concatenate([errors(*law, n) for n in SIZES])
    for name, law in POWER_LAWS.items()
  }
  found["mean"] = np.mean(list(found.values()), axis=0)
  rows = [[name, *(f"{e:.2f}" for e in row)] for name, row in found.items()]
  return tables.table(head, rows)


# -- streaming forms at equal memory ----------------------------------------

MEMORY, K, LONG = 256, 25, 1024
LATER = (64, 128, 256, 400, 512, 800)  # steps after a change
DECAY = (MEMORY - 1) / (MEMORY + 1)


def pair(name):
  """An estimator of a stable law's index, over a window and with decay."""
  error = getattr(estimators, f"{name}_standard_error")
  error = functools.partial(error, n=MEMORY)
  window = streaming.windowed(getattr(estimators, name), MEMORY, error)
  fading = getattr(streaming, f"ew_{name}")(DECAY)
  return {"window": window, "fading": fading}


def stable(tail_index):
  return laws.values(stats.levy_stable(tail_index, 0))


HILL = {
  "window": streaming.windowed_hill(MEMORY, K),
  "fading": streaming.ew_hill(DECAY, K / MEMORY),
}
STABLE = {
  "characteristic function": pair("characteristic_function"),
  "log-moment": pair("log_moment"),
}
CHI = laws.magnitude(stats.chi(1000))
AR = laws.copula(laws.autoregressive(0.9), stats.pareto(1.5).isf)
STEADY = {
  "Hill, Pareto(1.5)": (HILL, PARETO, 1.5),
  "Hill, Pareto(1.5), AR(0.9)": (HILL, AR, 1.5),
  r"Hill, \|Student-t(3)\|": (HILL, laws.magnitude(stats.t(3)), 3.0),
  "Hill, half-normal": (HILL, laws.magnitude(stats.norm()), np.inf),
} | {
  f"{name}, stable({a})": (forms, stable(a), a)
  for name, forms in STABLE.items()
  for a in (1.0, 1.5, 1.8)
}
# How the values change.
RISE, FALL = lambda x: 10 * x, lambda x: x / 10
SPIKE = lambda x: np.insert(x[:, 1:], 0, 1e30, axis=1)
CHANGES = {
  "Hill, chi(1000), rises tenfold": (HILL, CHI, RISE),
  "Hill, chi(1000), falls tenfold": (HILL, CHI, FALL),
  "Hill, Pareto(1.5), rises tenfold": (HILL, PARETO, RISE),
  "Hill, Pareto(1.5), falls tenfold": (HILL, PARETO, FALL),
  "Hill, Pareto(1.5), one value of 1e30": (HILL, PARETO, SPIKE),
} | {
  f"{name}, stable(1.5), {how} tenfold": (forms, stable(1.5), change)
  for name, forms in STABLE.items()
  for how, change in (("rises", RISE), ("falls", FALL))
}


@functools.partial(jax.jit, static_argnums=(0, 2))
def follow(form, x, counts):
  """The estimates of a form after each count of values, for series [R, n]."""

  def one(x):
    state, found = form.init(), []
    for start, end in zip((0, *counts), counts):
      step = lambda state, x: (form.update(state, x), None)
      state, _ = lax.scan(step, state, x[start:end])
      found.append(form.estimate(state))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

  return lax.map(one, x)


def known(tail_index):
  """The estimates, with nan where there is none."""
  return np.where(np.asarray(tail_index) > 0, tail_index, np.nan)


def heavy(tail_index):
  """The estimates of a power law, and nan otherwise."""
  tail_index = known(tail_index)
  return np.where(tail_index < streaming.LIGHTEST, tail_index, np.nan)


def steady_table():
  head = [f"at a memory of {MEMORY}", "", "median", "sd of the logarithm"]
  head += [f"the same after {MEMORY} values"]
  head += ["intervals that hold, percent", "drift > 2.5, percent"]
  rows = []
  for name, (forms, law, tail_index) in STEADY.items():
    x = law(np.random.default_rng(0), (REPLICATIONS, LONG))
    for form_name, form in forms.items():
      found = follow(form, jnp.asarray(x, jnp.float32), (MEMORY, LONG))
      late = known(found.tail_index[:, 1])
      sds = np.nanstd(np.log(heavy(found.tail_index)), axis=0)
      low, high = np.asarray(found.interval[:, 1]).T
      held = np.mean((low <= tail_index) & (tail_index <= high))
      flagged = np.mean(np.abs(found.drift[:, 1]) > 2.5)
      row = [f"{v:.3g}" for v in (np.nanmedian(late), *sds[::-1])]
      row.append(f"{100 * held:.1f}" if np.isfinite(tail_index) else "")
      row.append(f"{100 * flagged:.1f}" if np.any(found.drift) else "")
      rows.append([name, form_name, *row])
  return tables.table(head, rows)


def change_table():
  head = ["median (percent with drift > 2.5; percent without an estimate)"]
  head += ["", "before"]
  rows = []
  for name, (forms, law, change) in CHANGES.items():
    x = law(np.random.default_rng(0), (REPLICATIONS // 4, LONG + LATER[-1]))
    x = np.concatenate([x[:, :LONG], change(x[:, LONG:])], axis=1)
    counts = (LONG, *(LONG + after for after in LATER))
    for form_name, form in forms.items():
      found = follow(form, jnp.asarray(x, jnp.float32), counts)
      median = np.nanmedian(known(found.tail_index), axis=0)
      shares = np.abs(found.drift) > 2.5, found.tail_index == 0
      shares = [100 * np.mean(share, axis=0) for share in shares]
      cells = [f"{m:.3g}" for m in median]
      if np.any(found.drift):
        cells = [f"{m} ({f:.0f}; {s:.0f})" for m, f, s in zip(cells, *shares)]
      rows.append([name, form_name, *cells])
  return tables.table([*head, *(f"after {after}" for after in LATER)], rows)


if __name__ == "__main__":
  lines = [tables.machine("make tables"), "", *choice_table()]
  lines += ["", *steady_table(), "", *change_table()]
  tables.write("estimates", lines)
