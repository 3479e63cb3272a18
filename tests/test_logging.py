"""Readings reach the log unchanged, and no step waits for them."""

import contextlib
import csv
import io
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import htga_optax

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PARAMS = {"dense": {"kernel": jnp.ones([2, 3]), "bias": None}, "v": jnp.ones(4)}

for package in ("flax", "orbax.checkpoint", "rich", "sklearn"):
  pytest.importorskip(package)


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture
def sinks(on_path):
  import sinks

  return sinks


@pytest.fixture
def terminal(on_path):
  import terminal

  return terminal


@pytest.fixture
def train(on_path):
  import train

  return train


def scalars_of(sinks, state, per_layer):
  layers = htga_optax.layer_names(PARAMS) if per_layer else None
  return sinks.scalars(state, layers)


def small_run(sinks, log, steps=12, every=3, per_layer=False):
  """Passes readings to `log`; returns those of the state in each step."""
  tx = htga_optax.relay(
    htga_optax.track_tail_index(6, 2, per_layer=per_layer),
    htga_optax.amplify(htga_optax.ratio_exponent(), per_layer=per_layer),
    optax.sgd(0.1, momentum=0.9),
  )
  state, seen = tx.init(PARAMS), {}
  read = jax.jit(lambda state: scalars_of(sinks, state, per_layer))
  update = jax.jit(tx.update, donate_argnums=1)
  for step in range(1, steps + 1):
    noise = optax.tree.random_like(
      jax.random.key(step), PARAMS, jax.random.cauchy
    )
    _, state = update(noise, state)
    if step % every == 0:
      seen[step] = jax.device_get(state)
      log(step, read(state))
  return seen


def test_one_of_each_reading(sinks):
  tx = optax.chain(
    optax.clip(1.0), htga_optax.scale_by_htga(), optax.adam(1e-3)
  )
  values = sinks.scalars(tx.init(PARAMS))
  assert {name: float(x) for name, x in values.items()} == {
    "tail_index": 0,
    "tail_index/low": 0,
    "tail_index/high": 0,
    "tail_model_rejected": 0,
    "update_norm": 0,
    "nonfinite_count": 0,
    "amplification": 1,
  }
  assert sinks.scalars(optax.adam(1e-3).init(PARAMS)) == {}


def test_layers_by_their_path(sinks):
  tx = htga_optax.relay(
    htga_optax.track_tail_index(per_layer=True),
    htga_optax.scale_by_tail_index(per_layer=True),
  )
  expected = {
    f"{name}/{layer}{end}"
    for layer in ("dense/kernel", "v")  # the bias is None
    for name, ends in {
      "tail_index": ("", "/low", "/high"),
      "tail_model_rejected": ("",),
      "update_norm": ("",),
      "nonfinite_count": ("",),
      "rate_scale": ("",),
    }.items()
    for end in ends
  }
  state = tx.init(PARAMS)
  values = sinks.scalars(state, htga_optax.layer_names(PARAMS))
  assert values.keys() == expected
  assert all(x.shape == () for x in values.values())
  assert {"tail_index/0", "tail_index/1/low"} < set(sinks.scalars(state))
  with pytest.raises(ValueError, match="of 2 layers, got 1 names"):
    sinks.scalars(state, ["v"])


def test_layers_of_an_nnx_optimizer(sinks):
  from flax import nnx

  model = nnx.Sequential(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.relu)
  for per_layer, expected in (
    (False, {"tail_index"}),
    (True, {"tail_index/layers/0/kernel", "tail_index/layers/0/bias"}),
  ):
    tx = htga_optax.track_tail_index(per_layer=per_layer)
    state = nnx.Optimizer(model, tx, wrt=nnx.Param).opt_state
    layers = None
    if per_layer:
      layers = htga_optax.layer_names(nnx.state(model, nnx.Param))
    read = lambda state, layers=layers: sinks.scalars(state, layers)
    assert jax.jit(read)(state).keys() == read(state).keys() >= expected


def test_two_trackers_have_separate_names(sinks):
  tracker = htga_optax.track_tail_index()
  state = optax.chain(tracker, optax.clip(1.0), tracker).init(PARAMS)
  first, second = (sinks.scalars(state[i]) for i in (0, 2))
  assert first.keys() == second.keys()
  assert sinks.scalars(state).keys() == {
    f"{i}/{name}" for i in (0, 2) for name in first
  }


def test_readings_outlive_a_donated_state(sinks):
  tx = htga_optax.scale_by_htga()
  state = tx.init(PARAMS)
  values = sinks.scalars(state)
  jax.jit(tx.update, donate_argnums=1)(PARAMS, state)
  assert optax.tree.get(state, "tail_index").is_deleted()
  assert float(values["tail_index"]) == 0


@pytest.mark.parametrize("per_layer", [False, True])
def test_csv_has_the_values_of_the_state(sinks, tmp_path, per_layer):
  with sinks.logger(sinks.csv_sink(tmp_path / "a.csv")) as log:
    seen = small_run(sinks, log, per_layer=per_layer)
  with open(tmp_path / "a.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
  for row in rows:
    expected = scalars_of(sinks, seen[int(row.pop("step"))], per_layer)
    assert row.keys() == expected.keys()
    for name, x in expected.items():
      assert np.asarray(row[name], x.dtype) == x, name
  tails = [
    float(row["tail_index/v" if per_layer else "tail_index"]) for row in rows
  ]
  assert tails[0] == 0 and min(tails[1:]) > 0


def test_csv_is_continued(sinks, tmp_path):
  path = tmp_path / "a.csv"
  for step in (1, 2):
    with sinks.logger(sinks.csv_sink(path)) as log:
      log(step, {"loss": 0.5 * step, "tail_index": jnp.float32(0.1)})
  assert path.read_text().split() == [
    "step,loss,tail_index",
    "1,0.5,0.1",
    "2,1.0,0.1",
  ]
  with (
    pytest.raises(ValueError, match=r"a\.csv has no column accuracy"),
    sinks.logger(sinks.csv_sink(path)) as log,
  ):
    log(3, {"accuracy": 1.0})


@pytest.mark.parametrize("kept", range(len("step,loss\r\n1,0.5\r\n")))
def test_csv_of_a_killed_run_is_continued_without_its_incomplete_row(
  sinks, tmp_path, kept
):
  """The file may end anywhere: complete rows stay, and a new one is added."""
  path = tmp_path / "a.csv"
  whole = b"step,loss\r\n1,0.5\r\n"
  path.write_bytes(whole[:kept])
  with sinks.csv_sink(path) as write:
    write(2, {"loss": 0.25})
  rows = list(csv.DictReader(path.read_text().splitlines()))
  assert rows == [{"step": "2", "loss": "0.25"}]


def test_csv_row_is_on_disk_at_once(sinks, tmp_path):
  with sinks.csv_sink(tmp_path / "a.csv") as write:
    write(1, {"loss": 2})
    assert (tmp_path / "a.csv").read_text().split() == ["step,loss", "1,2"]


def test_tensorboard_reads_it(sinks, tmp_path):
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

  with sinks.logger(sinks.tensorboard_sink(tmp_path)) as log:
    seen = small_run(sinks, log)
  (path,) = tmp_path.iterdir()
  read = {}
  for record in records(path.read_bytes()):
    event = event_pb2.Event.FromString(record)
    for value in event.summary.value:
      read[event.step, value.tag] = value.simple_value
  assert read == {
    (step, name): float(x)
    for step, state in seen.items()
    for name, x in sinks.scalars(state).items()
  }


def records(data):
  """The records of a TFRecord file.

  Each has its length (8 bytes), a check (4), the record and a check (4).
  """
  while data:
    size = int.from_bytes(data[:8], "little")
    yield data[12 : 12 + size]
    data = data[16 + size :]


def test_wandb_writes_offline(tmp_path):
  """In a separate process, because wandb starts threads and a server."""
  pytest.importorskip("wandb")
  script = (
    "import sinks\n"
    "with sinks.logger(sinks.wandb_sink('logs')) as log:\n"
    "  for step in (20, 40): log(step, {'tail_index': step / 10})\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=tmp_path,
    env=os.environ
    | {"PYTHONPATH": f"{EXAMPLES}:{ROOT}", "HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.glob("logs/wandb/offline-run-*/*.wandb")
  assert b"tail_index" in path.read_bytes()


def test_the_newest_step_is_not_waited_for(sinks):
  @jax.jit
  def slow(x):
    return jax.lax.fori_loop(0, 300, lambda i, x: jnp.sin(x @ x), x)[0, 0]

  x, written = jnp.ones([500, 500]), []
  jax.block_until_ready(slow(x))
  with sinks.logger(memory(written)) as log:
    log(20, {"loss": jnp.float32(1)})
    newest = slow(x)
    log(40, {"loss": newest})
    assert not newest.is_ready()
    assert written == [(20, {"loss": 1})]
  assert written == [(20, {"loss": 1}), (40, {"loss": newest})]


def test_steps_and_readings_transfer_nothing(sinks):
  """Nothing goes to the device; on CPU no guard detects the other way."""
  tx = htga_optax.htga(0.1, window_size=6, k=2)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(params, state, params)
    return optax.apply_updates(params, updates), state

  read, params, written = jax.jit(sinks.scalars), {"w": jnp.ones(3)}, []
  state = tx.init(params)
  with sinks.logger(memory(written)) as log, jax.transfer_guard("disallow"):
    for number in range(1, 31):
      params, state = step(params, state)
      if number % 10 == 0:
        log(number, read(state))
        assert len(written) == number // 10 - 1
  assert [number for number, _ in written] == [10, 20, 30]


def memory(written):
  """A sink that keeps its input."""
  return contextlib.nullcontext(
    lambda step, values: written.append((step, values))
  )


def test_the_last_reading_survives_an_interrupt(sinks):
  written = []
  with pytest.raises(KeyboardInterrupt), sinks.logger(memory(written)) as log:
    log(20, {"loss": 1.0})
    raise KeyboardInterrupt
  assert written == [(20, {"loss": 1})]


def test_live_view(terminal):
  from rich.console import Console

  file = io.StringIO()
  console = Console(file=file, force_terminal=True, width=100)
  values = {"loss": 2.5, "update_norm": 0.25, "amplification": 1.5}
  values |= {"tail_index/low": 1.0, "tail_index/high": 3.0}
  with terminal.live_sink(console, 60) as write:
    write(20, values | {"tail_index": 0.0})
    write(40, values | {"tail_index": 1.75, "loss": 0.3})
    write(60, values | {"tail_index": 2.0, "loss": 0.1})
  shown = file.getvalue()
  assert "step 60/60" in shown
  assert "█▃▁" in shown and "0.1" in shown  # the loss
  assert " ▁█" in shown and "2.00 (1.00 to 3.00)" in shown  # the tail index
  assert "gradient norm" in shown and "amplification" in shown
  assert shown.endswith("\x1b[?25h")  # the cursor is back


def test_sparkline(terminal):
  assert terminal.sparkline([1, 10, 100]) == "▁▅█"
  assert terminal.sparkline([0, 1, float("nan"), 2, float("inf")]) == " ▁ █ "
  assert terminal.sparkline([3, 3]) == "▁▁"
  assert terminal.sparkline([0, 0]) == "  "
  assert terminal.sparkline([]) == ""


def command(tmp_path, *argv):
  return subprocess.run(
    [sys.executable, str(EXAMPLES / "train.py"), *argv],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )


def test_the_command_prints_lines_and_writes_files(tmp_path):
  pytest.importorskip("tensorboardX")
  files = ["--csv", "run.csv", "--tensorboard", "runs"]
  argv = ["--model", "mlp", "--steps", "25", "--log-every", "10", *files]
  done = command(tmp_path, *argv)
  assert done.returncode == 0 and not done.stderr, done.stderr
  what, *lines, result = done.stdout.splitlines()
  assert what.startswith("digits, mlp, htga; jit, devices: ")
  assert [x.split("  ")[0] for x in lines] == ["step 10", "step 20", "step 25"]
  assert all("tail index -" in x for x in lines)
  assert result.startswith("test loss ")
  assert "\x1b" not in done.stdout and done.stdout.isascii()
  assert len((tmp_path / "run.csv").read_text().splitlines()) == 4
  assert list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
  "argv, said",
  [
    (["--log-every", "0"], "argument --log-every: must be 1, 2, ..., got 0"),
    (["--csv", "no/such/folder/a.csv"], "No such file or directory"),
    (["--csv", "."], "Is a directory"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
  ],
)
def test_bad_arguments_are_one_line(train, argv, said):
  with pytest.raises(SystemExit) as stopped:
    train.main(["--model", "mlp", *argv])
  message = stopped.value.code  # printed to stderr, with status 1
  assert message.startswith("train: ") and "\n" not in message
  assert said in message


@pytest.mark.parametrize("flag", ["tensorboard", "wandb"])
def test_a_missing_extra_is_named(train, monkeypatch, flag, tmp_path):
  module = {"tensorboard": "tensorboardX"}.get(flag, flag)
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(SystemExit) as stopped:
    train.main(["--model", "mlp", f"--{flag}", str(tmp_path)])
  assert stopped.value.code == (
    f'train: {module} is missing: pip install "htga_optax[logging]"'
  )
