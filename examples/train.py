"""Trains a Flax model on one device or many, in one process or on many hosts.

    python examples/train.py                                   # digits, a CNN
    python examples/train.py --dataset cifar10 --model resnet18
    python examples/train.py --dataset tiny_shakespeare --model transformer
    python examples/train.py --optimizer ahtsgd --parallel fsdp --devices 8
    python examples/train.py --processes 2 --devices 4
    python examples/train.py --checkpoint runs/1 --csv run.csv
    python examples/train.py --tensorboard board --wandb .

models.py has the models, data.py the data sets, and training.py the optimizers
and the ways to train on many devices. The seed determines a run: the result is
the same on any number of devices, up to rounding.

With --checkpoint, a run that was killed at any moment continues if you give the
same command again. It may then have another --parallel, --devices or
--processes. With the same ones, the result has the same bits as the result of a
run that was not killed.

--devices simulates that many devices on a CPU. --processes starts that many
processes on this machine. To run on several hosts, start the command on each,
with --coordinator HOST:PORT of the first host, --processes, and --process-id 0,
1, ...; all hosts must see the data and the checkpoints.
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

# The arguments that determine the result of a run.
OF_THE_RUN = (
  "dataset", "model", "width", "length", "optimizer", "batch_size", "seed",
  "learning_rate", "momentum", "window_size", "noise", "threshold",
)  # fmt: skip


def rewind(path: str, step: int) -> None:
  """Removes the rows after a step from a log. The run writes them again."""
  file = Path(path)
  if not file.exists():
    return
  with file.open(newline="") as lines:
    head, *rows = [*csv.reader(lines)] or [[]]
  whole = [row for row in rows if len(row) == len(head)]  # the last may not be
  kept = [row for row in whole if int(row[head.index("step")]) <= step]
  partial = file.with_name(f"{file.name}.partial")
  with partial.open("w", newline="") as lines:
    csv.writer(lines).writerows([head, *kept] if head else [])
  os.replace(partial, file)


def train(args: argparse.Namespace, console: Console) -> None:
  """Makes one run, from the data to the test accuracy."""
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
      console.print(f"continues from step {first} of {saved.folder}")
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
    f" {max(args.steps - first, 0)} steps in {seconds:.1f} s with compilation"
  )


def chosen(args: argparse.Namespace, console: Console) -> list[sinks.Sink]:
  """The sinks of the readings. Only the first process has any."""
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
  add("--width", type=cli.count, help="width of the layers")
  add("--length", type=cli.count, default=64, help="tokens in a text")
  add("--optimizer", choices=training.OPTIMIZERS, default="htga")
  add("--steps", type=cli.count, default=1000)
  add(
    "--batch-size", type=cli.count, default=32, help="for all devices together"
  )
  add("--learning-rate", type=float, default=defaults.learning_rate)
  add("--momentum", type=float, default=defaults.momentum)
  add("--window-size", type=cli.count, default=defaults.window_size)
  add("--noise", type=float, default=defaults.noise, help="scale, in ahtsgd")
  add(
    "--threshold", type=float, default=defaults.threshold, help="longest step"
  )
  add("--seed", type=lambda text: cli.count(text, 0), default=defaults.seed)
  add("--parallel", choices=training.WAYS, default="jit")
  add("--devices", type=cli.count, help="simulated on a CPU, in each process")
  add("--processes", type=cli.count, default=1)
  add("--coordinator", metavar="HOST:PORT", help="address of the first process")
  add("--process-id", type=lambda text: cli.count(text, 0), default=0)
  add("--launched", action="store_true", help=argparse.SUPPRESS)
  add("--heartbeat", type=cli.count, default=30, metavar="SECONDS")
  add("--checkpoint", metavar="DIR", help="continued if it exists")
  add("--checkpoint-every", type=cli.count, default=200, metavar="STEPS")
  add("--csv", metavar="FILE", help="continued if it exists")
  add("--tensorboard", metavar="DIR")
  add("--wandb", metavar="DIR", help="an offline run")
  add("--no-live", action="store_true", help="plain lines also in a terminal")
  add("--log-every", type=cli.count, default=20, metavar="STEPS")
  add("--data-dir", help="the folder of the data sets")
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Trains. A failure prints one line."""
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
