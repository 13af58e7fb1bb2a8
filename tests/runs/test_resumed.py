"""What a run may be continued from: its checkpoints under any name, whole, its own, and over the data of then."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece
from tests.runs import assert_same_end, text_overrides, write_corpus

SHORT = ["trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.log_every=2", "trainer.keep_last=9"]
QUIET = ["trainer.precision=fp32", "logger.wandb.mode=disabled", "logger.progress=false"]
DIGITS = ["objective=simclr", "data=digits", "data.batch_size=16", "data.eval_batch_size=64", "probe=none"]
DIGITS += ["backbone.width=4", "preprocess.size=8", "optimizer.warmup_steps=1", *SHORT, *QUIET]


def carry_out(path, *overrides, resume="none"):
    return main(compose([*overrides, f"run_dir={path}", f"resume={resume}"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache_dir):
    return carry_out(tmp_path_factory.mktemp("runs") / "whole", *DIGITS, f"data.cache_dir={cache_dir}")


@pytest.fixture
def digits(cache_dir):
    return [*DIGITS, f"data.cache_dir={cache_dir}"]


@pytest.fixture
def middle(whole, tmp_path):
    """Give a good checkpoint under a name of the user's, without the json that lay beside it."""
    return shutil.copy(whole / "checkpoints" / "step-0000002.ckpt", tmp_path / "best one.pt")


def refused(path, *overrides, resume):
    """Expect a refusal, in one line but for lists of what differs, that leaves `path` as it was."""
    before = contents(path)
    with pytest.raises(RunError) as caught:
        carry_out(path, *overrides, resume=resume)
    assert contents(path) == before
    return str(caught.value)


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_renamed_checkpoint_is_continued_from_the_step_inside(digits, whole, middle, tmp_path, capsys):
    path = carry_out(tmp_path / "run", *digits, resume=f"'{middle}'")
    assert f"continuing {middle} from step 2" in capsys.readouterr().err
    torch.testing.assert_close(*(last_weights(run) for run in (whole, path)), rtol=0, atol=0)
    assert [row.split(",")[0] for row in (path / "metrics.csv").read_text().splitlines()] == ["step", "4"]
    shutil.copytree(whole, tmp_path / "again", symlinks=True)
    assert_same_end(whole, carry_out(tmp_path / "again", *digits, "trainer.max_steps=4", resume=f"'{middle}'"))


def last_weights(run):
    return torch.load(run / "checkpoints" / "step-0000004.ckpt", weights_only=True)["state_dict"]


def damaged(path, how):
    data = bytearray(path.read_bytes())
    if how == "a flipped bit":
        data[len(data) // 2] ^= 1
    elif how == "cut short":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "text":
        data = b"no checkpoint\n"
    path.write_bytes(data)
    foreign = {"tensors": {"weight": torch.zeros(2)}, "a module": torch.nn.Linear(2, 2), "a tensor": torch.zeros(2)}
    foreign["of Lightning"] = {"global_step": 3, "state_dict": {}}
    if how in foreign:
        torch.save(foreign[how], path)


@pytest.mark.parametrize(
    "how",
    ["a flipped bit", "cut short", "empty", "text", "tensors", "a module", "a tensor", "of Lightning"],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_damaged_or_foreign_file_is_refused_and_nothing_touched(digits, whole, middle, tmp_path, how, there):
    damaged(middle, how)
    run = shutil.copytree(whole, tmp_path / "run", symlinks=True) if there else tmp_path / "run"
    said = refused(run, *digits, resume=f"'{middle}'")
    assert said.startswith(f"resume={middle} ") and "\n" not in said and "checkpoint" in said
    assert run.exists() == there


def test_what_is_no_file_is_refused(digits, tmp_path):
    for name in ("nothing.ckpt", "."):
        assert "is no file" in refused(tmp_path / "run", *digits, resume=str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_fewer_steps_than_were_made_are_refused(digits, whole, middle, tmp_path):
    said = refused(tmp_path / "run", *digits, "trainer.max_steps=1", resume=f"'{middle}'")
    assert said == (
        f"resume={middle} has made 2 steps, more than trainer.max_steps=1: raise that, or take an earlier checkpoint"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("backbone.width=8", ["of another model", "before", "now"]),
        ("objective=denoising_image", ["of another model"]),
        ("optimizer=sgd", ["of another optimizer"]),
    ],
)
def test_a_checkpoint_of_another_model_or_optimizer_is_refused(digits, middle, tmp_path, other, words):
    said = refused(tmp_path / "run", other, *(word for word in digits if not other.startswith(word.split("=")[0])),
                   resume=f"'{middle}'")  # fmt: skip
    assert all(word in said for word in words) and "\n" not in said and len(said) < 500
    assert not (tmp_path / "run").exists()


# -- what the run read -------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    given = text_overrides(write_corpus(tmp_path), tmp_path / "cache")
    return [*(word for word in given if not word.startswith("trainer.")), *SHORT, "trainer.precision=fp32"]


def ended_early(run):
    """Make of a finished run what a kill at step 2 leaves."""
    for name in ("metrics.json", "checkpoints/step-0000004.ckpt", "checkpoints/step-0000004.json"):
        (run / name).unlink()
    return run


def test_text_that_changed_is_refused_with_what_changed_and_put_back_it_is_continued(texts, tmp_path):
    whole = carry_out(tmp_path / "whole", *texts)
    run = ended_early(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    corpus = tmp_path / "corpus.txt"
    before = corpus.read_text()
    corpus.write_text(before.replace("wizards", "lizards"))
    said = refused(run, *texts, resume="auto")
    first, *lines, cure = said.splitlines()
    assert "reads other data than before" in first and "give back the data of then, or choose another run_dir" in cure
    assert [line.split(":")[0].strip() for line in lines] == ["fingerprint.data", "fingerprint.preprocess"]
    elsewhere = refused(tmp_path / "new", *texts, resume=whole / "checkpoints" / "step-0000002.ckpt")
    assert "reads other data than before" in elsewhere and "fingerprint.data" in elsewhere
    assert not (tmp_path / "new").exists()
    corpus.write_text(before)
    assert_same_end(whole, carry_out(run, *texts, resume="auto"))


def test_a_tokenizer_that_changed_alone_is_named_alone(texts, tmp_path):
    def write(words):
        recipe = WordPiece(vocab_size=120, lowercase=True, sample_bytes=1)
        TextPreprocess(tokenizer=recipe.train(iter(words))).save(tmp_path / "tokenizer")

    write(["the quick brown fox jumps"] * 3)
    given = [word for word in texts if not word.startswith("preprocess")]
    given += ["preprocess=pretrained_tokenizer", f"preprocess.path={tmp_path / 'tokenizer'}"]
    run = ended_early(carry_out(tmp_path / "run", *given))
    write(["seven wizards quietly brew"] * 3)
    lines = refused(run, *given, resume="auto").splitlines()[1:-1]
    assert [line.split(":")[0].strip() for line in lines] == ["fingerprint.preprocess"]


def test_one_image_that_changed_is_refused_even_by_a_finished_run(digits, tmp_path):
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    given = ["data=image_folder", f"data.path={tmp_path / 'photos'}", "data.decoding.size=8", "augment=digits"]
    given += [*(word for word in digits if word != "data=digits"), "trainer.max_steps=2"]
    run = carry_out(tmp_path / "run", *given)
    carry_out(run, *given, resume="auto")
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "photos" / "07.png")
    assert "fingerprint.data" in refused(run, *given, resume="auto")


def test_images_that_do_not_fit_the_backbone_are_refused_before_there_is_a_run(digits, tmp_path):
    said = refused(tmp_path / "run", *digits, "augment=digits", "preprocess.channels=3", "preprocess.mean=[0,0,0]",
                   "preprocess.std=[1,1,1]", resume="none")  # fmt: skip
    assert "images have 1 channel(s), but the backbone takes 3: set preprocess.channels=1" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["simclr", "supervised", "denoising_image"])
def test_views_that_were_taken_away_are_asked_for(digits, tmp_path, objective):
    given = [f"objective={objective}", *digits[1:]]
    assert "choose some with augment=" in refused(tmp_path / "run", *given, "augment=[]", resume="none")


def test_a_run_of_before_fingerprints_is_continued(texts, tmp_path):
    run = ended_early(carry_out(tmp_path / "run", *texts))
    config = OmegaConf.load(run / "config.yaml")
    assert set(config.fingerprint) == {"data", "preprocess"} and all(config.fingerprint.values())
    del config.fingerprint
    OmegaConf.save(config, run / "config.yaml")
    carry_out(run, *texts, resume="auto")
    assert json.loads((run / "metrics.json").read_text())["steps"] == 4
    assert OmegaConf.load(run / "config.yaml").fingerprint.data
