"""Phrases that readers stumble over, and what to write instead.

The test reads the documents, and the comments, docstrings and strings of the
package, the examples and the benchmarks. Names in code are not checked.
"""

import bisect
import importlib.util
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Regular expressions in lower case, for whole words. A space also matches line
# breaks. A fixed first letter makes the search fast.
PHRASES = {
  r"hear(d|s)?": '"used", "read" or "taken into account"',
  r"as (it comes|they come)": '"unchanged", "by default" or "in order"',
  r"cannot be(?=\s?[,;.:()])": '"invalid" or "out of range"',
  r"sa(y|ys|id) of": '"gives for", "states about" or "describes"',
  r"what it says": '"its value", "its result" or "its text"',
  r"look(s|ed) at": '"checks", "reads", "evaluates" or "measures"',
  r"has what": '"contains", "lists" or "describes"',
  r"that (is|are) none": '"invalid", or "that is not a ..."',
  r"what (is|was) (read|said|told)": '"the readings" or "the values"',
  r"that nobody": '"without ..."',
  r"nothing (reads|uses|sees) \w+ but": '"only ... reads"',
  r"but for": '"except" or "apart from"',
  r"know(s)? (nothing )?of": '"does not account for" or "does not contain"',
  r"stand(s)? twice": '"occurs twice"',
  r"hands on": '"passes on"',
  r"lest": '"so that ... not"',
  r"torn": '"incomplete"',
  r"by heart": '"memorised"',
  r"[.!?] so (it|they|is|are|this|that)": (
    'one sentence with the last one, or "therefore" after the subject'
  ),
}
# Line breaks come with comment signs, and with quotes between two strings.
PATTERNS = {
  re.compile(phrase.replace(" ", r"[\s#\"']+") + r"\b"): instead
  for phrase, instead in PHRASES.items()
}
PROSE = {"COMMENT", "STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE"}


def files():
  """Yields everything that is written for readers, with its name."""
  package = importlib.util.find_spec("htga_optax")
  assert package and package.origin
  package = pathlib.Path(package.origin).parent
  for path in sorted(package.rglob("*.py")):
    yield path, f"htga_optax/{path.relative_to(package).as_posix()}"
  for pattern in (
    "examples/*.py",
    "examples/*.md",
    "benchmarks/**/*.py",
    "benchmarks/**/*.md",
    "docs/**/*.md",
    "*.md",
  ):
    for path in sorted(ROOT.glob(pattern)):
      name = path.relative_to(ROOT)
      if not any(part.startswith(("_", ".")) for part in name.parts[:-1]):
        yield path, name.as_posix()


def is_prose(source):
  """A function of (row, column): is there a comment or a string?"""
  tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
  starts = [token.start for token in tokens]

  def answer(position):
    token = tokens[bisect.bisect_right(starts, position) - 1]
    return tokenize.tok_name[token.type] in PROSE and position < token.end

  return answer


def hits(text, is_python):
  """(line, phrase, what to write instead) of every phrase in a text."""
  lower, inside, found = text.lower(), None, []
  for pattern, instead in PATTERNS.items():
    for match in pattern.finditer(lower):
      start = match.start()
      if start and lower[start - 1 : start + 1].isalnum():
        continue  # in the middle of a word
      row = lower.count("\n", 0, start) + 1
      column = start - (lower.rfind("\n", 0, start) + 1)
      if is_python:
        inside = inside or is_prose(text)
        if not inside((row, column)):
          continue
      phrase = " ".join(re.split(r"[\s#\"']+", match.group()))
      found.append((row, phrase, instead))
  return sorted(found)


def test_words_are_plain():
  found = [
    f'{name}:{row}: "{phrase}"; write instead: {instead}'
    for path, name in files()
    for row, phrase, instead in hits(
      path.read_text(encoding="utf-8"), path.suffix == ".py"
    )
  ]
  if found:
    pytest.fail("\n".join(["phrases to avoid:", *found]), pytrace=False)


def test_phrases_are_found_in_prose_only():
  source = '''
heard, torn = 1, 2  # an argument
# that cannot be.
lest = f"values are as they come: {x}"
y = ("A reading. "
     "So it is not heard.")
"""What it says
of 0 is unknown; a value that cannot be fitted."""
'''
  found = [(row, phrase) for row, phrase, _ in hits(source, is_python=True)]
  assert found == [
    (3, "cannot be"),
    (4, "as they come"),
    (5, ". so it"),
    (6, "heard"),
    (7, "says of"),
    (7, "what it says"),
  ]
  assert hits("torn\n", is_python=False) == [(1, "torn", '"incomplete"')]
