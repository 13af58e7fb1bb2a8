"""Real runs for tests: composed as on the command line, carried out in a forked process that can be killed."""

import csv
import json
import multiprocessing
import os
import pickletools
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from pretraining.cli.configuration import compose, exit_cleanly
from pretraining.launch import main
from tests.forked import fork_ranks

TIME_COLUMNS = ("time", "throughput/")


def write_corpus(directory: Path, documents: int = 120) -> Path:
    """Write a small corpus of sentences made of a small vocabulary, each document different."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while"]
    words += ["seven", "wizards", "quietly", "brew", "potent", "magic", "in", "dark", "caves"]
    path = directory / "corpus.txt"
    lines = []
    for number in range(documents):
        sentences = []
        for sentence in range(3 + number % 4):
            picked = [
                words[(number * 7 + sentence * 5 + place * (1 + number % 3)) % len(words)]
                for place in range(6 + (number + sentence) % 7)
            ]
            sentences.append(" ".join(picked).capitalize() + ".")
        lines.append(" ".join(sentences))
    path.write_text("\n\n".join(lines) + "\n")
    return path


def text_overrides(corpus: Path, cache_dir: Path) -> list[str]:
    """Give a run of seconds: a tiny BERT with dropout on a small corpus."""
    return [
        "objective=masked_language",
        "data=text_files",
        f"data.path={corpus}",
        f"data.cache_dir={cache_dir}",
        "data.max_tokens=32",
        "data.batch_size=8",
        "data.eval_batch_size=8",
        "data.preparation.workers=1",
        "data.preparation.validation_share=0.1",
        "preprocess.vocab_size=200",
        "backbone=bert_tiny",
        "backbone.config.hidden_size=16",
        "backbone.config.intermediate_size=32",
        "optimizer.warmup_steps=4",
        "trainer.precision=fp32",
        "trainer.max_steps=20",
        "trainer.log_every=5",
        "trainer.val_every=10",
        "trainer.checkpoint_every=5",
        "logger.wandb.mode=disabled",
        "logger.progress=false",
    ]


def assert_plain(run_dir: Path) -> None:
    """Assert that a run's checkpoints pickle tensors and plain containers alone, and its hand-off nothing."""
    paths = sorted((run_dir / "checkpoints").glob("step-*.ckpt"))
    assert paths
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = [
                (operation.name, argument) for operation, argument, _ in pickletools.genops(archive.read(name))
            ]
        named = {argument for operation, argument in operations if operation == "GLOBAL"}
        storages = {argument for argument in named if argument.startswith("torch ") and argument.endswith("Storage")}
        assert storages
        assert named - storages <= {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
        building = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2"}
        assert not {operation for operation, _ in operations} & building
    pickles = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
    assert not [path for path in (run_dir / "handoff").rglob("*") if path.suffix in pickles]


def _child(overrides, change, environment, interpreters):
    os.setsid()
    os.environ |= environment
    torch.set_num_threads(1)
    if not interpreters:
        fork_ranks()
    if change is not None:
        change()
    with exit_cleanly():
        main(compose(overrides), overrides)


def start(overrides, change=None, interpreters=False, **environment):
    """Start a run in a forked process, the leader of its own group; `change` is called in it before the run.

    Its ranks are forks, too, or `interpreters` of their own.
    """
    given = (overrides, change, environment, interpreters)
    process = multiprocessing.get_context("fork").Process(target=_child, args=given)
    process.start()
    return process


def finish(overrides, *, timeout=180, **environment) -> int:
    """Carry a run out to its end; returns its exit code."""
    process = start(overrides, **environment)
    process.join(timeout)
    if process.is_alive():
        kill_group(process)
        raise AssertionError(f"the run did not end within {timeout} s")
    return process.exitcode


def kill_group(process, number=signal.SIGKILL) -> None:
    """Send a signal to everything that a started run consists of, and wait for its end."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        print("the run had ended before the signal", file=sys.stderr)
    process.join(60)


def wait_for(condition, timeout=120.0) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.01)


def history(run_dir: Path) -> list[dict[str, str]]:
    """Read metrics.csv without its time columns."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(TIME_COLUMNS)} for row in csv.DictReader(file)]


def assert_same_end(first: Path, second: Path) -> None:
    """Compare what two finished runs leave: each tensor of the last checkpoint, the hand-off's files, the history."""
    names = [max(path.glob("checkpoints/step-*.ckpt")).name for path in (first, second)]
    assert names[0] == names[1]
    ours, theirs = (torch.load(path / "checkpoints" / names[0], weights_only=True) for path in (first, second))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "average", "meter", "measured"):
        assert_equal(ours[part], theirs[part], part)
    assert_equal(*(probe_of(checkpoint) for checkpoint in (ours, theirs)), "probe")
    assert ours["loops"]["fit_loop"]["state_dict"] == theirs["loops"]["fit_loop"]["state_dict"]
    digests = [
        json.loads((path / "handoff" / "last" / "handoff.json").read_text())["sha256"] for path in (first, second)
    ]
    assert digests[0]["model.safetensors"] == digests[1]["model.safetensors"]
    assert digests[0].get("heads.safetensors") == digests[1].get("heads.safetensors")  # not every objective has heads
    rows = history(first)
    assert rows and rows == history(second)


def probe_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Take the online probe's state from a checkpoint: classifier, optimizer, bank. Empty without a probe."""
    return {name: state for name, state in checkpoint["callbacks"].items() if name.startswith("OnlineProbe")}


def assert_equal(ours, theirs, where: str) -> None:
    """Compare nested containers bit for bit."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            assert_equal(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    else:
        assert ours == theirs, where
