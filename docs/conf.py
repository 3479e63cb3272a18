"""Builds the site: `make docs` writes it to build/docs."""

import inspect
import os
import pathlib
import re

from docutils import nodes
import jax
from jax.typing import ArrayLike
import optax
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

import htga_optax

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
REPOSITORY = "https://github.com/htga-optax/htga_optax"

project = "htga_optax"
author = "The htga_optax authors"
copyright = f"2026, {author}"
release = version = htga_optax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.intersphinx",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
]
exclude_patterns = ["inventories", "static"]
nitpicky = True
# Types of other libraries that their own sites do not list.
nitpick_ignore_regex = [
  ("py:.*", r"(jax|optax|numpy|matplotlib|os|collections|typing)\..*"),
  ("py:class", r"ArrayTree|optional"),
]
suppress_warnings = ["mystnb.unknown_mime_type"]

# The tutorials are notebooks; a cell that raises fails the build.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The names that these pages refer to, so that a build needs no network.
intersphinx_mapping = {
  name: (url, f"inventories/{name}.inv")
  for name, url in {
    "flax": "https://flax.readthedocs.io/en/latest/",
    "jax": "https://docs.jax.dev/en/latest/",
    "numpy": "https://numpy.org/doc/stable/",
    "optax": "https://optax.readthedocs.io/en/latest/",
    "python": "https://docs.python.org/3/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
  }.items()
}

html_theme = "sphinx_book_theme"
html_title = "htga_optax"
html_static_path = ["static"]
html_css_files = ["phone.css"]
html_theme_options = {
  "repository_url": REPOSITORY,
  "path_to_docs": "docs",
  "use_repository_button": True,
  "use_source_button": True,
  "use_download_button": False,
  "navbar_persistent": [],
  "show_navbar_depth": 1,
  "show_toc_level": 2,
}

# Python writes out the types behind these names; the longest come first.
ALIASES = {
  stringify_annotation(written_out, "smart"): f"~{name}"
  for name, written_out in {
    "htga_optax.Argument": htga_optax.Argument,
    "optax.ScalarOrSchedule": optax.ScalarOrSchedule,
    "optax.Schedule": optax.Schedule,
    "optax.Updates": optax.Updates,
    "jax.typing.ArrayLike": ArrayLike,
    "jax.Array": jax.Array,
  }.items()
}

LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()([^)#:]+)(#[^)]*)?\)")


def link_to_repository(app: Sphinx, page: str, source: list[str]) -> None:
  """Turns links to files outside docs/ into links to the repository."""
  folder = (HERE / page).parent

  def link(match: re.Match) -> str:
    text, target, anchor = match.groups(default="")
    path = (folder / target).resolve()
    if path.is_relative_to(HERE) or not path.is_relative_to(ROOT):
      return match[0]
    if not path.exists():
      raise FileNotFoundError(f"{page} links to {target}")
    kind = "tree" if path.is_dir() else "blob"
    return f"{text}{REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}{anchor})"

  source[0] = LINK.sub(link, source[0])


def name_types(app, what, name, value, options, arguments, returns):
  """Writes the names of types instead of what they stand for."""
  if arguments is None:  # no function
    return None
  for written_out, alias in ALIASES.items():
    arguments = arguments.replace(written_out, alias)
    returns = returns and returns.replace(written_out, alias)
  return arguments, returns


def mark_literals(app, what, name, value, options, lines: list[str]) -> None:
  """Makes literal blocks of the indented algebra and code in docstrings."""
  marked, last = [], ""
  for line in lines:
    is_block = line.startswith("    ") and last[:1] not in ("", " ", ".")
    if is_block and not marked[-1] and not last.endswith("::"):
      marked += ["::", ""]
    marked.append(line)
    last = line or last
  lines[:] = marked


def public_name(target: str) -> str:
  """The name that a user imports, of one in a private module."""
  return re.sub(r"\._\w+(?=\.)", "", target).replace("optax.base.", "optax.")


def resolve(app: Sphinx, env, node, contents) -> nodes.reference | None:
  """Finds names as docstrings give them: private, or below the package."""
  target = node["reftarget"] = public_name(node.get("reftarget", ""))
  if node.get("refdomain") != "py":
    return None
  objects = env.domains["py"].objects
  for prefix in ("", "htga_optax.", "htga_optax.diagnostics."):
    if found := objects.get(prefix + target):
      return make_refnode(
        app.builder, node["refdoc"], found.docname, found.node_id, contents
      )
  return None


def is_public(name: str, value: object, module) -> bool:
  """Whether a module offers this: its own, or a package's re-export."""
  if name.startswith("_") or inspect.ismodule(value):
    return False
  is_package = hasattr(module, "__path__")
  home = getattr(value, "__module__", None)
  if isinstance(home, str) and callable(value):
    return home.startswith("htga_optax") and (
      is_package or home == module.__name__
    )
  return is_package or name.isupper()


def namespaces(module) -> list:
  """A module and the public modules in it."""
  inside = [
    value
    for name, value in vars(module).items()
    if inspect.ismodule(value)
    and not name.startswith("_")
    and value.__name__ == f"{module.__name__}.{name}"
  ]
  return [module, *(found for m in inside for found in namespaces(m))]


def check_entries(app: Sphinx, env) -> None:
  """Warns, which fails the build, of public names that have no entry."""
  entries = env.domains["py"].objects
  for module in namespaces(htga_optax):
    for name, value in vars(module).items():
      full = f"{module.__name__}.{name}"
      if is_public(name, value, module) and full not in entries:
        logging.getLogger(__name__).warning("no entry in docs/api: %s", full)


def setup(app: Sphinx) -> None:
  """Connects the functions above; Sphinx calls it."""
  app.connect("source-read", link_to_repository)
  app.connect("autodoc-process-signature", name_types)
  app.connect("autodoc-process-docstring", mark_literals, priority=400)
  app.connect("missing-reference", resolve, priority=400)
  app.connect("env-check-consistency", check_entries)
