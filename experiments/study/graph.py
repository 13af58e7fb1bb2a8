"""Expand a study's yaml into a graph of runs whose names follow from their configuration.

An *arm* is one way to pretrain (an entry of ``pretrain``, at one point of its grid). Every arm is pretrained once per
pretraining seed; every hand-off, and a never-pretrained twin of it, is finetuned on every cell (task, mode, labels).
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study.spec import NEVER_PRETRAINED, SUPERVISED, StudyError, completed
from pretraining.kinds import is_list, shown

Tree = Mapping[str, Any]
Resolve = Callable[[str, Sequence[str]], dict[str, Any]]
"""(command, overrides) -> the resolved configuration that the command would run with."""

PRETRAINING, FINETUNING = "pretraining", "finetuning"
ALL_LABELS = "all labels"
PLACEHOLDER = "of-the-study"  # of paths, in configurations that are resolved to be compared
# What may differ between two runs that are the same: where they are kept, what they tell, how fast they go.
NOT_IDENTITY = {"run_dir", "resume", "from_run", "dry_run", "handoff", "logger", "group", "name"}
NOT_IDENTITY |= {"seed"}  # each run's own is part of its name already
NOT_IDENTITY_OF_DATA = {"workers", "cache_dir"}


class Weights(NamedTuple):
    """The weights that a run starts from: an arm's at one pretraining seed, or those of its never-pretrained twin."""

    arm: str
    pretrained: bool
    seed: int


class Cell(NamedTuple):
    """What a hand-off is measured by; less of a ``metric`` that begins with "-" is better, as of `task.select`."""

    task: str
    mode: str
    labels: str
    metric: str

    @property
    def column(self) -> str:
        """Name the metric as metrics.json does."""
        return self.metric.removeprefix("-")

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.metric.startswith("-") else 1

    def title(self) -> str:
        """Name the cell for people."""
        return f"{self.task}, {self.mode}, {self.labels}"


@dataclass(frozen=True)
class Node:
    """One run. Equal configurations have equal names; ``name`` is its directory in runs/."""

    name: str
    command: str
    overrides: tuple[str, ...]
    needs: str | None
    source: Weights
    seed: int
    cell: Cell | None

    def title(self) -> str:
        """Name the run for people."""
        who = self.source.arm if self.source.pretrained else f"never pretrained ({self.source.arm})"
        what = f"pretrain {who}" if self.cell is None else f"{self.cell.title()}: {who}"
        return f"{what}, seed {self.seed}"


class Study(NamedTuple):
    """A study, expanded: ``nodes`` in an order in which each comes after what it needs."""

    name: str
    question: str
    directory: Path
    nodes: list[Node]
    twins: dict[str, str]
    budget: dict[str, float]

    def run_dir(self, node: Node) -> Path:
        """Name the directory of a run."""
        return self.directory / "runs" / node.name


class Arm(NamedTuple):
    """An arm before it is multiplied by seeds; arms of one ``untrained`` network on the same data share a twin."""

    name: str
    entry: str
    overrides: list[str]
    config: dict[str, Any]
    untrained: str


class Decided(NamedTuple):
    """What was decided before the runs, by arm: the steps that its hours buy, and the settings that tuning chose."""

    steps: Mapping[str, int]
    chosen: Mapping[str, list[str]]


NOTHING_DECIDED = Decided({}, {})


class _Start(NamedTuple):
    """What a finetuning starts from, and the run that makes it or the reference to a ready checkpoint."""

    source: Weights
    needs: str | None
    ready: str = ""


def expand(spec: Tree, *, directory: Path, resolve: Resolve, decided: Decided = NOTHING_DECIDED) -> Study:
    """Multiply a study out into runs; a wrong configuration of any of them is an error here, before any work."""
    spec = completed(spec)
    arms = list(list_arms(spec, resolve, decided))
    _refuse_one_name_for_two([arm.name for arm in arms], spec["handoffs"])
    first_with: dict[str, str] = {}
    twins = {a.name: first_with.setdefault(a.untrained, a.name) for a in arms}
    pretraining = [_pretraining_node(arm, seed, directory) for arm in arms for seed in spec["pretraining_seeds"]]
    finetuning: dict[str, Node] = {}
    for task, entry in spec["finetune"].items():
        starts = list(_starts(spec, entry, {arm.name: arm.entry for arm in arms}, pretraining, twins))
        wanted = [start for start in starts if start.source.pretrained or NEVER_PRETRAINED in spec["references"]]
        plan = [(cell, overrides, wanted) for cell, overrides in _cells(task, entry)]
        if SUPERVISED in spec["references"]:  # all that labels give without pretraining
            whole = Cell(task, "full", ALL_LABELS, entry.get("metric") or "")
            fresh = [start for start in starts if not start.source.pretrained]
            plan.append((whole, [*entry["overrides"], override("mode", whole.mode)], fresh))
        for cell, overrides, begun in plan:
            place = [f"handoff={PLACEHOLDER}", f"run_dir={PLACEHOLDER}"]
            config = _identifying(resolve(FINETUNING, [*overrides, *place]))
            cell = cell._replace(metric=cell.metric or selected_metric(config["task"]["select"]))
            named = (*overrides, *_logged_as(spec, cell.title()))
            for start, seed in itertools.product(begun, spec["finetuning_seeds"]):
                node = _finetuning_node(start, seed, cell, named, config, directory)
                finetuning[node.name] = node
    nodes = [*pretraining, *finetuning.values()]
    return Study(spec["name"], spec["question"], directory, nodes, twins, _budget_of(spec))


def selected_metric(select: str) -> str:
    """Name the test metric of a task that chooses its weights by `select`: less is better of one that begins with -."""
    return f"-test/{select[1:]}" if select.startswith("-") else f"test/{select}"


def _refuse_one_name_for_two(arms: Sequence[str], ready: Mapping[str, str]) -> None:
    for place, name in enumerate(arms):
        if name in arms[:place] or name in ready:
            other = "study.handoffs" if name in ready else "another arm of study.pretrain"
            raise StudyError(f"the arm {name!r} is called like one of {other}: give one of them another name")


def _budget_of(spec: Tree) -> dict[str, float]:
    return {kind: value for kind, value in spec["budget"].items() if value is not None}


INNER = r"[\w./:+\-]+"  # texts that need no quotes inside of brackets
OTHER_TYPE = re.compile(
    r"true|false|null|[+-]?(inf|nan|[\d_]*\.?[\d_]+\.?(e[+-]?\d+)?)", re.IGNORECASE
)  # if not quoted


def digest(*parts: Any) -> str:
    """Hash values into ten hexadecimal digits, the same in every process and release."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def override(key: str, value: Any) -> str:
    """Write ``key=value`` as Hydra reads it, quoted only where it has to be."""
    return f"{key}={_literal(value)}"


def _literal(value: Any, bare: str = r"[\w./:+\-\[\]]+|\[[\w., \-]*\]") -> str:
    if value is None or isinstance(value, bool):
        return shown(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_literal(part, INNER)}' for name, part in value.items())}}}"
    if is_list(value):
        return f"[{', '.join(_literal(part, INNER) for part in value)}]"
    text = str(value)
    if not isinstance(value, (str, Path)) or (re.fullmatch(bare, text) and not re.fullmatch(OTHER_TYPE, text)):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def list_arms(spec: Tree, resolve: Resolve, decided: Decided = NOTHING_DECIDED) -> Iterator[Arm]:
    """List the arms of a study: each entry of ``pretrain`` at each point of its grid."""
    for entry, content in spec["pretrain"].items():
        grid: Mapping[str, Sequence[Any]] = content.get("grid") or {}
        for point in itertools.product(*grid.values()):
            chosen = dict(zip(grid, point, strict=True))
            words = [str(v) if "." not in key else f"{key.rsplit('.', 1)[1]} {v}" for key, v in chosen.items()]
            if not grid or len(spec["pretrain"]) > 1:
                words.insert(0, entry)
            name = ", ".join(words)
            budget = {"steps": decided.steps[name]} if name in decided.steps else _budget_of(spec)
            overrides = [
                *content["overrides"],
                *(override(key, v) for key, v in chosen.items()),
                *decided.chosen.get(name, []),
                *(override(f"budget.{kind}", value) for kind, value in budget.items()),
                *_logged_as(spec, name),
            ]
            config = resolve(PRETRAINING, [*overrides, f"run_dir={PLACEHOLDER}"])
            yield Arm(name, entry, overrides, _identifying(config), _untrained(config))


def _logged_as(spec: Tree, name: str) -> list[str]:
    """Tie the runs of a study together where they are logged."""
    return [override("group", spec["name"]), override("name", name)]


def _identifying(config: Tree) -> dict[str, Any]:
    """Take the part of a configuration that decides what comes out."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(data := kept.get("data"), Mapping):
        kept["data"] = {key: value for key, value in data.items() if key not in NOT_IDENTITY_OF_DATA}
    return kept


def _untrained(config: Tree) -> str:
    """Hash all that a never-pretrained network knows of a pretraining: its architecture and how data reaches it."""
    data = {k: v for k, v in (config.get("data") or {}).items() if k not in NOT_IDENTITY_OF_DATA and "batch" not in k}
    return digest(config.get("backbone"), config.get("preprocess"), data)


def _pretraining_node(arm: Arm, seed: int, directory: Path) -> Node:
    name = name_run([arm.name, f"s{seed}"], digest(PRETRAINING, arm.config, seed))
    # resume=auto: a run that was killed goes on from its newest checkpoint.
    place = [override("seed", seed), override("run_dir", directory / "runs" / name), "resume=auto"]
    return Node(name, PRETRAINING, (*arm.overrides, *place), None, Weights(arm.name, True, seed), seed, None)


def _starts(
    spec: Tree, entry: Tree, entry_of: Mapping[str, str], pretraining: list[Node], twins: Mapping[str, str]
) -> Iterator[_Start]:
    """List what a task is finetuned from: hand-offs, the never-pretrained twins beside them, ready checkpoints."""
    ready = spec["handoffs"]
    wanted = set(entry.get("arms") or [*spec["pretrain"], *ready])
    parents = [node for node in pretraining if entry_of[node.source.arm] in wanted]
    present = {node.source.arm for node in parents}
    for node in parents:
        arm = node.source.arm
        yield _Start(node.source, node.name)
        # An arm that looks untrained like an earlier one shares its twin where both are finetuned.
        if twins[arm] == arm or twins[arm] not in present:
            yield _Start(node.source._replace(pretrained=False), node.name)
    for name in (name for name in ready if name in wanted):
        yield _Start(Weights(name, True, spec["pretraining_seeds"][0]), None, ready[name])


def _cells(task: str, entry: Tree) -> Iterator[tuple[Cell, list[str]]]:
    """List every (mode, amount of labels) of a task, with the overrides that ask for it."""
    amounts: list[tuple[str, list[str]]] = [(ALL_LABELS, [])]
    if entry.get("fractions"):
        amounts = [(f"{100 * f:g} % of labels", [override("fraction", f)]) for f in entry["fractions"]]
    elif entry.get("shots"):
        amounts = [(f"{n} per class", [override("shots", n)]) for n in entry["shots"]]
    metric = entry.get("metric") or ""  # its task's own
    for mode, (labels, amount) in itertools.product(entry["modes"], amounts):
        yield Cell(task, mode, labels, metric), [*entry["overrides"], override("mode", mode), *amount]


def _finetuning_node(
    start: _Start, seed: int, cell: Cell, overrides: tuple[str, ...], config: dict[str, Any], directory: Path
) -> Node:
    # Label subset, head and never-pretrained weights are drawn anew under each pretraining seed
    # (else its replicates would share them), and alike for all arms (so differences are paired).
    source, run_seed = start.source, 1000 * start.source.seed + seed
    who = source.arm if source.pretrained else f"never-{source.arm}"
    words = [cell.task, cell.mode, cell.labels, who, f"s{run_seed}"]
    name = name_run(words, digest(FINETUNING, config, start.needs or start.ready, source.pretrained, run_seed))
    last = directory / "runs" / str(start.needs) / "handoff" / "last"
    handoff = start.ready or (str(last) if source.pretrained else f"random:{last}")
    place = {"seed": run_seed, "handoff": handoff, "run_dir": directory / "runs" / name}
    placed = (override(key, value) for key, value in place.items())
    return Node(name, FINETUNING, (*overrides, *placed), start.needs, source, run_seed, cell)


def name_run(words: Sequence[str], digits: str) -> str:
    """Name the directory of a run: words for people, digits for what it is."""
    slug = re.sub(r"[^a-z0-9._]+", "-", " ".join(words).lower()).strip("-")
    return f"{slug[:80].rstrip('-')}-{digits}"
