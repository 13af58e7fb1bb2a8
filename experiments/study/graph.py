"""A study is one yaml; here it becomes a graph of runs whose names follow from their configuration.

An *arm* is one way to pretrain (an entry of ``pretrain``, at one point of its grid). Every arm is
pretrained once per pretraining seed; every hand-off, and a never-pretrained twin of it, is
finetuned on every cell (task, mode, labels).
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study.spec import check

Resolve = Callable[[str, Sequence[str]], dict[str, Any]]
"""(command, overrides) -> the resolved configuration that the command would run with."""

PRETRAINING = "pretraining"
FINETUNING = "finetuning"
PLACE = "of-the-study"
# What may differ between two runs that are the same: where it is kept, what it tells, its speed.
NOT_IDENTITY = {"run_dir", "resume", "from_run", "dry_run", "handoff", "logger", "group", "name"}
NOT_IDENTITY.add("seed")  # Multiplied in by the study itself.
NOT_IDENTITY_OF_DATA = {"workers", "cache_dir"}


class Source(NamedTuple):
    """Whose weights a run starts from: an arm's at one pretraining seed, or its fresh twin's."""

    arm: str
    pretrained: bool
    seed: int


class Cell(NamedTuple):
    """What a hand-off is measured by."""

    task: str
    mode: str
    labels: str
    metric: str


@dataclass(frozen=True)
class Node:
    """One run. Equal configurations give equal names; ``name`` is its directory in runs/."""

    name: str
    command: str
    overrides: tuple[str, ...]
    needs: str | None
    source: Source
    seed: int
    cell: Cell | None

    def title(self) -> str:
        """A line for people."""
        who = self.source.arm if self.source.pretrained else f"never pretrained ({self.source.arm})"
        if self.cell is None:
            return f"pretrain {who}, seed {self.seed}"
        return f"{self.cell.task}, {self.cell.mode}, {self.cell.labels}: {who}, seed {self.seed}"


class Study(NamedTuple):
    """A study, expanded: ``nodes`` in an order in which each comes after what it needs."""

    name: str
    question: str
    directory: Path
    nodes: list[Node]
    twins: dict[str, str]
    budget: dict[str, float]

    def run_dir(self, node: Node) -> Path:
        """Where the run of ``node`` keeps its files."""
        return self.directory / "runs" / node.name


class Arm(NamedTuple):
    """An arm before it is multiplied by seeds; arms of one ``look`` share a twin."""

    name: str
    entry: str
    overrides: list[str]
    config: dict[str, Any]
    look: str

    def with_steps(self, steps: int | None) -> "Arm":
        """The arm with its hours turned into steps, if they have been."""
        return (
            self
            if steps is None
            else self._replace(overrides=[*self.overrides, "budget.hours=null", f"budget.steps={steps}"])
        )


class Settled(NamedTuple):
    """What was found out before the runs, by arm: the steps that its hours buy, and the settings that tuning chose."""

    steps: Mapping[str, int]
    chosen: Mapping[str, list[str]]


NOTHING_SETTLED = Settled({}, {})


class _Start(NamedTuple):
    """What a finetuning starts from: whose weights, the run that makes them, the reference."""

    source: Source
    needs: str | None
    handoff: str


def expand(spec: Mapping[str, Any], *, directory: Path, resolve: Resolve, settled: Settled = NOTHING_SETTLED) -> Study:
    """Multiply a study out into runs; a wrong configuration of any surfaces here, before work."""
    check(spec)
    arms = list(arms_of(spec, resolve, settled))
    first_with: dict[str, str] = {}
    twins = {arm.name: first_with.setdefault(arm.look, arm.name) for arm in arms} if spec["never_pretrained"] else {}
    pretraining = [_pretraining_node(arm, seed, directory) for arm in arms for seed in spec["pretraining_seeds"]]
    finetuning = _finetuning_nodes(spec, arms, pretraining, twins, directory, resolve)
    return Study(spec["name"], spec["question"], directory, [*pretraining, *finetuning], twins, _asked(spec))


def _asked(spec: Mapping[str, Any]) -> dict[str, float]:
    return {kind: value for kind, value in (spec["budget"] or {}).items() if value is not None}


def identity(*parts: Any) -> str:
    """Ten hexadecimal digits that depend on nothing but the values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it, quoted only where it has to be."""
    text = str(value)
    if isinstance(value, bool) or value is None:
        text = "null" if value is None else text.lower()
    if re.fullmatch(r"[\w./:+\-\[\]]+|\[[\w., \-]*\]", text):
        return f"{key}={text}"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def arms_of(spec: Mapping[str, Any], resolve: Resolve, settled: Settled = NOTHING_SETTLED) -> Iterator[Arm]:
    """The arms of a study: each entry of ``pretrain`` at each point of its grid."""
    for entry, content in spec["pretrain"].items():
        grid: Mapping[str, Sequence[Any]] = content.get("grid") or {}
        for point in itertools.product(*grid.values()):
            chosen = dict(zip(grid, point, strict=True))
            words = [str(v) if "." not in key else f"{key.rsplit('.', 1)[1]} {v}" for key, v in chosen.items()]
            if not grid or len(spec["pretrain"]) > 1:
                words.insert(0, entry)
            name = ", ".join(words)
            budget = {"steps": settled.steps[name]} if name in settled.steps else _asked(spec)
            overrides = [
                *content["overrides"],
                *(override(key, v) for key, v in chosen.items()),
                *settled.chosen.get(name, []),
                *(override(f"budget.{kind}", value) for kind, value in budget.items()),
                group(spec),
                override("name", name),
            ]
            config = resolve(PRETRAINING, [*overrides, f"run_dir={PLACE}"])
            yield Arm(name, entry, overrides, _identifying(config), _look(config))


def group(spec: Mapping[str, Any]) -> str:
    """What ties the runs of a study together where they are logged."""
    return override("group", spec["name"])


def _identifying(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what comes out."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(data := kept.get("data"), Mapping):
        kept["data"] = {key: value for key, value in data.items() if key not in NOT_IDENTITY_OF_DATA}
    return kept


def _look(config: Mapping[str, Any]) -> str:
    """Equal for arms that differ in nothing that a never-pretrained network would know of."""
    data = {k: v for k, v in (config.get("data") or {}).items() if k not in NOT_IDENTITY_OF_DATA and "batch" not in k}
    return identity(config.get("backbone"), config.get("preprocess"), data)


def _pretraining_node(arm: Arm, seed: int, directory: Path) -> Node:
    name = run_name([arm.name, f"s{seed}"], identity(PRETRAINING, arm.config, seed))
    # resume=auto: a run that was killed goes on from its newest checkpoint.
    place = [override("seed", seed), override("run_dir", directory / "runs" / name), "resume=auto"]
    return Node(name, PRETRAINING, (*arm.overrides, *place), None, Source(arm.name, True, seed), seed, None)


def _finetuning_nodes(
    spec: Mapping[str, Any],
    arms: list[Arm],
    pretraining: list[Node],
    twins: Mapping[str, str],
    directory: Path,
    resolve: Resolve,
) -> list[Node]:
    entry_of = {arm.name: arm.entry for arm in arms}
    nodes: dict[str, Node] = {}
    for task, entry in spec["finetune"].items():
        wanted = set(entry.get("arms") or [*spec["pretrain"], *(spec["handoffs"] or {})])
        parents = [node for node in pretraining if entry_of[node.source.arm] in wanted]
        starts = list(_starts(parents, twins, directory))
        for name, reference in (spec["handoffs"] or {}).items():
            if name in wanted:
                first = spec["pretraining_seeds"][0]
                starts.append(_Start(Source(name, True, first), None, reference))
        for cell, overrides in _cells(task, entry):
            place = [f"handoff={PLACE}", f"run_dir={PLACE}"]
            config = _identifying(resolve(FINETUNING, [*overrides, *place]))
            for start, seed in itertools.product(starts, spec["finetuning_seeds"]):
                named = (*overrides, group(spec), override("name", f"{cell.task}, {cell.mode}, {cell.labels}"))
                node = _finetuning_node(start, seed, cell, named, config, directory)
                nodes[node.name] = node
    return list(nodes.values())


def _starts(parents: list[Node], twins: Mapping[str, str], directory: Path) -> Iterator[_Start]:
    """The hand-offs of pretraining runs, and the fresh twins beside them."""
    present = {node.source.arm for node in parents}
    for node in parents:
        arm, last = node.source.arm, directory / "runs" / node.name / "handoff" / "last"
        yield _Start(node.source, node.name, str(last))
        # An arm that looks like an earlier one shares its twin where both are finetuned.
        if twins and (twins[arm] == arm or twins[arm] not in present):
            yield _Start(Source(arm, False, node.source.seed), node.name, f"random:{last}")


def _cells(task: str, entry: Mapping[str, Any]) -> Iterator[tuple[Cell, list[str]]]:
    """Every (mode, amount of labels) of a task, with the overrides that ask for it."""
    amounts: list[tuple[str, list[str]]] = [("all labels", [])]
    if entry.get("fractions"):
        amounts = [(f"{100 * f:g} % of labels", [override("fraction", f)]) for f in entry["fractions"]]
    elif entry.get("shots"):
        amounts = [(f"{n} per class", [override("shots", n)]) for n in entry["shots"]]
    metric = entry.get("metric") or "test/accuracy"
    for mode, (labels, amount) in itertools.product(entry["modes"], amounts):
        yield (Cell(task, mode, labels, metric), [*entry["overrides"], override("mode", mode), *amount])


def _finetuning_node(
    start: _Start, seed: int, cell: Cell, overrides: tuple[str, ...], config: dict[str, Any], directory: Path
) -> Node:
    # Label subset, head and never-pretrained weights are drawn anew under each pretraining seed
    # (else its replicates would share them), and alike for all arms (so differences are paired).
    source, run_seed = start.source, 1000 * start.source.seed + seed
    who = source.arm if source.pretrained else f"never-{source.arm}"
    origin = start.needs or start.handoff
    words = [cell.task, cell.mode, cell.labels, who, f"s{run_seed}"]
    name = run_name(words, identity(FINETUNING, config, origin, source.pretrained, run_seed))
    place = {"seed": run_seed, "handoff": start.handoff, "run_dir": directory / "runs" / name}
    placed = (override(key, value) for key, value in place.items())
    return Node(name, FINETUNING, (*overrides, *placed), start.needs, source, run_seed, cell)


def run_name(words: Sequence[str], digits: str) -> str:
    """The directory of a run: words for people, digits for what it is."""
    slug = re.sub(r"[^a-z0-9._]+", "-", " ".join(words).lower()).strip("-")
    return f"{slug[:80].rstrip('-')}-{digits}"
