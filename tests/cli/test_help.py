"""`--help` names every setting and option at once; each command line keeps freed memory before anything slow."""

import os
import subprocess
import sys

import pytest


def printed(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize(
    ("package", "found"),
    [
        ("pretraining", ["seed: 1", "resume: none", "resnet18_cifar", "simclr_cifar10_google", "-m runs every combin"]),
        ("finetuning", ["handoff: ???", "squad_v2", "linear_probe", "# share of the training labels"]),
        ("experiments", ["nsp_or_not", "retry_failed", "executor     local, slurm"]),
        ("pretraining.evaluate", ["handoff"]),
        ("pretraining.data.prepare", ["wordpiece"]),
    ],
)
def test_help_names_every_setting_and_option(package, found):
    joined = " ".join(printed("-m", package, "--help").split("\n"))
    assert all(part in joined for part in found), joined
    assert "hydra:" not in joined and "_transformers" not in joined


def test_help_may_be_read_in_part():
    for command in ("pretraining", "finetuning.predict"):
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run([sys.executable, "-m", command, "--help"], stdout=writer, stderr=-1, timeout=120)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (0, b"")


def test_help_says_what_each_objective_learns_and_what_an_image_costs_as_the_docs_have_it():
    from pathlib import Path

    from pretraining.cli.help import CONF, help_text

    said = " ".join(help_text("pretrain").split())
    page = (Path(CONF).parent / "docs" / "objectives.md").read_text("utf-8")
    table = page.partition("| `objective=` | what the model learns to do | passes |")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 11
    for name, _, passes, _ in rows:
        total, gradients = passes.replace("1 + 0.4 (0.4)", "1.4 (0.4)").split(",")[0].split("(")[:2]
        told = f"An image costs {total.strip()} passes of the network ({gradients.split(')')[0]} with gradients)"
        assert told in said.partition(f" {name} ")[2][:330], name
    for name in sorted(path.stem for path in (CONF / "objective").glob("[!_]*.yaml")):
        assert len(said.partition(f" {name} ")[2]) > 20, name


def test_help_imports_nothing_slow():
    code = "import sys\nfrom pretraining.cli.help import help_text\nhelp_text('pretrain')\n"
    assert printed("-c", code + "print({'torch', 'hydra'} & set(sys.modules))").strip() == "set()"


REFUSED = """
import contextlib, ctypes, sys
asked, load = [], ctypes.CDLL
class Libc:
    def __getattr__(self, name):
        if name == "mallopt":
            asked.append("torch" in sys.modules)
        return getattr(load(None), name)
ctypes.CDLL = lambda name, *rest, **options: load(name, *rest, **options) if name else Libc()
sys.argv = ["command", "no_such_setting=1"]
from {package}.__main__ import cli
with contextlib.suppress(SystemExit, Exception):
    cli()
print(asked)
"""


@pytest.mark.parametrize("package", ["pretraining", "finetuning", "experiments"])
def test_each_command_line_keeps_freed_memory(package):
    assert printed("-c", REFUSED.replace("{package}", package)).splitlines()[-1] == "[False]"
