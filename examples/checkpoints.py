"""Orbax checkpoints of a run that may be killed at any moment.

A checkpoint contains the logical state (see training.py), which does not depend
on the devices, and the arguments that determine the result of the run. For each
array it also contains the type and the sum of its words, because a damaged file
can sometimes be read without an error. A checkpoint that cannot be used raises
a `CheckpointError` with one sentence.
"""

import contextlib
import os
from pathlib import Path
import sys
from typing import Any

import cli
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import GetAttrKey, keystr, tree_leaves_with_path
import numpy as np
import orbax.checkpoint as ocp

import htga_optax


class CheckpointError(Exception):
  """A checkpoint cannot be used. The message is one line with the reason."""


class Checkpoints:
  """The checkpoints of one run, in a folder."""

  def __init__(
    self,
    folder: str | os.PathLike,
    abstract: Any,
    arguments: dict[str, Any],
    keep: int = 3,
  ):
    """Opens or creates the folder; removes incomplete checkpoints.

    Args:
      folder: the folder. With several hosts, all hosts must see it.
      abstract: the shapes, dtypes and shardings of the state to restore.
      arguments: the arguments that determine the result of the run, as JSON
        values. The number of devices is not one of them.
      keep: the number of checkpoints to keep.

    Raises:
      OSError: the folder cannot be created.
    """
    self.folder = Path(folder).expanduser().absolute()
    self.abstract, self.arguments = abstract, arguments
    self.folder.mkdir(parents=True, exist_ok=True)
    self.manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
    )

  def save(self, step: int, state: Any) -> None:
    """Copies the state, and writes the copy during the next steps."""
    run = {
      "arguments": self.arguments,
      "htga_optax": htga_optax.__version__,
      "types": types(state),
      "sums": sums(state),
    }
    self.manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
      ),
    )

  def restore(self) -> tuple[int, Any] | None:
    """The last saved step and its state; None without a checkpoint.

    Raises:
      CheckpointError: the checkpoint is damaged, or of another run or version.
    """
    step = self.manager.latest_step()
    if step is None:
      return None
    with self._readable(step):
      run = self.manager.restore(
        step, args=ocp.args.Composite(run=ocp.args.JsonRestore())
      ).run
      saved, version = run["arguments"], run["htga_optax"]
      sums_saved, types_saved = run["sums"], run["types"]
    self._compare(step, saved, types_saved, version)
    with self._readable(step):
      state = self.manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(self.abstract)),
      ).state
      for name, now in sums(state).items():
        if now != sums_saved[name]:
          raise ValueError(f"{name} is not what was saved")
    return step, state

  def close(self) -> None:
    """Waits until all checkpoints are written."""
    self.manager.close()

  def _compare(self, step, saved, types_saved, version) -> None:
    """Checks that the checkpoint belongs to this run."""
    for name, ours in self.arguments.items():
      if saved.get(name) != ours:
        option = "--" + name.replace("_", "-")
        raise CheckpointError(
          f"{self.folder} has the checkpoints of a run with {option}"
          f" {saved.get(name)}, and this one has {ours}: use another folder."
        )
    wanted = types(self.abstract)
    for name in (*wanted, *types_saved):
      then, now = types_saved.get(name, "none"), wanted.get(name, "none")
      if then != now:
        raise CheckpointError(
          f"{self.folder / str(step)} was written by htga_optax {version}, this"
          f" is {htga_optax.__version__}, and {name} was {then} and is {now}:"
          " continue with that version, or use another folder."
        )

  @contextlib.contextmanager
  def _readable(self, step: int):
    """Turns a failure to read into one line with the remedy."""
    shown = sys.excepthook
    # The threads of orbax would print tracebacks of their own.
    sys.excepthook = lambda *args: None
    try:
      yield
    except Exception as error:  # file systems and formats raise many kinds
      before = [s for s in self.manager.all_steps() if s < step]
      then = f"go on from step {max(before)}" if before else "start again"
      raise CheckpointError(
        f"{self.folder / str(step)} is damaged ({cli.first_line(error)[:200]}):"
        f" remove it to {then}."
      ) from error
    finally:
      sys.excepthook = shown


def types(tree: Any) -> dict[str, str]:
  """The type of each array, by its path: "float32[3,4]"."""
  return {
    _name(path): f"{x.dtype}{list(x.shape)}".replace(" ", "")
    for path, x in tree_leaves_with_path(tree)
  }


def sums(tree: Any) -> dict[str, int]:
  """The sum of the words of each array, modulo 2^32, by its path.

  A change of a single word changes the sum. The device has no influence on it.
  """
  paths = [_name(path) for path, _ in tree_leaves_with_path(tree)]
  leaves = jax.tree.leaves(tree)
  whole = NamedSharding(leaves[0].sharding.mesh, P())
  total = jax.jit(_sums, out_shardings=whole)(leaves)
  return dict(zip(paths, np.asarray(total.addressable_data(0)).tolist()))


def _sums(leaves: list[jax.Array]) -> jax.Array:
  def one(x):
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jnp.sum(lax.bitcast_convert_type(x, word), dtype=jnp.uint32)

  return jnp.stack([one(x) for x in leaves])


def _name(path) -> str:
  # Every path of an nnx variable ends in ".value".
  keys = [key for key in path if key != GetAttrKey("value")]
  return "/".join(keystr([key], simple=True) for key in keys)
