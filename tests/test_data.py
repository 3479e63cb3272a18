"""How the examples load text and images, and their errors."""

import gzip
import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SHARED = ROOT.parent / "shared"


@pytest.fixture
def data(monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import data

  return data


def symbols(dataset, tokens):
  return [dataset.vocabulary[token] for token in tokens.ravel()]


def test_windows_of_characters(data, tmp_path):
  path = tmp_path / "abc.txt"
  text = "abcacb\r\n" * 10
  path.write_bytes(text.encode())
  dataset = data.load(str(path), length=4)
  text = text.replace("\r", "")
  assert dataset.name == "abc" and dataset.vocabulary == ("\n", "a", "b", "c")
  assert dataset.classes == 4
  # 63 of 70 characters are for training. 62 have a successor: 15 windows of 4.
  assert dataset.x_train.shape == dataset.y_train.shape == (15, 4)
  assert dataset.x_train.dtype == dataset.y_train.dtype == np.int32
  assert "".join(symbols(dataset, dataset.x_train)) == text[:60]
  assert "".join(symbols(dataset, dataset.y_train)) == text[1:61]
  assert "".join(symbols(dataset, dataset.x_test)) == text[63:67]
  assert "".join(symbols(dataset, dataset.y_test)) == text[64:68]


def test_characters_only_in_the_test_text_are_one_class(data, tmp_path):
  path = tmp_path / "new.txt"
  path.write_text("ab" * 45 + "abcdabcdab", encoding="utf-8")
  dataset = data.load(str(path), length=9)
  assert dataset.vocabulary == ("a", "b", data.UNKNOWN) and dataset.classes == 3
  assert dataset.x_test.tolist() == [[0, 1, 2, 2, 0, 1, 2, 2, 0]]
  assert set(dataset.x_train.ravel()) == {0, 1}


@pytest.mark.parametrize("packed", [False, True])
def test_words_are_read_from_the_folder_of_the_user(data, tmp_path, packed):
  train = " the cat saw <unk> \n the dog saw the cat \n"
  test = " the <unk> saw \n the mouse \n"
  for part, text in (("train", train), ("test", test)):
    path = tmp_path / f"ptb.{part}.txt"
    if packed:
      path.with_name(path.name + ".gz").write_bytes(
        gzip.compress(text.encode())
      )
    else:
      path.write_text(text, encoding="utf-8")
  dataset = data.load("ptb", str(tmp_path), length=3)
  assert dataset.vocabulary == ("<eos>", "<unk>", "cat", "dog", "saw", "the")
  words = "the cat saw <unk> <eos> the dog saw the cat"
  assert " ".join(symbols(dataset, dataset.x_train)) == words[:-4]
  assert " ".join(symbols(dataset, dataset.y_train)) == words[4:]
  # "mouse" is not in the vocabulary; <eos> ends a line.
  ends = ["<unk>", "saw", "<eos>", "the", "<unk>", "<eos>"]
  assert symbols(dataset, dataset.y_test) == ends


def test_bad_texts_give_one_sentence(data, tmp_path):
  path = tmp_path / "bad.txt"

  def said(name=str(path), *args, load=data.load, **kwargs):
    with pytest.raises(data.DataError) as raised:
      load(name, *args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)

  assert "No such file" in said()
  path.write_bytes(b"\xff\xfe\x00")
  assert "bad.txt is no UTF-8 text" in said()
  path.write_bytes(b"")
  assert "the training text of bad has 0 tokens, too few" in said()
  path.write_text("abcdefghij" * 10)
  assert (
    "the test text of bad has 10 tokens, too few for a window of 10"
    in said(length=10)
  )
  assert data.load(str(path), length=9).x_test.shape == (1, 9)
  asked = "it needs ptb.train.txt and ptb.test.txt, or those with .gz, in"
  assert f"{asked} the folder that --data-dir names." in said("ptb")
  assert f"{asked} {tmp_path}." in said("ptb", str(tmp_path))
  (tmp_path / "ptb.train.txt.gz").write_bytes(gzip.compress(b"a b" * 99)[:-9])
  assert "ptb.train.txt.gz is no UTF-8 text" in said("ptb", str(tmp_path))
  assert "for text tiny_shakespeare, ptb or a PATH.txt." in said(
    "war_and_peace"
  )


@pytest.mark.parametrize("name", ["tiny_shakespeare", "ptb", "my.txt"])
def test_where_images_are_needed_text_is_refused(data, name):
  with pytest.raises(
    data.DataError, match=f"^{name} is text, and images are ne"
  ):
    data.load_images(name)


def test_classes_of_images_are_those_of_both_sets(data):
  x = np.zeros([3, 4, 4], np.uint8)
  dataset = data._checked(x, np.arange(3), x, np.arange(2, 5), "toy")
  assert dataset.classes == 5 and dataset.vocabulary == ()


def test_penn_treebank(data):
  folder = SHARED / "data" / "ptb"
  if not folder.exists():
    pytest.skip("no raw files beside the repository")
  dataset = data.load("ptb", str(folder), length=35)
  assert dataset.classes == 10_000  # the published number, with the end of line
  assert dataset.x_train.shape == (929_588 // 35, 35)
  assert dataset.x_test.shape == (82_429 // 35, 35)
  start = "<eos> mr. <unk> is chairman of <unk> n.v. the dutch publishing group"
  where = symbols(dataset, dataset.x_train[:3])
  assert start in " ".join(where)


TFDS_IMAGES = {  # shape and number of classes
  "mnist": ((28, 28, 1), 10),
  "fashion_mnist": ((28, 28, 1), 10),
  "cifar10": ((32, 32, 3), 10),
  "cifar100": ((32, 32, 3), 100),
  "svhn_cropped": ((32, 32, 3), 10),
}


# Its import takes five seconds, and these tests do not need it.
needs_tensorflow = pytest.mark.skipif(
  importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow"
)


class Rows(list):
  """Examples that can be read in blocks, as those of TFDS."""

  def __getitems__(self, places):
    return [self[place] for place in places]


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")  # TFDS warns
@pytest.mark.parametrize("name", TFDS_IMAGES)
def test_images_of_tfds(data, monkeypatch, name):
  """The official builder, with random examples in place of the download."""
  tfds = pytest.importorskip("tensorflow_datasets")
  rng = np.random.default_rng(0)
  splits = {}

  def value(feature):
    if isinstance(feature, tfds.features.ClassLabel):
      return rng.integers(feature.num_classes)
    if isinstance(feature, tfds.features.Image):
      return rng.integers(0, 256, feature.shape, np.uint8)
    return b"text"

  def source(builder, split):
    features = builder.info.features
    example = lambda: {key: value(features[key]) for key in features}
    splits[split] = Rows(example() for _ in range(1100))  # a block and a part
    return splits[split]

  asked = []
  monkeypatch.setattr("requests.head", lambda url, timeout: asked.append(url))
  with tfds.testing.mock_data(as_data_source_fn=source):
    dataset = data.load_images(name)
  assert len(asked) == 1 and list(splits) == ["train", "test"]
  assert (dataset.x_train.shape[1:], dataset.classes) == TFDS_IMAGES[name]
  assert dataset.name == name and dataset.x_train.dtype == np.uint8
  xs, ys = dataset[:4:2], dataset[1:4:2]
  for rows, x, y in zip(splits.values(), xs, ys, strict=True):
    np.testing.assert_array_equal(x, [row["image"] for row in rows])
    np.testing.assert_array_equal(y, [row["label"] for row in rows])


def test_every_data_set_of_tfds_is_tested(data):
  assert tuple(TFDS_IMAGES) == data.TFDS_NAMES


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")  # TFDS warns
def test_without_a_network_the_address_is_named(data, monkeypatch, tmp_path):
  pytest.importorskip("tensorflow_datasets")
  requests = pytest.importorskip("requests")

  def unreachable(url, timeout):
    raise requests.ConnectionError

  monkeypatch.setattr("requests.head", unreachable)
  with pytest.raises(data.DataError) as raised:
    data.load("svhn_cropped", str(tmp_path))
  assert str(raised.value).startswith(
    "svhn_cropped: cannot reach http://ufldl.stanford.edu/housenumbers/"
  )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow and TFDS warn
def test_tiny_shakespeare(data, tmp_path):
  """The official builder; reading prepared data needs no TensorFlow."""
  pytest.importorskip("tensorflow_datasets")
  if not (SHARED / "seed_tfds.py").exists():
    pytest.skip("no raw files beside the repository")
  command = [sys.executable, SHARED / "seed_tfds.py", "--tfds-dir", tmp_path]
  subprocess.run([*command, "tiny_shakespeare"], check=True)
  dataset = data.load("tiny_shakespeare", str(tmp_path))
  assert dataset.classes == 65 and dataset.x_train.shape == (15_685, 64)
  text = "".join(symbols(dataset, dataset.x_train[0]))
  assert text.startswith("First Citizen:\nBefore we proceed any further")
  script = (
    "import sys, data;"
    f"print(data.load('tiny_shakespeare', {str(tmp_path)!r}).x_test.mean());"
    "sys.exit('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=EXAMPLES,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert f"{dataset.x_test.mean()}" in done.stdout
