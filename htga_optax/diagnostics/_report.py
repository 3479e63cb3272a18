"""A log as one page of HTML: the verdict, the laws, the pictures."""

import base64
import html
import io
import math
from typing import Any

import numpy as np

from htga_optax.diagnostics import _optional, fits, logs, plots, verdicts

RATES = ("learning_rate", "lr")
FACTORS = ("amplification", "rate_scale")


def pictures(found: verdicts.Verdict, columns: Any) -> dict[str, Any]:
  """Draws the pictures of a report.

  Args:
    found: what :func:`verdicts.examine` returned.
    columns: the log, as :func:`verdicts.examine` takes it.

  Returns:
    Figures of matplotlib, by caption.
  """
  log, column, made = logs.columns(columns), found.rows.column, {}
  steps, values = verdicts.curve(log, column)
  norms = np.abs(values)
  made[f"{column} over the run: medians and extremes of stretches"] = (
    plots.series(steps, {column: norms}, column)
  )
  if found.rows.loss is not None:
    at, loss = found.rows.steps, found.rows.loss
    is_positive = bool(np.nanmin(loss, initial=np.inf) > 0)
    made["Loss over the run"] = plots.series(
      at, {"loss": loss}, "loss", is_positive
    )
  at, alphas, low, high, _ = found.blocks
  ax = plots.tail_index(
    at, alphas, low, high, label=f"last {found.values.size}"
  )
  if "tail_index" in log:
    at, logged = verdicts.curve(log, "tail_index")
    every = max(1, at.size // 1000)
    plots.tail_index(at[::every], logged[::every], label="in the log", ax=ax)
  made["Tail index over the run; below 2 the variance is infinite"] = ax
  laws = [test.fit for test in found.tests]
  made["Share of values beyond |x|, and fitted laws"] = plots.ccdf(
    found.values, laws
  )
  made["Hill plot of the window"] = plots.hill_plot(found.values)
  for test in _best(found):
    tail = fits.LAWS[test.fit.law].support == "tail"
    verdict = "rejected" if verdicts.rejected(test) else "not rejected"
    made[f"Quantiles beside those of the law: {test.fit}, {verdict}"] = (
      plots.qq(np.abs(found.thinned) if tail else found.apart, test.fit)
    )
  rows = found.rows
  factors = {
    name: verdicts.beside(log, rows, name) for name in FACTORS if name in log
  }
  steps, norms = rows.steps, np.abs(rows.values)
  if factors:
    product = np.prod(list(factors.values()), axis=0)
    parts = np.array_split(np.arange(norms.size), 3)
    stages = {
      f"steps {steps[i[0]]:.0f} to {steps[i[-1]]:.0f}": (
        norms[i],
        (norms * product)[i],
      )
      for i in parts
    }
    made["Norms before and after modulation"] = plots.norm_histograms(stages)[
      0, 0
    ]
  name = logs.find(log, RATES, column)
  rate = None if name is None else verdicts.beside(log, rows, name)
  if factors or rate is not None:
    ax = plots.step_size(steps, 1.0 if rate is None else rate, factors)
    if rate is None:
      ax.set_ylabel("step size (learning rates)")
    made["Effective step size"] = ax
  return {caption: ax.figure for caption, ax in made.items()}


def _best(found: verdicts.Verdict) -> list[fits.Goodness]:
  """The tests with the largest p-value: of a tail, and of all values."""
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
h1, h2 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
p { max-width: 44rem; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0;
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
) -> str:
  """Writes a log as one page of HTML: verdict, laws and pictures.

  Args:
    columns: as :func:`verdicts.examine` takes them.
    title: the title of the page.
    column: as :func:`verdicts.examine` takes it.
    window: as :func:`verdicts.examine` takes it.

  Returns:
    The page, as text. It has no script, and a browser loads nothing for it.

  Raises:
    ImportError: scipy or matplotlib is missing.
    ValueError: as :func:`verdicts.examine`.
  """
  _optional.load("matplotlib.figure")
  columns = logs.columns(columns)
  found = verdicts.examine(columns, column, window)
  paragraphs = "\n".join(
    f"<p>{html.escape(line)}</p>" for line in verdicts.sentences(found, columns)
  )
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
<h2>Laws</h2>
{_table(found)}
<h2>Pictures</h2>
<main>
{figures}
</main>
<footer>{rows} rows; python -m htga_optax.diagnostics. p-values are by a
parametric bootstrap of {verdicts.REPLICATIONS} samples with the law fitted
again to each, and so at least {1 / (verdicts.REPLICATIONS + 1):g}; a law is
rejected where either is below 2.5 %.</footer>
</body>
</html>
"""


def _figure(caption: str, figure: Any) -> str:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=110)
  data = base64.b64encode(buffer.getvalue()).decode()
  caption = html.escape(caption)
  wide = ' class="wide"' if len(figure.axes) > 2 else ""
  return (
    f'<figure{wide}><img alt="{caption}" src="data:image/png;base64,{data}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _table(found: verdicts.Verdict) -> str:
  if not found.tests:
    return "<p>None was tested.</p>"
  rows = []
  for test in found.tests:
    index = test.fit.tail_index
    numbers = (
      f"{test.fit.n}",
      f"{index:.2f}" if math.isfinite(index) else "none",
      f"{test.ks:.3f}",
      f"{test.ks_pvalue:.2f}",
      f"{test.anderson_darling:.2f}",
      f"{test.anderson_darling_pvalue:.2f}",
      "rejected" if verdicts.rejected(test) else "not rejected",
    )
    cells = "".join(f'<td class="n">{cell}</td>' for cell in numbers)
    rows.append(f"<tr><td>{html.escape(str(test.fit))}</td>{cells}</tr>")
  heads = ("law", "values", "tail index", "KS", "p", "AD", "p", "at 5 %")
  head = "".join(f"<th>{name}</th>" for name in heads)
  return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
