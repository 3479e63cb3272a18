"""The Python of README.md and docs/ runs, and prints what stands behind it.

The tutorials of docs/learn/ have {code-cell} blocks, which run when the site is
built. A block that imports a library that is not installed is skipped.
"""

import ast
import contextlib
import importlib.util
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
BLOCKS = [
  pytest.param(*match, id=f"{name}-block{i}")
  for page, name in zip(PAGES, IDS)
  for i, match in enumerate(BLOCK.findall(page.read_text()))
]
# Installed by `make test-clients`, and not in the environment of the tests.
CLIENTS = {
  "blackjax",
  "diffrax",
  "dynamax",
  "equinox",
  "flowjax",
  "gpjax",
  "haiku",
  "jaxopt",
  "netket",
  "numpyro",
  "optimistix",
}


def modules_of(code):
  """The top-level names of the modules that a block imports."""
  names = set()
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module)
  return {name.partition(".")[0] for name in names}


def printed_by(code):
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(code, "page", "exec"), {"__name__": "readme"})
  return printed.getvalue()


def printed_apart(code):
  """What a block prints in a process of its own, where warnings are allowed.

  Clients warn of themselves, and netket switches JAX to 64 bits.
  """
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", code],
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {"PYTHONPATH": path},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize("code, expected", BLOCKS)
def test_block(code, expected):
  modules = modules_of(code)
  for name in sorted(modules):
    if importlib.util.find_spec(name) is None:
      extra = "clients" if name in CLIENTS else "examples"
      pytest.skip(f"no {name}; pip install htga_optax[{extra}]")
  printed = (printed_apart if modules & CLIENTS else printed_by)(code)
  lines = [line.rstrip() for line in printed.strip().split("\n")]
  assert lines == expected.strip().split("\n")


FENCE = re.compile(r"^```(\S*).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def anchors_of(text):
  """The anchors that GitHub gives to the headings of a page."""
  headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
  return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_targets_named_there_exist(page):
  text = page.read_text()
  prose = FENCE.sub("", text)
  for target in re.findall(r"\]\(([^):]+)\)", prose):
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    assert path.exists(), target
    assert not anchor or anchor in anchors_of(path.read_text()), target
  commands = "".join(
    code for language, code in FENCE.findall(text) if language == "sh"
  )
  makefile = (ROOT / "Makefile").read_text()
  for target in [
    *re.findall(r"^make ([a-z-]+)", commands, re.MULTILINE),
    *re.findall(r"`make ([a-z-]+)", prose),
  ]:
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_line_of_prose_is_a_comment_of_myst(page):
  assert not re.search(r"^\s*%", FENCE.sub("", page.read_text()), re.MULTILINE)


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 120
