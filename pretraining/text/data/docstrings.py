"""Prose out of python source: docstrings read with `ast`, nothing imported, and cleaned of what is not English.

A document is a text of paragraphs with a blank line between them.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
MIN_WORDS = 3

_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")
_QUOTED = re.compile(r"``(.+?)``|`([^`']+)[`']")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=[^\s*])([^*\n]*[^\s*])\*{1,2}(?![\w*])")
_SIGNATURE = re.compile(
    r"^\s*[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\)\s*"  # name(arguments)
    r"(?:(?:->|=>)\s*[\w\[\], .()|-]*?)?\s*(?:(?:--+|:|=)\s*|[.;]?$|\s{2,})"  # -> result, then what separates the prose
)
_BULLET = re.compile(r"^\s*(?:[*+•-]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+")
_FIELD = re.compile(r"^\s*:(?:\w+\s+)?([\w*]+):\s+|^\s*@\w+\s+([\w*]+):\s*|^\s*(?=[\w*'\"., |-]{1,32}?\s*(?:--|:)\s)")
_DIRECTIVE = re.compile(r"^\s*\.\.\s+(?:[\w-]+::|_[^:]*:)\s*")
_RULER = re.compile(r"^\s*([=\-~*^+#_.\"])\1{2,}[\s\-=+]*$")


class Docstring(NamedTuple):
    """A docstring's prose and where it stands: `asyncio.events` for asyncio/events.py."""

    module: str
    text: str


def clean(docstring: str) -> str:
    """Keep the prose: doctests, signatures, code, grammar, rulers and markup go, list items become paragraphs."""
    paragraphs: list[list[str]] = [[]]
    skip_deeper_than: int | None = None
    in_doctest = False
    for line in docstring.expandtabs().splitlines():
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if not bare:
            in_doctest = False
            paragraphs.append([])
            continue
        if skip_deeper_than is not None and indent > skip_deeper_than:
            continue
        skip_deeper_than = None
        in_doctest = in_doctest or bare.startswith(">>>")
        if in_doctest or _RULER.match(line) or not _is_prose(bare):
            paragraphs.append([])
            continue
        if bare.endswith("::"):
            skip_deeper_than = indent
        _place(line, paragraphs)
    joined = (" ".join(" ".join(lines).split()) for lines in paragraphs)
    return "\n\n".join(text for text in map(_unmark, joined) if any(map(str.isalpha, text)))


def _is_prose(bare: str) -> bool:
    marked = "::=" in bare or bare.startswith(("|", "+-", "$ ", "% "))
    return not marked and 2 * sum(map(str.isalpha, bare)) >= len(bare.replace(" ", ""))


def _place(line: str, paragraphs: list[list[str]]) -> None:
    """Append a line to the paragraph it continues, or open one where an item, a field or a signature starts."""
    line = _DIRECTIVE.sub("", line)
    without_signature = _SIGNATURE.sub("", line)
    bullet, field = _BULLET.match(line), _FIELD.match(line)
    if without_signature != line:
        paragraphs.append([without_signature])
    elif bullet:
        paragraphs.append([line[bullet.end() :]])
    elif field:
        named = field.group(1) or field.group(2)
        paragraphs.append([f"{named}: {line[field.end() :]}" if named else line])
    else:
        paragraphs[-1].append(line)


def _unmark(text: str) -> str:
    text = _ROLE.sub(r"\1", text)
    text = _QUOTED.sub(lambda match: match.group(1) or match.group(2), text)
    text = _EMPHASIS.sub(r"\1", text)
    return re.sub(r"::$", ":", text).strip()


def library_docstrings(root: Path | None = None) -> Iterator[Docstring]:
    """Read the docstrings under `root` (by default the standard library) in the order of paths, then of lines."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    for path in source_files(root):
        relative = path.relative_to(root)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and deliberately broken files that some distributions carry
            continue
        parts = [*relative.parts[:-1], relative.stem]
        module = ".".join(part for part in parts if part != "__init__")
        for node in (tree, *_definitions(tree)):
            text = clean(ast.get_docstring(node) or "")
            if len(text.split()) >= MIN_WORDS:
                yield Docstring(module, text)


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Walk over statements only, in the order of lines: expressions are most of a tree and define nothing."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _definitions(child)


def source_files(root: Path) -> list[Path]:
    """List the python files under `root` in a fixed order, tests and installed packages left out."""
    paths = []
    for folder, folders, files in os.walk(root):
        # Not walked into: site-packages may hold a million files.
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        paths += [Path(folder) / name for name in files if name.endswith(".py")]
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())


def language_topics(source: Path | None = None) -> Iterator[Docstring]:
    """Read the language reference that `help()` shows (pydoc_data/topics.py), a document per section.

    Topics contain one another whole; their sections are the same text, so that removing duplicates leaves each once.
    """
    source = source or Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
    statements = ast.parse(source.read_bytes()).body
    (assignment,) = (node for node in statements if isinstance(node, ast.Assign | ast.AnnAssign))
    if assignment.value is None:
        return
    for topic in dict(sorted(ast.literal_eval(assignment.value).items())).values():
        for section in _sections(topic):
            text = clean(section)
            if len(text.split()) >= MIN_WORDS:
                yield Docstring("pydoc_data.topics", text)


def _sections(topic: str) -> list[str]:
    """Cut a topic before each underlined title."""
    lines = topic.splitlines()
    rulers = [i for i in range(2, len(lines)) if _RULER.match(lines[i]) and not lines[i].startswith(" ")]
    borders = [0, *(i - 1 for i in rulers if lines[i - 1].strip()), len(lines)]
    return ["\n".join(lines[start:end]) for start, end in itertools.pairwise(borders)]
