"""The pretraining command from its configuration to what it leaves: reruns, dry runs, budgets, sweeps, evaluation,
README's lines.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pretraining import evaluate
from pretraining.cli.configuration import compose
from pretraining.cli.rerun import rerun
from pretraining.errors import RunError, out_of_memory
from pretraining.launch import build, main
from pretraining.objectives.text.masked_language import MaskedLanguage
from tests.forked import run_module
from tests.runs import finish, history, text_overrides, write_corpus

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    return text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir)


@pytest.fixture(scope="module")
def finished(overrides, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert finish([*overrides, f"run_dir={path}"]) == 0
    return path


def test_a_run_leaves_what_the_design_says(finished):
    expected = {"config.yaml", "overrides.txt", "metrics.csv", "metrics.json", "checkpoints", "handoff"}
    assert {path.name for path in finished.iterdir() if not path.name.startswith(".")} == expected
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["steps"] == 20 and metrics["examples"] == 160
    for name in (
        "validation/loss",
        "validation/unigram_entropy",
        "tokens",
        "flops",
        "throughput/tokens_per_second",
        "throughput/data_wait_share",
    ):
        assert metrics[name] > 0, name
    assert 0 < metrics["throughput/mfu"] < 1


def test_a_finished_run_can_be_rerun_from_its_directory(finished, tmp_path):
    again = main(
        compose([f"from_run={finished}", f"run_dir={tmp_path / 'again'}"]),
        [f"from_run={finished}", f"run_dir={tmp_path / 'again'}"],
    )
    assert history(again) == history(finished)
    shorter = [f"from_run={finished}", f"run_dir={tmp_path / 'shorter'}", "trainer.max_steps=5"]
    assert len(history(main(compose(shorter), shorter))) == 1
    with pytest.raises(RunError, match="data is a group"):
        main(compose([f"from_run={finished}", "data=stdlib_docs"]), [f"from_run={finished}", "data=stdlib_docs"])


def test_a_class_of_the_script_that_began_a_run_is_found_there_alone(finished, tmp_path, monkeypatch):
    config = OmegaConf.load(finished / "config.yaml")
    config.objective._target_ = "__main__.Mine"
    OmegaConf.save(config, tmp_path / "config.yaml")
    with pytest.raises(
        RunError, match=r"has the class Mine, which the script that began .*: move it into a module"
    ) as told:
        main(compose([f"from_run={tmp_path}"]))
    assert "\n" not in str(told.value)
    monkeypatch.setattr(sys.modules["__main__"], "Mine", MaskedLanguage, raising=False)
    assert rerun(compose([f"from_run={tmp_path}"]), []).objective._target_ == "__main__.Mine"


def test_a_dry_run_shows_examples_and_leaves_nothing(overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(compose([*overrides, "dry_run=true", f"run_dir={tmp_path / 'run'}"]))
    shown = capsys.readouterr().out
    for word in ("trainable parameters", "FLOP per step", "input_ids", "[MASK]", "target"):
        assert word in shown
    assert shown.count("input   ") == 3
    assert list(tmp_path.iterdir()) == []


def test_few_batches_are_learnt_by_heart(overrides, tmp_path):
    fast = [
        "trainer.max_steps=150",
        "overfit_batches=1",
        "optimizer.peak_lr=2e-2",
        "backbone.config.hidden_dropout_prob=0",
        "trainer.val_every=0",
    ]
    rows = history(main(compose([*overrides, *fast, f"run_dir={tmp_path / 'run'}"])))
    assert float(rows[-1]["train/loss"]) < 0.65 * float(rows[0]["train/loss"])


@pytest.mark.parametrize(("budget", "steps"), [("budget.steps=3", 3), ("budget.examples=33", 4)])
def test_a_budget_becomes_steps(overrides, tmp_path, budget, steps):
    path = main(compose([*overrides, budget, f"run_dir={tmp_path / 'run'}"]))
    assert json.loads((path / "metrics.json").read_text())["steps"] == steps
    assert f"max_steps: {steps}" in (path / "config.yaml").read_text()


def test_budgets_of_tokens_and_flops_are_spent_nearly_whole(overrides, tmp_path):
    for kind, amount in (("tokens", 2000), ("flops", 5e8)):
        path = main(compose([*overrides, f"budget.{kind}={amount}", f"run_dir={tmp_path / kind}"]))
        metrics = json.loads((path / "metrics.json").read_text())
        per_step = metrics[kind] / metrics["steps"]
        assert metrics[kind] <= 1.05 * amount and amount - metrics[kind] < 1.2 * per_step


def test_evaluation_of_a_hand_off_gives_the_run_s_own_validation_loss(overrides, finished):
    wanted = (
        "data=",
        "data.path",
        "data.cache_dir",
        "data.max_tokens",
        "data.batch_size",
        "data.eval_batch_size",
        "data.preparation",
    )
    data = [override for override in overrides if override.startswith(wanted)]
    measured = evaluate.evaluate(compose([f"handoff={finished / 'handoff' / 'last'}", *data], root="evaluate"))
    expected = json.loads((finished / "metrics.json").read_text())
    assert measured["validation/loss"] == pytest.approx(expected["validation/loss"], abs=1e-6)
    other = evaluate.evaluate(
        compose([f"handoff={finished / 'handoff' / 'last'}", *data, "split=train"], root="evaluate")
    )
    assert other["train/loss"] != measured["validation/loss"] and other["rows"] > measured["rows"]
    with pytest.raises(RunError, match="learns from text, but data=Digits is image"):
        evaluate.evaluate(compose([f"handoff={finished / 'handoff' / 'last'}", "data=digits"], root="evaluate"))


def test_out_of_memory_names_the_micro_batch_and_the_next_accumulate(overrides, tmp_path, monkeypatch):
    error = out_of_memory(48, 1, 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert "micro-batches of 24 examples: try trainer.accumulate=3" in str(error)
    assert "lower data.batch_size" in str(out_of_memory(2, 1, 2, torch.OutOfMemoryError("CUDA")))

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("pretraining.objectives.text.masked_language.MaskedLanguage.loss", exhausted)
    with pytest.raises(
        RunError, match=r"micro-batches of 8 examples: try trainer\.accumulate=2 .*Tried to allocate 2 GiB"
    ):
        main(compose([*overrides, f"run_dir={tmp_path / 'run'}"]))


def test_the_model_starts_from_the_seed_alone(overrides):
    config = compose([*overrides, "run_dir=unused"])
    states = []
    for seed in (1, 1, 2):
        config.seed = seed
        torch.rand(3)
        states.append(build(config).objective.state_dict())
    name = "head.dense.weight"
    assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[0][name], states[2][name])


def test_a_sweep_gives_each_job_a_directory_named_after_what_varies(overrides, tmp_path):
    swept = ["seed=1,2", "trainer.max_steps=1", "trainer.log_every=1"]
    command = [
        "pretraining",
        "-m",
        *[o for o in overrides if not any(key in o for key in ("max_steps", "log_every", "wandb", "precision"))],
        *swept,
    ]
    apart = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": str(tmp_path / "runs"),
    }
    ended = run_module(*command, cwd=tmp_path, env=apart)
    assert ended.returncode == 0, ended.stderr
    (sweep,) = (tmp_path / "runs").glob("sweep-*")
    assert sorted(path.name for path in sweep.iterdir()) == ["0-seed-1", "1-seed-2"]
    assert all((path / "metrics.json").exists() for path in sweep.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    said = ended.stderr.splitlines()
    assert [line for line in said if line.startswith("job ")][:2] == ["job 1/2: seed=1", "job 2/2: seed=2"]
    rows = [line.split() for line in said[-3:]]
    assert rows[0] == ["job", "seed", "validation/loss", "run_dir"]
    for number, row in enumerate(rows[1:]):
        reached = json.loads((sweep / f"{number}-seed-{number + 1}" / "metrics.json").read_text())["validation/loss"]
        assert row == [
            str(number + 1),
            str(number + 1),
            f"{reached:.4f}",
            f"{sweep.parent.name}/{sweep.name}/{number}-seed-{number + 1}",
        ]
    assert ended.stderr.count("W&B: offline.") == 1, "what holds for every job is said once"
    assert ended.stderr.count("trainer.precision=auto") == 1


@pytest.mark.slow
def test_readme_s_ten_lines_of_python_pretrain_and_its_five_finetune(tmp_path, monkeypatch, cache_dir):
    text = (ROOT / "README.md").read_text().partition("## Without configuration files")[2]
    pretrain, finetune = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    lines = [len([line for line in code.splitlines() if line]) for code in (pretrain, finetune)]
    assert lines[0] <= 10 and lines[1] <= 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRETRAINING_CACHE", str(cache_dir))
    quiet = {"trainer=trainer": "trainer=trainer, logger={'wandb': {'mode': 'disabled'}}"}
    quiet |= {"max_steps=200": "max_steps=2, precision='fp32'"}
    quiet |= {'"shots=10"': '"shots=2", "trainer.max_steps=2", "trainer.val_every=2", "logger.wandb.mode=disabled"'}
    for word, smaller in quiet.items():
        assert word in pretrain + finetune
        pretrain, finetune = (code.replace(word, smaller) for code in (pretrain, finetune))
    exec(pretrain, names := {})
    assert json.loads((names["run"] / "metrics.json").read_text())["steps"] == 2
    exec(finetune, names)
    assert 0 <= names["result"].metrics["test/accuracy"] <= 1
