"""What a study would do, before it does: runs, steps, and about how long they take here."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.report.words import clock
from experiments.study.graph import FINETUNING, PRETRAINING, Node, Resolve, Study
from experiments.study.runner import Journal

Timed = Callable[[Sequence[str]], tuple[int, float]]
"""Overrides of a pretraining -> its steps, and the seconds of each on this machine."""


def print_plan(study: Study, resolve: Resolve, time: Timed, workers: int, console: Console) -> None:
    """Print the plan. A finetuning step is taken to last as long as a pretraining step of as many examples."""
    journal = Journal(study.directory)
    left = {kind: [n for n in study.nodes if n.command == kind] for kind in (PRETRAINING, FINETUNING)}
    done = sum(journal.is_done(node) for node in study.nodes)
    counts = ", ".join(f"{len(nodes)} {kind}s" for kind, nodes in left.items())
    console.print(f"{study.name}: {study.question}", highlight=False)
    console.print(f"{len(study.nodes)} runs: {counts}; {done} are done already", highlight=False)
    table = Table(box=SIMPLE_HEAD)
    for name in ("arm, or task", "runs", "steps of each", "time of each"):
        table.add_column(name, justify="left" if name.startswith("arm") else "right")
    example, total = dict[str, float](), dict.fromkeys(left, 0.0)  # seconds per example, by pretraining run
    for arm, nodes in _grouped(left[PRETRAINING], lambda node: node.source.arm).items():
        steps, seconds = time(nodes[0].overrides)
        example |= {node.name: seconds / _batch(resolve, nodes[0]) for node in nodes}
        total[PRETRAINING] += len(nodes) * steps * seconds
        table.add_row(arm, str(len(nodes)), f"{steps:,}", clock(steps * seconds))
    for cell, nodes in _grouped(left[FINETUNING], lambda node: node.cell.title() if node.cell else "").items():
        config = resolve(FINETUNING, nodes[0].overrides)
        steps, epochs = config["trainer"]["max_steps"], config.get("epochs")
        known = [example[node.needs] for node in nodes if node.needs in example]
        lasts = None if epochs or not known else steps * _batch(resolve, nodes[0]) * max(known)
        total[FINETUNING] += len(nodes) * (lasts or 0.0)
        shown = f"{epochs} epochs" if epochs else f"{steps:,}"
        table.add_row(cell, str(len(nodes)), shown, "not known" if lasts is None else f"at most {clock(lasts)}")
    console.print(table)
    whole = " and ".join(f"{clock(seconds)} of {kind}" for kind, seconds in total.items())
    console.print(f"in all about {whole}, by {workers} at a time; evaluations and closed forms not counted")
    console.print(f"study_dir={study.directory} (not created)", soft_wrap=True, highlight=False)


def _grouped(nodes: Sequence[Node], key: Callable[[Node], str]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(key(node), []).append(node)
    return found


def _batch(resolve: Resolve, node: Node) -> int:
    return int(resolve(node.command, node.overrides).get("data", {}).get("batch_size", 1))
