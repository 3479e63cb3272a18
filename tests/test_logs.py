"""Logs in the formats of other programs: files, frames, and column rows."""

import collections
import gzip
import io
import json
import pathlib
import sys

import numpy as np
import pytest

from htga_optax.diagnostics import __main__ as command
from htga_optax.diagnostics import logs, verdicts

N = 30
STEPS = 10.0 * np.arange(N)
NORMS = np.random.default_rng(0).pareto(1.5, N) + 1
ROWS = [{"step": s, "grad_norm": x} for s, x in zip(STEPS, NORMS)]


def table(separator=",", number=repr, head="step{}grad_norm", before=""):
  """A table as text; its last row is incomplete."""
  lines = [before + head.format(separator)]
  lines += [
    f"{s:.0f}{separator}{number(float(x))}" for s, x in zip(STEPS, NORMS)
  ]
  return "\n".join([*lines, "30"])


def comma(x):
  return repr(x).replace(".", ",")


def nested(row):
  return {"step": row["step"], "train": {"grad_norm": row["grad_norm"]}}


FILES = {
  "a space after the comma": table(", "),
  "names in quotes": table(head='"step"{}"grad_norm"'),
  "names with spaces": table(head=" step {} grad norm "),
  "semicolons": table(";"),
  "semicolons, decimal commas": table(";", comma),
  "tabs": table("\t"),
  "tabs, decimal commas": table("\t", comma),
  "spaces": table(" "),
  "aligned": table("   ", before=" "),
  "comments first": table(before="# run 12\n# of today, 3.5\n"),
  "names as a comment": table(before="# run 12\n# "),
  "names of a wandb export": table(head='"Step"{}"run - train/grad_norm"'),
  "Megatron": table(head="iteration{}grad-norm"),
  "names again": table().replace("\n100,", "\nstep,grad_norm\n100,"),
  "carriage returns": table().replace("\n", "\r\n"),
  "lines of JSON": "\n".join(map(json.dumps, ROWS)) + '\n{"step": 3',
  "an array": json.dumps(ROWS),
  "an array that is not over": json.dumps(ROWS)[:-1] + ', {"step": 300.0, "gr',
  "an array over lines": json.dumps(ROWS, indent=1),
  "nested objects": "\n".join(json.dumps(nested(row)) for row in ROWS),
  "trainer_state.json": json.dumps(
    {"epoch": 1.0, "log_history": ROWS, "stateful": [{}]}, indent=2
  ),
  "a document in a document": json.dumps({"a": {"b": {"history": ROWS}}}),
  "columns": json.dumps({"step": [*STEPS], "grad_norm": [*NORMS]}),
  "pandas.to_json": json.dumps(
    {
      name: {str(i): row[name] for i, row in enumerate(ROWS)}
      for name in ("step", "grad_norm")
    }
  ),
}
CODES = {
  "utf-8": lambda text: text.encode(),
  "utf-8-sig": lambda text: text.encode("utf-8-sig"),
  "utf-16": lambda text: text.encode("utf-16"),
  "gzip": lambda text: gzip.compress(text.encode()),
  "gzip twice": lambda text: b"".join(
    gzip.compress(part.encode()) for part in (text[:40], text[40:])
  ),
}


def read(tmp_path, data, name="run.log"):
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return logs.read(path)


@pytest.mark.parametrize("kind", FILES)
def test_every_file_gives_the_steps_and_norms(tmp_path, kind):
  rows = verdicts.take(read(tmp_path, FILES[kind]))
  np.testing.assert_array_equal(rows.steps, STEPS)
  np.testing.assert_array_equal(rows.values, NORMS)
  assert rows.stride == 10 and not rows.left_out and not rows.jumps.size


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["semicolons, decimal commas", "an array"])
def test_every_encoding_is_the_same(tmp_path, code, kind):
  found = read(tmp_path, CODES[code](FILES[kind]))
  np.testing.assert_array_equal(found["grad_norm"], NORMS)


def test_incomplete_rows_are_left_out(tmp_path):
  """A file that is cut anywhere gives all complete rows, and nothing else."""
  zipped = gzip.compress(FILES["lines of JSON"].encode())
  found = read(tmp_path, zipped[:-40])["grad_norm"]
  np.testing.assert_array_equal(found, NORMS[: found.size])
  assert found.size > 5
  text = '{"x": 1, "y": "ä"}\n{"x": 2.5, "y": null}'
  for end in range(text.index("\n") + 1, len(text) + 1):
    found = read(tmp_path, text[:end])["x"]
    np.testing.assert_array_equal(found, [1, 2.5][: 1 + (end == len(text))])
  found = read(tmp_path, '{"x": 1}\n{"y": "ä'.encode()[:-1])
  np.testing.assert_array_equal(found["x"], [1])


@pytest.mark.parametrize(
  "data, message",
  [
    (b"\x1f\x8b\x08\0nothing that is zipped", "is a damaged gzip file"),
    (b"\xff\xfea\0\0\0b\0", "is not text: neither a table nor JSON."),
    (b"\x89PNG\xff\xfe", "is not text: neither a table nor JSON."),
    ('[{"a": 1}, 2]', "line 1 is not a JSON object: 2"),
    ('[{"a": 1},\n{"a": oops}, {"a": 2}]', "line 2 is not JSON"),
    ("[]", "has no object that contains a number."),
    ("# only\n# comments\n", "has a line of names but no rows."),
    ("step;x\n1;2;3\n", "row 1 has 3 cells, but the line of names has 2."),
    ("step;x\n-;-\n", "has no column that contains a number."),
  ],
)
def test_bad_files_are_one_sentence(tmp_path, data, message):
  with pytest.raises(ValueError) as error:
    read(tmp_path, data)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_a_number_has_one_meaning(tmp_path):
  """A thousands separator is no decimal point; an empty cell is not nan."""
  found = read(tmp_path, "step\tx\ty\n1\t1,234\t0.5\n2\t2.5\t\n3\tnan\tinf\n")
  np.testing.assert_array_equal(found["x"], [np.nan, 2.5, np.nan])
  np.testing.assert_array_equal(found["x"].mask, [True, False, False])
  np.testing.assert_array_equal(found["y"].mask, [False, True, False])
  found = read(tmp_path, "x;y\n1;\n;\nnan;2\n")
  np.testing.assert_array_equal(found["x"].mask, [False, True, False])
  text = '{"x": NaN, "y": "2.5"}\n{"x": null, "y": [1]}\n{"y": "fine"}\n'
  found = read(tmp_path, text)
  np.testing.assert_array_equal(found["x"].mask, [False, True, True])
  np.testing.assert_array_equal(found["y"].filled(0), [2.5, 0, 0])


def write_events(folder, first=0, tag="grad_norm"):
  tensorboard = pytest.importorskip("tensorboardX")
  with tensorboard.SummaryWriter(str(folder)) as writer:
    for step, x in list(zip(STEPS, NORMS))[first:]:
      writer.add_scalar("loss", 2 * x, int(step))
      writer.add_scalar(tag, x, int(step))
      writer.add_text("note", "text", int(step))


def test_event_files_are_columns(tmp_path):
  write_events(tmp_path / "train")
  write_events(tmp_path / "eval", tag="other")
  (file,) = (tmp_path / "train").iterdir()
  for path, name in ((file, ""), (file.parent, ""), (tmp_path, "train/")):
    rows = verdicts.take(logs.read(path))
    assert rows.column == f"{name}grad_norm"
    np.testing.assert_array_equal(rows.steps, STEPS)
    np.testing.assert_array_equal(rows.values, np.float32(NORMS))
    np.testing.assert_array_equal(rows.loss, np.float32(2 * NORMS))
  torn = tmp_path / "torn.tfevents"
  torn.write_bytes(file.read_bytes()[:-10])
  assert logs.read(torn)["grad_norm"].size >= N - 1
  torn.write_bytes(b"\1" + 7 * b"\0" + b"four\xffabcd")
  with pytest.raises(ValueError, match=r"torn.tfevents is not an event file"):
    logs.read(torn)


def test_event_files_with_tensors_are_columns(tmp_path):
  """Event files of TensorFlow 2."""
  proto = pytest.importorskip("tensorboardX.proto.event_pb2")
  from tensorboardX.record_writer import RecordWriter

  path = str(tmp_path / "events.out.tfevents.1")
  writer = RecordWriter(path)
  for i, x in enumerate(NORMS):
    event = proto.Event(step=10 * i)
    value = event.summary.value.add(tag="train/grad_norm")
    value.tensor.dtype = 1 + i % 2
    if i % 3:
      dtype = (np.float32, float)[i % 2]
      value.tensor.tensor_content = np.array(x, dtype).tobytes()
    else:
      (value.tensor.float_val, value.tensor.double_val)[i % 2].append(x)
    text = event.summary.value.add(tag="text")
    text.tensor.dtype = 7
    writer.write(event.SerializeToString())
  writer.close()
  rows = verdicts.take(logs.read(path))
  np.testing.assert_array_equal(rows.steps, STEPS)
  np.testing.assert_allclose(rows.values, NORMS, rtol=1e-7)


def test_without_a_reader_of_events_it_says_what_to_install(
  tmp_path, monkeypatch
):
  path = tmp_path / "events.out.tfevents.1"
  path.write_bytes(bytes(20))
  for module in ("tensorboardX", "tensorboard"):
    monkeypatch.setitem(sys.modules, module, None)
    for name in [m for m in sys.modules if m.startswith(module + ".")]:
      monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(SystemExit) as end:
    command.main([str(path)])
  assert end.value.code == (
    'diagnostics: tensorboardX is missing: pip install "htga_optax[logging]"'
  )


class Series(list):
  """The part of a polars column that is used."""

  def __init__(self, values):
    super().__init__(np.nan if v is None else v for v in values)
    self.nulls = [v is None for v in values]

  def is_null(self):
    return self.nulls


class Frame:
  """The part of a frame that is used."""

  def __init__(self, table):
    self.table, self.columns = table, list(table)

  def __getitem__(self, name):
    return Series(self.table[name])

  def __len__(self):
    return 3


HOLES = {
  "step": [1, 2, 3],
  "grad_norm": [0.5, None, np.nan],
  "t": ["a", "", None],
}
MASKED = np.ma.masked_array([0.5, 7.0, np.nan], [False, True, False])


@pytest.mark.parametrize(
  "log",
  [
    HOLES,
    collections.OrderedDict(HOLES),
    {"step": np.arange(1, 4), "grad_norm": MASKED, "more": np.ones([3, 2])},
    Frame(HOLES),
  ],
)
def test_missing_values_are_masked(log):
  found = logs.columns(log)
  assert list(found) == ["step", "grad_norm"]
  np.testing.assert_array_equal(found["step"], [1.0, 2.0, 3.0])
  np.testing.assert_array_equal(found["grad_norm"].mask, [False, True, False])
  np.testing.assert_array_equal(found["grad_norm"].data, [0.5, np.nan, np.nan])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_of_libraries_are_logs(library):
  frame = pytest.importorskip(library).DataFrame(
    {"step": STEPS, "grad_norm": NORMS, "note": ["x"] * N}
  )
  rows = verdicts.take(logs.columns(frame))
  np.testing.assert_array_equal(rows.steps, STEPS)
  np.testing.assert_array_equal(rows.values, NORMS)


@pytest.mark.parametrize(
  "log, kind, message",
  [
    ([1.0, 2.0], TypeError, "a mapping of arrays or a frame, got list."),
    (io.StringIO(), TypeError, "a mapping of arrays or a frame, got StringIO."),
    (pathlib.Path("x"), TypeError, "a mapping of arrays or a frame, got Po"),
    ({"x": [1j, 2.0]}, ValueError, "x is complex: give its absolute values"),
    ({"x": [1], "y": [1, 2]}, ValueError, "got {'x': 1, 'y': 2}."),
  ],
)
def test_bad_columns_are_one_sentence(log, kind, message):
  with pytest.raises(kind, match=message):
    logs.columns(log)


def take(table, column=None):
  return verdicts.take(logs.columns(table), column)


@pytest.mark.parametrize(
  "name",
  [
    "step",
    "Step",
    "_step",
    "global_step",
    "trainer/global_step",
    "train/global_step",
    "train.step",
    "Iteration",
  ],
)
@pytest.mark.parametrize(
  "norm", ["grad_norm", " Grad Norm", "train/grad_norm", "x.grad_norm", "gnorm"]
)
def test_columns_are_found_by_their_usual_names(name, norm):
  rows = take({norm: NORMS, name: STEPS})
  assert (rows.clock, rows.column) == (name, norm.strip())
  np.testing.assert_array_equal(rows.steps, STEPS)


def test_the_best_of_several_columns_is_taken():
  x = np.ones(3)
  of = lambda *names: logs.find(dict.fromkeys(names, x), verdicts.NORMS)
  assert of("eval/grad_norm", "train/grad_norm") == "train/grad_norm"
  assert of("train/grad_norm", "grad_norm") == "grad_norm"
  assert of("norm", "grad_norm", "update_norm") == "update_norm"
  assert of("weights/norm", "optim/total_grad_norm") == "optim/total_grad_norm"
  assert of("loss", "grad_normal") is None
  log = {
    "_step": [1.0, 2, 3],
    "eval/global_step": [7.0, 8, 9],
    "train/global_step": [4.0, 5, 6],
    "eval/loss": [0.7, 0.8, 0.9],
    "train/loss": [0.4, 0.5, 0.6],
    "train/grad_norm": [1.0, 2, 3],
  }
  rows = take(log)
  assert rows.clock == "train/global_step"
  np.testing.assert_array_equal(rows.loss, [0.4, 0.5, 0.6])
  rows = take(log | {"eval/grad_norm": [1.0, 2, 3]}, "eval/grad_norm")
  assert rows.clock == "eval/global_step"
  np.testing.assert_array_equal(rows.loss, [0.7, 0.8, 0.9])


def test_values_without_a_step_take_the_nearest_before():
  """A norm has the step of its row, or of the nearest row before it."""
  none = None
  rows = take({"step": [none, 5, none, 7], "norm": [1.0, 2, 3, 4]})
  np.testing.assert_array_equal(rows.steps, [5, 5, 5, 7])
  rows = take(
    {
      "step": [3, none, 4, none, none],
      "norm": [none, 1.0, none, 2.0, 3.0],
      "loss": [0.3, none, 0.4, none, none],
    }
  )
  np.testing.assert_array_equal(rows.steps, [3, 4, 4])
  np.testing.assert_array_equal(rows.loss, [0.3, 0.4, 0.4])
  np.testing.assert_array_equal(rows.places, [1, 3, 4])
  for log in ({}, {"step": [none] * 3}, {"step": [np.nan] * 3}):
    rows = take(log | {"norm": [1.0, 2.0, 3.0]})
    assert rows.clock is None and rows.stride == 1
    np.testing.assert_array_equal(rows.steps, [1, 2, 3])


@pytest.mark.parametrize(
  "steps, stride",
  [
    (np.arange(9), 1),
    (100 * np.arange(9), 100),
    ([5], 1),
    ([5, 5, 5], 1),
    (np.r_[0, np.arange(100, 2000, 100)], 100),
    (np.r_[1, 100 * np.arange(1, 9)], 100),
    ([0, 100, 100, 200, 300, 400], 100),
    (np.repeat(np.arange(0, 40, 2), 2), 1),
    (np.repeat(np.arange(0, 40, 2), 2)[1:-1], 1),
    (np.repeat(np.arange(9), 4), 0.25),
  ],
)
def test_how_far_rows_are_apart(steps, stride):
  steps = np.asarray(steps, float)
  assert take({"step": steps, "norm": np.ones(steps.size)}).stride == stride


def test_a_loss_that_is_logged_after_its_norm_is_of_the_same_step():
  rows = take(
    {
      "step": [1, 1, 2, 2, 3],
      "norm": [1.0, None, 2.0, None, 3.0],
      "loss": [None, 0.1, None, np.nan, None],
    }
  )
  np.testing.assert_array_equal(rows.loss, [0.1, np.nan, np.nan])
  assert take({"norm": [1.0]}).loss is None


def test_another_column_stands_beside_the_rows():
  log = logs.columns(
    {
      "step": [1, 2, 3, 4, 3, 4, 5],
      "norm": [None, 20.0, None, 40.0, 30.0, None, 50.0],
      "lr": [None, None, 0.3, None, None, 0.4, None],
    }
  )
  rows = verdicts.take(log)
  np.testing.assert_array_equal(rows.values, [20, 30, 50])
  np.testing.assert_array_equal(
    verdicts.beside(log, rows, "lr"), [np.nan, 0.3, 0.4]
  )


def resumed(steps):
  """Whether each row counts, by the definition in words.

  A row does not count if the step later jumps back to its step or before it.
  """
  kept = []
  for i, step in enumerate(steps):
    jumps = [j for j in range(i + 1, len(steps)) if steps[j] < steps[j - 1]]
    kept.append(all(step < steps[j] for j in jumps))
  return np.array(kept)


@pytest.mark.parametrize(
  "steps",
  [
    [0, 10, 20, 30, 40],
    [0, 10, 20, 30, 20, 30, 40, 50],
    [0, 10, 20, 30, 15, 25, 35, 45],
    [0, 10, 20, 30, 20, 30, 10, 20, 30, 40, 50, 60],
    [0, 0, 10, 10, 20, 20, 10, 10, 20, 20, 30],
    [0, 20, 0, 20, 40, 60],
  ],
)
def test_a_repeated_step_counts_the_last_time(steps):
  steps = np.asarray(steps, float)
  kept, x = resumed(steps), np.arange(1.0, steps.size + 1)
  rows = take({"step": steps, "norm": x})
  np.testing.assert_array_equal(rows.values, x[kept])
  np.testing.assert_array_equal(rows.steps, steps[kept])
  assert np.all(np.diff(rows.steps) >= 0) and rows.clock == "step"
  again = rows.left_out.get("again", np.zeros(0))
  np.testing.assert_array_equal(again, steps[~kept])
  back = np.flatnonzero(np.diff(steps) < 0)
  np.testing.assert_array_equal(
    rows.jumps, np.stack([steps[back], steps[back + 1]], axis=1)
  )
  at, y = verdicts.curve(logs.columns({"step": steps, "norm": x}), "norm")
  np.testing.assert_array_equal(at, rows.steps)
  np.testing.assert_array_equal(y, rows.values)


def test_steps_within_an_epoch_do_not_drop_the_epochs():
  steps, x = np.tile(np.arange(4.0), 5), np.arange(1.0, 21)
  rows = take({"step": steps, "norm": x, "loss": 2 * x})
  assert rows.clock is None and len(rows.jumps) == 4 and not rows.left_out
  np.testing.assert_array_equal(rows.values, x)
  np.testing.assert_array_equal(rows.steps, x)
  np.testing.assert_array_equal(rows.loss, 2 * x)


def test_omitted_values_have_a_reason():
  x = np.ma.masked_array([1, np.nan, np.inf, -np.inf, 0, 1e35, 2, 3, 4.0, 5, 6])
  x[6] = np.ma.masked
  steps = np.array([0, 1, 2, 3, 4, 5, 6, 8, 7, 8, 9.0])
  rows = take({"step": steps, "norm": x})
  out = {reason: list(at) for reason, at in rows.left_out.items()}
  assert out == {
    "no value": [6],
    "nan": [1],
    "infinite": [2, 3],
    "0": [4],
    "too large": [5],
    "again": [8],
  }
  np.testing.assert_array_equal(rows.values, [1, 4, 5, 6])
  with pytest.raises(ValueError) as error:
    verdicts.examine({"step": steps, "norm": x})
  assert str(error.value) == (
    "norm has 4 values that are finite and not 0; a verdict needs 100. Left out"
    " of norm: 1 rows without a number, 1 nan, 2 infinite, 1 equal to 0, 1"
    " beyond 1e+30 times the median, 1 of steps that are repeated later."
  )


def test_the_scale_of_a_log_does_not_matter():
  for scale in (1e38, 1e-44, 1e200):
    rows = take({"norm": scale * NORMS})
    assert not rows.left_out and rows.values.size == N


def said(table, **kwargs):
  return verdicts.sentences(verdicts.examine(table, **kwargs), table)


def test_rows_restarts_and_the_run_are_described():
  """A run whose level falls in the middle, examined in its last quarter."""
  x = np.random.default_rng(1).pareto(3.0, 440) + 1
  x[:200] *= 50
  x[30] = 1e5
  steps = 100.0 * np.r_[np.arange(140), np.arange(100, 400)]
  log = {"trainer/global_step": steps, "train/grad_norm": x}
  found = " ".join(said(log, window=100))
  for sentence in (
    "The verdict rests on the last 100 of 400 values, steps 30000 to 39900.",
    " of 40 windows of 100 values, which overlap (indices from ",
    "The level changes: the medians of the 10 parts of the run go from ",
    "between steps 12000 and 19900, where the median falls by a factor of ",
    "Step 3000: 1e+05, ",
    "The step jumps back once: from 13900 to 10000. Of a step that is repeated,"
    " only the last repetition counts.",
    "one row in 1000, that is one logged row in 100000 steps",
    "Rows are 100 steps apart.",
    "Left out of train/grad_norm: 40 of steps that are repeated later.",
  ):
    assert sentence in found, sentence


def test_rows_without_steps_are_described():
  x = np.random.default_rng(1).pareto(3.0, 100) + 1
  found = " ".join(said({"step": np.tile(np.arange(20), 5), "norm": x}))
  assert "The verdict rests on all 100 values, rows 1 to 100, fewer" in found
  assert "The step jumps back 4 times, and more than half" in found
  assert " Row " in found and " Step " not in found
  assert "one row in 1000, if" in found and "apart. The steps" not in found
  found = " ".join(said({"step": np.arange(100), "norm": x}))
  assert "one step in 1000, if" in found and "jumps" not in found


LOGS = pathlib.Path(__file__).parents[2] / "shared/data/norm_logs"


@pytest.mark.skipif(not LOGS.exists(), reason="no logs beside the repository")
def test_a_real_run_that_was_resumed():
  rows = take(logs.read(LOGS / "sprocket_500m_loss.csv"), "loss")
  np.testing.assert_array_equal(rows.jumps, [[200, 0]])
  assert rows.stride == 20 and rows.values.size == 6164 - 11
  np.testing.assert_array_equal(np.diff(rows.steps), 20)
  rows = take(logs.read(LOGS / "algoperf_deepspeech_nonfinite.csv"))
  assert rows.stride == 100
  assert {k: v.size for k, v in rows.left_out.items()} == {"infinite": 28}
