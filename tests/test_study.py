"""The harness of the study: its store, its processes, its tasks."""

import concurrent.futures
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).parent.parent
STUDY = ROOT / "benchmarks" / "study"
DATA = ROOT.parent / "shared" / "data"

# An experiment whose runs are cheap. A task hangs, another one fails.
TINY = """
import time
import numpy as np

def run(units, folder):
  for unit in units:
    if unit.task == "hang":
      time.sleep(60)
    if unit.task == "fail":
      raise ValueError(f"no such task: {unit.task}")
    time.sleep(dict(unit.setting)["seconds"])
    yield {"square": np.float32(unit.seed) ** 2}
"""
# Runs the units of a file; ended by the test in the middle.
MAIN = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import run, store
lines = pathlib.Path(sys.argv[3]).read_text().splitlines()
units = [store.Unit.from_json(line) for line in lines]
run.run_all(units, pathlib.Path(sys.argv[2]), ".")
"""


class Study:
  """The modules of the study, imported when a test needs them."""

  def __getattr__(self, name):
    return importlib.import_module(name)


@pytest.fixture
def study(monkeypatch, tmp_path):
  for folder in (ROOT / "examples", ROOT / "benchmarks", STUDY):
    monkeypatch.syspath_prepend(folder)
  (tmp_path / "tiny.py").write_text(TINY)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  return Study()


def tiny_units(study, task, seeds, steps=1, seconds=0.0):
  return [
    study.store.Unit(
      "tiny", task, "none", 1, steps, (("seconds", seconds),), seed, 1
    )
    for seed in seeds
  ]


def rows(study, path):
  with study.store.opened(path) as connection:
    return list(study.store.rows(connection))


def test_every_run_is_a_row_and_nothing_runs_twice(study, tmp_path, capsys):
  path = tmp_path / "study.sqlite"
  units = tiny_units(study, "a", [0, 1, 2]) + tiny_units(study, "b", [3])
  study.run.run_all(units, path, ".", jobs=2)
  found = rows(study, path)
  squares = {row.unit: float(row.arrays["square"]) for row in found}
  assert squares == dict(zip(units, [0.0, 1.0, 4.0, 9.0]))
  assert all(row.seconds > 0 and "jax" in row.machine for row in found)
  assert all(row.revision for row in found)
  capsys.readouterr()
  more = [*units, *tiny_units(study, "b", [4])]
  study.run.run_all(more, path, ".")
  assert "4 of 5 runs are done, 1 groups are left" in capsys.readouterr().out
  assert [row.unit for row in rows(study, path)] == [
    row.unit for row in found
  ] + more[-1:]


def test_many_may_open_a_new_store_at_once(study, tmp_path):
  def length(i):
    return len(rows(study, tmp_path / f"{i // 8}.sqlite"))

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert not any(pool.map(length, range(8 * 20)))


def test_no_group_starts_after_the_time(study, tmp_path, capsys):
  path = tmp_path / "study.sqlite"
  study.run.run_all(tiny_units(study, "a", [0]), path, ".", minutes=0)
  assert not rows(study, path)
  assert capsys.readouterr().out.endswith("0 of 1 runs are done\n")


def test_kill_and_resume(study, tmp_path):
  """Ended by SIGKILL in the middle, and gone on with in another process."""
  path, lines = tmp_path / "study.sqlite", tmp_path / "units"
  units = []
  for steps in range(8):  # eight groups
    units += tiny_units(study, "a", [1, 2], steps, seconds=0.3)
  lines.write_text("\n".join(unit.json for unit in units))
  main = tmp_path / "main.py"
  main.write_text(MAIN)
  command = [sys.executable, main, STUDY, path, lines]
  with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
    end = time.monotonic() + 120
    while time.monotonic() < end:
      if path.exists() and len(rows(study, path)) >= 4:
        break
      time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
  before = rows(study, path)
  assert 4 <= len(before) < 16
  assert len(before) % 2 == 0  # whole groups
  study.run.run_all(units, path, ".", jobs=2)
  after = rows(study, path)
  assert after[: len(before)] == before
  assert sorted(row.unit.key for row in after) == sorted(u.key for u in units)


@pytest.mark.slow
def test_a_hang_and_a_failure_are_rows_and_are_tried_twice(
  study, tmp_path, capsys
):
  path = tmp_path / "study.sqlite"
  good = tiny_units(study, "a", [5])
  bad = tiny_units(study, "hang", [0]) + tiny_units(study, "fail", [1])
  study.run.run_all(bad + good, path, ".", limit=2)
  assert [row.unit for row in rows(study, path)] == good
  with study.store.opened(path) as connection:
    found = study.store.troubles(connection)
    assert study.store.pending(connection, bad + good) == ([], bad)
  hung = (bad[0], "hung", "no result after 2 s")
  failed = (bad[1], "failed", "ValueError: no such task: fail")
  assert found == [hung, failed, hung, failed]
  capsys.readouterr()
  study.run.run_all(bad + good, path, ".", limit=2)
  assert "given up: tiny: hang, none, batch 1, 1 runs" in (
    capsys.readouterr().out
  )


def test_a_store_of_another_version_is_refused(study, tmp_path, monkeypatch):
  path = tmp_path / "study.sqlite"
  study.run.run_all(tiny_units(study, "a", [1]), path, ".")
  monkeypatch.setattr(study.store, "VERSION", 2)
  with (
    pytest.raises(study.store.StoreError, match=r"version 1 and .* needs 2"),
    study.store.opened(path),
  ):
    pass
  path.write_text("step,loss\n1,2\n" * 100)
  with (
    pytest.raises(study.store.StoreError, match="is not a store"),
    study.store.opened(path),
  ):
    pass


def test_the_key_depends_on_all_that_defines_a_run(study):
  unit = study.store.Unit("e", "t", "m", 1, 2, (("a", 0.1), ("b", 2.0)), 3, 4)
  assert study.store.Unit.from_json(unit.json) == unit
  others = [
    unit._replace(**{name: value})
    for name, value in {
      "experiment": "f",
      "task": "u",
      "method": "n",
      "batch_size": 2,
      "steps": 3,
      "setting": (("a", 0.2), ("b", 2.0)),
      "seed": 4,
      "version": 5,
    }.items()
  ]
  assert len({u.key for u in [unit, *others]}) == 1 + len(unit._fields)
  same = [other.group == unit.group for other in others]
  assert [
    name for name, one in zip(unit._fields, same, strict=True) if one
  ] == ["setting", "seed"]


@pytest.mark.slow
def test_what_the_atlas_keeps(study):
  """The first step of a regression, computed again by NumPy."""
  atlas, tasks = study.atlas, study.tasks
  task = tasks.TASKS["student_1_5"]
  unit = next(u for u in atlas.units(["student_1_5"]) if u.batch_size == 4)
  one, other = atlas.run(
    [unit._replace(steps=20), unit._replace(steps=20, seed=1)], "."
  )
  shapes = {name: array.shape for name, array in one.items()}
  assert shapes == {
    "loss": (20,),
    "norm": (20,),
    "noise": (20,),
    "layers": (20, 1),
    "largest": (10, 20),
    "valid_loss": (10,),
    "test_loss": (10,),
    "layer_names": (1,),
    "entries": (),
  }
  problem = task.make(".")
  keys = jax.random.split(jax.random.key(0), 4)
  world = problem.start(keys[1])
  key = jax.random.fold_in(keys[3], 0)
  _, (x, y) = problem.draw({}, world, key, 0, 8)
  x, y = np.float64(x), np.float64(y)
  grads = [-x[i].T @ y[i] / 4 for i in (slice(4), slice(4, 8))]
  norm = np.linalg.norm(grads[0])
  noise = np.linalg.norm(grads[0] - grads[1]) / np.sqrt(2)
  np.testing.assert_allclose(one["loss"][0], np.mean(y[:4] ** 2) / 2, rtol=1e-4)
  np.testing.assert_allclose(one["norm"][0], norm, rtol=1e-4)
  np.testing.assert_allclose(one["layers"][0], norm, rtol=1e-4)
  np.testing.assert_allclose(one["noise"][0], noise, rtol=1e-4)
  assert np.all(np.diff(one["largest"]) <= 0)
  assert not np.allclose(one["norm"], other["norm"])


@pytest.mark.slow
def test_methods_see_the_same_weights_and_batches(study):
  atlas = study.atlas
  sgd, adam = (
    u._replace(steps=10)
    for u in atlas.units(["zipf"], seeds=[3])
    if u.batch_size == 16
  )
  first = [atlas.run([unit], ".")[0] for unit in (sgd, adam)]
  assert first[0]["norm"][0] == first[1]["norm"][0]
  assert first[0]["norm"][1] != first[1]["norm"][1]


def test_again_repeats_a_tenth_with_other_seeds(study):
  atlas = study.atlas
  all_, again = atlas.units(), atlas.again()
  without = lambda units: {unit._replace(seed=0) for unit in units}
  assert without(again) < without(all_)
  assert {unit.seed for unit in again}.isdisjoint({u.seed for u in all_})
  assert len(without(again)) == -(-len(without(all_)) // 10)


def row_of(study, unit, scores):
  """A row of the comparison with these scores of its blocks."""
  arrays = {"loss": np.zeros(4)}
  arrays |= {f"{part}_loss": np.array(scores) for part in ("valid", "test")}
  return study.store.Row(unit, arrays, 1.0, "", "")


def test_the_best_setting_is_run_with_fresh_seeds(study):
  """The setting with the best mean over the tuning seeds, if all are there."""
  comparison, methods = study.comparison, study.methods
  units = [u for u in comparison.tuning(["words"]) if u.method == "sgd_clip"]
  suite = comparison.SUITES["comparison"]
  settings = methods.METHODS["sgd_clip"].settings(suite.settings)
  assert len(units) == len(settings) * len(suite.tune)
  scores = np.random.default_rng(0).uniform(4, 6, len(units))
  scores[6:8] = 3.9, np.nan  # nan counts as a guess, log(1000)
  scores[10:12] = 4.0, 4.1
  run_of = lambda u, s: comparison.run_of(row_of(study, u, [9.0, s]))
  made = [run_of(u, s) for u, s in zip(units, scores)]
  assert not comparison.final(made[:-1])
  chosen = comparison.final(made)
  assert {dict(u.setting)["rate"] for u in chosen} == {settings[5]["rate"]}
  seeds = [u.seed for u in chosen]
  assert seeds == list(comparison.FINAL)
  assert not {u.seed for u in comparison.tuning()} & set(seeds)
  again = made + [run_of(u, 1.0) for u in chosen]
  assert comparison.final(again) == chosen  # final runs choose nothing


def test_the_sweep_changes_the_rate_alone(study):
  comparison = study.comparison
  units = [
    u for u in comparison.tuning(["words"]) if u.method in ("sgd", "lion")
  ]
  run_of = lambda u, s: comparison.run_of(row_of(study, u, [9.0, s]))
  made = [run_of(u, i / 100) for i, u in enumerate(units)]
  units = comparison.sweep(made)
  assert {u.method for u in units} == {"sgd"}  # lion is not in the sweep
  assert len(units) == len(comparison.RATES) * len(comparison.SWEEP)
  (chosen, *_) = (u for u in comparison.final(made) if u.method == "sgd")
  rest = lambda u: {k: v for k, v in u.setting if k != "rate"}
  assert all(rest(u) == rest(chosen) for u in units)
  made += [run_of(u, 0.0) for u in units]
  assert comparison.best(made)["words", "sgd"] == chosen.setting


def test_shuffled_readings_are_those_of_other_layers(study):
  """A permutation of the measured layers; the others keep what they have."""
  measured = lambda name, shape: 0 if len(shape) == 2 else None
  given = {}

  def update(updates, state, params=None, **extra_args):
    given.update(extra_args)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
  updates = [jnp.zeros(3)] + [jnp.zeros((3, 3))] * 5 + [jnp.zeros(3)]
  x = jnp.arange(7.0)
  seen = set()
  for seed in range(4):
    tx = study.layers._shuffled(measured, jax.random.key(seed))(inner)
    tx.update(updates, (), weight_tail_index=x)
    found = np.asarray(given["weight_tail_index"])
    assert found[0] == 0 and found[6] == 6
    assert sorted(found[1:6]) == [1, 2, 3, 4, 5]
    seen.add(tuple(found))
  assert len(seen) > 1


def test_methods_of_a_family_share_their_space(study):
  families = {}
  for name, method in study.methods.METHODS.items():
    assert method.family in ("sgd", "adam")
    for one in method.settings(20):
      for key, (low, high) in method.space.items():
        assert low * 0.999 <= one[key] <= high * 1.001, name
    families.setdefault(method.family, set()).add(method.space["rate"])
  assert all(len(spaces) == 1 for spaces in families.values())
  few, many = (study.methods.METHODS["lion"].settings(n) for n in (5, 12))
  assert few == many[:5]


@pytest.mark.slow
def test_htga_with_an_exponent_of_1_is_the_identity(study):
  """The placebo hands on the gradients to the last bit, and its tail is known.

  (Whole programs differ by rounding, since XLA fuses them differently.)
  """
  front = study.methods.METHODS["htga_gamma_1"].make.keywords["front"]
  tx = front(study.tasks.TASKS["words"], {})
  grads = jnp.float32(np.random.default_rng(0).standard_cauchy((400, 3)))

  def step(state, g):
    updates, state = tx.update(g, state, g)
    return state, (updates, optax.tree.get(state, "tail_index"))

  _, (updates, indices) = jax.lax.scan(step, tx.init(grads[0]), grads)
  np.testing.assert_array_equal(updates, grads)
  assert 0.5 < indices[-1] < 2  # the index is 1, from 16 norms


def test_experience_comes_before_every_sixteenth_step(study):
  pytest.importorskip("gymnax", reason="PPO needs the extra study")
  problem = study.tasks.TASKS["cartpole"].make(".")
  key = jax.random.key(0)
  params, world = problem.init(key), problem.start(key)
  draw = jax.jit(problem.draw, static_argnums=4)
  seen = []
  for step in range(18):
    world, batch = draw(params, world, jax.random.key(step), step, 4)
    seen.append(np.asarray(world[1][1]))
    assert batch[1].shape == (4,)
    assert np.all(np.isin(batch[1], seen[-1]))
  new = [i for i in range(1, 18) if not np.array_equal(seen[i], seen[i - 1])]
  assert new == [16]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """The data of the tasks, as `run.py` takes them; skips where it is absent."""
  import gzip

  if not DATA.exists():
    pytest.skip(f"needs {DATA}")
  folder = tmp_path_factory.mktemp("data")
  for part in ("train", "test"):
    name = f"ptb.{part}.txt.gz"
    (folder / name).symlink_to(DATA / "ptb" / name)
  with gzip.open(DATA / "tinyshakespeare" / "input.txt.gz", "rt") as file:
    (folder / "tiny_shakespeare.txt").write_text(file.read())
  parts = {}
  for part, prefix in (("train", "train"), ("test", "t10k")):
    for letter, name, first in (
      ("x", "images-idx3", 16),
      ("y", "labels-idx1", 8),
    ):
      path = DATA / "fashion_mnist" / f"{prefix}-{name}-ubyte.gz"
      content = gzip.decompress(path.read_bytes())
      values = np.frombuffer(content, np.uint8, offset=first)
      shape = (-1, 28, 28) if letter == "x" else (-1,)
      parts[f"{letter}_{part}"] = values.reshape(shape)
  np.savez(folder / "fashion_mnist.npz", **parts)
  return folder


# CIFAR-10 has no file here that tests can read.
LEARNT = [
  "digits",
  "fashion",
  "fashion_noisy",
  "words",
  "characters",
  "cartpole",
  "acrobot",
  "breakout",
  "gauss",
  "student_3",
  "student_1_5",
  "zipf",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNT)
def test_a_task_is_learnt(study, folder, name):
  """Adam beats a guess by the margin of the task."""
  task = study.tasks.TASKS[name]
  if task.score == "return":
    pytest.importorskip("gymnax", reason="PPO needs the extra study")
  units = study.atlas.units([name], seeds=[7])
  unit = next(u for u in units if u.method == "adam" and u.batch_size == 64)
  (found,) = study.atlas.run([unit], str(folder))
  assert np.all(np.isfinite(found["norm"]))
  if task.score == "return":
    late = found["returns"][-1] - found["returns"][-4]
    score = late / (found["episodes"][-1] - found["episodes"][-4])
  else:
    score = found[f"test_{task.score}"][-1]
  sign = 1 if task.higher_is_better else -1
  assert sign * (score - task.guess) > task.margin, score


def test_effects_and_their_correction(study):
  """Against SciPy's paired test, and Holm's method written out."""
  report = study.effects
  rng = np.random.default_rng(0)
  a, b = rng.normal(1, 1, 10), rng.normal(0, 1, 10)
  found = report.effect(a - b)
  expected = stats.ttest_rel(a, b)
  assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
  assert found.pvalue == pytest.approx(expected.pvalue)
  assert found.low < found.mean < found.high
  low, high = expected.confidence_interval()
  assert found.high - found.low == pytest.approx(high - low, rel=0.35)
  # With this difference, 80 percent of the noncentral t is above its quantile.
  noncentrality = found.smallest / (np.std(a - b, ddof=1) / np.sqrt(10))
  power = stats.nct.sf(stats.t.isf(0.025, 9), 9, noncentrality)
  assert power == pytest.approx(0.8, abs=0.03)
  assert report.effect(np.zeros(10)) == (0, 0, 0, 1, 0)
  corrected = report.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
  assert corrected == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})


def test_scores_are_kept_in_a_file(study, tmp_path):
  """Every digit of a setting comes back, and final scores need no tuning."""
  comparison, effects = study.comparison, study.effects
  settings = study.methods.METHODS["sgd"].settings(12)
  setting = tuple(sorted(settings[3].items()))
  runs = [
    comparison.Run("words", "sgd", seed, "test", 4.5 + seed / 1024, setting)
    for seed in comparison.FINAL
  ]
  path = tmp_path / "scores.csv"
  assert effects.read(path) == []
  effects.write(reversed(runs), path)
  found = effects.read(path)
  np.testing.assert_allclose(
    [r.score for r in found], [r.score for r in runs], rtol=1e-5
  )
  assert [r._replace(score=0.0) for r in found] == [
    r._replace(score=0.0) for r in runs
  ]
  assert list(effects.complete(found)["words"]) == ["sgd"]
  assert effects.complete(found[1:])["words"] == {}
  assert np.isnan(effects.spread("words", "sgd", found))


def test_a_new_choice_leaves_out_the_old_final_runs(study):
  comparison, effects = study.comparison, study.effects
  suite = comparison.SUITES["comparison"]
  settings = [
    tuple(sorted(x.items()))
    for x in study.methods.METHODS["sgd"].settings(suite.settings)
  ]

  def tuning(best):
    return [
      comparison.Run("words", "sgd", s, "valid", 4.0 + (x != best), x)
      for x in settings
      for s in suite.tune
    ]

  def last(setting):
    return [
      comparison.Run("words", "sgd", s, "test", 4.5, setting)
      for s in comparison.FINAL
    ]

  old = tuning(settings[2]) + last(settings[2])
  assert effects.merged(old, []) == old
  assert effects.merged([], old) == old
  new = effects.merged(old, tuning(settings[5]))
  assert comparison.best(new)["words", "sgd"] == settings[5]
  assert len(new) == len(tuning(settings[5]))  # nothing is there twice
  again = last(settings[5])
  assert effects.merged(new, again)[-len(again) :] == again


def test_norms_over_the_others_of_their_update(study):
  # Norms over the others of their update: its scale cancels.
  norms = np.arange(1.0, 33)[None]
  found = study.atlas_report.within_updates(norms)
  first = [
    x / np.median(np.delete(norms[0, :16], i))
    for i, x in enumerate(norms[0, :16])
  ]
  np.testing.assert_allclose(found[0, :16], first)
  found = study.atlas_report.within_updates(norms * np.repeat([1, 1e6], 16))
  np.testing.assert_allclose(found[0, :16], first)


@pytest.mark.slow
def test_a_light_law_is_light_and_a_heavy_one_is_heavy(study, monkeypatch):
  """Two seeds of 1,000 norms each, from NumPy; the band as in README.md."""
  band = np.array([4.7, 5.7, 7.0])
  monkeypatch.setattr(study.atlas_report, "band", lambda *arguments: band)
  rng = np.random.default_rng(0)
  read = study.atlas_report.read
  light = np.abs(rng.standard_normal((2, 1000)))
  heavy = rng.pareto(1.5, (2, 1000)) + 1
  assert read(light).verdict == "light"
  assert read(heavy).verdict in ("heavy", "infinite variance")
  assert read(heavy).low < 1.5 < read(heavy).high
  warm_up = light * (1 + 10 * np.exp(-np.arange(1000) / 20))
  assert read(warm_up).verdict == "only looks heavy"


def test_entries_of_a_gradient(study):
  largest = np.sort(np.random.default_rng(0).pareto(2.0, 100_000) + 1)[::-1]
  of_entries = study.atlas_report.of_entries
  assert of_entries(largest[:512], 100_000) == pytest.approx(2.0, rel=0.1)
  tail = largest[:101]
  expected = 100 / np.sum(np.log(tail[:100] / tail[100]))
  assert of_entries(largest[:512], 10_000) == pytest.approx(expected)


@pytest.mark.slow
def test_the_controls_have_the_indices_of_their_noise(study):
  """Noise of index 1.5, and Gaussian noise, at batches of 4.

  The 95 % interval of a single run is widened by the factor 1.28 of README.md.
  The gradient with Gaussian noise reads 7.5 there.
  """
  found = {}
  for name in ("student_1_5", "gauss"):
    units = study.atlas.units([name], seeds=[5])
    unit = next(u for u in units if u.method == "sgd" and u.batch_size == 4)
    (arrays,) = study.atlas.run([unit], ".")
    norms = arrays["norm"][None, study.atlas_report.WARM_UP :]
    found[name] = study.atlas_report.combined(
      study.measure.examine(norms), widen=1.28
    )
  _, low, high = found["student_1_5"]
  assert low < 1.5 < high < 2.5
  assert found["gauss"][0] > 5  # half-normal norms read 5.2
