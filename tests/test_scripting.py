"""Pretraining from a script: the runs of the command line, recorded in the same words, refused in the same."""

import json
import os
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import pretraining as pt
from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.runs.described import described
from pretraining.runs.directory import differences, read_config
from pretraining.text.tokenizer import TextPreprocess
from tests.runs import history, text_overrides, write_corpus

QUIET = {"wandb": {"mode": "disabled"}, "progress": False}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    return text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir)


@pytest.fixture(scope="module")
def typed(overrides, tmp_path_factory):
    """Carry out a run of the command line."""
    path = tmp_path_factory.mktemp("typed") / "run"
    return main(compose([*overrides, "trainer.max_steps=4", "trainer.log_every=2", f"run_dir={path}"]))


def by_hand(config, **changed):
    """Build the parts of a configuration by their constructors alone."""

    def part(name, **more):
        return hydra.utils.instantiate(config[name], _convert_="all", _partial_=True)(**more)

    data = part("data")
    preprocess = part("preprocess").fit(data)
    torch.manual_seed(config.seed)
    told = data.modality.backbone_arguments(preprocess)
    objective = part("objective", backbone=part("backbone", **told), optimizer=part("optimizer"), **changed)
    return objective, data, part("collate", preprocess=preprocess)


def settings_of(config):
    trainer = {name: value for name, value in config.trainer.items() if name != "_target_"}
    return {"trainer": pt.TrainerSettings(**trainer), "logger": QUIET, "probe": None}


def test_parts_made_by_hand_are_recorded_as_the_command_line_records_them_and_give_its_numbers(typed, tmp_path):
    config = read_config(typed / "config.yaml")
    path = pt.fit(*by_hand(config), run_dir=tmp_path / "run", **settings_of(config))
    mine = read_config(path / "config.yaml")
    assert differences(config, mine) == []
    assert history(path) == history(typed)
    recipes = [json.loads((run / "handoff/last/handoff.json").read_text())["recipe"] for run in (path, typed)]
    assert recipes[0] == recipes[1] and recipes[0]["objective"]["_target_"].endswith("MaskedLanguage")


def test_resume_refuses_other_parts_and_takes_the_same(typed, tmp_path):
    config = read_config(typed / "config.yaml")
    settings = settings_of(config) | {"run_dir": tmp_path / "run"}
    pt.fit(*by_hand(config), **settings)
    with pytest.raises(RunError, match=r"objective\.boundary_weight: 0\.0 before, 0\.5 now"):
        pt.fit(*by_hand(config, boundary_weight=0.5), **settings, resume="auto")
    with pytest.raises(RunError, match="already holds a run: add resume=auto"):
        pt.fit(*by_hand(config), **settings)
    assert pt.fit(*by_hand(config), **settings, resume="auto") == tmp_path / "run"


class Heard(pl.loggers.logger.Logger):
    """A Lightning logger of one's own."""

    name, version, experiment = "heard", "0", None

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


SMALL = ("backbone.width=4", "data.batch_size=64", "trainer.max_steps=3", "trainer.precision=fp32", "probe=none")


def test_a_recipe_is_the_run_of_the_command_line(tmp_path):
    words = ("simclr_digits", *SMALL)
    recipe = pt.recipe(*words)
    typed = compose([f"experiment={words[0]}", *SMALL])
    assert recipe.config == typed and str(recipe) == OmegaConf.to_yaml(typed)
    logger = Heard()
    settings = {"logger": QUIET, "loggers": [logger], "ema": 0.9, "seed": 3, "name": "mine", "budget": {"steps": 2}}
    path = pt.fit(recipe, run_dir=tmp_path / "hand", **settings)
    more = ["logger.wandb.mode=disabled", "logger.progress=false", "ema=0.9", "seed=3", "name=mine", "budget.steps=2"]
    other = main(compose([f"experiment={words[0]}", *SMALL, *more, f"run_dir={tmp_path / 'typed'}"]))
    configs = [(run / "config.yaml").read_text().replace(str(run), "RUN") for run in (path, other)]
    assert configs[0] == configs[1]
    assert history(path) == history(other) and json.loads((path / "metrics.json").read_text())["steps"] == 2
    assert {step for step, _ in logger.rows} == {2} and any("train/loss" in row for _, row in logger.rows)
    assert (path / "overrides.txt").read_text().split() == [f"experiment={words[0]}", *SMALL]
    assert recipe.config.seed == 1, "fit changes no recipe"


def test_recipes_are_listed_with_what_they_are():
    listed = pt.recipes()
    assert len(listed) > 50 and listed["simclr_digits"].startswith("SimCLR on scikit-learn's handwritten digits")
    assert all(listed.values())


def test_a_dry_run_of_a_script_shows_and_leaves_nothing(tmp_path, capsys):
    path = pt.fit(pt.recipe("objective=simclr", *SMALL), run_dir=tmp_path / "run", dry_run=True, logger=QUIET)
    assert path == tmp_path / "run" and not path.exists() and "FLOP per step" in capsys.readouterr().out


def test_loggers_are_named_as_on_the_command_line(tmp_path):
    small = [*SMALL, "trainer.max_steps=1", "probe=none"]
    own = {
        "_target_": "pytorch_lightning.loggers.CSVLogger",
        "save_dir": Path("{run_dir}/loggers"),
        "name": "",
        "version": "",
    }
    logger = {**QUIET, "others": {"mine": own}, "environment": {"A_VARIABLE_OF_MINE": 1}}
    run = pt.fit(pt.recipe("objective=simclr", *small), run_dir=tmp_path / "own", logger=logger)
    assert (run / "loggers" / "metrics.csv").is_file() and os.environ.pop("A_VARIABLE_OF_MINE") == "1"
    objective, data, collate = by_hand(pt.recipe("objective=simclr", *SMALL).config)
    trainer = pt.TrainerSettings(max_steps=1, precision="fp32")
    run = pt.fit(objective, data, collate, run_dir=tmp_path / "csv", logger="csv", trainer=trainer, probe=None)
    assert (run / "metrics.csv").is_file() and not (run / "wandb").exists()
    words = ["logger=mlflow", "logger.wandb.mode=disabled", "logger.progress=false"]
    run = pt.fit(pt.recipe("objective=simclr", *small, *words), run_dir=tmp_path / "other", logger="csv")
    told = read_config(run / "config.yaml").logger
    assert told.wandb.mode == "disabled" and not told.progress and not told.others, "its settings hold, the name goes"


def test_a_run_that_is_repeated_takes_the_settings_of_fit(tmp_path):
    small = [*SMALL, "trainer.max_steps=1", "probe=none"]
    first = pt.fit(pt.recipe("objective=simclr", *small, "seed=5"), run_dir=tmp_path / "first", logger=QUIET)
    again = pt.recipe(f"from_run={first}", "data.batch_size=32")
    assert "batch_size: 32" in str(again) and again.config.seed == 5
    assert not pt.fit(again, run_dir=tmp_path / "dry", dry_run=True).exists()
    second = pt.fit(again, run_dir=tmp_path / "second", seed=6)
    told = read_config(second / "config.yaml")
    assert second == tmp_path / "second" and (told.seed, told.data.batch_size, told.trainer.max_steps) == (6, 32, 1)


def fit_digits(**settings):
    objective, data, collate = by_hand(pt.recipe("objective=simclr", *SMALL).config)
    return pt.fit(objective, data, collate, **{"logger": QUIET, "run_dir": "unused", **settings})


def fit_digits_with(data):
    objective, _, collate = by_hand(pt.recipe("objective=simclr", *SMALL).config)
    return pt.fit(objective, data, collate, logger=QUIET, run_dir="unused")


def fit_digits_by(collate=None, in_channels=1):
    """Fit parts of which one is for other inputs."""
    backbone = pt.TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=4, in_channels=in_channels)
    _, data, images = by_hand(pt.recipe("objective=simclr", *SMALL).config)
    views = pt.Views(crop=pt.Crop(size=8), blur=pt.Blur(kernel_size=3), output=pt.Output(mean=[0.5], std=[0.5]))
    objective = pt.SimCLR(backbone=backbone, optimizer=pt.AdamW(), views=views)
    return pt.fit(objective, data, collate or images, logger=QUIET, run_dir="unused", trainer=FEW)


def collate_of_texts():
    tokenizer = pt.WordPiece().train(iter(["a text of some words"] * 9))
    return pt.MaskTokens(preprocess=TextPreprocess(tokenizer=tokenizer), max_tokens=16)


FEW = pt.TrainerSettings(max_steps=1, precision="fp32")
MISTAKES = {
    "name": (
        lambda: pt.recipe("simclr_digit"),
        "experiment=simclr_digit: there is no such option: did you mean simclr",
    ),
    "setting": (lambda: pt.recipe("objective=simclr", "trainer.max_step=3"), "did you mean trainer.max_steps"),
    "value": (lambda: pt.recipe("optimizer.peak_lr=-1"), "optimizer.peak_lr=-1: "),
    "two": (lambda: pt.fit(pt.recipe(), data=pt.StdlibDocs), "a recipe with data or a collate beside it"),
    "alone": (lambda: pt.fit(None), "an objective without data or collate"),
    "a word": (lambda: pt.fit("simclr_digits"), "give pt.recipe('simclr_digits')"),
    "no data": (lambda: fit_digits_with(data=[1, 2]), "got list as data, which has no modality"),
    "settings": (lambda: fit_digits(trainer={"max_steps": 2}), "got dict as trainer=: give TrainerSettings(...)"),
    "one logger": (lambda: fit_digits(loggers=Heard()), "got Heard as loggers=: give a list"),
    "a name among loggers": (lambda: fit_digits(loggers=["csv"]), "got str among loggers=: give Lightning loggers"),
    "no such logger": (lambda: fit_digits(logger="tensorbord"), "did you mean tensorboard"),
    "no such setting of it": (lambda: fit_digits(logger={"wandbb": {}}), "it has csv, progress, wandb, others"),
    "no probe": (lambda: fit_digits(probe="none"), "got probe='none': give ProbeSettings(...), None, or 'auto'"),
    "a number": (lambda: pt.recipe(3), "experiment=3: give the name of one of its options"),
    "a mapping": (lambda: pt.recipe("simclr_digits", {"seed": 3}), "give settings as name=value"),
    "other data": (lambda: fit_digits_with(data=pt.StdlibDocs()), "choose three of one kind"),
    "other collate": (
        lambda: fit_digits_by(collate_of_texts()),
        "got a MaskTokens whose preprocess, TextPreprocess, is for text, and data of image: give a collate for image",
    ),
    "other channels": (
        lambda: fit_digits_by(in_channels=3),
        "got a TorchvisionBackbone with in_channels=3, and a preprocess with 1: build one of them anew",
    ),
    "a tokenizer's size": (lambda: pt.WordPiece(vocab_size=-4), "preprocess.vocab_size=-4: give a whole number"),
    "texts of a tokenizer": (lambda: pt.WordPiece().fit(["a text"]), "got list as data: give texts as TextFiles"),
    "budget": (lambda: pt.fit(pt.recipe(), budget={"flop": 1}), "it has steps, examples, units, tokens, flops, hours"),
    "ema": (lambda: pt.fit(pt.recipe(), ema=2.0), "ema=2.0: "),
    "ranks": (
        lambda: fit_digits(trainer=pt.TrainerSettings(strategy="ddp", devices=2)),
        "start this script by torchrun --nproc-per-node=2",
    ),
    "batch": (lambda: fit_digits(trainer=pt.TrainerSettings(accumulate=3)), "data.batch_size=64"),
    "probe": (lambda: fit_digits(probe=pt.QualitySettings()), "probe=pairs is not for image"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_of_one_line_and_leaves_nothing(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, told = MISTAKES[mistake]
    with pytest.raises(RunError) as caught:
        make()
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_objective_that_was_trained_is_not_trained_again_without_a_word(tmp_path):
    parts = by_hand(pt.recipe("objective=simclr", *SMALL).config)
    settings = {"logger": QUIET, "trainer": pt.TrainerSettings(max_steps=1, precision="fp32")}
    pt.fit(*parts, dry_run=True, run_dir=tmp_path / "dry", **settings)
    pt.fit(*parts, run_dir=tmp_path / "one", **settings)
    with pytest.raises(RunError, match=r"trained by an earlier fit.*build it again, or name a checkpoint"):
        pt.fit(*parts, run_dir=tmp_path / "two", **settings)
    assert not (tmp_path / "two").exists()


def test_processes_that_fail_are_an_error_and_no_exit(monkeypatch, tmp_path):
    monkeypatch.setattr("pretraining.launch.run_ranks", lambda *_: 2)
    two = pt.recipe("objective=simclr", "trainer=ddp", "trainer.accelerator=cpu")
    with pytest.raises(RunError, match="a process of this run has ended with exit code 2, and said why above"):
        pt.fit(two, run_dir=tmp_path / "run")
    with pytest.raises(RunError, match=r"loggers of this process, and trainer\.devices=2, which starts others"):
        pt.fit(two, run_dir=tmp_path / "run", loggers=[Heard()])


def test_a_part_without_words_for_a_setting_is_described_by_the_others():
    class Mine:
        def __init__(self, size, table, path=None):
            self.size, self.table, self.path = size, table, path

    told = described(Mine(3, torch.zeros(2), tmp_path := Path("a/b")))
    assert told == {"_target_": f"{__name__}.{Mine.__qualname__}", "size": 3, "path": str(tmp_path)}
