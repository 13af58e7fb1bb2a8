"""What `--help` prints: a command's settings as its yaml file explains them, and options. Imports nothing slow."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"


def help_asked(root: str) -> bool:
    """Print the help of the command whose settings are `conf/<root>.yaml`, if the command line asks for it."""
    asked = bool({"-h", "--help"} & set(sys.argv[1:]))
    if asked:
        print(help_text(root))
    return asked


def help_text(root: str) -> str:
    """Write the help: usage, settings with their comments, groups with their options."""
    text = (CONF / f"{root}.yaml").read_text("utf-8")
    settings = text.partition("\n\n")[2].partition("\nhydra:")[0].rstrip()
    width = max(60, shutil.get_terminal_size((140, 24)).columns)
    groups = (f"  {group:<12} {', '.join(_options(group))}" for group in _groups(text))
    lines = [
        text.splitlines()[0].removeprefix("# "),
        "\nSettings (name=value, group.name=value); those of a group are explained in conf/GROUP/OPTION.yaml:\n",
        *(f"  {line}".rstrip() for line in settings.splitlines()),
        "\nGroups (group=option):\n",
        *(textwrap.fill(group, width, subsequent_indent=" " * 15) for group in groups),
    ]
    if "\nhydra:" in text:
        more = "--cfg job shows what a command line adds up to; -m runs every combination of comma-separated values."
        lines.append(f"\n{more}")
    return "\n".join(lines)


def _groups(text: str) -> Iterator[str]:
    """Name the groups of a root's defaults, in their order."""
    for entry in yaml.safe_load(text)["defaults"]:
        for name in entry if isinstance(entry, dict) else ():
            if "/" not in name:
                yield name


def _options(group: str) -> list[str]:
    """List what can be chosen of a group; files whose names begin with _ are parts of others."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
