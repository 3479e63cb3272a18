"""Writes a log as one HTML page: the verdict, the laws, the pictures."""

import base64
from collections.abc import Callable, Mapping, Sequence
import html
import io
import math
from typing import Any

import numpy as np

from htga_optax.diagnostics import _optional, fits, logs, plots, verdicts

RATES = ("learning_rate", "lr")
FACTORS = ("amplification", "rate_scale")
WEIGHTS = ("weight_tail_ratio", "weight_tail_index")


def pictures(found: verdicts.Verdict, columns: Any) -> dict[str, Any]:
  """Draws the pictures of a report.

  Args:
    found: the result of :func:`htga_optax.diagnostics.verdicts.examine`.
    columns: the log, as in that function.

  Returns:
    The matplotlib figures by caption.
  """
  log, rows, made = logs.columns(columns), found.rows, {}
  steps, values = verdicts.curve(log, rows.column)
  spikes = found.spikes.listed
  caption = f"{rows.column} over the run (line: medians; band: extremes)"
  caption += "; numbers: spikes as in the table" if spikes else ""
  made[caption] = plots.mark(
    np.array([spike.step for spike in spikes]),
    np.array([spike.norm for spike in spikes]),
    plots.series(steps, {rows.column: np.abs(values)}, rows.column),
  )
  if rows.loss is not None:
    is_positive = bool(np.nanmin(rows.loss, initial=np.inf) > 0)
    made["Loss over the run"] = plots.series(
      rows.steps, {"loss": rows.loss}, "loss", is_positive
    )
  if not found.divergence:
    made |= _tails(found, log)
  factors = {
    name: verdicts.beside(log, rows, name) for name in FACTORS if name in log
  }
  steps, norms = rows.steps, np.abs(rows.values)
  if factors:
    product = np.prod(list(factors.values()), axis=0)
    parts = np.array_split(np.arange(norms.size), 3)
    stages = {
      f"{verdicts.unit(rows)}s {steps[i[0]]:.0f} to {steps[i[-1]]:.0f}": (
        norms[i],
        (norms * product)[i],
      )
      for i in parts
    }
    made["Norms before and after modulation"] = plots.norm_histograms(stages)[
      0, 0
    ]
  for name, (at, layers) in _weights(log).items():
    made[f"{name} by layer over the run"] = plots.layers(at, layers, name)
  name = logs.find(log, RATES, rows.column)
  rate = None if name is None else verdicts.beside(log, rows, name)
  if factors or rate is not None:
    ax = plots.step_size(steps, 1.0 if rate is None else rate, factors)
    if rate is None:
      ax.set_ylabel("step size (in units of the learning rate)")
    made["Effective step size"] = ax
  return {caption: ax.figure for caption, ax in made.items()}


def _weights(
  log: Mapping[str, np.ndarray],
) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
  """Steps and readings by layer of each reading of the weights in a log."""
  found = {}
  for name in WEIGHTS:
    layers = {
      column.removeprefix(f"{name}/"): verdicts.curve(log, column)
      for column in log
      if column.startswith(f"{name}/")
    }
    known = {k: v for k, v in layers.items() if np.any(v[1] > 0)}
    if known:
      steps = np.unique(np.concatenate([at for at, _ in known.values()]))
      values = {}
      for layer, (at, x) in known.items():
        values[layer] = np.full(steps.size, np.nan)
        values[layer][np.searchsorted(steps, at)] = x
      every = max(1, steps.size // 500)
      thinned = {layer: x[::every] for layer, x in values.items()}
      found[name] = steps[::every], thinned
  return found


def _tails(
  found: verdicts.Verdict, log: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Draws the tail: its index, exceedances, Hill plot and quantiles."""
  made = {}
  at, alphas, low, high = found.blocks
  ax = plots.tail_index(
    at, alphas, low, high, label=f"last {found.values.size}"
  )
  if "tail_index" in log:
    at, logged = verdicts.curve(log, "tail_index")
    every = max(1, at.size // 1000)
    plots.tail_index(at[::every], logged[::every], label="in the log", ax=ax)
  made["Tail index over the run (below 2 the variance is infinite)"] = ax
  laws = [test.fit for test in found.tests]
  made["Share of values whose size exceeds |x|, and fitted laws"] = plots.ccdf(
    found.values, laws
  )
  made["Hill plot: the tail index by how many values are used"] = (
    plots.hill_plot(found.values)
  )
  for test in _best(found):
    tail = fits.LAWS[test.fit.law].support == "tail"
    verdict = "rejected" if verdicts.rejected(test) else "not rejected"
    made[f"Quantiles of the values over those of {test.fit}, {verdict}"] = (
      plots.qq(np.abs(found.thinned) if tail else found.apart, test.fit)
    )
  return made


def _best(found: verdicts.Verdict) -> list[fits.Goodness]:
  """The tests with the largest p-values: one of a tail, one of all values."""
  best = []
  for tails in (True, False):
    some = [
      t
      for t in found.tests
      if (fits.LAWS[t.fit.law].support == "tail") == tails
    ]
    by = lambda t: min(t.ks_pvalue, t.anderson_darling_pvalue)
    best += [max(some, key=by)] if some else []
  return best


_STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; color: #111; background: #fff; }
h1, h2, h3 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
p { max-width: 44rem; }
table { border-collapse: collapse; font-size: 0.9rem; display: block;
  overflow-x: auto; }
th, td { text-align: left; white-space: nowrap; padding: 0.2rem 1rem 0.2rem 0;
  border-bottom: 1px solid #ccc; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
main { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 26rem; max-width: 30rem; break-inside: avoid; }
figure.wide { flex-basis: 100%; max-width: 100%; }
img { width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #333; }
footer { font-size: 0.85rem; color: #333; margin-top: 2rem; }
"""


def report(
  columns: Any,
  title: str = "run",
  column: str | None = None,
  window: int = verdicts.WINDOW,
  progress: Callable[[str], object] = lambda what: None,
) -> str:
  """Writes a log as one HTML page: verdict, laws and pictures.

  Args:
    columns: a log, as in :func:`htga_optax.diagnostics.verdicts.examine`.
    title: the title of the page.
    column: the column to examine, as in that function.
    window: how many of the last values to examine, as in that function.
    progress: a function that is called with a few words before each part of the
      work.

  Returns:
    The page, as text. It has no script, and the browser loads nothing else.

  Raises:
    ImportError: scipy or matplotlib is missing.
    ValueError: as in :func:`htga_optax.diagnostics.verdicts.examine`.
  """
  _optional.load("matplotlib.figure")
  columns = logs.columns(columns)
  progress("Examining the norms and testing laws")
  found = verdicts.examine(columns, column, window)
  paragraphs = "\n".join(
    f"<p>{html.escape(line)}</p>" for line in verdicts.sentences(found, columns)
  )
  progress("Applying the rules to the norms")
  spikes = _spikes(found)
  progress("Drawing the pictures")
  figures = "\n".join(
    _figure(caption, figure)
    for caption, figure in pictures(found, columns).items()
  )
  rows = len(next(iter(columns.values())))
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(title)}: tails</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<h2>Verdict</h2>
<div id="verdict">
{paragraphs}
</div>
<h2>Spikes</h2>
{spikes}
<h2>Laws</h2>
{_laws(found)}
{_weight_table(columns)}
<h2>Pictures</h2>
<main>
{figures}
</main>
<footer>{rows} rows; python -m htga_optax.diagnostics. The p-values come from a
parametric bootstrap of {verdicts.REPLICATIONS} samples; the law is fitted again
to each. They are at least {1 / (verdicts.REPLICATIONS + 1):g}. A law is
rejected at 5 % if one of its two p-values is below 2.5 %. KS is the distance of
Kolmogorov and Smirnov, AD that of Anderson and Darling.</footer>
</body>
</html>
"""


def _figure(caption: str, figure: Any) -> str:
  buffer = io.BytesIO()
  figure.set_dpi(110)
  # `savefig` would compute the layout twice, which takes longer than drawing.
  agg = _optional.load("matplotlib.backends.backend_agg")
  agg.FigureCanvasAgg(figure).print_png(buffer)
  data = base64.b64encode(buffer.getvalue()).decode()
  caption = html.escape(caption)
  wide = ' class="wide"' if len(figure.axes) > 2 else ""
  return (
    f'<figure{wide}><img alt="{caption}" src="data:image/png;base64,{data}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table with text in the first column and numbers in the others."""
  head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
  lines = []
  for first, *numbers in rows:
    cells = "".join(f'<td class="n">{html.escape(v)}</td>' for v in numbers)
    lines.append(f"<tr><td>{html.escape(first)}</td>{cells}</tr>")
  return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _laws(found: verdicts.Verdict) -> str:
  if not found.tests:
    return "<p>No law was tested.</p>"
  rows = []
  for test in found.tests:
    index = test.fit.tail_index
    rows.append(
      (
        str(test.fit),
        f"{test.fit.n}",
        f"{index:.2f}" if math.isfinite(index) else "none",
        f"{test.ks:.3f}",
        f"{test.ks_pvalue:.2f}",
        f"{test.anderson_darling:.2f}",
        f"{test.anderson_darling_pvalue:.2f}",
        "rejected" if verdicts.rejected(test) else "not rejected",
      )
    )
  heads = ("law", "values", "tail index", "KS", "p", "AD", "p", "at 5 %")
  return _table(heads, rows)


def _spikes(found: verdicts.Verdict) -> str:
  """The table of the largest spikes, and what the rules do with them."""
  listed = found.spikes.listed
  if not listed:
    return "<p>There are no spikes.</p>"
  heads = ["", verdicts.unit(found.rows), found.rows.column]
  heads += ["local level", "times the level"]
  has_loss = any(math.isfinite(s.loss_before + s.loss_after) for s in listed)
  has_layer = any(s.layer for s in listed)
  heads += ["loss before", "loss after"] if has_loss else []
  heads += ["layer", "times its level"] if has_layer else []
  rows = []
  for number, s in enumerate(listed, 1):
    row = [f"{number}", f"{s.step:.0f}", f"{s.norm:.3g}", f"{s.level:.3g}"]
    row.append(f"{s.ratio:.3g}")
    row += [_number(s.loss_before), _number(s.loss_after)] if has_loss else []
    row += [s.layer, _number(s.layer_ratio)] if has_layer else []
    rows.append(row)
  outcomes = verdicts.under_rules(found)
  actions = [
    [
      rule,
      *(_action(s.norm, x) for s, x in zip(listed, outcome.after)),
      f"{1000 * outcome.share:.1f}",
    ]
    for rule, outcome in outcomes.items()
  ]
  numbers = [f"{number}" for number in range(1, len(listed) + 1)]
  return f"""{_table(heads, rows)}
<p>The {len(listed)} largest of {found.spikes.total} spikes. The local level is
the median of the {verdicts.LEVEL_ROWS} values around a spike. Losses are
medians of five rows.</p>
<h3>What rules would have done with these spikes</h3>
{_table(["rule", *numbers, "changed of 1000 values"], actions)}
<p>The numbers are those of the spikes above. "to 2" means that the rule clips
to a norm of 2, "skipped" that it skips the step, "-" that it changes nothing.
The last column is the share of values that a rule changes{_seen(found)}. Each
rule is applied to the norms as they were logged. In a real run its actions
might have changed the later norms.</p>"""


def _weight_table(log: Mapping[str, np.ndarray]) -> str:
  """A line for each layer, if the log has readings of the weights."""
  made = []
  for name, (_, layers) in _weights(log).items():
    rows = []
    for layer, x in layers.items():
      known = x[np.isfinite(x) & (x > 0)]
      ends = known[0], known[-1], np.min(known), np.max(known)
      rows.append((layer, *(f"{v:.2f}" for v in ends)))
    heads = (f"{name} of the layer", "first", "last", "lowest", "highest")
    made.append(_table(heads, rows))
  if not made:
    return ""
  note = """<p>weight_tail_index is the tail index of the eigenvalues of a
weight matrix, PL_Alpha_Hill - 1. It depends on the shape of the matrix. The
ratio is 1 for an untrained matrix, and lower for a heavier tail.</p>"""
  return "\n".join(["<h2>Weights</h2>", *made, note])


def _number(x: float) -> str:
  """A number with four digits; an empty text for nan."""
  return "" if math.isnan(x) else f"{x:.4g}"


def _action(norm: float, after: float) -> str:
  """What a rule does with a norm, as the text of a cell."""
  if verdicts.is_same(norm, after):
    return "-"
  return f"to {after:.3g}" if after else "skipped"


def _seen(found: verdicts.Verdict) -> str:
  """Which norms the rules are applied to, if not to the whole run."""
  if found.rows.values.size <= verdicts.MEMORY:
    return ""
  return f", of the {verdicts.MEMORY} values up to each spike"
