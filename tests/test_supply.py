"""The installed package: nothing but the package, with correct metadata."""

from importlib import metadata
import json
import pathlib

import pytest

import htga_optax

INSTALLED = metadata.distribution("htga_optax")


def test_version_is_that_of_the_metadata():
  assert htga_optax.__version__ == INSTALLED.version


def test_version_is_that_of_the_citation():
  citation = pathlib.Path(__file__).parent.parent / "CITATION.cff"
  assert f"\nversion: {htga_optax.__version__}\n" in citation.read_text()


def test_the_wheel_holds_the_package_alone():
  origin = json.loads(INSTALLED.read_text("direct_url.json") or "{}")
  if origin.get("dir_info", {}).get("editable"):
    pytest.skip("a checkout, no wheel")
  info = f"htga_optax-{htga_optax.__version__}.dist-info"
  files = {str(path) for path in INSTALLED.files or ()}
  assert {"htga_optax/py.typed", f"{info}/licenses/LICENSE"} <= files
  assert {name.split("/")[0] for name in files} == {"htga_optax", info}
  kinds = {name.split(".")[-1] for name in files if "htga_optax/" in name}
  assert kinds <= {"py", "pyc", "typed"}
