"""Each setting has a type and a range, declared once: what is outside is refused by name before anything is built."""

import pytest

from experiments.study.spec import StudyError
from experiments.study.spec import check as check_study
from finetuning.modes import LinearProbe, Lora
from pretraining.cli.compose import compose
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError
from pretraining.optim.optimizers import SGD
from pretraining.settings import check

FINETUNE = ["handoff=x", "task=text_classification", "data.path=x"]
GENERATE = ["handoff=x", "task=generation", "data.path=x"]


def refused(root, *overrides):
    with pytest.raises(RunError) as caught:
        compose(overrides, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        # ruin quietly
        ("trainer.clip_norm=-1", "give a number above 0, or null"),
        ("trainer.clip_norm=0", "give a number above 0, or null"),
        ("trainer.clip_norm=.inf", "give a number above 0, or null"),
        ("ema=1", "give a number above 0 and below 1, or null"),
        ("ema=1.5", "give a number above 0 and below 1, or null"),
        ("optimizer.final_fraction=-1", "give a number from 0 to 1"),
        ("optimizer.final_fraction=2", "give a number from 0 to 1"),
        ("optimizer.weight_decay=-1", "give a number of at least 0"),
        ("data.eval_batch_size=-1", "give a whole number of at least 1"),
        ("overfit_batches=-1", "give a whole number of at least 0"),
        ("trainer.timeout=0", "give a number above 0"),
        ("trainer.max_steps=2.5", "give a whole number of at least 1"),
        ("trainer.max_steps=true", "give a whole number of at least 1"),
        # ended in a traceback
        ("trainer.checkpoint_every=-1", "give a whole number of at least 0"),
        ("trainer.keep_last=0", "give a whole number of at least 1"),
        ("optimizer.betas=[0.9]", "give a list of 2 numbers of at least 0 and below 1"),
        ("data.workers=-1", "give a whole number of at least 0"),
        ("seed=1.5", "give a whole number from 0 to 4294967295"),
        ("seed=null", "give a whole number from 0 to 4294967295"),
        ("optimizer.peak_lr=abc", "give a number above 0"),
        ("preprocess.vocab_size=0", "give a whole number of at least 1"),
        ("backbone.config.hidden_dropout_prob=2", "give a number of at least 0 and below 1, or null"),
        ("trainer.max_steps=abc", "give a whole number of at least 1"),
        ("trainer.strategy=fsdpp", "choose single, ddp or fsdp"),
        ("trainer.compile=yes", "give true or false"),
        ("budget=5", "give its settings by their names"),
        ("run_dir=5", "give a text, or null (if 5 is one, in quotes: \"run_dir='5'\")"),
        ("logger.wandb.tags=abc", "give a list of texts, such as logger.wandb.tags=[abc]"),
    ],
)
def test_a_pretraining_setting_outside_its_range_is_named_with_it(override, wanted):
    assert refused("pretrain", override) == f"{override}: {wanted}"


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["task.inputs.max_tokens=0"], "give a whole number of at least 1"),
        (["task.dropout=2"], "give a number of at least 0 and below 1"),
        (["task.select=null"], "give a text"),
        (["shots=0"], "give a whole number of at least 1, or null"),
        (["mode=lora", "mode.rank=0"], "give a whole number of at least 1"),
        (["mode=lora", "mode.scale=0"], "give a number above 0"),
        (["mode=lora", "mode.targets=query"], "give a list of texts, such as mode.targets=[query]"),
        (["mode=knn", "mode.k=0"], "give a whole number of at least 1"),
        (["mode=knn", "mode.temperature=0"], "give a number above 0"),
        (["mode=linear_probe", "mode.penalties=[.nan]"], "give a list of one or more numbers above 0"),
    ],
)
def test_a_finetuning_setting_outside_its_range_is_named_with_it(overrides, wanted):
    assert refused("finetune", *FINETUNE, *overrides).endswith(f": {wanted}")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("task.decoding.max_new_tokens=8.5", "give a whole number of at least 1"),
        ("task.decoding.length_penalty=.inf", "give a finite number"),
        ("task.decoding.top_p=0", "give a number above 0 and at most 1"),
        ("task.inputs.max_target_tokens=0", "give a whole number of at least 1"),
    ],
)
def test_what_writes_texts_is_checked_before_training(override, wanted):
    assert refused("finetune", *GENERATE, override).endswith(wanted)


def test_other_commands_check_their_settings_too():
    assert "splits=[validation]" in refused("prepare", "data=stdlib_docs", "splits=validation")
    assert "train, validation or test" in refused("evaluate", "handoff=x", "data=stdlib_docs", "split=dev")


def test_settings_given_in_python_have_the_same_ranges():
    rates = {"peak_lr": 0.1, "warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "weight_decay": 0.0}
    with pytest.raises(RunError, match=r"trainer\.clip_norm=-1: give a number above 0, or null"):
        TrainerSettings(clip_norm=-1)
    with pytest.raises(RunError, match=r"mode\.targets=query: give a list of texts"):
        Lora(rank=2, scale=1.0, targets="query")  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"mode\.penalties=\[nan\]"):
        LinearProbe(penalties=[float("nan")], standardize=True)
    with pytest.raises(ValueError, match=r"give optimizer\.momentum above 0"):
        SGD(**rates, momentum=0.0, nesterov=True)


class Momentum(SGD):
    """A class of another package."""


def test_a_class_of_another_package_has_the_ranges_that_it_inherits():
    rates = {"peak_lr": 0.1, "warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "weight_decay": 0.0}
    with pytest.raises(RunError, match=r"optimizer\.momentum=2: give a number of at least 0 and below 1"):
        Momentum(**rates, momentum=2, nesterov=False)


def test_parts_of_parts_are_checked_wherever_they_stand():
    assert refused("pretrain", "objective=dino", "objective.momentum.shape=stairs").endswith(
        "choose cosine, linear or exponential"
    )
    assert refused("pretrain", "objective=dino", "objective.local_views.crop.size=0").endswith("of at least 1")
    assert refused("pretrain", "objective=byol", "objective.predictor.layers=-1").endswith("of at least 1")
    assert refused("pretrain", "objective=clip", "backbone.towers.image.width=0").endswith("of at least 1")
    assert refused("pretrain", "objective=wav2vec2", "objective.quantiser.codes=0").endswith("of at least 1")


def test_keys_of_other_packages_are_left_alone_but_for_what_all_data_have():
    check({"objective": {"_target_": "mine.Objective", "temperature": -1, "part": {"weight": "soft"}}})
    with pytest.raises(RunError, match=r"data\.batch_size=0"):
        check({"data": {"_target_": "mine.Data", "batch_size": 0}})


def study(**changes):
    pretrain = {"arm": {"overrides": ["objective=simclr"], "grid": {"data.batch_size": [8, 16]}}}
    finetune = {"digits": {"overrides": ["task=digits"], "modes": ["full"], "arms": ["arm"], "shots": [5]}}
    whole = {"name": "s", "question": "?", "workers": 1, "budget": {}, "handoffs": {}, "references": []}
    whole |= {"pretraining_seeds": [1], "finetuning_seeds": [1], "pretrain": pretrain, "finetune": finetune}
    for key, value in changes.items():
        *places, last = key.split("__")
        node = whole
        for place in places:
            node = node[place]
        node[last] = value
    return whole


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (
            {"finetune__digits__modes": "linear_probe"},
            "study.finetune.digits.modes=linear_probe: give a list of one or more texts, which all differ, such as "
            "study.finetune.digits.modes=[linear_probe]",
        ),
        (
            {"finetune__digits__arms": "simclr"},
            "study.finetune.digits.arms=simclr: give a list of texts, or null",
        ),
        (
            {"finetune__digits__shots": 5},
            "digits.shots=5: give a list of one or more whole numbers of",
        ),
        (
            {"finetune__digits__fractions": [2], "finetune__digits__shots": None},
            "numbers above 0 and at most 1",
        ),
        ({"finetune__digits__overrides": "task=digits"}, "give a list of texts"),
        ({"pretrain__arm__overrides": "objective=simclr"}, "give a list of texts"),
        ({"pretrain__arm__grid": {"data.batch_size": 8}}, "study.pretrain.arm.grid.data.batch_size=8: give a list"),
        ({"pretrain__arm": 5}, "study.pretrain.arm=5: give its settings by their names"),
        ({"pretraining_seeds": 1}, "study.pretraining_seeds=1: give a list of one or more whole numbers"),
    ],
)
def test_a_study_tells_lists_from_texts_and_numbers(changes, answer):
    check_study(study())
    with pytest.raises(StudyError) as caught:
        check_study(study(**changes))
    assert answer in str(caught.value)
