"""Checkpoints of a run that may be killed at any moment, by orbax.

A checkpoint has the logical state (see training.py), which knows no devices;
the arguments that make the run what it is; and for each array its type and the
sum of its words, since a file that was damaged can be read without an error.
What cannot be gone on from is a `CheckpointError`, a sentence.
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
  """A checkpoint cannot be gone on from; the message says why, in one line."""


class Checkpoints:
  """The checkpoints of one run, in a folder."""

  def __init__(
    self,
    folder: str | os.PathLike,
    abstract: Any,
    arguments: dict[str, Any],
    keep: int = 3,
  ):
    """Opens the folder, or makes it; removes what a killed run left half.

    Args:
      folder: where, for several hosts one that all see.
      abstract: the state that is wanted: shapes, dtypes and shardings.
      arguments: those of the run, for JSON, without which another result comes
        out; not those that say on how many devices it runs.
      keep: how many checkpoints stay.

    Raises:
      OSError: the folder cannot be made.
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
    """Copies the state, and writes it while the next steps are taken."""
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
    """The last step and its state; None where there is no checkpoint.

    Raises:
      CheckpointError: it is of another run or version, or damaged.
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
    """Waits for what is being written."""
    self.manager.close()

  def _compare(self, step, saved, types_saved, version) -> None:
    """Checks that the checkpoint is one of this run."""
    for name, ours in self.arguments.items():
      if saved.get(name) != ours:
        option = "--" + name.replace("_", "-")
        raise CheckpointError(
          f"{self.folder} has the checkpoints of a run with {option}"
          f" {saved.get(name)}, and this one has {ours}: take another folder."
        )
    wanted = types(self.abstract)
    for name in (*wanted, *types_saved):
      then, now = types_saved.get(name, "none"), wanted.get(name, "none")
      if then != now:
        raise CheckpointError(
          f"{self.folder / str(step)} is of htga_optax {version}, this is"
          f" {htga_optax.__version__}, and {name} was {then} and is {now}: go"
          " on with that version, or take another folder."
        )

  @contextlib.contextmanager
  def _readable(self, step: int):
    """Says in one line that a checkpoint cannot be read, and what to do."""
    shown = sys.excepthook
    # The threads of orbax print tracebacks beside the one that is raised.
    sys.excepthook = lambda *args: None
    try:
      yield
    except Exception as error:  # whatever file systems and formats may raise
      before = [s for s in self.manager.all_steps() if s < step]
      then = f"go on from step {max(before)}" if before else "start anew"
      raise CheckpointError(
        f"{self.folder / str(step)} is damaged ({cli.first_line(error)[:200]}):"
        f" remove it to {then}."
      ) from error
    finally:
      sys.excepthook = shown


def types(tree: Any) -> dict[str, str]:
  """What each array is, by its path: "float32[3,4]"."""
  return {
    _name(path): f"{x.dtype}{list(x.shape)}".replace(" ", "")
    for path, x in tree_leaves_with_path(tree)
  }


def sums(tree: Any) -> dict[str, int]:
  """The sum of the words of each array, modulo 2^32, by its path.

  It is another one if any single word is, whatever the device.
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
  # The variables of nnx end every path in ".value".
  keys = [key for key in path if key != GetAttrKey("value")]
  return "/".join(keystr([key], simple=True) for key in keys)
