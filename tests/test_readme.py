"""The README's Python runs, and prints what the block behind it says."""

import contextlib
import io
import pathlib
import re

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
BLOCKS = BLOCK.findall(README.read_text())


@pytest.mark.parametrize(
  "code, expected", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))]
)
def test_block(code, expected):
  if "flax" in code:
    pytest.importorskip("flax")
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
  assert printed.getvalue().strip() == expected.strip()


def test_files_and_targets_named_there_exist():
  text = README.read_text()
  for target in re.findall(r"\]\(([^)#:]+)\)", text):
    assert (README.parent / target).exists(), target
  makefile = (README.parent / "Makefile").read_text()
  for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
