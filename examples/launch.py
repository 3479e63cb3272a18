"""Runs one command in several processes on this machine, as on several hosts.

    launch(["examples/train.py", "--processes", "2", "--steps", "100"], 2)

`jax.distributed` connects the processes. Each process has the arguments of the
command, and also `--coordinator` and `--process-id`. Only the output of the
first process is shown. If one process dies, the launcher stops the others at
once; otherwise they would wait for it in their next collective operation. (On
separate hosts, JAX stops them after `--heartbeat` seconds without a sign of
life from a process.)
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
    count: the number of processes.

  Returns:
    None if all processes succeed, else one line about the failure.
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
        stdin=subprocess.PIPE,  # closed when this process ends
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
    # A killed process is the cause. Others may fail because it is missing.
    first = min(range(count), key=lambda i: codes[i] or 256)
    return why(first, count, codes[first], logs[first])


def why(index: int, count: int, code: int, log) -> str:
  """One line about the failure of a process."""
  log.seek(0)
  lines = log.read().decode(errors="replace").strip().splitlines()
  if code < 0:
    said = f"was ended by signal {-code}"
  else:
    said = f"failed: {lines[-1] if lines else f'exit status {code}'}"
  return f"process {index} of {count} {said}; the others were stopped."


def end_with_parent() -> None:
  """Ends this process when its launcher ends, in whatever way that happens."""

  def wait():
    sys.stdin.read()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
