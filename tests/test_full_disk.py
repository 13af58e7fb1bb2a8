"""A full disk: one line says where and how much, nothing half-written stays, and with room again all goes on."""

import os
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from pretraining import handoff
from pretraining.cache import build_once, replace_text
from pretraining.cli import spawn
from pretraining.cli.configuration import compose, exit_cleanly
from pretraining.engine.checkpoints import AtomicIO
from pretraining.errors import CheckpointError, NoSpaceError, RunError
from pretraining.image.data.decode import Decoding, Encoded, pixels
from pretraining.launch import main
from pretraining.runs.csv_logger import CsvHistory
from tests.forked import FORKS
from tests.full_disk import full_disk
from tests.runs import assert_same_end, text_overrides, write_corpus

STATE = {"global_step": 3, "weights": {"a": torch.ones(500_000), "b": torch.ones(250_000)}}  # 3 MB


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("room", [0, 100_000, 2_999_000])
def test_a_checkpoint_says_where_and_how_much_and_leaves_the_earlier_ones(tmp_path, monkeypatch, room, background):
    io = AtomicIO(background=background)
    io.save_checkpoint(STATE, tmp_path / "step-0000003.ckpt")
    io.finish()
    before = left(tmp_path)
    with full_disk(monkeypatch, room), pytest.raises(CheckpointError) as caught:
        io.save_checkpoint(STATE, tmp_path / "step-0000004.ckpt")
        io.finish()
    assert str(caught.value).startswith(
        f"no space left on {tmp_path}: needs about 3 MB. Earlier checkpoints are intact"
    )
    assert "\n" not in str(caught.value) and left(tmp_path) == before
    io.save_checkpoint(STATE, tmp_path / "step-0000004.ckpt")
    io.finish()
    io.teardown()
    assert len(left(tmp_path)) == 4


def test_a_checkpoint_without_room_for_its_note_is_gone(tmp_path, monkeypatch):
    with full_disk(monkeypatch, 0, ".json"), pytest.raises(CheckpointError, match="no space left on"):
        AtomicIO().save_checkpoint(STATE, tmp_path / "step-0000004.ckpt")
    assert left(tmp_path) == []


def test_what_else_goes_wrong_keeps_its_own_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file"):
        AtomicIO().save_checkpoint(STATE, tmp_path / "file" / "step-0000004.ckpt")
    with pytest.raises(NotADirectoryError):
        replace_text(tmp_path / "file" / "name", "text")


def test_a_cache_that_fills_the_disk_is_gone_and_built_again_with_room(tmp_path, monkeypatch):
    def build(partial):
        for number in range(3):
            (partial / f"{number}.bin").write_bytes(bytes(1_000_000))

    with full_disk(monkeypatch, 2_500_000), pytest.raises(NoSpaceError) as caught:
        build_once(tmp_path / "cache" / "made", build)
    assert str(caught.value) == f"no space left on {tmp_path / 'cache'}: needs about 2 MB"
    assert left(tmp_path / "cache") == []
    assert left(build_once(tmp_path / "cache" / "made", build)) == ["0.bin", "1.bin", "2.bin"]

    def fails(partial):
        (partial / "half").write_text("done")
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        build_once(tmp_path / "other", fails)
    assert left(tmp_path / "other.partial") == ["half"]  # which the next build may continue


def test_pixels_ask_for_their_room_before_they_are_decoded(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((1000, 1000, 3), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    encoded, decoding = Encoded(["a.png"] * 4, lambda row: data), Decoding(size=None)
    with full_disk(monkeypatch, 10**7), pytest.raises(NoSpaceError) as caught:
        pixels(encoded, decoding, cache_dir=tmp_path / "cache", identity="x")
    assert str(caught.value) == f"no space left on {tmp_path / 'cache' / 'pixels'}: needs about 12 MB"
    assert left(tmp_path / "cache" / "pixels") == []
    found = pixels(encoded, decoding, cache_dir=tmp_path / "cache", identity="x")
    assert found.shape == (4, 3, 1000, 1000)
    (file,) = (tmp_path / "cache").rglob("images.npy")
    assert os.stat(file).st_blocks * 512 >= 12_000_000  # taken, or a write to the map would end the process


def test_the_history_and_a_hand_off_name_their_directory(tmp_path, monkeypatch):
    history = CsvHistory(tmp_path / "metrics.csv")
    history.log_metrics({"loss": 1.0}, 1)
    history.save()
    history.log_metrics({"loss": 2.0}, 2)
    with full_disk(monkeypatch, 0), pytest.raises(NoSpaceError, match=f"no space left on {tmp_path}: needs about 1 MB"):
        history.save()

    class Preprocess:
        kwargs, modality = {}, None

        def save(self, directory):
            from safetensors import SafetensorError

            raise SafetensorError("Error while serializing: IoError(Os { code: 28, os error 28 })")

    class Backbone(Preprocess, torch.nn.Linear):
        def export(self, directory):
            (directory / "model.safetensors").write_bytes(b"0")

    towers = {"text": handoff.read.__globals__["Tower"](Backbone(1000, 500), Preprocess())}
    with pytest.raises(NoSpaceError, match=f"no space left on {tmp_path / 'handoff'}: needs about 2 MB"):
        handoff.write(tmp_path / "handoff" / "step-0000001", towers=towers, origin={}, heads={})
    assert left(tmp_path / "handoff") == []


# -- whole runs --------------------------------------------------------------------------------------------------------

SHORT = ["trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.log_every=1", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    given = text_overrides(write_corpus(folder), folder / "cache")
    return [*(word for word in given if not word.startswith("trainer.")), *SHORT]


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    return main(compose([*texts, f"run_dir={tmp_path_factory.mktemp('runs') / 'whole'}"]))


def ends(overrides, capsys):
    """Carry a run out to a failure; returns its exit code and the one line it says."""
    with pytest.raises(SystemExit) as ended, exit_cleanly():
        main(compose(overrides))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("continuing ")]
    return ended.value.code, said


@pytest.mark.parametrize("what", ["step-0000004.ckpt", "metrics.csv", "metrics.json", "README.md"])
def test_a_run_that_fills_the_disk_goes_on_when_there_is_room(texts, whole, tmp_path, monkeypatch, capsys, what):
    path = tmp_path / "run"
    mine = [*texts, f"run_dir={path}", "resume=auto"]
    room = 60 if what == "metrics.csv" else 10
    with full_disk(monkeypatch, room, what):
        code, said = ends(mine, capsys)
    assert code == 3 and said.startswith(f"error: no space left on {path}") and "resume=auto" in said
    assert not list(path.rglob("*.writing"))
    assert_same_end(whole, main(compose(mine)))


def test_a_cache_without_room_ends_in_one_line_and_no_run(texts, tmp_path, monkeypatch, capsys):
    mine = [*texts, f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    with full_disk(monkeypatch, 10, ".bin"):
        code, said = ends(mine, capsys)
    assert code == 3 and said.startswith(f"error: no space left on {tmp_path / 'cache' / 'corpora'}: needs about 1 MB")
    assert left(tmp_path / "cache" / "corpora") == [] and not (tmp_path / "run").exists()
    main(compose(mine))


# -- several ranks -----------------------------------------------------------------------------------------------------


def run(config):
    """Be a rank that fails as the test asks."""
    rank = os.environ["RANK"]
    print(f"rank {rank} begins", file=sys.stderr)
    if config.how == "all":
        raise RunError("a mistake of the user's")
    if config.how == "second" and rank == "1":
        raise RunError("only rank 1 knows why")
    if config.how == "disk" and rank == "0":
        raise CheckpointError("no space left on here")
    raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("all", 2, "a mistake of the user's"),
        ("disk", 3, "no space left on here"),
        ("second", 2, "only rank 1 knows why"),
    ],
)
def test_what_ends_several_ranks_is_said_once(how, code, words, monkeypatch, capfd):
    monkeypatch.setattr(spawn, "subprocess", FORKS)
    assert spawn.run_ranks("tests.test_full_disk", OmegaConf.create({"how": how}), 2) == code
    said = capfd.readouterr().err
    assert said.count(words) == 1 and said.count("error: ") == 1
    assert ("Traceback" in said) == (how == "second")  # of rank 0, which spoke before
