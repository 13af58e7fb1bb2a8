"""What `--help` prints: a command's settings as its yaml file explains them, and options. Imports nothing slow."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from pretraining.extensions import conf_folders

CONF = Path(__file__).resolve().parents[2] / "conf"
WANDB = ("experiments.wandb_sync", "experiments.wandb_sweep", "experiments.dashboard")
LOOKING = ("experiments.ls", "experiments.compare", *WANDB)
SEE_ALSO = {
    "pretrain": (
        "pretraining.new",
        "pretraining.evaluate",
        "pretraining.data.prepare",
        "pretraining.export",
        "experiments.search",
        *LOOKING,
    ),
    "finetune": ("finetuning.predict", "finetuning.evaluate", "finetuning.export", *LOOKING),
    "study": ("experiments.report", *LOOKING),
}


def answer_help(text: str, *, root: str | None = None) -> None:
    """Print `text`, or the help of the command that `conf/<root>.yaml` configures, and end, if `--help` asks for it."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        try:
            print(text.strip() if root is None else help_text(root), flush=True)
        except BrokenPipeError:  # whoever reads this, such as `head`, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def help_text(root: str) -> str:
    """Write the help: usage, settings with their comments, groups with their options."""
    text = (CONF / f"{root}.yaml").read_text("utf-8")
    settings = text.partition("\n\n")[2].partition("\nhydra:")[0].rstrip()
    width = max(60, shutil.get_terminal_size((140, 24)).columns)
    groups = [f"  {group:<12} {', '.join(options_of(group))}" for group in groups_of(text)]
    told = [f"  {name:<21} {comment_of('objective', name)}" for name in options_of("objective")]
    lines = [
        text.splitlines()[0].removeprefix("# "),
        "\nSettings (name=value, group.name=value); those of a group are explained in conf/GROUP/OPTION.yaml:\n",
        *(f"  {line}".rstrip() for line in settings.splitlines()),
        "\nGroups (group=option):\n",
        *(textwrap.fill(group, width, subsequent_indent=" " * 15) for group in groups),
    ]
    if "objective" in groups_of(text):
        lines += ["\nWhat objective= has a network learn:\n"]
        lines += [textwrap.fill(line, width, subsequent_indent=" " * 24) for line in told]
    if "\nhydra:" in text:
        more = "--cfg job shows what a command line adds up to; -m runs every combination of comma-separated values."
        lines.append(f"\n{more}")
    if root in SEE_ALSO:
        lines.append(f"\nSee also (python -m NAME --help): {', '.join(SEE_ALSO[root])}")
    return "\n".join(lines)


def options_of(group: str) -> list[str]:
    """List what can be chosen of a group; files whose names begin with _ are parts of others."""
    return sorted({path.stem for path in _files(group) if not path.stem.startswith("_")})


def groups_of(text: str) -> Iterator[str]:
    """Name the groups of a root's defaults, in their order."""
    for entry in yaml.safe_load(text)["defaults"]:
        for name in entry if isinstance(entry, dict) else ():
            if "/" not in name:
                yield name


def comment_of(group: str, option: str) -> str:
    """Read what an option's file says of it, in the comment that it opens with."""
    path = next(path for path in _files(group) if path.stem == option)
    lines = path.read_text("utf-8").removeprefix("# @package _global_\n").splitlines()
    return " ".join(line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


def _files(group: str) -> list[Path]:
    """List the options' files: ours, then those that installed packages bring."""
    return [path for conf in (CONF, *conf_folders().values()) for path in (conf / group).glob("*.yaml")]
