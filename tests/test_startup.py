"""Command lines import torchmetrics lean and torch's compiler late; whoever imports the package as a library gets both as they are."""

import builtins
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from pretraining.cli import startup

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
    return subprocess.run(
        [sys.executable, "-c", code + TELL], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()[-1]


@pytest.mark.parametrize("package", ["pretraining.launch", "finetuning.launch"])
def test_a_library_import_leaves_torchmetrics_whole(package):
    assert said(f"import {package}") == "whole"


@pytest.mark.parametrize("package", ["pretraining", "finetuning", "experiments"])
def test_each_command_line_is_lean(package):
    assert said(LEAN.format(package=package)) == "lean"


@pytest.mark.parametrize(
    ("package", "found"),
    [
        (
            "pretraining",
            ["seed: 1", "resume: none", "resnet18_cifar", "simclr_cifar10_google", "-m runs every combination"],
        ),
        ("finetuning", ["handoff: ???", "squad_v2", "linear_probe", "# share of the training labels"]),
        ("experiments", ["nsp_or_not", "retry_failed", "executor     local, slurm"]),
        ("pretraining.evaluate", ["handoff"]),
        ("pretraining.text.corpus.prepare", ["wordpiece"]),
    ],
)
def test_help_names_every_setting_and_option(package, found):
    ended = subprocess.run([sys.executable, "-m", package, "--help"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    joined = " ".join(ended.stdout.split("\n"))
    assert all(part in joined for part in found), ended.stdout
    assert "hydra:" not in ended.stdout


def test_help_imports_nothing_slow():
    code = "import sys\nfrom pretraining.cli.help import help_text\nhelp_text('pretrain')\nprint('torch' in sys.modules or 'hydra' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


# -- deferred modules ---------------------------------------------------------------------------------------------------------------------

PACKAGE = """
import time
from slow.part import value  # before its own names exist, as packages do
EXECUTED.append(__name__)
time.sleep(0.2)
def double(number): return 2 * number
def marked(function): MARKED.append(function); return function
other = value + 1
"""
PART = "EXECUTED.append(__name__)\nvalue = 41\n"


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A package `slow` that is deferred, with what it has executed and decorated."""
    (tmp_path / "slow").mkdir()
    executed, decorated = [], []
    monkeypatch.setattr(builtins, "EXECUTED", executed, raising=False)
    monkeypatch.setattr(builtins, "MARKED", decorated, raising=False)
    (tmp_path / "slow" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "slow" / "part.py").write_text(PART)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [startup.Finder(), *sys.meta_path])

    def stand_ins(module):
        return startup._functions("double")(module) | {"marked": startup._mark(module, "marked")}

    monkeypatch.setitem(startup.DEFERRED, "slow", stand_ins)
    yield executed, decorated
    for name in ("slow", "slow.part"):
        sys.modules.pop(name, None)


def test_a_deferred_module_waits_for_its_first_use(slow):
    executed, decorated = slow
    import slow as module
    from slow import double, marked

    assert marked(double) is double and executed == [] and startup.waits(module)
    assert double(4) == 8  # by a stand-in, which loads
    assert executed == ["slow.part", "slow"] and decorated == [double]
    assert type(module) is ModuleType and module.other == 42 and module.double is not double
    assert module.__spec__.loader is module.__loader__ and isinstance(module.__loader__, SourceFileLoader)


@pytest.mark.parametrize(
    "first", ["import slow.part", "import slow, slow.part", "from slow import double; import slow.part"]
)
def test_a_part_of_a_deferred_package_is_executed_once_and_behind_it(slow, first):
    executed, _ = slow
    exec(first)
    import slow.part as part
    from slow import double

    assert executed == ["slow.part", "slow"]
    assert (
        part is sys.modules["slow.part"]
        and part is sys.modules["slow"].part
        and isinstance(part.__spec__.loader, SourceFileLoader)
    )
    assert double(1) == 2


def test_threads_that_use_a_deferred_module_at_once_wait_for_it(slow):
    executed, _ = slow
    import slow as module

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: module.other, range(8))) == [42] * 8
    assert executed == ["slow.part", "slow"]


def test_a_deferred_module_that_fails_says_so_at_each_use(slow, tmp_path):
    (tmp_path / "slow" / "__init__.py").write_text("raise OSError('no such library')\n")
    import slow as module

    for _ in range(2):
        with pytest.raises(OSError, match="no such library"):
            _ = module.other


DEFERRING = """
from pretraining import startup
startup.install()
import sys, torch
import pretraining.launch, pretraining.objectives.masked_language, lightning_fabric.wrappers
from transformers.models.modernbert import modeling_modernbert
from pretraining.optim import AdamW, ParameterGroup
linear = torch.nn.Linear(2, 2)
settings = dict(peak_lr=0.1, warmup_steps=0, schedule="constant", final_fraction=1.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
optimizer, schedule = AdamW(**settings).build([ParameterGroup(list(linear.parameters()))], 10)
linear(torch.ones(2)).sum().backward()
optimizer.step(), optimizer.zero_grad(), schedule.step()
OptimizedModule = lightning_fabric.wrappers.OptimizedModule
assert not isinstance(linear, OptimizedModule)
print([name for name in startup.DEFERRED if name in sys.modules and not startup.waits(sys.modules[name])])
"""
AFTERWARDS = """
compiled = torch.compile(linear, backend="eager")
assert torch.equal(compiled(torch.ones(2)), linear(torch.ones(2)))
assert isinstance(compiled, OptimizedModule) and not isinstance(linear, OptimizedModule)
import torch._dynamo
assert type(torch._dynamo) is type(sys) and torch._dynamo.OptimizedModule is type(compiled)
torch._dynamo.graph_break()
try:
    torch.compile(lambda x: (x + 1, broken())[0], backend="eager", fullgraph=True)(torch.ones(2))
except torch._dynamo.exc.Unsupported:
    print("found a graph break")
from transformers.loss.loss_for_object_detection import linear_sum_assignment
print(linear_sum_assignment([[1.0, 0.0], [0.0, 1.0]])[1].tolist())
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    ).stdout.splitlines()


def test_nothing_that_is_deferred_is_imported_for_a_step():
    assert run(DEFERRING) == ["[]"]


@pytest.mark.parametrize("captured", ["graph_break", "disable"])
def test_the_compiler_works_once_it_is_wanted(captured):
    broken = {
        "graph_break": "from torch._dynamo import graph_break as broken\n",
        "disable": "from torch._dynamo import disable\nbroken = disable(lambda: None)\n",
    }
    assert run(DEFERRING + broken[captured] + AFTERWARDS) == ["[]", "found a graph break", "[1, 0]"]


FAULTS = """
import resource, sys
from pretraining import startup
if sys.argv[1] == "keeps":
    startup.install()
import torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(40):
    if number == 30:  # blocks of one size soon fit into each other's places, not from the first
        before = faults()
    torch.ones(2**24)  # 64 MiB
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is a setting of glibc")
def test_freed_memory_is_used_again():
    pages = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keeps", "not")
    }
    assert pages["keeps"] < 0.1 * pages["not"], pages


def test_other_c_libraries_are_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda name: asked.append(name) or object())
    startup.keep_freed_memory()
    assert asked == [None]
