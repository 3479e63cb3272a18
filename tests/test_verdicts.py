"""Verdicts do not overstate; listed spikes have their surroundings."""

import io
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import htga_optax
from htga_optax import diagnostics
from htga_optax.diagnostics import __main__ as command
from htga_optax.diagnostics import logs, plots, spike_rules, verdicts
from htga_optax.diagnostics.verdicts import _clip, _divergence, _spikes

N = 800
LOGS = pathlib.Path(__file__).parents[2] / "shared/data/norm_logs"


def calm(n=N, seed=0):
  """Norms of a high-dimensional gradient: no spike, no power law."""
  return np.random.default_rng(seed).chisquare(100, n) ** 0.5


def heavy(n=N, alpha=1.5, seed=0):
  return np.random.default_rng(seed).pareto(alpha, n) + 1


def replaced(x, places, values):
  x = x.copy()
  x[places] = values
  return x


STEPS = np.arange(N) * 10.0
DIVERGED = {
  "grows for good": (calm() * np.where(STEPS < 6000, 1, 1e4), 6000),
  "grows and comes back": (
    calm() * np.where((STEPS >= 5000) & (STEPS < 5400), 1e9, 1),
    5000,
  ),
  "most are infinite": (
    replaced(calm(), np.flatnonzero(np.arange(N) % 4)[450:], np.inf),
    6000,
  ),
  "begins near 0 and diverges": (
    calm() * np.where(STEPS < 100, 1e-9, np.where(STEPS < 6000, 1, 1e6)),
    6000,
  ),
  "stays infinite": (replaced(calm(), slice(100, None), np.inf), 1000),
  "soon stays infinite": (replaced(calm(), slice(60, None), np.inf), 600),
  "ends in nan": (replaced(calm(), slice(780, None), np.nan), 7800),
}
SOUND = {
  "calm": calm(),
  "heavy": heavy(alpha=0.7),
  "single spikes": replaced(calm(), slice(100, None, 50), 1e9),
  "falls by five decades": calm() * np.geomspace(1, 1e-5, N),
  "jumps a hundredfold": calm() * np.where(STEPS < 6000, 1, 100),
  "a value in every tenth row": replaced(calm(), np.arange(N) % 10 > 0, np.nan),
  "a value in most rows": replaced(
    calm(), np.random.default_rng(0).uniform(size=N) < 0.45, np.nan
  ),
  "a few are not finite": replaced(calm(), slice(20, None, 40), np.inf),
  "begins near 0": calm() * np.minimum(1, np.geomspace(1e-10, 1e30, N)),
  "stays near 0 for a fifth": calm() * np.where(STEPS < 1500, 1e-5, 1),
}


def divergence(x, window=2048):
  rows = verdicts.take({"step": STEPS, "norm": x})
  return _divergence.divergence(rows, window)


@pytest.mark.parametrize("name", DIVERGED)
def test_a_run_that_diverged_is_called_diverged(name):
  x, onset = DIVERGED[name]
  found = divergence(x)
  assert found is not None
  # Within one stretch; half of its values must be beyond the bound.
  assert abs(found.step - onset) <= 10 * _divergence.STRETCH
  later = x[found.step <= STEPS]
  assert found.nonfinite == np.sum(~np.isfinite(later))
  assert found.largest == np.max(later[np.isfinite(later)], initial=0)
  assert found.before == pytest.approx(10, rel=0.1)
  table = {"step": STEPS, "norm": x}
  verdict = verdicts.examine(table)
  assert not verdict.tests and verdict.clip is None
  assert np.isnan([verdict.tail_index, *verdict.interval]).all()
  first, *others = verdicts.sentences(verdict, table)
  assert first.startswith("The run diverged near step ")
  assert "nan" not in first
  for word in ("Tail index", "verdict rests", "Clip:", "Batch:", "rejected"):
    assert word not in " ".join([first, *others])


@pytest.mark.parametrize("name", SOUND)
def test_a_run_that_did_not_diverge_is_not_called_diverged(name):
  assert divergence(SOUND[name]) is None


def test_a_run_that_recovered_before_the_window_counts_as_sound():
  x, onset = DIVERGED["grows and comes back"]
  assert divergence(x, 200) is None
  found = divergence(x, 500)
  assert found is not None and found.step == onset


def test_the_page_of_a_run_that_diverged_has_no_picture_of_a_tail():
  table = {"norm": DIVERGED["grows for good"][0]}
  made = diagnostics.pictures(verdicts.examine(table), table)
  assert len(made) == 1


def test_few_independent_values_give_no_verdict():
  """Like a drifting run: a slow level with little noise around it."""
  rng = np.random.default_rng(3)
  x = np.exp(np.cumsum(0.02 * rng.standard_normal(N)))
  table = {"norm": x}
  found = verdicts.examine(table)
  low, high = found.interval
  assert low < 2 and high > 10
  said = verdicts.sentences(found, table)
  assert "too few independent values to tell" in said[0]
  assert "perhaps" not in said[0]
  telling = found.values.size / found.series.variance_inflation
  assert f"much information as {telling:.0f} independent ones" in said[0]
  assert "Batch: too few independent values" in " ".join(said)


@pytest.mark.parametrize(
  "low, high, few",
  [
    (0.84, 47, True),
    (0.3, 2.1, True),
    (0.3, 1.9, False),
    (1.1, 4.8, False),
    (2.1, 40, False),
  ],
)
def test_too_few_if_the_ends_of_the_interval_contradict(low, high, few):
  assert (verdicts.meaning(low, high)[:7] == "too few") == few


@pytest.mark.parametrize(
  "x, resolution",
  [
    (heavy(), 0),
    (heavy().round(2), 0.01),
    (heavy().round(1) * 3, 0.3),
    (calm().astype(jnp.bfloat16).astype(float), 1 / 32),
    (np.repeat(heavy(100), 8), 0),
  ],
)
def test_ties_and_rounding_are_named(x, resolution):
  found = verdicts.examine({"norm": x})
  assert found.resolution == pytest.approx(resolution, rel=1e-6)
  assert found.distinct == len(set(x))
  said = " ".join(verdicts.sentences(found, {"norm": x}))
  rounded = f"Rounded: values are multiples of {resolution:.2g}, and"
  assert (rounded in said) == (resolution > 0)
  ties = f"only {len(set(x))} of the last {N} values differ."
  assert (ties in said) == (len(set(x)) < N)


CLIP = htga_optax.clip_by_tail_quantile(verdicts.CLIPPED)
UPDATE = jax.jit(CLIP.update)


@pytest.mark.parametrize("size", [300, 2048])
def test_the_clip_is_that_of_the_transformation(size):
  """Step by step, over a run that is longer than the window."""
  x = heavy(size)
  state, update = jax.jit(CLIP.init)(jnp.zeros(1)), UPDATE
  counts = [0]
  for r in x:
    _, state = update(jnp.float32([r]), state)
    counts.append(int(optax.tree.get(state, "exceedance_count")))
  _, state = update(jnp.float32([np.nan]), state)
  found = verdicts.examine({"norm": x}).clip
  assert found is not None
  q = float(optax.tree.get(state, "tail_quantile"))
  assert found.norm == pytest.approx(q, rel=1e-4)
  last = min(size, 1024)
  assert found.counted == last
  assert found.clipped == counts[-1] - counts[-1 - last]


def test_the_clip_acts_from_the_stated_number_of_norms():
  x = calm(_clip.CLIP_FEWEST + 1)
  spike = np.full(1, 1e9)
  for size, clips in ((_clip.CLIP_FEWEST - 1, 0), (_clip.CLIP_FEWEST, 1)):
    found = _clip.clip_at_the_end(np.append(x[:size], spike), 1.0)
    assert found.clipped == clips


def test_a_short_run_states_the_limits_of_its_clip():
  table = {"norm": heavy(300)}
  found = verdicts.examine(table)
  said = " ".join(verdicts.sentences(found, table))
  assert (
    "The verdict rests on all 300 values, rows 1 to 300, fewer than its window"
    " of 2048." in said
  )
  assert "Its window of 1024 norms is not full" in said
  assert "before it has 64 norms it clips nothing." in said
  table = {"norm": heavy(2048)}
  said = " ".join(verdicts.sentences(verdicts.examine(table), table))
  assert "not full" not in said and "fewer than its window" not in said


def test_no_clip_has_its_reason():
  x = heavy(300)
  found = verdicts.examine({"norm": x})
  none = _clip.clip_at_the_end(np.ones(300), 1.0)
  assert np.isnan(none.norm) and not none.clipped
  said = verdicts.sentences(found._replace(clip=none), {"norm": x})
  assert [line for line in said if line.startswith("Clip: none. ")]


def test_a_clip_that_acts_too_often_says_so():
  places = np.arange(2048)
  x = calm(2048) * np.where((places > 2000) & (places % 2 == 0), 3, 1)
  table = {"norm": x}
  found = verdicts.examine(table)
  assert found.clip is not None and found.clip.clipped > 5
  said = " ".join(verdicts.sentences(found, table))
  assert f"values it clips {found.clip.clipped}. This is more than" in said


@pytest.mark.parametrize(
  "law, size, evidence",
  [(stats.expon(), 400, False), (stats.pareto(1.0), 2048, True)],
)
def test_a_lighter_law_that_is_not_rejected_is_named(law, size, evidence):
  table = {"norm": law.rvs(size, random_state=1)}
  found = verdicts.examine(table)
  by = {test.fit.law: verdicts.rejected(test) for test in found.tests}
  assert not by["Pareto tail"] and by["exponential tail"] == evidence
  said = " ".join(verdicts.sentences(found, table))
  assert ("these values are no evidence of a power law" in said) != evidence


def slow_levels(x):
  """The median of the 101 values around each, cut as in the docstring."""
  levels = []
  for i in range(x.size):
    back = min(i, 50)
    ahead = back if i < 50 else 50
    levels.append(np.median(x[i - back : min(i + ahead + 1, x.size)]))
  return np.array(levels)


@pytest.mark.parametrize("size", [100, 120, 1000])
def test_the_local_level_is_a_running_median(size):
  x = heavy(size, alpha=0.8)
  np.testing.assert_array_equal(_spikes.local_level(x), slow_levels(x))


def spiky():
  """A log with rows that do not count, spikes, a loss and two layers."""
  x = calm(N)
  x[[2, 150, 155, 300, 301, 799]] *= 50, 20, 30, 8, 6, 40
  x[[10, 302]] = np.nan
  loss = 2 + 0.01 * np.arange(N)
  loss[302:] += 1
  loss[153] = np.nan
  a, b = calm(N, 1), 100 * calm(N, 2)
  a[155] *= 30
  b[[2, 300, 799]] *= 9, 9, 9
  return {
    "step": 5.0 * np.arange(N),
    "loss": loss,
    "grad_norm": x,
    "grad_norm/dense/kernel": a,
    "grad_norm/dense/bias": b,
    "tail_index/dense/kernel": np.full(N, 1.5),
  }


def test_spikes_list_their_surroundings():
  table = spiky()
  found = verdicts.examine(table).spikes
  usable = np.isfinite(table["grad_norm"])
  rows = np.flatnonzero(usable)
  x = table["grad_norm"][rows]
  ratios = x / slow_levels(x)
  # 150 belongs to the spike at 155, and 301 to that at 300.
  assert found.total == 4
  by_row = {spike.row: spike for spike in found.listed}
  assert list(by_row) == [2, 799, 155, 300]
  for row, spike in by_row.items():
    i = int(np.flatnonzero(rows == row)[0])
    assert spike.step == 5 * row and spike.norm == x[i]
    assert spike.ratio == pytest.approx(ratios[i])
    before = table["loss"][rows[max(0, i - 5) : i]]
    after = table["loss"][rows[i + 1 : i + 6]]
    assert spike.loss_before == pytest.approx(np.nanmedian(before))
    if row < 799:
      assert spike.loss_after == pytest.approx(np.nanmedian(after))
  assert np.isnan(by_row[799].loss_after)
  layers = {row: spike.layer for row, spike in by_row.items()}
  assert layers[155] == "dense/kernel"
  assert {layers[r] for r in (2, 300, 799)} == {"dense/bias"}
  kernel = table["grad_norm/dense/kernel"]
  level = np.median(kernel[rows[(rows >= 105) & (rows <= 205)]])
  assert by_row[155].layer_ratio == pytest.approx(kernel[155] / level, rel=0.01)


def test_a_level_that_falls_or_jumps_is_no_spike():
  falls = calm() * np.exp(-np.arange(N) / 20) + calm()
  jumps = calm() * np.where(np.arange(N) < 400, 1, 4)
  for x in (falls, jumps):
    found = verdicts.examine({"norm": x})
    assert not found.spikes.total
    said = " ".join(verdicts.sentences(found, {"norm": x}))
    largest = found.spikes.largest[0]
    assert f"The largest is {largest.ratio:.3g} times its level" in said


def test_spikes_are_in_sentences_and_in_the_page():
  table = spiky()
  found = verdicts.examine(table)
  (said,) = [
    line
    for line in verdicts.sentences(found, table)
    if line.startswith("Spikes: ")
  ]
  assert said.startswith("Spikes: 4 values are above 5 times the local level")
  assert said.count("Step ") == 3 and "mostly in dense/kernel" in said
  page = diagnostics.report(table)
  for cell in ("<td>1</td>", "loss before", "dense/bias", "of 1000 values"):
    assert cell in page
  for rule in spike_rules.apply(heavy()):
    assert f"<td>{rule}</td>" in page
  calm_page = diagnostics.report({"norm": calm()})
  assert "<h2>Spikes</h2>\n<p>There are no spikes.</p>" in calm_page


def rules_of(norms):
  """Two rules that remember the whole run, one that skips, and none."""
  return {
    _clip.RULE: np.minimum(norms, norms[0]),
    "as before": np.minimum(norms, np.append(np.inf, norms[:-1])),
    "sum": np.where(np.cumsum(norms) < 1e4, norms, 0.5),
    "skip": np.where(norms > 100, 0, norms),
    "none": np.float32(norms).astype(float),
  }


@pytest.mark.parametrize("size", [N, 6000])
def test_rules_run_on_the_values_before_a_spike(monkeypatch, size):
  monkeypatch.setattr(spike_rules, "apply", rules_of)
  x = calm(size)
  spikes = [300, 100] if size == N else [5900, 5000, 300]
  x[spikes] *= 40 - np.arange(len(spikes))
  table = {"norm": x}
  found = verdicts.examine(table)
  assert {spike.row for spike in found.spikes.listed} == set(spikes)
  outcomes = verdicts.under_rules(found)
  for i, spike in enumerate(found.spikes.listed):
    start = max(0, spike.row - verdicts.MEMORY + 1)
    alone = rules_of(x[start : start + verdicts.MEMORY])
    for rule, after in alone.items():
      assert outcomes[rule].after[i] == pytest.approx(after[spike.row - start])
  assert outcomes["none"].share == 0
  if size == N:
    assert outcomes["skip"].share == pytest.approx(len(spikes) / size)
  page = diagnostics.report(table)
  assert "<td>none</td>" + len(spikes) * '<td class="n">-</td>' in page
  assert "<td>skip</td>" + len(spikes) * '<td class="n">skipped</td>' in page
  assert ("of the 4096 values up to each" in page) == (size > 4096)


def test_spikes_are_marked_in_the_picture():
  table = spiky()
  made = diagnostics.pictures(verdicts.examine(table), table)
  (ax,) = next(iter(made.values())).axes
  assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "4"]
  np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [10, 3995, 775, 1500])
  ax = plots.mark([], [], plots.series([1, 2], {"x": [1, 2]}, "x"))
  assert not ax.texts


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_shows_progress(tmp_path, monkeypatch, capsys):
  path = tmp_path / "run.csv"
  path.write_text("norm\n" + "".join(f"{x}\n" for x in calm()))
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  command.main([str(path), "-o", str(tmp_path / "page.html")])
  shown = terminal.getvalue()
  parts = shown.split("\r\x1b[K")
  assert parts[1] == f"Reading {path}" and parts[-1] == ""
  assert len(parts) >= 5 and "\n" not in shown
  assert capsys.readouterr().out.endswith("page.html\n")


@pytest.mark.skipif(not LOGS.exists(), reason="there are no logs of real runs")
@pytest.mark.parametrize(
  "name, there, not_there",
  [
    (
      "algoperf_conformer_spiky",
      [
        "Tail index 2.1 (95 %: 1.7 to 2.4)",
        "No drift is found",
        "No dependence that matters",
        "Not rejected at 5 %: Pareto tail",
        "likelihood favours the Pareto tail over the exponential tail",
        "if its norm is above 1",
        "of the last 1024 values it clips 1.",
        "The level is stable: the medians",
        "Step 228700: 15.9, 31.1 times the level, loss 1.35 before",
      ],
      [
        "no evidence",
        "too few",
        "values differ",
        "diverged",
        "more than its stated rate",
      ],
    ),
    (
      "algoperf_resnet_calm_trend",
      [
        "too few independent values to tell. The 1848 values carry as much"
        " information as 15 independent ones.",
        "rests on all 1848 values, steps 0 to 184700, fewer than its window",
        "of the last 1024 values it clips 1.",
        "Spikes: none.",
      ],
      ["perhaps", "more than its stated rate"],
    ),
    (
      "algoperf_deepspeech_nonfinite",
      [
        "The run diverged near step ",
        "its values grew from a level of 1.37 to 1.33e+19, by 19 decades.",
        "Left out of grad_norm: 28 infinite.",
      ],
      ["Tail index", "Clip:", "Batch:"],
    ),
    (
      "algoperf_wmt_spiky",
      ["perhaps heavy", "Step 39100: 15.6, 86.4 times the level"],
      ["this tail is no obstacle"],
    ),
    (
      "llmc_gpt2_124m",
      [
        "multiples of 0.01, and only 19 of the last 2048 values differ",
        "No law is tested: there are too few values for a test, or too many of"
        " them are equal.",
        "Clip: clip_by_tail_quantile(exceedance_rate=0.001)",
        "Spikes: 2 values are above",
      ],
      ["diverged"],
    ),
  ],
)
def test_real_runs(name, there, not_there):
  table = logs.read(LOGS / f"{name}.csv")
  said = " ".join(verdicts.sentences(verdicts.examine(table), table))
  for words in there:
    assert words in said
  for words in not_there:
    assert words not in said
