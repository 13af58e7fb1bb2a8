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
    ["errors", "extensions", "random", "cache", "kinds", "ranges", "settings", "probes", "distributed", "backbones"],
    ["kernels", "optim", "runs"],
    ["engine", "cli", "commands", "new"],
    ["data", "modality", "handoff", "onnx_form"],
    ["text", "image", "audio"],
    ["pairs"],
    ["objectives"],
    ["cost", "budget", "dry_run", "callbacks", "evaluate", "export", "embedding", "embed"],
    ["parts"],
    ["launch"],
    ["scripting"],
    ["__main__", "snapshot"],
]
WINGS = ("text", "image", "audio", "pairs")
STANDS_ON_OTHERS = "pairs"
# Where a modality is known: the wings, their objectives, the inputs of downstream tasks, a file format of such a word,
# and benchmarks against peers.
KNOWS_A_MODALITY = (
    "pretraining.text",
    "pretraining.image",
    "pretraining.audio",
    "pretraining.pairs",
    "pretraining.objectives",
    "finetuning.inputs",
    "finetuning.data.coco",
    "experiments.benchmarks",
)
WORDS_OF_A_MODALITY = {"images", "input_ids", "document_ids", "token_type_ids", "waves"}
HYDRA_ALLOWED = {
    "compose",
    "early",
    "sweep",
    "mistakes",
    "configuration",
    "parts",
    "launch",
    "scripting",
    "scripts",
    "evaluate",
    "budget",
    "dry_run",
    "spawn",
    "rank",
    "rerun",
    "directory",
}


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


def within(module, *packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer_of(module):
    return next(
        (number for number, names in enumerate(LAYERS) if within(module, *(f"pretraining.{name}" for name in names))),
        None,
    )


def known_imports():
    """Pair each module of the packages with the modules of the packages that it imports."""
    modules = {module_of(path) for path in SOURCES}
    for path, tree in SOURCES.items():
        yield module_of(path), {name for name in imported(tree) if name in modules} - {module_of(path)}


def test_pretraining_imports_run_one_way():
    checked = 0
    for module, names in known_imports():
        if not module.startswith("pretraining."):
            continue
        own = layer_of(module)
        assert own is not None, f"{module} has no layer: add it to LAYERS"
        for name in names:
            other = layer_of(name)
            if other is not None:
                checked += 1
                assert other <= own, f"{module} imports {name} from above"
    assert checked > 100


def test_no_imports_run_in_a_circle():
    arrows = dict(known_imports())
    packages = {name for name in arrows if any(other.startswith(f"{name}.") for other in arrows)}
    left = {module: names - packages for module, names in arrows.items()}
    while free := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in free}
    assert not left, f"in or behind a circle: {sorted(left)}"


def test_wings_do_not_know_each_other_and_the_core_knows_no_wing():
    for module, names in known_imports():
        own = next(
            (wing for wing in WINGS if within(module, f"pretraining.{wing}", f"pretraining.objectives.{wing}")), None
        )
        foreign = [f"pretraining.{wing}" for wing in WINGS if wing != own and own != STANDS_ON_OTHERS]
        if module.startswith("pretraining."):
            assert not [name for name in names if within(name, *foreign)], module


def test_the_engine_knows_no_data_and_no_command_line_and_kernels_have_few_callers():
    callers = set()
    for module, names in known_imports():
        if within(module, "pretraining.engine"):
            assert not [name for name in names if within(name, "pretraining.data", "pretraining.cli")], module
        if not within(module, "pretraining.kernels") and any(within(name, "pretraining.kernels") for name in names):
            callers.add(module)
    doors = ("pretraining.text.backbones", "pretraining.image", "pretraining.objectives", "pretraining.engine.trainer")
    assert callers and not [module for module in callers if not within(module, *doors, "experiments.benchmarks")]


def asks_for_a_modality(tree):
    """Name what in a source asks which modality it has: a comparison, a wing's type, a wing's word."""
    wings = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    types = {
        alias.name
        for node in wings
        if within(node.module, *(f"pretraining.{wing}" for wing in WINGS))
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops):
            sides = [getattr(side, "attr", getattr(side, "id", None)) for side in (node.left, *node.comparators)]
            if "modality" in sides:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "isinstance":
            named = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            yield from [f"line {node.lineno}: {ast.unparse(node)}"] if named & types else []
        if isinstance(node, ast.Constant) and node.value in WORDS_OF_A_MODALITY:
            yield f"line {node.lineno}: {node.value!r}"


def test_nothing_outside_a_wing_asks_which_modality_it_has():
    checked = 0
    for path, tree in SOURCES.items():
        if not within(module_of(path), *KNOWS_A_MODALITY):
            checked += 1
            assert not list(asks_for_a_modality(tree)), path
    assert checked > 80


def test_a_question_for_the_modality_is_found():
    found = asks_for_a_modality(
        ast.parse(
            "from pretraining.text.tokenizer import TextPreprocess\n"
            "a = data.modality == 'text'\nb = isinstance(part, TextPreprocess)\nc = batch['images']"
        )
    )
    assert len(list(found)) == 3


def test_pretraining_never_imports_finetuning_or_experiments():
    for path, tree in SOURCES.items():
        if module_of(path).startswith("pretraining"):
            assert not [name for name in imported(tree) if name.startswith(("finetuning", "experiments"))], path


def test_finetuning_knows_no_objective_and_no_command_of_pretraining():
    above = [f"pretraining.{name}" for layer in LAYERS[LAYERS.index(["objectives"]) :] for name in layer]
    for module, names in known_imports():
        if module.startswith("finetuning"):
            assert not [name for name in names if within(name, *above)], module


def test_finetuning_loads_no_objective_even_indirectly():
    names = ("pretraining.objectives", "pretraining.image.augment")
    code = f"import sys, finetuning.launch; print([name for name in sys.modules if name.startswith({names})])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.strip() == "[]"


def test_public_names_are_not_taken_by_modules_of_the_same_name():
    """A module with the name of a function of its package would take its place once something imports it."""
    code = "import importlib, inspect, pathlib, finetuning as ft, pretraining as pt"
    code += "; from finetuning import predict as before"
    code += "; both = [(p, n) for p in (ft, pt) for n in p.__all__"
    code += " if importlib.util.find_spec(f'{p.__name__}.{n}') and importlib.import_module(f'{p.__name__}.{n}')]"
    code += "; import finetuning.predict, finetuning.predict as command; from finetuning import predict as after"
    code += "; print([(p.__name__, n) for p, n in both], before is after is ft.predict is command)"
    code += "; print([(p.__name__, n) for p, n in both if inspect.ismodule(getattr(p, n))])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.splitlines() == ["[('finetuning', 'predict')] True", "[]"]


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
