"""Start-up imports what a run needs, and no more."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torchvision", "matplotlib", "datasets", "wandb"}
ALSO = {"pretraining.launch": {"scipy", "sklearn", "pandas", "PIL.Image"}, "finetuning.launch": set()}  # metrics are scikit-learn's


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*sys.modules, sep='\\n')"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize("module", ALSO)
def test_the_commands_import_no_heavy_library_before_they_need_it(module):
    loaded = loaded_by(f"import {module}")
    assert "pytorch_lightning" in loaded and "torchmetrics" in loaded
    assert not loaded & (HEAVY | ALSO[module])


def test_the_package_itself_imports_nothing_heavy():
    assert not loaded_by("import pretraining") & {"torch", "numpy", "pytorch_lightning", *HEAVY}


def test_what_torchmetrics_does_without_can_still_be_imported():
    loaded = loaded_by("import pretraining.launch, torchvision, scipy.stats")
    assert {"torchvision", "scipy.stats"} <= loaded
