"""Mistakes end in one clear error before training starts: what we got, what we take, what to change; and nothing is
changed.
"""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pretraining import handoff
from pretraining.cli import configuration
from pretraining.cli.configuration import compose
from pretraining.cli.early import ending_on_mistakes
from pretraining.errors import HandoffError, RunError
from pretraining.launch import main
from tests.forked import run_module
from tests.runs import finish, text_overrides, write_corpus


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    return text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir)


@pytest.fixture(scope="module")
def finished(overrides, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert finish([*overrides, "trainer.max_steps=2", f"run_dir={path}"]) == 0
    return path


def refused(overrides, tmp_path, *texts):
    """Run, expecting a refusal whose message holds each text, and no trace of a run."""
    run_dir = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        main(compose([*overrides, f"run_dir={run_dir}"]))
    message = str(caught.value)
    assert all(text in message for text in texts), message
    assert not run_dir.exists()
    return message


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("optimizer.peak_lrr=1", ["peak_lrr"]),
        ("optimiser=adamw", ["optimiser"]),
        ("objective=mask_language", ["mask_language", "masked_language"]),
        ("data=nothing_like_it", ["nothing_like_it", "stdlib_docs"]),
        ("trainer.max_steps=0", ["trainer.max_steps", "at least 1"]),
        ("trainer.precision=fp8", ["trainer.precision=fp8", "auto, fp32, bf16 or fp64"]),
        ("trainer.accumulate=3", ["data.batch_size=8", "trainer.accumulate=3", "6 or 9"]),
        ("trainer.devices=4", ["trainer.devices=4", "trainer=ddp"]),
        ("trainer=gpu", ["GPUs were asked for", "this machine has 0", "trainer=cpu"]),
        ("optimizer.schedule=square", ["optimizer.schedule=square", "linear, cosine"]),
        ("collate.fraction=1.5", ["collate.fraction", "1.5"]),
        ("preprocess.vocab_size=1", ["preprocess.vocab_size=1", "5 special tokens"]),
        ("+backbone.config.layer_norm_eps=abc", ["backbone.config", "layer_norm_eps", "abc"]),
        ("+backbone.config.hidden_act=foo", ["backbone.config", "foo"]),
        ("data=null", ["data=null: give the name of one of its options"]),
        ("~optimizer", ["optimizer.warmup_steps=4", "another override takes optimizer.warmup_steps away"]),
        ("backbone.pooling=max", ["backbone.pooling=max", "mean, first, pooler or last"]),
        ("backbone.config.model_type=bertt", ["bertt", "transformers"]),
        ("backbone.config.max_position_embeddings=16", ["data.max_tokens=32", "has positions for 16: lower it"]),
        ("+optimizer.foo=1", ["optimizers.AdamW", "unexpected keyword argument 'foo'"]),
        ("data.max_tokens=2", ["data.max_tokens=2", "raise data.max_tokens"]),
        ("data.batch_size=8000", ["data.batch_size=8000", "data.path="]),
        ("resume=elsewhere.ckpt", ["resume=elsewhere.ckpt", "auto or none"]),
        ("budget.flops=1", ["budget.flops=1", "does not pay for one step"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_possible(overrides, tmp_path, override, texts, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    refused([*overrides, override], tmp_path, *texts)


@pytest.mark.parametrize("timed", ["dry_run=true", "budget.hours=0.01"])
def test_a_batch_that_does_not_divide_is_refused_where_steps_are_timed_too(overrides, tmp_path, timed):
    refused([*overrides, timed, "trainer.accumulate=3"], tmp_path, "data.batch_size=8", "6 or 9")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", ".hidden"])
def test_a_name_that_would_lead_elsewhere_is_refused(overrides, name):
    with pytest.raises(RunError, match=f"name={re.escape(name)}: give the name of a folder, or null"):
        compose([*overrides, f"name='{name}'"])


@pytest.mark.parametrize("steps", ["10.5", "0", "0.5"])
def test_a_budget_of_a_part_of_a_step_is_refused(overrides, steps):
    with pytest.raises(RunError, match=f"budget.steps={steps}: give a whole number of at least 1, or null"):
        compose([*overrides, f"budget.steps={steps}"])


def test_two_budgets_are_one_too_many(overrides, tmp_path):
    refused(
        [*overrides, "budget.steps=5", "budget.examples=100"],
        tmp_path,
        "budget has steps=5, examples=100",
        "one of them",
    )


def test_a_missing_key_is_named():
    with pytest.raises(RunError, match=r"no value for data\.path: give data\.path=\.\.\."):
        compose(["data=text_files"])


def test_an_objective_on_data_of_the_other_modality_is_refused_before_anything_is_read(tmp_path, overrides):
    text = ["objective=masked_language", "data=digits", "backbone=bert_tiny"]
    refused(text, tmp_path, "MaskedLanguage learns from text", "data=Digits is image", "choose three of one kind")
    plain = [override for override in overrides if not override.startswith("backbone")]
    refused([*plain, "backbone=resnet18"], tmp_path, "backbone=TorchvisionBackbone reads image")


@pytest.mark.parametrize("part", ["preprocess", "data", "backbone", "objective", "collate", "optimizer", "trainer"])
def test_a_part_that_says_no_class_or_none_that_is_there_is_named(part, overrides, tmp_path):
    refused([*overrides, f"~{part}._target_"], tmp_path, f"{part}={{", "has no _target_", "GROUP=NAME")
    refused([*overrides, f"{part}._target_=pretraining.nothing.There"], tmp_path, "pretraining.nothing")


@pytest.mark.parametrize("run", ["dry_run=false", "dry_run=true"])
def test_what_a_backbone_cannot_compute_is_refused(tmp_path, run):
    images = ["objective=simclr", "data=digits", "data.batch_size=16", "trainer.precision=fp32", "probe=none"]
    images += ["logger.wandb.mode=disabled", "logger.progress=false", "backbone=resnet_tiny"]
    refused([*images, run, "trainer.activation_checkpointing=true"], tmp_path, "TorchvisionBackbone has no activation")


@pytest.mark.parametrize(
    ("backbone", "texts"),
    [
        (
            ["backbone=vit_tiny", "preprocess.size=10"],
            ["'image_size': 10, 'patch_size': 4", "a multiple of patch_size"],
        ),
        (["backbone=timm", "backbone.name=vit_tiny_patch16_224"], ["8 x 8", "of 16 x 16: choose another preprocess"]),
        (["backbone=timm", "backbone.name=crossvit_9_240"], ["does not take images of 8 x 8 pixels (", "Kernel size"]),
    ],
)
def test_images_of_a_size_that_a_network_does_not_take_are_refused(tmp_path, backbone, texts):
    pytest.importorskip("timm")
    images = ["objective=simclr", "data=digits", "data.batch_size=16", "trainer.precision=fp32", "probe=none"]
    refused([*images, "logger.progress=false", "dry_run=true", *backbone], tmp_path, *texts)


def test_a_path_that_does_not_exist_or_is_empty_is_named(overrides, tmp_path):
    refused([*overrides, f"data.path={tmp_path}/none-*.txt"], tmp_path, "data.path", "none-*.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    refused([*overrides, f"data.path={empty}"], tmp_path, "empty")


def test_bad_utf8_is_named_with_its_place(overrides, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"A fine sentence.\n\nAnother \xff\xfe one.\n" * 5)
    refused([*overrides, f"data.path={bad}"], tmp_path, "bad.txt", "UTF-8")


def test_a_truncated_parquet_file_is_named(overrides, tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 but not much of it")
    refused([*overrides, f"data.path={bad}"], tmp_path, "bad.parquet")


def test_a_run_directory_that_holds_a_run_is_left_alone(overrides, finished):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError, match="already holds a run: add resume=auto to continue it, or choose another run_dir"
    ):
        main(compose([*overrides, f"run_dir={finished}"]))
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished.rglob("*") if path.is_file()
    }


def test_a_directory_of_something_else_is_left_alone(overrides, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        main(compose([*overrides, f"run_dir={tmp_path}"]))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_resume_under_another_configuration_is_refused_with_the_difference(overrides, finished):
    changed = [
        *overrides,
        "trainer.max_steps=4",
        "collate.fraction=0.3",
        "data.workers=1",
        f"run_dir={finished}",
        "resume=auto",
    ]
    with pytest.raises(RunError) as caught:
        main(compose(changed))
    assert "collate.fraction: 0.15 before, 0.3 now" in str(caught.value)
    assert "workers" not in str(caught.value) and "max_steps" not in str(caught.value)


# -- hand-offs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(finished, tmp_path):
    import shutil

    shutil.copytree((finished / "handoff" / "last").resolve(), tmp_path / "copy")
    return tmp_path / "copy"


def test_a_whole_hand_off_is_read(copy):
    assert handoff.read(str(copy)).card["origin"]["objective"] == "MaskedLanguage"


def test_a_hand_off_with_a_missing_file_is_refused(copy):
    (copy / "config.json").unlink()
    with pytest.raises(HandoffError, match=r"lacks config\.json: copy the whole directory again"):
        handoff.read(str(copy))


def test_a_hand_off_with_an_altered_file_is_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(HandoffError, match=r"model\.safetensors was altered"):
        handoff.read(str(copy))


def test_a_hand_off_with_a_pickled_file_is_refused(copy):
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(HandoffError, match=r"pytorch_model\.bin, which may be pickled code"):
        handoff.read(str(copy))


def test_a_hand_off_that_names_foreign_code_is_refused(copy):
    card = json.loads((copy / "handoff.json").read_text())
    for target in (
        "os.system",
        "pretraining.text.backbones.transformers_model.torch",
        "pretraining.runs.directory.RunDirectory",
        "pretraining.text.tokenizer.TextPreprocess",
    ):
        card["towers"]["text"]["backbone"]["_target_"] = target
        (copy / "handoff.json").write_text(json.dumps(card))
        with pytest.raises(HandoffError, match="refused"):
            handoff.read(str(copy))


def test_a_missing_weight_is_an_error_not_a_random_layer(copy):
    from safetensors.torch import load_file

    from pretraining.cache import sha256

    weights = load_file(copy / "model.safetensors")
    weights.pop("encoder.layer.0.attention.self.query.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    card = json.loads((copy / "handoff.json").read_text())
    card["sha256"]["model.safetensors"] = sha256(copy / "model.safetensors")
    (copy / "handoff.json").write_text(json.dumps(card))
    with pytest.raises(HandoffError, match=r"encoder\.layer\.0\.attention\.self\.query\.weight"):
        handoff.read(str(copy))


def test_an_unknown_version_and_no_hand_off_at_all_are_refused(copy, finished):
    card = json.loads((copy / "handoff.json").read_text())
    (copy / "handoff.json").write_text(json.dumps(card | {"version": 99}))
    with pytest.raises(HandoffError, match="has format version 99, this release reads 2 and 3"):
        handoff.read(str(copy))
    with pytest.raises(HandoffError, match="name its handoff/last"):
        handoff.read(str(finished))


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_says_one_line_and_exits_with_2(finished):
    ended = run_module("pretraining", "-m", "seed=1,2", f"run_dir={finished}")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: run_dir=") and "would be shared by every job of this sweep" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({}, 1),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 1),
        ({"RANK": "1", "LOCAL_RANK": "1"}, 0),
        ({"RANK": "2", "LOCAL_RANK": "0"}, 1),  # on another machine, which may lack what the first has
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, 0),
        ({"RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "local"}, 1),  # kept by who started it
    ],
)
def test_a_mistake_that_all_ranks_find_is_said_by_one_of_each_machine(environment, lines, monkeypatch, capsys):
    for name in ("RANK", "LOCAL_RANK", "SLURM_LOCALID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for ending in (configuration.exit_cleanly, ending_on_mistakes):
        with pytest.raises(SystemExit) as ended, ending():
            raise RunError("no such file")
        assert ended.value.code == 2 and capsys.readouterr().err == "error: no such file\n" * lines


def test_what_one_rank_alone_meets_is_said_by_it(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(configuration, "is_distributed", lambda: True)
    with pytest.raises(SystemExit), configuration.exit_cleanly():
        raise RunError("out of memory")
    assert capsys.readouterr().err == "error: out of memory\n"


# -- what a failed start leaves ----------------------------------------------------------------------------------------


def test_a_run_that_fails_before_its_first_step_leaves_no_directory(overrides, tmp_path, monkeypatch):
    def fail(*_):
        raise RunError("no luck")

    monkeypatch.setattr("pretraining.launch.train_parts", fail)
    refused(overrides, tmp_path, "no luck")


def test_sweeps_of_one_second_have_directories_of_their_own(monkeypatch):
    monkeypatch.setattr(configuration.time, "strftime", lambda _: "20260101-000000")
    names = set()
    for process in (1, 2):
        monkeypatch.setattr(configuration.os, "getpid", lambda process=process: process)
        names.add(configuration.this_moment())
    assert len(names) == 2


def test_views_of_a_dry_run_are_in_a_directory_of_their_own(tmp_path, capsys):
    places = []
    for _ in range(2):
        shape = ["objective=simclr", "data.batch_size=8", "trainer.precision=fp32"]
        main(compose([*shape, "dry_run=true", f"run_dir={tmp_path / 'run'}"]))
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("views"))
        places.append(Path(line.split()[1]))
    assert places[0] != places[1] and all(place.parent.stat().st_mode & 0o77 == 0 for place in places)
