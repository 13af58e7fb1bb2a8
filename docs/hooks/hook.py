"""What mkdocs adds to the pages at each build: the reference of the API and of conf/, and the pages of experiments.

None of it is committed. Entries of the navigation whose page is not there are left out; a page that the navigation does
not name stays an error of the strict build.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import reference  # noqa: E402

MADE: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Generate pages, and name in the navigation those that are there."""
    MADE.clear()
    MADE.update(reference.api_pages())
    MADE.update(reference.configuration_pages())
    MADE["benchmarks.md"] = _moved("experiments/benchmarks")
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        if readme.parent.name != "benchmarks":
            MADE[f"results/{readme.parent.name}.md"] = _moved(f"experiments/{readme.parent.name}")
    MADE["new_modality.md"] = _modality("tests/new_modality")
    config.nav = list(_present(config.nav, Path(config.docs_dir)))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what was generated."""
    for name, text in MADE.items():
        files.append(File.generated(config, name, content=text))
    return files


def _present(entries: list[Any], docs: Path) -> Any:
    """Yield the entries whose pages are there; `NAME/` stands for all generated pages of that folder."""
    for entry in entries:
        title, page = next(iter(entry.items()))
        if isinstance(page, list):
            if inner := list(_present(page, docs)):
                yield {title: inner}
        elif page.endswith("/"):
            yield {title: sorted((name for name in MADE if name.startswith(page)), key=_index_first)}
        elif page == "results.md":
            yield {title: [page, *sorted(name for name in MADE if name.startswith("results/"))]}
        elif page in MADE or (docs / page).is_file():
            yield entry


def _index_first(name: str) -> tuple[bool, str]:
    return not name.endswith("index.md"), name


def _modality(folder: str) -> str:
    """Show the modality that the tests bring: its source, then its yaml files."""
    parts = [
        "# A modality in one file",
        f"`{folder}` of the repository, as the tests run it: short signals in one dimension, from "
        "pretraining to a report.",
        f"```python\n{(ROOT / folder / 'signals.py').read_text('utf-8')}```",
    ]
    for path in sorted((ROOT / folder / "conf").rglob("*.yaml")):
        name = path.relative_to(ROOT / folder).as_posix()
        parts += [f"## {name}", f"```yaml\n{path.read_text('utf-8')}```"]
    return "\n\n".join(parts)


def _moved(folder: str) -> str:
    """Read a README of the repository as a page: other such pages are linked, other files named by their paths."""
    text = (ROOT / folder / "README.md").read_text("utf-8")
    text = re.sub(r"\]\(\.\./(\w+)/README\.md\)", r"](\1.md)", text)
    return re.sub(r"!?\[[^\]]*\]\((?!https?:|#|(?!report)\w+\.md\))([^)]+)\)", rf"`{folder}/\1`", text)
