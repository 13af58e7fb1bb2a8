"""Damaged hand-offs, checkpoints and finished runs end in success or in one clear line."""

import random
import shutil

import pytest

from finetuning.launch import load_run
from finetuning.predictions import predict, read_inputs
from pretraining.cli.compose import compose
from tests.fuzz import MAINS, ONE_STEP, damaged, ends, said_by, wrong
from tests.fuzz.kinds import HEAD, KNN, TEXTS, finetuning, pretraining, write_folder, write_table

DAMAGED = 50


@pytest.fixture
def places(tmp_path, handoffs, monkeypatch):
    """Write data, a run of two steps and two finished ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "runs"):
        (tmp_path / name).mkdir()
    table = write_table(tmp_path, "csv")
    write_folder(tmp_path / "pictures")
    text = ["task.inputs.max_tokens=16", f"data.path={table}"]
    cut = [word for word in pretraining([*TEXTS, f"data.path={table}"], 2)[1] if "checkpoint_every" not in word]
    commands = {
        "run": ("pretrain", [*cut, f"data.cache_dir={tmp_path / 'cache'}", "trainer.checkpoint_every=1"]),
        "labelled": finetuning("text_classification", handoffs["text"], [*KNN, *text]),
        "pictures": finetuning(
            "image_classification",
            handoffs["image"],
            [
                *KNN,
                "data.decoding.size=8",
                f"data.path={tmp_path / 'pictures'}",
                f"data.cache_dir={tmp_path / 'cache'}",
            ],
        ),
    }
    made = {
        "run": [*commands["run"][1], "trainer.max_steps=2"],
        "knn": [*commands["labelled"][1], "save_model=true"],
        "full": [*finetuning("text_classification", handoffs["text"], [*HEAD, *text])[1], "save_model=true"],
    }
    for name, words in made.items():
        root = "pretrain" if name == "run" else "finetune"
        MAINS[root](compose([*words, f"run_dir={tmp_path / 'runs' / name}"], root))
    return commands


def trials(places, handoffs, tmp_path):
    """Name trials: what is copied and damaged, and what is done with the copy."""
    copy, run = tmp_path / "copy", tmp_path / "run"
    longer = [*places["run"][1], "trainer.max_steps=3"]

    def from_handoff(name, kind, prefix=""):
        root, words = places[name]
        words = [word for word in words if not word.startswith("handoff=")]
        return handoffs[kind], lambda names: ends([*words, f"handoff={prefix}{copy}"], root, run, names)

    def resumed(names):
        return said_by(lambda: MAINS["pretrain"](compose([*longer, f"run_dir={copy}", "resume=auto"])), "auto", names)

    def continued(names):
        checkpoint = max((copy / "checkpoints").glob("*.ckpt"))
        return ends([*longer, f"resume={checkpoint}"], "pretrain", run, names)

    def again(names):
        words = [f"from_run={copy}", f"run_dir={run}", "trainer.max_steps=1"]
        said = said_by(lambda: MAINS["pretrain"](compose(words), words), "again", names)
        shutil.rmtree(run, ignore_errors=True)
        return said

    def predicted(names):
        def work():
            config, task = load_run(copy)
            list(predict(task, read_inputs(task, config.data, config.data.path)))

        return said_by(work, "predict", names)

    runs = tmp_path / "runs"
    return {
        "a hand-off of text": from_handoff("labelled", "text"),
        "a hand-off of images": from_handoff("pictures", "image"),
        "a folder of transformers": from_handoff("labelled", "text", "hf:"),
        "a run that goes on": (runs / "run", resumed),
        "a checkpoint": (runs / "run", continued),
        "a run that is begun again": (runs / "run", again),
        "a finished run": (runs / "full", predicted),
        "a finished run of neighbours": (runs / "knn", predicted),
    }


@pytest.mark.slow
def test_damaged_runs_end_in_success_or_one_line(places, handoffs, tmp_path):
    generator, said = random.Random(3), []
    for number in range(DAMAGED):
        name, (source, work) = list(trials(places, handoffs, tmp_path).items())[number % 8]
        copy = shutil.copytree(source, tmp_path / "copy", symlinks=True)
        if "transformers" in name:
            (copy / "handoff.json").unlink()
        files = sorted(
            file for file in copy.rglob("*") if file.is_file() and not file.is_symlink() and file.stat().st_size
        )
        if name == "a checkpoint":
            files = [file for file in files if file.suffix == ".ckpt"]
        broken = generator.choice(files)
        broken.write_bytes(damaged(generator, broken.read_bytes())[0])
        ended = work([broken.name, copy.name])
        said.append(ended if ended is None else f"{ended} [{name}: {broken.name}]")
        shutil.rmtree(copy)
    assert not wrong(said)
    refused = [line for line in said if line is not None]
    assert DAMAGED // 3 < len(refused) < DAMAGED
    assert ONE_STEP and not (tmp_path / "run").exists()
