"""Loads images and text for the examples, as NumPy arrays.

    digits                              from scikit-learn, needs no network
    mnist, fashion_mnist, cifar10,      from TensorFlow Datasets (TFDS)
    cifar100, svhn_cropped
    PATH.npz                            x_train, y_train, x_test, y_test

    tiny_shakespeare                    characters, from TFDS
    ptb                                 words, from your own files
    PATH.txt                            characters, the last tenth for the test

TFDS needs TensorFlow once, to prepare a data set, and reads it later without
TensorFlow. For svhn_cropped, it downloads 1.6 GB, of which 1.3 GB are extra
images that are not used. The classes of cifar100 are the 100 fine ones.

The Penn Treebank (ptb) is licensed and not downloaded. Its files are those of
Mikolov's language models: ptb.train.txt and ptb.test.txt, plain or with .gz.

Tokens are the numbers of the sorted symbols of the training text. A symbol that
only the test text has is replaced by `UNKNOWN`. The Penn Treebank contains this
symbol in its training text. Another text gets it as one more symbol, which no
model learns.

A mistake of the user raises a `DataError` with one sentence.
"""

from collections.abc import Iterator, Sequence
import contextlib
import gzip
import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple
import zipfile
import zlib

import cli
import numpy as np

TFDS_NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")
TEXT_NAMES = ("tiny_shakespeare", "ptb")
IMAGES = ", ".join(("digits", *TFDS_NAMES)) + " or a PATH.npz"
TEXT = ", ".join(TEXT_NAMES) + " or a PATH.txt"
UNKNOWN = "<unk>"
END = "<eos>"  # of a line, where tokens are words


class DataError(Exception):
  """A data set cannot be loaded. The message is one line with the reason."""


class Dataset(NamedTuple):
  """Inputs x (images or windows of text) and targets y.

  For images, x is uint8 [n, height, width, channels], and y is the class, int32
  [n]. For text, x and y are int32 [n, length]: tokens, and the next tokens.
  `vocabulary` then has the symbol of each token.
  """

  x_train: np.ndarray
  y_train: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  name: str
  vocabulary: tuple[str, ...] = ()

  @property
  def classes(self) -> int:
    """The number of values of y."""
    largest = max(y.max() for y in (self.y_train, self.y_test))
    return len(self.vocabulary) or int(largest) + 1


def load(name: str, data_dir: str | None = None, length: int = 64) -> Dataset:
  """Loads a data set of images or text.

  Args:
    name: "digits", one of `TFDS_NAMES` or `TEXT_NAMES`, or the path of an .npz
      or .txt file.
    data_dir: the folder of TFDS data sets, None for TFDS's own default; for
      ptb, the folder of its files.
    length: the length of a window of text in tokens, 1 or more. Windows do not
      overlap. Tokens after the last window are dropped.

  Returns:
    The data set.

  Raises:
    DataError: the data set is unknown, missing, not readable or malformed, or a
      package is missing.
  """
  if name == "digits":
    return _digits()
  if name.endswith(".npz"):
    return _npz(Path(name).expanduser())
  if name in TFDS_NAMES:
    train, test = _tfds(name, data_dir)
    columns = [
      np.stack([row[key] for row in rows])
      for rows in (train, test)
      for key in ("image", "label")
    ]
    return _checked(*columns, name)
  if name == "tiny_shakespeare":
    train, test = (rows[0]["text"].decode() for rows in _tfds(name, data_dir))
    return _windows(train, test, length, name)
  if name == "ptb":
    train, test = (_words(_ptb(part, data_dir)) for part in ("train", "test"))
    return _windows(train, test, length, name)
  if name.endswith(".txt"):
    path = Path(name).expanduser()
    text = _read_text(path)
    start = len(text) - len(text) // 10
    return _windows(text[:start], text[start:], length, path.stem)
  raise DataError(f"unknown data set {name!r}: take {IMAGES}, for text {TEXT}.")


def load_images(name: str, data_dir: str | None = None) -> Dataset:
  """Loads a data set of images. Text raises a `DataError`."""
  if name in TEXT_NAMES or name.endswith(".txt"):
    raise DataError(f"{name} is text, and images are needed: take {IMAGES}.")
  return load(name, data_dir)


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
  """Turns a failed import into a `DataError` with the command to install."""
  try:
    yield
  except ImportError as error:
    install = f'pip install "htga_optax[{extra}]"'
    raise DataError(f"{error.name or error} is missing: {install}") from error


@needs("examples")
def _digits() -> Dataset:
  """1797 images of 8x8 pixels. A quarter of every class is the test set."""
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
def _tfds(name: str, data_dir: str | None) -> tuple[list[dict], list[dict]]:
  """The examples of the training set and of the test set."""
  import tensorflow_datasets as tfds

  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
      _prepare(builder)
    return _read(builder, "train"), _read(builder, "test")
  except (DataError, ImportError):
    raise
  except Exception as error:  # file systems and formats raise many kinds
    why = f"{cli.first_line(error)}; another --data-dir may help."
    raise DataError(f"TFDS cannot read {name}: {why}") from error


def _prepare(builder) -> None:
  """Downloads a data set, and writes it as array_record files."""
  import requests

  if importlib.util.find_spec("tensorflow") is None:
    raise ImportError(name="tensorflow")
  downloads = Path(builder.data_dir_root) / "downloads" / builder.name
  if len(list(downloads.glob("*.INFO"))) < len(builder.url_infos):
    url = next(iter(builder.url_infos))
    try:  # TFDS itself would try for minutes
      requests.head(url, timeout=30)
    except requests.RequestException as error:
      why = f"cannot reach {url} to download it."
      raise DataError(f"{builder.name}: {why}") from error
  builder.download_and_prepare()


def _read(builder, split: str) -> list[dict]:
  """Reads the examples of a split in blocks, with a progress line."""
  from rich.progress import track

  source = builder.as_data_source(split)
  starts = range(0, len(source), 1000)
  rows = []
  for start in track(starts, f"reading {builder.name}, {split}"):
    rows += source.__getitems__(range(len(source))[start : start + 1000])
  return rows


def _ptb(part: str, data_dir: str | None) -> Path:
  """The path of the training or test text of the Penn Treebank."""
  names = f"ptb.{part}.txt", f"ptb.{part}.txt.gz"
  for name in names if data_dir else ():
    if (path := Path(data_dir).expanduser() / name).exists():
      return path
  where = data_dir or "the folder that --data-dir names"
  raise DataError(
    "ptb is not downloaded: it needs ptb.train.txt and ptb.test.txt, or those"
    f" with .gz, in {where}."
  )


def _words(path: Path) -> list[str]:
  """The words of a text, with `END` after each line."""
  return _read_text(path).replace("\n", f" {END} ").split()


def _read_text(path: Path) -> str:
  try:
    unzip = gzip.open if path.suffix == ".gz" else open
    with unzip(path, "rt", encoding="utf-8") as file:
      return file.read()
  except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise DataError(f"{path} is no UTF-8 text: {error}.") from error
  except OSError as error:
    raise DataError(f"{path}: {error.strerror or error}.") from error


def _windows(
  train: Sequence[str], test: Sequence[str], length: int, name: str
) -> Dataset:
  """Turns symbols into tokens, in windows that do not overlap."""
  vocabulary = sorted(set(train))
  if UNKNOWN not in vocabulary and not set(test) <= set(vocabulary):
    vocabulary.append(UNKNOWN)
  tokens = {symbol: token for token, symbol in enumerate(vocabulary)}
  arrays = []
  for part, symbols in (("training", train), ("test", test)):
    count = (len(symbols) - 1) // length
    if count < 1:
      got = f"{len(symbols)} tokens, too few for a window of {length}"
      raise DataError(f"the {part} text of {name} has {got}.")
    unknown = tokens.get(UNKNOWN)
    text = np.asarray([tokens.get(symbol, unknown) for symbol in symbols])
    text = text.astype(np.int32)
    for first in (0, 1):
      windows = text[first : first + count * length]
      arrays.append(windows.reshape(count, length))
  return Dataset(*arrays, name, tuple(vocabulary))


def _checked(x_train, y_train, x_test, y_test, name: str) -> Dataset:
  """The data set, after a check of the types and shapes of the arrays."""
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
    raise DataError(f"images of {name} must have one size, got {got}.")
  x_train, x_test = (
    x if x.ndim == 4 else x[..., None] for x in (x_train, x_test)
  )
  return Dataset(
    x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32), name
  )
