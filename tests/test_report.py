"""The page that `python -m htga_optax.diagnostics` writes from a log."""

import base64
import csv
import html.parser
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import htga_optax
from htga_optax import diagnostics
from htga_optax.diagnostics import __main__ as command
from htga_optax.diagnostics import fits, logs, verdicts

pytestmark = pytest.mark.long_run

ROOT = pathlib.Path(htga_optax.__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def norms(n=1500, alpha=1.5, seed=0):
  return np.random.default_rng(seed).pareto(alpha, n) + 1


def columns(n=1500):
  rng = np.random.default_rng(1)
  return {
    "step": np.arange(1.0, n + 1) * 10,
    "loss": 2 * np.exp(-np.arange(n) / n),
    "update_norm": norms(n),
    "tail_index": np.where(np.arange(n) < 256, 0, 1.5),
    "amplification": rng.uniform(0.5, 1.5, n),
  }


def write_csv(path, table):
  lines = [",".join(table)]
  lines += [
    ",".join(map(repr, map(float, row))) for row in zip(*table.values())
  ]
  path.write_text("\n".join(lines) + "\n")
  return path


def run(*arguments):
  """Runs the command in a separate process, as a user does."""
  return subprocess.run(
    [sys.executable, "-m", "htga_optax.diagnostics", *map(str, arguments)],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )


class Page(html.parser.HTMLParser):
  """The content of a page: tags with their attributes, and text."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.said = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.said.append(data)


@pytest.fixture(scope="module")
def page():
  return diagnostics.report(columns(), title="<run> & co")


def test_the_page_needs_nothing_but_itself(page):
  read = Page(page)
  images = [a for tag, a in read.tags if tag == "img"]
  assert len(images) == 9
  for image in images:
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64" and image["alt"]
    assert base64.b64decode(data, validate=True)[:4] == b"\x89PNG"
  assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in read.tags}
  for word in ("http://", "https://", "url(", "@import"):
    assert word not in page
  (policy,) = [
    a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a
  ]
  assert policy.startswith("default-src 'none'; img-src data:;")
  assert "&lt;run&gt; &amp; co" in page and "<run>" not in page


def test_the_page_says_what_it_found(page):
  said = "".join(Page(page).said)
  for sentence in (
    "Tail index 1.5 (95 %: 1.2 to 1.7) of update_norm, from the 150 largest of"
    " the last 1500 values: heavy, the variance of the norm is infinite.",
    "No drift is found in the window",
    "No dependence that matters is found",
    "Not rejected at 5 %: Pareto tail, lognormal tail. Rejected: lognormal,"
    " exponential tail. A law that is not rejected need not be right",
    "Clip: clip_by_tail_quantile(exceedance_rate=0.001) clips the next step"
    " if its norm is above",
    "Batch: if the noise of single examples has this tail",
    "The verdict rests on all 1500 values, steps 10 to 15000, fewer than its"
    " window of 2048. The level is stable:",
    "one row in 1000, that is one logged row in 10000 steps",
    "Rows are 10 steps apart.",
  ):
    assert sentence in said
  assert "Left out" not in said


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_a_browser_shows_the_page(page, tmp_path):
  """The browser decodes all pictures; they fit the page. It has the text."""
  probe = """<script>
    const all = [...document.images];
    document.title = all.length + " images, "
      + all.filter(i => i.complete && i.naturalWidth > 300).length + " shown, "
      + all.filter(i => i.getBoundingClientRect().right > innerWidth).length
      + " outside, " + performance.getEntriesByType("resource").filter(
          e => !e.name.startsWith("data:")).length + " loaded";
  </script>"""
  # The policy of the page forbids scripts, as it should. The test removes it.
  driven = page.replace("default-src 'none'", "script-src 'unsafe-inline'")
  file = tmp_path / "page.html"
  file.write_text(driven.replace("</body>", probe + "</body>"), "utf-8")
  options = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update"
    " --disable-sync --window-size=1100,900 --virtual-time-budget=3000"
  )
  shown = subprocess.run(
    [
      str(CHROMIUM),
      *options.split(),
      f"--user-data-dir={tmp_path / 'profile'}",
      "--dump-dom",
      file.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert "<title>9 images, 9 shown, 0 outside, 0 loaded</title>" in shown.stdout
  assert "Tail index 1.5 (95 %: 1.2 to 1.7)" in shown.stdout


def test_the_command_writes_the_page(tmp_path):
  log = write_csv(tmp_path / "run.csv", columns(400))
  out = tmp_path / "page.html"
  done = run(log, "-o", out)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("Tail index ")
  assert done.stdout.endswith(f"Page: {out}\n")
  assert "<h1>run.csv</h1>" in out.read_text()


def test_lines_of_json_are_the_same(tmp_path):
  table = {k: v for k, v in columns(400).items() if k != "loss"}
  path = tmp_path / "run.jsonl"
  rows = [dict(zip(table, map(float, row))) for row in zip(*table.values())]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  csv = write_csv(tmp_path / "run.csv", table)
  read, other = logs.read(path), logs.read(csv)
  assert list(read) == list(other) == list(table)
  for name in table:
    np.testing.assert_array_equal(read[name], other[name])
    np.testing.assert_array_equal(read[name], table[name])


GOOD = "step,update_norm\n" + "".join(
  f"{i},{x}\n" for i, x in enumerate(norms(99))
)


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "is empty."),
    ("step,update_norm\n", "has a line of names but no rows."),
    ("step,update_norm\n1,2.5\n", "update_norm has 1 values that are finite"),
    (
      "step,loss\n1,2\n2,3\n",
      "no column of norms (known names: update_norm, gradient_norm,",
    ),
    ("1,2\n3,4\n", "must begin with a line of different names, got '1,2'."),
    (
      "step,update_norm\n1,2,3\n1,2\n",
      "row 1 has 3 cells, but the line of names has 2.",
    ),
    ("step,update_norm\n1,nan\n2,\n", "update_norm has 0 values that are"),
    ("step,update_norm\n1,\n2,-\n", "no column of norms"),
    ("step,update_norm\na,b\n", "has no column that contains a number."),
    (
      GOOD,
      "update_norm has 99 values that are finite and not 0; a verdict needs",
    ),
    ("step,update_norm\n" + "1,2\n" * 200, "has no tail: the 21 largest"),
    ("\0\1\2", "is not text: neither a table nor JSON."),
    ("{\n", "line 1 is not JSON"),
    ('{"a": 1}\n[1]\n', "line 2 is not a JSON object: [1]"),
    ('{"a": 1}\n{"a"\n', "line 2 is not JSON"),
  ],
)
def test_bad_logs_get_one_line(tmp_path, text, message):
  path = tmp_path / "run.log"
  path.write_text(text)
  with pytest.raises(SystemExit) as end:
    command.main([str(path), "-o", str(tmp_path / "page.html")])
  said = str(end.value.code)
  assert said.startswith("diagnostics: ") and "\n" not in said
  assert message in said
  assert not (tmp_path / "page.html").exists()


def test_bad_arguments_get_one_line(tmp_path):
  log = write_csv(tmp_path / "run.csv", columns(400))
  picture = tmp_path / "picture.png"
  picture.write_bytes(b"\x89PNG\xff\xfe")
  for arguments, message in (
    ([tmp_path / "none.csv"], "No such file"),
    ([tmp_path], "is a folder without event files"),
    ([picture], "is not text"),
    (
      [log, "--column", "norm"],
      "no column of numbers norm; it has: step, loss,",
    ),
    ([log, "--window", "5"], "window must be at least 100, got 5."),
    ([log, "--window", "x"], "argument --window"),
    ([log, "-o", log], "is the log itself; choose another output with -o."),
    ([log, "-o", tmp_path / "no" / "page.html"], "No such file"),
    ([], "the following arguments are required: log"),
  ):
    with pytest.raises(SystemExit) as end:
      command.main([str(a) for a in arguments])
    said = str(end.value.code)
    assert message in said and "\n" not in said


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  log = write_csv(tmp_path / "run.csv", columns(400))
  with pytest.raises(SystemExit, match=r'pip install "htga_optax\[diagnost'):
    command.main([str(log)])


def test_empty_cells_and_a_row_that_is_being_written(tmp_path):
  path = tmp_path / "run.csv"
  path.write_text("step,note,loss,x\n1,a,,\n2,,0.5,\n\n3,,,7\n4,")
  read = logs.read(path)
  assert list(read) == ["step", "loss", "x"]
  np.testing.assert_array_equal(read["step"], [1, 2, 3])
  np.testing.assert_array_equal(read["loss"], [np.nan, 0.5, np.nan])
  path.write_text("x,y\n,\n1,,\n")
  with pytest.raises(ValueError, match="row 2 has 3 cells"):
    logs.read(path)
  path.write_text("x,y,z\r\n,,\r\n1,,2\r\n")
  read = logs.read(path)
  np.testing.assert_array_equal(read["x"], [np.nan, 1])
  np.testing.assert_array_equal(read["z"], [np.nan, 2])


def test_unusable_values_are_left_out():
  table = columns(400)
  table["update_norm"][[3, 50, 399]] = np.nan, np.inf, 0.0
  found = verdicts.examine(table)
  assert found.values.size == 397
  out = {reason: list(at) for reason, at in found.rows.left_out.items()}
  assert out == {"nan": [40], "infinite": [510], "0": [4000]}
  said = verdicts.sentences(found, table)[-1]
  assert said == ("Left out of update_norm: 1 nan, 1 infinite, 1 equal to 0.")


def test_drift_is_stated():
  table = {"update_norm": norms(600, alpha=20.0) * np.linspace(5, 1, 600) ** 2}
  found = verdicts.examine(table)
  assert found.series.drift < -2.5
  said = verdicts.sentences(found, table)[1]
  assert said.startswith(
    "Do not trust this index: the largest values came early"
  )


def test_dependence_is_stated_and_values_are_thinned():
  table = {"norm": np.repeat(norms(300), 6)}
  found = verdicts.examine(table)
  assert found.stride >= 2 and found.lag in (5, 6)
  assert found.thinned.size == -(-1800 // found.stride)
  assert found.apart.size == -(-1800 // found.lag)
  assert found.thinned[-1] == found.apart[-1] == table["norm"][-1]
  _, _, said, laws, *_ = verdicts.sentences(found, table)
  assert "Laws of all values" not in laws
  assert "Successive values are dependent" in said
  assert f"{found.apart.size} values {found.lag} apart" in said


def test_a_signed_column_has_laws_with_two_tails():
  x = np.random.default_rng(0).standard_t(3, 1000)
  table = {"noise": x}
  found = verdicts.examine(table, column="noise")
  laws = {t.fit.law: t for t in found.tests}
  assert {"Student t", "skew t", "stable"} < set(laws)
  assert "lognormal" not in laws
  assert laws["Student t"].ks_pvalue > 0.05
  assert laws["Student t"].fit == fits.fit("Student t", x)
  said = " ".join(verdicts.sentences(found, table))
  assert "The likelihood favours the Student t over the stable" in said or (
    "The likelihoods of Student t and stable do not differ" in said
  )
  page = Page(diagnostics.report(table, column="noise"))
  assert len([tag for tag, _ in page.tags if tag == "img"]) == 6


def test_a_light_tail_is_called_light():
  x = np.random.default_rng(0).chisquare(1000, 2000) ** 0.5
  said = verdicts.sentences(verdicts.examine({"norm": x}), {"norm": x})
  assert "a light tail, practically no power law." in said[0]
  assert "this tail is no obstacle to averaging" in said[5]


def test_huge_norms_and_the_noise_scale():
  table = {
    "norm": norms(300) * 1e30,
    "gradient_noise_scale": np.full(300, 64.0),
  }
  found = verdicts.examine(table)
  plain = verdicts.examine({"norm": norms(300)})
  assert found.tail_index == pytest.approx(plain.tail_index, rel=1e-4)
  assert found.clip.norm == pytest.approx(plain.clip.norm * 1e30, rel=1e-4)
  said = verdicts.sentences(found, table)[5]
  assert said.startswith("Batch: the gradient noise scale is 64 examples")


def test_clip_is_a_quantile():
  x = norms(2048, alpha=2.0)
  clip = verdicts.examine({"norm": x}).clip.norm
  # The true value is sqrt(1000) = 31.6; 128 excesses give it within 40 %.
  assert 19 < clip < 52


@pytest.mark.slow
def test_a_log_of_a_million_rows_takes_seconds(tmp_path):
  """Processor time over that of the csv module and `float`: 2.6 when idle.

  That is 7 to 13 s with imports, depending on the machine.
  """
  resource = pytest.importorskip("resource")
  n = 10**6
  path = tmp_path / "run.csv"
  with open(path, "w") as file:
    file.write("step,loss,update_norm,tail_index,amplification\n")
    file.writelines(
      f"{i},0.5,{x:.6g},1.8,1.1\n" for i, x in enumerate(norms(n))
    )
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  assert run(path, "-o", tmp_path / "page.html").returncode == 0
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  start = time.process_time()
  with open(path) as file:
    _, *rows = csv.reader(file)
  assert len([list(map(float, row)) for row in rows]) == n
  assert spent < 3.5 * (time.process_time() - start)


def test_too_few_independent_values_are_not_tested():
  table = {"norm": np.repeat(norms(40), 40)}
  found = verdicts.examine(table)
  assert found.apart.size < 50
  laws = verdicts.sentences(found, table)[3]
  assert "No law is tested" in laws or "Laws of all values are not" in laws
