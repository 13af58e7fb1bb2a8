"""Pretraining from a script or a notebook: recipes of conf/, or parts that were built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pretraining.cli.configuration import CONF, check_modalities, compose, instantiate, settings_as_run_errors
from pretraining.cli.rerun import rerun
from pretraining.cli.scripts import check_loggers, named_logger, raising, refuse_ranks, with_settings
from pretraining.engine.memory import keep_freed_memory
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.objectives.base import Objective
from pretraining.parts import Made
from pretraining.runs.described import PLAIN, described

AUTO = "auto"  # the probe that the objectives of a modality have


@dataclass(frozen=True)
class Recipe:
    """A whole configuration of a run, and the words that it was asked for in; printed, it is the yaml."""

    config: DictConfig
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return OmegaConf.to_yaml(self.config)


def recipe(*words: str) -> Recipe:
    """Compose a recipe: the name of one (`recipes` lists them), or none, and settings as on the command line.

    `recipe("simclr_digits", "trainer.max_steps=20")` is what `python -m pretraining experiment=simclr_digits
    trainer.max_steps=20` runs. Raises `RunError` for a name or a setting that there is not, naming the nearest.
    """
    texts = list(map(str, words))  # what is no text is refused as the text that it is shown as
    overrides = [word if "=" in word or number else f"experiment={word}" for number, word in enumerate(texts)]
    with settings_as_run_errors():
        config = compose(overrides)
        if config.from_run is not None:  # here, such that what fit is given goes on top
            config = rerun(config, overrides)
        return Recipe(config, tuple(overrides))


def recipes() -> dict[str, str]:
    """List the recipes: what each one is, by its name."""
    found = sorted((CONF / "experiment").glob("[!_]*.yaml"))
    lines = {path.stem: path.read_text("utf-8").splitlines() for path in found}
    return {
        name: next(line.lstrip("# ") for line in said if not line.startswith("# @")) for name, said in lines.items()
    }


def fit(
    objective: Objective | Recipe, data: Any = None, collate: Any = None, *,
    run_dir: str | Path | None = None, trainer: TrainerSettings | None = None, seed: int | None = None,
    resume: str | None = None, ema: float | None = None, budget: Mapping[str, float] | None = None, probe: Any = AUTO,
    loggers: Sequence[Any] = (), logger: str | Mapping[str, Any] | None = None, dry_run: bool | None = None,
    overfit_batches: int | None = None, profile: bool | None = None, name: str | None = None, group: str | None = None,
) -> Path:  # fmt: skip
    """Pretrain a recipe, or an objective on data whose examples `collate` makes batches of; returns the run directory.

    Its `handoff/last` is what finetuning takes. A setting that is None is the recipe's, or that of conf/pretrain.yaml;
    all of them are those of the command line:

    - `run_dir`: None: runs/<name>-<time>. `resume`: none, auto, or a checkpoint; other parts are refused.
    - `trainer`: how it is computed. `seed`: of rows, masks, views and dropout (of weights: where there is a recipe).
    - `ema`: decay of an average of the weights. `budget`: one of steps, examples, units, tokens, flops and hours, such
      as `{"flops": 1e15}`, in place of the trainer's steps.
    - `probe`: settings of what watches the features, None: nothing, "auto": what a recipe has, and without one what
      the data's modality has.
    - `loggers`: Lightning loggers beside those of `logger`: a name in conf/logger, such as "tensorboard", or settings,
      such as `{"wandb": {"mode": "disabled"}, "progress": False}`.
    - `dry_run`: run one batch, show what would happen, leave nothing behind. `overfit_batches`: train on the first so
      many alone. `profile`: leave a trace. `name`, `group`: what the run is called, and what it belongs to.

    What a user can mend is a `RunError` of one line. A run that is told to stop saves and raises `SystemExit`.
    """
    keep_freed_memory()  # as the command does
    _check_kinds(trainer, loggers, probe)
    given: dict[str, Any] = {
        "run_dir": run_dir and str(run_dir),
        "seed": seed,
        "resume": resume and str(resume),
        "ema": ema,
    }
    given |= {"dry_run": dry_run, "overfit_batches": overfit_batches, "profile": profile, "name": name, "group": group}
    given |= {"trainer": None if trainer is None else described(trainer), "budget": budget}
    if probe != AUTO:
        given["probe"] = {} if probe is None else described(probe)
    with raising():
        asked, made = _asked(objective, data, collate, probe)
        if made is not None and made.objective.global_step > 0 and resume in (None, "none"):
            what = "this objective was trained by an earlier fit, and would go on from its weights"
            raise RunError(f"{what}: build it again, or name a checkpoint in resume=")
        config = with_settings(asked.config, given | {"logger": named_logger(logger, asked.overrides)})
        refuse_ranks(config, loggers)
        return main(config, asked.overrides, tuple(loggers), made)


def _check_kinds(trainer: Any, loggers: Any, probe: Any) -> None:
    """Refuse words and numbers where objects are needed."""
    if trainer is not None and not isinstance(trainer, TrainerSettings):
        raise RunError(f"got {type(trainer).__name__} as trainer=: give TrainerSettings(...)")
    check_loggers(loggers)
    if isinstance(probe, str) and probe != AUTO:
        raise RunError(f"got probe={probe!r}: give ProbeSettings(...), None, or 'auto'")


def _asked(objective: Any, data: Any, collate: Any, probe: Any) -> tuple[Recipe, Made | None]:
    """Take a recipe, or describe parts that were built by hand as one."""
    if isinstance(objective, Recipe):
        if data is not None or collate is not None:
            what = "got a recipe with data or a collate beside it"
            raise RunError(f"{what}: a recipe names both, as data= and objective=")
        return objective, None
    if isinstance(objective, str):
        raise RunError(
            f"got the text {objective!r}: give pt.recipe({objective!r}), or an objective, data and a collate"
        )
    if data is None or collate is None:
        raise RunError("got an objective without data or collate: give all three, or a recipe in their place")
    for part, given, needed in (
        ("objective", objective, "backbone"),
        ("data", data, "modality"),
        ("collate", collate, "preprocess"),
    ):
        if not hasattr(given, needed):
            what = f"got {type(given).__name__} as {part}, which has no {needed}"
            raise RunError(f"{what}: give one of the classes that conf/{part} names, or one of your own that has it")
    made = Made(objective, data, collate, _usual_probe(data) if probe == AUTO else probe)
    _check_fit(made)
    return Recipe(_config_of(made)), made


def _check_fit(made: Made) -> None:
    """Refuse parts of several kinds of data, and a backbone that was made for other inputs than the collate's."""
    check_modalities(made.classes)
    preprocess, kind = made.collate.preprocess, made.data.modality
    if getattr(preprocess, "modality", kind) != kind:
        what = f"got a {type(made.collate).__name__} whose preprocess, {type(preprocess).__name__}, is for"
        raise RunError(f"{what} {preprocess.modality}, and data of {kind}: give a collate for {kind}")
    backbone = made.objective.backbone
    known = described(backbone)
    for name, value in kind.backbone_arguments(preprocess).items():
        if isinstance(value, PLAIN) and known.get(name, value) != value:
            what = f"got a {type(backbone).__name__} with {name}={known[name]}, and a preprocess with {value}"
            raise RunError(f"{what}: build one of them anew, such that both have the same")


def _usual_probe(data: Any) -> Any:
    kind = data.modality.probes
    known = kind is not None and (CONF / "probe" / f"{kind}.yaml").is_file()  # not one of a modality of one's own
    return instantiate(compose([f"probe={kind}"]).probe) if known else None


def _config_of(made: Made) -> DictConfig:
    """Describe a run of parts that were built by hand, as a recipe describes one."""
    preprocess, backbone, optimizer = made.collate.preprocess, made.objective.backbone, made.objective.optimizer
    parts = {
        "objective": described(made.objective, without=("backbone", "optimizer")),
        "collate": described(made.collate, without=("preprocess",)),
        "data": described(made.data),
        "preprocess": described(preprocess),
        "backbone": described(backbone, without=made.data.modality.backbone_arguments(preprocess)),
        "optimizer": described(optimizer),
        "probe": None if made.probe is None else described(made.probe),
    }
    whole: Any = OmegaConf.to_container(compose([]))
    config = OmegaConf.create({name: parts.get(name, value) for name, value in whole.items()})
    OmegaConf.set_struct(config, True)
    return config
