"""Several processes of one command on this machine, as on several hosts.

    launch(["examples/train.py", "--processes", "2", "--steps", "100"], 2)

The processes find one another through `jax.distributed`: each has the arguments
of the command, and `--coordinator` and `--process-id`. Only what the first one
prints is shown. When one dies, the others would wait for it in their next sum:
they are stopped at once. (On hosts of their own JAX does that, when a process
has not been heard of for `--heartbeat` seconds.)
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time


def launch(argv: list[str], count: int) -> str | None:
  """Runs `python argv...` `count` times.

  Args:
    argv: a script and its arguments.
    count: how many processes.

  Returns:
    None once all have ended well; else what happened, in one line.
  """
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  with contextlib.ExitStack() as stack:
    processes, logs = [], []
    for i in range(count):
      logs.append(stack.enter_context(tempfile.TemporaryFile()))
      where = ["--coordinator", f"localhost:{port}"]
      where += ["--process-id", str(i), "--launched"]
      process = subprocess.Popen(
        [sys.executable, *argv, *where],
        stdin=subprocess.PIPE,  # ends when this process does
        stdout=None if i == 0 else subprocess.DEVNULL,
        stderr=logs[i],
      )
      processes.append(stack.enter_context(process))
      stack.callback(process.kill)
    codes = [None] * count
    while None in codes and not any(codes):
      time.sleep(0.1)
      codes = [process.poll() for process in processes]
    if not any(codes):
      return None
    # One that was killed is the cause, others may have failed for want of it.
    first = min(range(count), key=lambda i: codes[i] or 256)
    return why(first, count, codes[first], logs[first])


def why(index: int, count: int, code: int, log) -> str:
  """What happened to a process, in one line."""
  log.seek(0)
  lines = log.read().decode(errors="replace").strip().splitlines()
  if code < 0:
    said = f"was ended by signal {-code}"
  else:
    said = f"failed: {lines[-1] if lines else f'exit status {code}'}"
  return f"process {index} of {count} {said}; the others were stopped."


def end_with_parent() -> None:
  """Ends this process when the one that launched it ends, however that ends."""

  def wait():
    sys.stdin.read()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
