"""Reference pages: public names with their signatures and docstrings, and every group, option and key of conf/."""

from __future__ import annotations

import html
import importlib
import inspect
import re
from collections.abc import Iterator

from pretraining.cli.help import CONF, comment_of, groups_of, options_of

ROOTS = {"pretrain": "pretraining", "finetune": "finetuning", "study": "experiments"}
ROOTS |= {"evaluate": "pretraining.evaluate", "prepare": "pretraining.data.prepare", "units": "pretraining.audio.units"}


def api_pages() -> dict[str, str]:
    """Write a page for each package that has public names."""
    pages = {}
    for package in ("pretraining", "finetuning"):
        module = importlib.import_module(package)
        if names := getattr(module, "__all__", ()):
            parts = [f"# `{package}`", inspect.getdoc(module) or "", *(_entry(module, name) for name in names)]
            pages[f"api/{package}.md"] = "\n\n".join(parts)
    return pages


def _entry(module: object, name: str) -> str:
    """Describe a public name: signature, docstring, and of a class the methods that it documents itself."""
    thing = getattr(module, name)
    lines = [f"## {name}", _described(name, thing)]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and inspect.isfunction(value) and value.__doc__:
                lines.append(_described(f"{name}.{method}", value))
    return "\n\n".join(lines)


def _described(name: str, thing: object) -> str:
    """Write a signature, a parameter per line where it is long, and what the docstring says."""
    said = [name]
    if callable(thing):
        try:
            signature = inspect.signature(thing)
        except ValueError:  # of an exception that takes what the built-in one takes
            signature = inspect.Signature()
        parameters = [_unquoted(str(one)) for one in signature.parameters.values() if one.name != "self"]
        keywords = [one.kind is one.KEYWORD_ONLY for one in signature.parameters.values() if one.name != "self"]
        if True in keywords:
            parameters.insert(keywords.index(True), "*")
        end = "" if inspect.isclass(thing) else _unquoted(str(signature).rpartition(")")[2])
        said = [f"{name}({', '.join(parameters)}){end}"]
        if len(said[0]) > 90:
            said = [f"{name}(", *(f"    {one}," for one in parameters), f"){end}"]
    text = "\n".join(said)
    return f"```python\n{text}\n```\n\n{html.escape(inspect.getdoc(thing) or '', quote=False)}"


def _unquoted(said: str) -> str:
    """Write annotations without the quotes that postponed ones are shown in."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", said)


def configuration_pages() -> dict[str, str]:
    """Write a page of the commands' own settings and one for each group of options."""
    roots = [(CONF / f"{root}.yaml").read_text("utf-8") for root in ROOTS]
    groups = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir())
    groups = [group for group in groups if list((CONF / group).glob("*.yaml"))]
    first = [
        "# Configuration",
        "Every setting with its default, as conf/ has it: the files are shown as they stand, comments included. "
        "`group=option` chooses a file, `group.key=value` changes a key, `--cfg job` prints what a "
        "command line adds up to.",
        "Groups: " + ", ".join(f"[{group}]({_page(group)})" for group in groups),
    ]
    for (root, command), text in zip(ROOTS.items(), roots, strict=True):
        chosen = ", ".join(f"`{group}`" for group in groups_of(text))
        first += [f"## python -m {command}", f"`conf/{root}.yaml`. Groups: {chosen}.", f"```yaml\n{text.strip()}\n```"]
    pages = {"configuration/index.md": "\n\n".join(first)}
    for group in groups:
        pages[f"configuration/{_page(group)}"] = "\n\n".join([f"# `{group}=`", *_options_of(group)])
    return pages


def _page(group: str) -> str:
    return f"{group.replace('/', '_')}.md"


def _options_of(group: str) -> Iterator[str]:
    """Describe each option of a group; the parts that several share come last."""
    names = options_of(group)
    yield f"{len(names)} options." if len(names) > 1 else "One option."
    for name in [*names, *sorted(path.stem for path in (CONF / group).glob("_*.yaml"))]:
        text = (CONF / group / f"{name}.yaml").read_text("utf-8")
        yield f"## {name}"
        if "# Command" not in text:  # else a record, which is shown as it stands
            yield html.escape(comment_of(group, name), quote=False)
            text = re.sub(r"\A(#.*\n)+", "", text)
        yield f"```yaml\n{text.strip()}\n```"
