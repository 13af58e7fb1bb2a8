"""Command lines import torchmetrics lean; whoever imports the package as a library gets torchmetrics whole."""

import subprocess
import sys

import pytest

TELL = """
import pytorch_lightning
from torchmetrics.utilities.imports import _TORCHVISION_AVAILABLE
import torchvision  # stays importable in any case
print("whole" if _TORCHVISION_AVAILABLE else "lean")
"""
LEAN = """
import contextlib, sys
sys.argv = ["command", "no_such_setting=1"]
from {package}.__main__ import cli
with contextlib.suppress(SystemExit, Exception):
    cli()
"""


def said(code):
    return subprocess.run([sys.executable, "-c", code + TELL], capture_output=True, text=True, check=True, timeout=120).stdout.split()[-1]


@pytest.mark.parametrize("package", ["pretraining.launch", "finetuning.launch"])
def test_a_library_import_leaves_torchmetrics_whole(package):
    assert said(f"import {package}") == "whole"


@pytest.mark.parametrize("package", ["pretraining", "finetuning", "experiments"])
def test_each_command_line_is_lean(package):
    assert said(LEAN.format(package=package)) == "lean"


@pytest.mark.parametrize(
    ("package", "found"),
    [
        ("pretraining", ["seed: 1", "resume: none", "resnet18_cifar", "simclr_cifar10_google", "-m runs every combination"]),
        ("finetuning", ["handoff: ???", "squad_v2", "linear_probe", "# share of the training labels"]),
        ("experiments", ["nsp_or_not", "retry_failed", "executor     local, slurm"]),
        ("pretraining.evaluate", ["handoff"]),
        ("pretraining.data.prepare", ["wordpiece"]),
    ],
)
def test_help_names_every_setting_and_option(package, found):
    ended = subprocess.run([sys.executable, "-m", package, "--help"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    joined = " ".join(ended.stdout.split("\n"))
    assert all(part in joined for part in found), ended.stdout
    assert "hydra:" not in ended.stdout


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom pretraining.help import help_text\nhelp_text('pretrain')\nprint('torch' in sys.modules or 'hydra' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
