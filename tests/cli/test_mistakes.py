"""What is mistyped is answered in a line that says what was meant, before torch is imported and in under a second."""

import subprocess
import sys

import pytest

from pretraining.cli.compose import compose
from pretraining.errors import RunError


def said(*overrides, root="pretrain"):
    with pytest.raises(RunError) as caught:
        compose(overrides, root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("optimizer.peak_lrr=1", "there is no setting optimizer.peak_lrr: did you mean optimizer.peak_lr?"),
        ("peak_lr=1", "there is no setting peak_lr: did you mean optimizer.peak_lr?"),
        ("lr=1e-3", "there is no setting lr: did you mean optimizer.peak_lr?"),
        ("optimizer.lr=1e-3", "there is no setting optimizer.lr: did you mean optimizer.peak_lr?"),
        ("optimizer.warmup=5", "there is no setting optimizer.warmup: did you mean optimizer.warmup_from or "
                               "optimizer.warmup_steps?"),
        ("budget={days: 3}", "there is no setting budget.days: --help lists the settings"),
        ("optimiser=adamw", "there is no setting optimiser: did you mean optimizer?"),
        ("objective=mask_language", "there is no such option: did you mean masked_language?"),
        ("trainer=tpu", "there is no such option: choose one of cpu, ddp, fsdp, gpu"),
        ("seed.x=3", "there is no setting seed.x: did you mean seed?"),
        ("+seed=3", "seed is a setting already: leave the + out"),
        ("~sed", "there is no setting sed: did you mean seed?"),
        ("trainer=null", "give the name of one of its options, as --help lists them"),
        ("trainer=[null]", "give the name of one of its options, as --help lists them"),
        ("--trainer.max_steps=10", "there is no such option: settings have no dashes: trainer.max_steps=VALUE"),
        ("foo", "give settings as name=value; --help lists them"),
        ("data.path=a b(1).txt", "cannot be read: close brackets and quotes, or write a text in quotes: "
                                 "\"data.path='a b(1).txt'\""),
        ("optimizer.betas=[0.9", "cannot be read: close brackets and quotes, or write a text in quotes: "
                                 "\"optimizer.betas='[0.9'\""),
        ("seed=1,2", "several values: add -m to run each of them, or write a list as seed=[1,2], a text as "
                     "\"seed='1,2'\""),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_in_one_line(override, answer):
    assert said(override) == f"{override}: {answer}"


def test_a_reference_to_no_setting_is_named():
    assert said("run_dir=runs/${sed}") == "${sed}: there is no setting sed: did you mean seed?"
    lost = "preprocess.sides.image.channels"  # which another preprocessing has, so that it is known
    words = ["objective=clip", "data=image_text", "data.path=x", "preprocess@preprocess.sides.image=speech"]
    told = f"there is no setting {lost}: give data.decoding.channels itself, or {lost}"
    assert said(*words) == f"${{{lost}}}: {told}"


def test_advised_quotes_are_read_as_the_text_itself():
    for path in ("a b(1).txt", "it's, well.txt", 'say "so"=1.txt', "x$HOME"):
        quoted = said("data=text_files", f"data.path={path}=,").rpartition("in quotes: ")[2]
        shell = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True).stdout
        assert compose(["data=text_files", shell]).data.path == f"{path}=,"


def test_settings_of_chosen_options_are_known_and_a_missing_choice_is_listed():
    assert said("objective=simclr", "objective.temprature=0.1").endswith("did you mean objective.temperature?")
    assert said("handoff=x", "task=docs_topik", root="finetune").endswith("did you mean docs_topic?")
    answer = said("handoff=x", root="finetune")
    assert "give task=NAME, one of ade20k, ag_news, " in answer and "more, which --help lists" in answer
    assert len(answer) < 600
    assert said("study=firt_look", root="study").endswith("did you mean first_look?")
    assert said("handoff=x", "tsk=docs_topic", root="finetune").endswith("no setting tsk: did you mean task?")


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("study.budget.steps=60", "budget", {"steps": 60}),
        ("study.budget={steps: 60}", "budget", {"steps": 60}),
        ("study.handoffs={ready: 'hf:some/bert'}", "handoffs", {"ready": "hf:some/bert"}),
        ("study.tune={trials: 2, space: {seed: [1, 2]}}", "tune", {"trials": 2, "space": {"seed": [1, 2]}}),
    ],
)
def test_what_a_study_leaves_open_is_given_on_the_command_line(given, key, value):
    study = compose(["study=first_look", given], root="study").study
    assert {name: part for name, part in study[key].items() if part is not None} == value


def ended(*words):
    command = [sys.executable, "-X", "importtime", "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    imports, rest = [], []
    for line in done.stderr.splitlines():
        (imports if line.startswith("import time:") else rest).append(line)
    modules = {line.rpartition("|")[2].strip() for line in imports}
    return done.returncode, done.stdout, rest, modules


@pytest.mark.parametrize(
    "words",
    [
        ["pretraining", "optimizer.peak_lrr=1"],
        ["pretraining", "trainer.clip_norm=-1"],
        ["pretraining", "--hlep"],
        ["pretraining", "-m", "optimizer.peak_lr=1e-3,-1"],
        ["finetuning", "handoff=x", "task=docs_topic", "mode=linear_prob"],
        ["pretraining.evaluate", "handoff=x", "data=stdlib_docs", "splitt=test"],
        ["pretraining.data.prepare", "data=stdlib_docs", "splits=train"],
        ["finetuning.predict", "run_dirr=x"],
        ["finetuning.evaluate", "runs/x"],
        ["finetuning.export"],
        ["pretraining.export", "to=onnx"],
        ["experiments", "study=firt_look"],
        ["experiments", "--studdy=first_look"],
        ["experiments.search", "optimizer.peak_lrr=1e-3,1e-2"],
        ["experiments.dashboard", "studdy=first_look"],
    ],
    ids=" ".join,
)
def test_a_command_answers_a_mistake_before_torch_is_imported(words):
    code, _, lines, modules = ended(*words)
    assert code == 2
    assert 1 <= len(lines) <= 2 and "Traceback" not in " ".join(lines), lines
    assert "torch" not in modules


COMMANDS = [
    *("pretraining", "finetuning", "experiments", "pretraining.evaluate", "pretraining.data.prepare"),
    *("finetuning.predict", "finetuning.evaluate", "finetuning.export", "experiments.ls", "experiments.search"),
    *("experiments.wandb_sync", "experiments.wandb_sweep", "experiments.dashboard", "experiments.report"),
    *("pretraining.runs.snapshot", "pretraining.snapshot", "pretraining.export"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_that_imports_nothing_slow_and_does_nothing(command):
    code, printed, _, modules = ended(command, "--help")
    assert code == 0 and len(printed) > 80 and "torch" not in modules


def test_the_values_of_a_sweep_are_checked_before_its_first_run():
    code, _, lines, _ = ended("pretraining", "-m", "trainer.max_steps=1,2", "data.batch_size=4,8,0")
    assert code == 2
    assert lines == ["error: data.batch_size=0: give a whole number of at least 1"]
