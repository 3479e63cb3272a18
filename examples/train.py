"""A Flax model trained on one device or many, of one process or many hosts.

    python examples/train.py                                   # digits, a CNN
    python examples/train.py --dataset cifar10 --model resnet18
    python examples/train.py --dataset tiny_shakespeare --model transformer
    python examples/train.py --optimizer ahtsgd --parallel fsdp --devices 8
    python examples/train.py --processes 2 --devices 4
    python examples/train.py --checkpoint runs/1 --csv run.csv
    python examples/train.py --tensorboard board --wandb .

Models are those of models.py, data sets those of data.py, optimizers and ways
to train on many devices those of training.py. A run is a function of its seed:
it is the same on any number of devices, up to rounding.

With --checkpoint a run that was killed, at whatever moment, goes on when the
same command is given again, also with another --parallel, --devices or
--processes; on the same ones it ends with the bits of a run that was not.

--devices simulates as many on a CPU. --processes starts as many on this
machine. On hosts of their own start the command on each, with --coordinator
HOST:PORT of the first, --processes, and --process-id 0, 1, ...; data and
checkpoints must be where all see them.
"""

import cli

with cli.one_line("train"):
  import argparse
  import contextlib
  import csv
  import os
  from pathlib import Path
  import sys
  import time

  import checkpoints
  import data
  import jax
  import launch
  import models
  from rich.console import Console
  import sinks
  import terminal
  import training

# What makes a run what it is, wherever it runs.
OF_THE_RUN = (
  "dataset", "model", "width", "length", "optimizer", "batch_size", "seed",
  "learning_rate", "momentum", "window_size", "noise", "threshold",
)  # fmt: skip


def rewind(path: str, step: int) -> None:
  """Takes rows after that step out of a log, which will be written again."""
  file = Path(path)
  if not file.exists():
    return
  with file.open(newline="") as lines:
    head, *rows = [*csv.reader(lines)] or [[]]
  whole = [row for row in rows if len(row) == len(head)]  # one may be cut off
  kept = [row for row in whole if int(row[head.index("step")]) <= step]
  partial = file.with_name(f"{file.name}.partial")
  with partial.open("w", newline="") as lines:
    csv.writer(lines).writerows([head, *kept] if head else [])
  os.replace(partial, file)


def train(args: argparse.Namespace, console: Console) -> None:
  """One run, from the data to the test accuracy."""
  dataset = data.load(args.dataset, args.data_dir, args.length)
  args.model = args.model or ("cnn" if dataset.x_train.ndim > 2 else "lstm")
  trainer = training.WAYS[args.parallel](
    dataset,
    args.model,
    args.optimizer,
    training.Settings(
      *(getattr(args, name) for name in training.Settings._fields)
    ),
    args.batch_size,
    args.width,
  )
  console.print(
    f"{dataset.name}, {args.model}, {args.optimizer}; {args.parallel},"
    f" devices: {len(trainer.devices)}, processes: {jax.process_count()}",
    soft_wrap=True,
  )

  first, state, saved = 0, None, None
  if args.checkpoint:
    run = {name: getattr(args, name) for name in OF_THE_RUN}
    saved = checkpoints.Checkpoints(args.checkpoint, trainer.abstract, run)
    if found := saved.restore():
      first, state = found
      console.print(f"goes on from step {first}, of {saved.folder}")
  if saved and args.csv and jax.process_index() == 0:
    rewind(args.csv, first)
  state = trainer.place(trainer.start() if state is None else state)

  clock = time.perf_counter()
  with contextlib.ExitStack() as stack:
    if saved:
      stack.callback(saved.close)
    log = stack.enter_context(sinks.logger(*chosen(args, console)))
    for step in range(first, args.steps):
      state, values = trainer.step(state, trainer.batch(step))
      done = step + 1
      if done % args.log_every == 0 or done == args.steps:
        log(done, trainer.read(values))
      if saved and (done % args.checkpoint_every == 0 or done == args.steps):
        saved.save(done, trainer.logical(state))
  seconds = time.perf_counter() - clock
  loss, accuracy = trainer.test(trainer.logical(state))
  console.print(
    f"test loss {loss:.4f}, accuracy {100 * accuracy:.2f}%;"
    f" {max(args.steps - first, 0)} steps in {seconds:.1f} s, compilation"
    " included"
  )


def chosen(args: argparse.Namespace, console: Console) -> list[sinks.Sink]:
  """Where the readings go: from the first process only."""
  if jax.process_index() != 0:
    return []
  shown = terminal.sink(console, args.steps, live=not args.no_live)
  files = (
    (sinks.csv_sink, args.csv),
    (sinks.tensorboard_sink, args.tensorboard),
    (sinks.wandb_sink, args.wandb),
  )
  return [shown, *(make(target) for make, target in files if target)]


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = cli.Parser("train", __doc__)
  add = parser.add_argument
  defaults = training.Settings()
  add("--dataset", default="digits", help="see data.py")
  add("--model", choices=models.MODELS, help="default: cnn, or lstm for text")
  add("--width", type=cli.count, help="of the model's layers")
  add("--length", type=cli.count, default=64, help="of a text, in tokens")
  add("--optimizer", choices=training.OPTIMIZERS, default="htga")
  add("--steps", type=cli.count, default=1000)
  add(
    "--batch-size", type=cli.count, default=32, help="of all devices together"
  )
  add("--learning-rate", type=float, default=defaults.learning_rate)
  add("--momentum", type=float, default=defaults.momentum)
  add("--window-size", type=cli.count, default=defaults.window_size)
  add("--noise", type=float, default=defaults.noise, help="scale of ahtsgd's")
  add(
    "--threshold", type=float, default=defaults.threshold, help="longest step"
  )
  add("--seed", type=lambda text: cli.count(text, 0), default=defaults.seed)
  add("--parallel", choices=training.WAYS, default="jit")
  add("--devices", type=cli.count, help="simulated on a CPU, in each process")
  add("--processes", type=cli.count, default=1)
  add("--coordinator", metavar="HOST:PORT", help="of the first process")
  add("--process-id", type=lambda text: cli.count(text, 0), default=0)
  add("--launched", action="store_true", help=argparse.SUPPRESS)
  add("--heartbeat", type=cli.count, default=30, metavar="SECONDS")
  add("--checkpoint", metavar="DIR", help="is gone on from where it exists")
  add("--checkpoint-every", type=cli.count, default=200, metavar="STEPS")
  add("--csv", metavar="FILE", help="is continued where it exists")
  add("--tensorboard", metavar="DIR")
  add("--wandb", metavar="DIR", help="an offline run")
  add("--no-live", action="store_true", help="plain lines on a terminal too")
  add("--log-every", type=cli.count, default=20, metavar="STEPS")
  add("--data-dir", help="where the data sets are")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Trains; every failure is one line."""
  args = parse(argv)
  failures = (
    data.DataError,
    checkpoints.CheckpointError,
    OSError,
    ValueError,
    jax.errors.JaxRuntimeError,
  )
  with cli.one_line("train", *failures, extra="logging"):
    if args.processes > 1 and not args.coordinator:
      failed = launch.launch(
        sys.argv if argv is None else [__file__, *argv], args.processes
      )
      if failed:
        sys.exit(f"train: {failed}")
      return
    if args.devices:
      jax.config.update("jax_platforms", "cpu")
      jax.config.update("jax_num_cpu_devices", args.devices)
    if args.coordinator:
      if args.launched:
        launch.end_with_parent()
      jax.distributed.initialize(
        args.coordinator,
        args.processes,
        args.process_id,
        heartbeat_timeout_seconds=args.heartbeat,
        initialization_timeout=60,
      )
    quiet = args.process_id > 0
    train(args, Console(markup=False, highlight=False, quiet=quiet))


if __name__ == "__main__":
  main()
