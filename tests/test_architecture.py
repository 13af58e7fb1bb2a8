"""Imports run one way, files stay short, and the seams hold: read from the source and from live processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pretraining", "finetuning", "experiments")
# From the bottom up: a module may import from its own layer and those below.
LAYERS = [
    [
        f"pretraining.{name}"
        for name in ("startup", "help", "random", "cache", "native", "cluster", "watchdog", "snapshot", "lineage")
    ],
    ["pretraining.distributed.collectives"],
    ["pretraining.optim.optimizers", "pretraining.optim.lars"],
    ["pretraining.preprocess"],
    ["pretraining.backbones"],
    ["pretraining.engine.timing", "pretraining.engine.nonfinite", "pretraining.engine.step"],
    [
        "pretraining.handoff",
        "pretraining.image.augment",
        "pretraining.probes",
        "pretraining.engine.checkpoints",
        "pretraining.runs.csv_logger",
        "pretraining.runs.wandb_logger",
        "pretraining.runs.directory",
        "pretraining.distributed.fsdp",
        "pretraining.engine.trainer",
    ],
    ["pretraining.callbacks", "pretraining.objectives", "pretraining.data", "pretraining.cli.configuration"],
    ["pretraining.launch", "pretraining.budget", "pretraining.dry_run", "pretraining.cli.spawn"],
    ["pretraining.__main__", "pretraining.evaluate", "pretraining.cli.rank"],
]
FINETUNING_MAY_IMPORT = {
    "startup", "help", "random", "cache", "distributed", "optim", "preprocess", "backbones", "step", "handoff", "probes", "checkpoints",
    "history", "lineage", "run", "trainer", "configuration", "spawn", "data",
}  # fmt: skip
HYDRA_ALLOWED = {
    "configuration", "launch", "run", "__main__", "spawn", "rank", "evaluate", "budget", "dry_run", "agent", "training", "study",
}  # fmt: skip


def sources():
    found = {
        path: ast.parse(path.read_text("utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert len(found) > 50
    return found


SOURCES = sources()


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree):
    """List the modules that a source names, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module):
    return next(
        (
            number
            for number, names in enumerate(LAYERS)
            if any(module == n or module.startswith(n + ".") for n in names)
        ),
        None,
    )


def test_pretraining_imports_run_one_way():
    checked = 0
    for path, tree in SOURCES.items():
        module = module_of(path)
        if not module.startswith("pretraining."):
            continue
        own = layer_of(module)
        assert own is not None, f"{module} has no layer: add it to LAYERS"
        for name in imported(tree):
            other = layer_of(name)
            if other is not None:
                checked += 1
                assert other <= own, f"{module} imports {name} from above"
    assert checked > 100


def test_pretraining_never_imports_finetuning_or_experiments():
    for path, tree in SOURCES.items():
        if module_of(path).startswith("pretraining"):
            assert not [name for name in imported(tree) if name.startswith(("finetuning", "experiments"))], path


def test_finetuning_imports_pretraining_from_a_short_list():
    named = set()
    for path, tree in SOURCES.items():
        if module_of(path).startswith("finetuning"):
            named |= {name.split(".")[1] for name in imported(tree) if name.startswith("pretraining.")}
    assert named and named <= FINETUNING_MAY_IMPORT, named - FINETUNING_MAY_IMPORT


def test_finetuning_loads_no_objective_even_indirectly():
    code = "import sys, finetuning.launch; print([n for n in sys.modules if n.startswith(('pretraining.objectives', 'pretraining.image.augment'))])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.strip() == "[]"


def test_hydra_stops_at_the_door():
    for path, tree in SOURCES.items():
        if path.relative_to(ROOT).parts[0] == "experiments":
            continue
        uses = [name for name in imported(tree) if name.split(".")[0] in ("hydra", "omegaconf")]
        assert not uses or path.stem in HYDRA_ALLOWED, f"{path} imports {uses}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_functions_and_constructors_stay_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= 50, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            if node.name == "__init__":
                count = len(node.args.args) - 1 + len(node.args.kwonlyargs)
                assert count <= 8, f"a constructor takes {count} arguments"


def test_there_is_no_drawer_for_odds_and_ends():
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
