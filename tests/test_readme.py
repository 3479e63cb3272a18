"""The Python of README.md and docs/ runs, and prints what stands behind it."""

import contextlib
import io
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
BLOCKS = [
  pytest.param(*match, id=f"{name}-block{i}")
  for page, name in zip(PAGES, IDS)
  for i, match in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize("code, expected", BLOCKS)
def test_block(code, expected):
  if "flax" in code:
    pytest.importorskip("flax")
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(code, "page", "exec"), {"__name__": "readme"})
  lines = [line.rstrip() for line in printed.getvalue().strip().split("\n")]
  assert lines == expected.strip().split("\n")


def anchors_of(text):
  """The anchors that GitHub gives to the headings of a page."""
  headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_targets_named_there_exist(page):
  text = page.read_text()
  for target in re.findall(r"\]\(([^):]+)\)", text):
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    assert path.exists(), target
    assert not anchor or anchor in anchors_of(path.read_text()), target
  makefile = (ROOT / "Makefile").read_text()
  for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
