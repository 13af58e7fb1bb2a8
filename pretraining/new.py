"""`python -m pretraining.new objective|task|modality NAME [directory=DIR]`: begin one of your own, outside of this.

Writes the package DIR/NAME (DIR is the current directory where it is not given): classes that work, their yaml files
under NAME/conf, and their test; then prints the commands that run it and its test. docs/own_code.md goes on from there.
"""

from __future__ import annotations

import keyword
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import jinja2

from pretraining.cli.early import Command, ending_on_mistakes
from pretraining.cli.help import answer_help, options_of
from pretraining.errors import RunError

TEMPLATES = Path(__file__).parent / "templates"
KINDS = sorted(path.name for path in TEMPLATES.iterdir())
SETTINGS = Command((), ("directory",))
PRETRAIN = "python -m pretraining {search} objective={name} trainer.max_steps=20 run_dir=runs/{name}"
FINETUNE = "python -m finetuning {search} task={name} trainer.max_steps=20 handoff=runs/{handoff}/handoff/last"
RUNS = {
    "objective": [PRETRAIN],
    "task": ["python -m pretraining objective=simclr trainer.max_steps=20 run_dir=runs/any", FINETUNE],
    "modality": [PRETRAIN, FINETUNE],
}


def write(kind: str, name: str, directory: Path) -> Path:
    """Write the package that `name` calls for; returns it."""
    refuse_name(kind, name, directory)
    values = {"kind": kind, "name": name, "class_name": "".join(word.capitalize() for word in name.split("_"))}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for template in sorted((TEMPLATES / kind).rglob("*.jinja")):
        path = directory / name / str(template.relative_to(TEMPLATES / kind)).replace("NAME", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = environment.from_string(template.read_text("utf-8")).render(values)
        path.with_suffix("").write_text(text, "utf-8")
    return directory / name


def refuse_name(kind: str, name: str, directory: Path) -> None:
    """Refuse a name that is none of a package, that is taken, or that is one of our options."""
    told = f"got the name {name!r}"
    odd = not name.isascii() or name in (
        "none",
        "true",
        "false",
        "null",
    )  # which a shell or yaml take for another thing
    if odd or not name.isidentifier() or keyword.iskeyword(name) or name != name.lower() or not name.strip("_"):
        raise RunError(f"{told}: give that of a Python package: lower-case letters, digits and _, such as my_{kind}")
    if (directory / name).exists():
        raise RunError(f"{directory / name} is there already: give another name, or another directory=")
    if find_spec(name) is not None:
        raise RunError(f"{told}, which Python knows as another package: give another name, such as my_{name}")
    for group in (path.name for path in (TEMPLATES / kind / "conf").iterdir()):
        if name in options_of(group):
            raise RunError(f"{told}, but {group}={name} is there already: give another name, such as my_{name}")


def commands(kind: str, name: str, directory: Path) -> list[str]:
    """List the commands that run what was written, and its test, as a shell takes them."""
    words = {"search": f"'hydra.searchpath=[file://{name}/conf]'", "name": name}
    words["handoff"] = "any" if kind == "task" else name
    lines = [run.format(**words) for run in RUNS[kind]] + [f"python -m pytest {name}"]
    here = directory.resolve() == Path.cwd()
    return lines if here else [f"cd {shlex.quote(str(directory))}", *lines]


def cli() -> None:
    """Run the command line."""
    answer_help(__doc__ or "")
    with ending_on_mistakes():
        kind, name = [*sys.argv[1:3], "", ""][:2]
        if kind not in KINDS:
            raise RunError(f"got {kind or 'nothing'}: give one of {', '.join(KINDS)}, and a name for it")
        directory = Path(SETTINGS.read(sys.argv[3:]).get("directory", "."))
        try:
            package = write(kind, name, directory)
        except OSError as error:
            raise RunError(f"directory={directory} cannot be written to ({error.strerror}): give another") from error
        files = sorted(path.relative_to(directory) for path in package.rglob("*") if path.is_file())
        print("\n".join(["wrote", *(f"  {path}" for path in files), "run"]))
        print("\n".join(f"  {line}" for line in commands(kind, name, directory)))


if __name__ == "__main__":
    cli()
