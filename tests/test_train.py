"""Training on many devices, on many hosts, and through crashes.

Curves of different ways and numbers of devices are compared to a relative error
of 1e-4: averages over devices are summed in another order, and the float32
rounding of 1e-7 grows in 24 steps with momentum. A resumed run is compared bit
for bit.
"""

import functools
import gc
import os
import pathlib
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
slow = pytest.mark.slow
OPTIMIZERS = ("htga", "tail_index_sgd", "ahtsgd", "truncated_heavy_tailed_sgd")

for package in ("flax", "orbax.checkpoint", "rich", "sklearn"):
  pytest.importorskip(package)


@pytest.fixture(autouse=True)
def path_of_examples(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)


def trainer(way, optimizer, devices, **kwargs):
  import data
  import training

  settings = training.Settings(window_size=16, noise=1e-3)
  return training.WAYS[way](
    data.load("digits"),
    "mlp",
    optimizer,
    settings,
    batch_size=16,
    width=16,
    devices=jax.devices()[:devices],
    **kwargs,
  )


def curve(run, state=None, first=0, last=24):
  """The logs of these steps from a logical state, and the state after them."""
  state, logs = run.place(run.start() if state is None else state), []
  for step in range(first, last):
    state, log = run.step(state, run.batch(step))
    logs.append(run.read(log))
  logs = {k: np.stack([log[k] for log in logs]) for k in logs[0]}
  return logs, run.logical(state)


@functools.cache
def one_device(optimizer):
  """A trainer, its state before the first step, on the host, and its curve."""
  run = trainer("jit", optimizer, 1)
  start = jax.device_get(run.start())
  return start, curve(run, jax.device_put(start, run.shardings))


def assert_close(one, other):
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    np.testing.assert_allclose(
      jax.device_get(x), jax.device_get(y), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
  "optimizer, way",
  [
    pytest.param(optimizer, way, marks=() if optimizer == "htga" else slow)
    for optimizer in OPTIMIZERS
    for way in ("jit", "fsdp", "shard_map", "pmap")
  ],
)
@pytest.mark.devices(8)
def test_every_way_equals_one_device(optimizer, way):
  start, one = one_device(optimizer)
  assert one[0]["loss"][-1] < one[0]["loss"][0]
  run = trainer(way, optimizer, 8)
  assert_close(one, curve(run, jax.device_put(start, run.shardings)))


def test_a_start_does_not_depend_on_devices():
  start, _ = one_device("htga")
  for x, y in zip(
    jax.tree.leaves(start), jax.tree.leaves(trainer("fsdp", "htga", 8).start())
  ):
    np.testing.assert_array_equal(x, jax.device_get(y))


@pytest.mark.slow
@pytest.mark.skipif(
  not hasattr(jax, "set_mesh"),
  reason="with JAX 0.7.0 orbax cannot save arrays that are split",
)
def test_a_run_continues_on_other_devices(tmp_path):
  """Other ways and numbers of devices give the same curve."""
  import checkpoints

  _, (whole, _) = one_device("htga")
  moves = [("jit", 1, 8), ("fsdp", 8, 16), ("pmap", 4, 24)]
  first, losses = 0, []
  for way, devices, last in moves:
    run = trainer(way, "htga", devices)
    saved = checkpoints.Checkpoints(tmp_path, run.abstract, {"seed": 0})
    found = saved.restore()
    assert (found or [0])[0] == first
    logs, state = curve(run, found and found[1], first, last)
    losses.append(logs["loss"])
    saved.save(last, state)
    saved.close()
    first = last
  assert_close(whole["loss"], np.concatenate(losses))


@pytest.mark.devices(8)
def test_large_parameters_are_split():
  run = trainer("fsdp", "htga", 8)
  state = run.start()
  parts = {x.shape: x.addressable_data(0).shape for x in jax.tree.leaves(state)}
  assert parts[64, 16] == (8, 16)
  assert parts[16, 10] == (16, 10)  # too small
  trace = (
    state["opt_state"].members[-1][0].trace
  )  # the momentum has the sharding of its weights
  where = lambda tree: [x.sharding for x in jax.tree.leaves(tree)]
  assert where(trace) == where(state["params"])


@pytest.mark.devices(8)
def test_the_batch_divides_over_the_devices():
  with pytest.raises(ValueError, match="got 16 rows for 3"):
    trainer("jit", "htga", 3)


def test_batches_are_a_function_of_seed_and_step():
  import training

  order = np.concatenate([training.rows(10, 4, 0, step) for step in range(5)])
  assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
  assert list(order[:10]) != list(order[10:])
  np.testing.assert_array_equal(training.rows(10, 4, 0, 3), order[12:16])
  assert list(training.rows(10, 10, 1, 0)) != list(order[:10])


# -- the command ------------------------------------------------------------


def environment():
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  path = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
  return env | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def command(*args):
  small = ["--model", "mlp", "--width", "16", "--window-size", "16"]
  return [sys.executable, str(EXAMPLES / "train.py"), *small, *map(str, args)]


def trained(*args):
  """The output of the command, which must succeed."""
  done = subprocess.run(
    command(*args), capture_output=True, text=True, env=environment()
  )
  assert done.returncode == 0, done.stderr + done.stdout
  return done.stdout


def fails(*args):
  """The one line with which the command fails."""
  done = subprocess.run(
    command(*args), capture_output=True, text=True, env=environment()
  )
  assert done.returncode == 1, done.stderr + done.stdout
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("train: "), done.stderr
  return lines[0]


def losses(path):
  return np.genfromtxt(path, delimiter=",", names=True)["loss"]


@pytest.mark.parametrize(
  "way, processes, optimizer",
  [
    pytest.param("jit", 2, "htga", marks=slow),
    *(
      pytest.param(way, processes, "ahtsgd", marks=slow)
      for way in ("jit", "fsdp", "shard_map", "pmap")
      for processes in (2, 4)
    ),
  ],
)
@pytest.mark.devices(8)
def test_many_processes_equal_one(way, processes, optimizer, tmp_path):
  args = ["--optimizer", optimizer, "--steps", 20, "--log-every", 1]
  trained(*args, "--csv", tmp_path / "one.csv")
  trained(
    *(*args, "--csv", tmp_path / "many.csv", "--parallel", way),
    *("--processes", processes, "--devices", 4 // processes),
  )
  one, many = losses(tmp_path / "one.csv"), losses(tmp_path / "many.csv")
  assert len(one) == len(many) == 20
  np.testing.assert_allclose(one, many, rtol=1e-4)


DIES = """
import os, pathlib, signal, sys
sys.path.insert(0, {examples!r})
import jax, train, training
batch = training.Trainer.batch
def dying(trainer, step):
  index = jax.process_index()
  path = pathlib.Path(f"{folder}/{{index}}")
  path.exists() or path.write_text(str(os.getpid()))
  if step == 20 and index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  return batch(trainer, step)
training.Trainer.batch = dying
train.main()
"""


@slow
def test_a_process_that_dies_stops_the_others(tmp_path):
  """The others stop at once, none remains, and one line names the dead one."""
  script = tmp_path / "train.py"
  script.write_text(DIES.format(examples=str(EXAMPLES), folder=tmp_path))
  more = ["--processes", "2", "--steps", str(10**6), "--log-every", "1000000"]
  _, _, *rest = command(*more)
  done = subprocess.run(
    [sys.executable, str(script), *rest],
    capture_output=True,
    text=True,
    env=environment(),
    timeout=300,
  )
  assert done.returncode == 1
  assert done.stderr == (
    "train: process 1 of 2 was ended by signal 9; the others were stopped.\n"
  )
  assert not any(alive(int((tmp_path / i).read_text())) for i in "01")


def alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True


# -- crashes ----------------------------------------------------------------


def saved(folder):
  """The last checkpoint, as arrays."""
  import orbax.checkpoint as ocp

  with ocp.CheckpointManager(folder) as manager:
    step = manager.latest_step()
    return step, manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
    ).state


def assert_same_bits(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())


def killed_until_done(args, folder, kills):
  """Kills the command at random times, then lets it finish.

  Every fifth time, the command is killed while it starts. Otherwise it is
  killed at a random time after a new checkpoint, in which it writes about one
  more.
  """
  rng, steps = random.Random(0), lambda: set(folder.glob("[0-9]*[0-9]"))
  for i in range(kills):
    before = steps()
    process = subprocess.Popen(
      command(*args),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env=environment(),
    )
    while i % 5 < 4 and steps() <= before:
      time.sleep(0.05)
      assert process.poll() is None, "ended before it was killed"
    time.sleep(rng.uniform(0, 0.3 if i % 5 < 4 else 6))
    assert process.poll() is None, "ended before it was killed"
    process.kill()
    process.wait()
  trained(*args)


@pytest.mark.parametrize(
  "optimizer, kills, steps",
  [
    pytest.param("htga", 1, 1000, marks=slow),
    pytest.param("ahtsgd", 20, 10_000, marks=slow),
  ],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
  optimizer, kills, steps, tmp_path
):
  args = ["--optimizer", optimizer, "--steps", steps, "--log-every", 10]
  args += ["--devices", 2, "--checkpoint-every", 50]
  folders = {name: tmp_path / name for name in ("whole", "killed")}
  for name, folder in folders.items():
    run = [*args, "--checkpoint", folder, "--csv", f"{folder}.csv"]
    if name == "whole":
      trained(*run)
    else:
      killed_until_done(run, folder, kills)
  assert saved(folders["whole"])[0] == steps
  assert_same_bits(saved(folders["whole"]), saved(folders["killed"]))
  whole, killed = (
    pathlib.Path(f"{folder}.csv").read_text() for folder in folders.values()
  )
  assert whole == killed


@pytest.fixture
def checkpoints(tmp_path):
  """Checkpoints of two steps, and a function that opens them."""
  import checkpoints

  run = trainer("jit", "htga", 1)
  _, (_, state) = one_device("htga")

  def restore(abstract=run.abstract, **arguments):
    opened = checkpoints.Checkpoints(
      tmp_path, abstract, {"seed": 0} | arguments
    )
    try:
      return opened.restore()
    finally:
      opened.close()

  written = checkpoints.Checkpoints(tmp_path, run.abstract, {"seed": 0})
  for step in (10, 20):
    written.save(step, state)
  written.close()
  restore.folder, restore.state = tmp_path, state
  restore.error = checkpoints.CheckpointError
  return restore


def test_a_checkpoint_is_read(checkpoints):
  step, state = checkpoints()
  assert step == 20
  assert_same_bits(state, checkpoints.state)


@pytest.fixture
def unraisable():
  """Orbax leaves coroutines when it fails; their warnings are ignored here."""
  yield
  gc.collect()


UNHEARD = "ignore::pytest.PytestUnraisableExceptionWarning"


def data_of(checkpoints):
  return [*(checkpoints.folder / "20/state").glob("ocdbt.process_0/d/*")]


@pytest.mark.filterwarnings(UNHEARD)
@pytest.mark.parametrize("damage", ["emptied", "no data", "no list"])
def test_a_damaged_checkpoint_is_one_line(
  checkpoints, damage, capfd, unraisable
):
  if damage == "emptied":
    for file in data_of(checkpoints):
      file.write_bytes(b"")
  elif damage == "no data":
    for file in data_of(checkpoints):
      file.unlink()
  else:
    (checkpoints.folder / "20/run/metadata").write_text("{")
  with pytest.raises(checkpoints.error) as raised:
    checkpoints()
  message = str(raised.value)
  assert message.startswith(f"{checkpoints.folder}/20 is damaged (")
  assert message.endswith("): remove it to go on from step 10.")
  assert "\n" not in message
  assert "Traceback" not in capfd.readouterr().err


@pytest.mark.filterwarnings(UNHEARD)
def test_a_flipped_bit_that_orbax_misses_is_detected(checkpoints, unraisable):
  """The bytes that matter depend on the order in which orbax writes them."""
  bits = lambda: [
    np.asarray(x).tobytes() for x in jax.tree.leaves(saved(checkpoints.folder))
  ]
  file = max(data_of(checkpoints), key=lambda file: file.stat().st_size)
  whole, content, silent = bits(), file.read_bytes(), 0
  for place in range(5, len(content), len(content) // 12):
    damaged = bytearray(content)
    damaged[place] ^= 4
    file.write_bytes(damaged)
    try:
      same = bits() == whole
    except Exception:
      continue
    if same:
      checkpoints()
    else:
      silent += 1
      with pytest.raises(checkpoints.error, match="is not what was saved"):
        checkpoints()
  assert silent


def test_a_checkpoint_of_another_run_is_one_line(checkpoints):
  with pytest.raises(checkpoints.error, match=r"--seed 0, and this one has 1"):
    checkpoints(seed=1)


def test_a_checkpoint_of_another_version_is_one_line(checkpoints):
  older = checkpoints.state | {"more": jax.numpy.zeros([], "int32")}
  with pytest.raises(
    checkpoints.error, match=r"more was none and is int32\[\]"
  ):
    checkpoints(older)


@pytest.mark.parametrize(
  "text, kept",
  [
    ("step,loss\n10,2.0\n20,1.5\n30,1.0\n", "step,loss\n10,2.0\n20,1.5\n"),
    ("step,loss\n10,2.0\n20", "step,loss\n10,2.0\n"),  # cut off
    ("", ""),
  ],
  ids=["later", "cut off", "empty"],
)
def test_a_log_is_cut_back_to_the_checkpoint(text, kept, tmp_path):
  import train

  file = tmp_path / "run.csv"
  file.write_text(text)
  train.rewind(str(file), 20)
  assert file.read_text().splitlines() == kept.splitlines()
  assert list(tmp_path.iterdir()) == [file]
  train.rewind(str(tmp_path / "none.csv"), 20)


def test_errors_are_one_line(tmp_path):
  assert "3 rows for 2" in fails("--batch-size", 3, "--devices", 2)
  folder = tmp_path / "file"
  folder.write_text("")
  assert fails("--checkpoint", folder).endswith("/file'")
