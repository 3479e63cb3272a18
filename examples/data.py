"""Image data sets for the examples, as NumPy arrays.

    digits                              comes with scikit-learn, no network
    mnist, fashion_mnist, cifar10       the official TensorFlow Datasets
    PATH.npz                            x_train, y_train, x_test, y_test

TensorFlow is needed once, to prepare a data set of the second line; it is then
read without. What can go wrong on the user's side is a `DataError`, a sentence.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple
import zipfile
import zlib

import cli
import numpy as np

TFDS_NAMES = ("mnist", "fashion_mnist", "cifar10")


class DataError(Exception):
  """A data set cannot be had; the message says why, in one line."""


class Dataset(NamedTuple):
  """Images, uint8 [n, height, width, channels], and classes, int32 [n]."""

  x_train: np.ndarray
  y_train: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  name: str


def load(name: str, data_dir: str | None = None) -> Dataset:
  """Loads a data set.

  Args:
    name: "digits", one of `TFDS_NAMES`, or the path of an .npz file.
    data_dir: where TFDS keeps its data sets; None for its own default.

  Returns:
    The data set.

  Raises:
    DataError: it is not known, not there, not readable or not what it should
      be, or a package is missing.
  """
  if name == "digits":
    return _digits()
  if name in TFDS_NAMES:
    return _tfds(name, data_dir)
  if name.endswith(".npz"):
    return _npz(Path(name).expanduser())
  known = ", ".join(("digits", *TFDS_NAMES))
  raise DataError(f"unknown data set {name!r}: take {known} or a PATH.npz.")


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
  """Turns a failed import into the command that installs what is missing."""
  try:
    yield
  except ImportError as error:
    install = f'pip install "htga_optax[{extra}]"'
    raise DataError(f"{error.name or error} is missing: {install}") from error


@needs("examples")
def _digits() -> Dataset:
  """1797 images of 8x8; a quarter of every class is the test set."""
  from sklearn import datasets, model_selection

  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  x_train, x_test, y_train, y_test = model_selection.train_test_split(
    images, digits.target, stratify=digits.target, random_state=0
  )
  return _checked(x_train, y_train, x_test, y_test, "digits")


def _npz(path: Path) -> Dataset:
  try:
    with path.open("rb") as file:
      if not zipfile.is_zipfile(file):
        raise DataError(f"{path} is not an .npz file.")
    with np.load(path, allow_pickle=False) as arrays:
      for key in Dataset._fields[:4]:
        if key not in arrays.files:
          raise DataError(f"{path} has no {key}, it has {arrays.files}.")
      return _checked(*(arrays[key] for key in Dataset._fields[:4]), path.stem)
  except OSError as error:
    raise DataError(f"{path}: {error.strerror or error}.") from error
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise DataError(f"{path} is broken: {cli.first_line(error)}") from error


@needs("tfds")
def _tfds(name: str, data_dir: str | None) -> Dataset:
  import tensorflow_datasets as tfds

  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
      _prepare(builder)
    train, test = _read(builder, "train"), _read(builder, "test")
  except (DataError, ImportError):
    raise
  except Exception as error:  # whatever file systems and formats may raise
    why = f"{cli.first_line(error)}; another --data-dir may help."
    raise DataError(f"TFDS cannot read {name}: {why}") from error
  return _checked(*train, *test, name)


def _prepare(builder) -> None:
  """Downloads a data set and writes it as array_record files."""
  import requests

  if importlib.util.find_spec("tensorflow") is None:
    raise ImportError(name="tensorflow")
  downloads = Path(builder.data_dir_root) / "downloads" / builder.name
  if len(list(downloads.glob("*.INFO"))) < len(builder.url_infos):
    url = next(iter(builder.url_infos))
    try:  # TFDS itself tries for minutes
      requests.head(url, timeout=30)
    except requests.RequestException as error:
      why = f"cannot reach {url} to download it."
      raise DataError(f"{builder.name}: {why}") from error
  builder.download_and_prepare()


def _read(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
  """The images and labels of a split, in blocks, with a progress line."""
  from rich.progress import track

  source = builder.as_data_source(split)
  starts = range(0, len(source), 1000)
  images, labels = [], []
  for start in track(starts, f"reading {builder.name}, {split}"):
    rows = source.__getitems__(range(len(source))[start : start + 1000])
    images += [row["image"] for row in rows]
    labels += [row["label"] for row in rows]
  return np.stack(images), np.asarray(labels)


def _checked(x_train, y_train, x_test, y_test, name: str) -> Dataset:
  """The data set, if the arrays have the types and shapes of one."""
  for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size:
      shapes = "[n, height, width] or [n, height, width, channels]"
      got = f"{x.dtype} {list(x.shape)}"
      raise DataError(f"x_{part} of {name} must be uint8 {shapes}, got {got}.")
    if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
      got = f"{y.dtype} {list(y.shape)}"
      raise DataError(f"y_{part} of {name} must be int [{len(x)}], got {got}.")
    if y.min() < 0 or y.max() >= 10_000:
      got = f"{y.min()} to {y.max()}"
      raise DataError(f"y_{part} of {name} must be in [0, 9999], got {got}.")
  if x_train.shape[1:] != x_test.shape[1:]:
    got = f"{list(x_train.shape)} and {list(x_test.shape)}"
    raise DataError(f"images of {name} must be of one size, got {got}.")
  x_train, x_test = (
    x if x.ndim == 4 else x[..., None] for x in (x_train, x_test)
  )
  return Dataset(
    x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32), name
  )
