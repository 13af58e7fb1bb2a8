import re
from pathlib import Path

import pytest

from experiments.study.graph import expand, override
from experiments.study.spec import StudyError
from tests.experiments import fabricated

HERE = Path("studies/invented")
MODULES_CLASS = re.compile(r"\.[A-Z]\w*$")  # an entry for one class, not for all of a module


def nodes(**changes):
    return expand(fabricated.spec(**changes), directory=HERE, resolve=fabricated.resolve).nodes


def test_a_study_is_every_arm_twin_cell_and_seed_once():
    found = nodes()
    assert len(found) == 2 + 2 * 2 * 2 * 5
    assert len({node.name for node in found}) == len(found)
    assert all("=" not in node.name and len(node.name) < 120 for node in found)


def test_each_run_comes_after_what_it_needs():
    found = [node.name for node in nodes()]
    assert all(node.needs is None or found.index(node.needs) < found.index(node.name) for node in nodes())


def test_names_do_not_depend_on_where_the_study_is_kept_or_how_fast_it_goes():
    elsewhere = expand(fabricated.spec(), directory=Path("/other"), resolve=fabricated.resolve).nodes
    assert [node.name for node in elsewhere] == [node.name for node in nodes()]
    entry = {
        "masked_language": {
            "overrides": [*fabricated.SPEC["pretrain"]["masked_language"]["overrides"], "data.workers=2"]
        }
    }
    faster = nodes(pretrain={**fabricated.SPEC["pretrain"], **entry})
    assert [node.name for node in faster] == [node.name for node in nodes()]


def test_a_changed_setting_changes_the_name_of_its_run_and_of_all_that_depends_on_it():
    entry = {
        "simclr": {"overrides": ["objective=simclr", "data=digits", "backbone=resnet", "objective.temperature=0.2"]}
    }
    before, after = nodes(), nodes(pretrain={**fabricated.SPEC["pretrain"], **entry})
    changed = {b.source.arm for b, a in zip(before, after, strict=True) if a.name != b.name}
    assert changed == {"simclr"}
    assert all(a.name != b.name for b, a in zip(before, after, strict=True) if a.source.arm == "simclr")


def test_adding_a_seed_adds_runs_and_renames_none():
    before, after = ({n.name for n in nodes()}, {n.name for n in nodes(finetuning_seeds=[1, 2, 3, 4, 5, 6])})
    assert before < after
    assert len(after - before) == 2 * 2 * 2
    more = {n.name for n in nodes(pretraining_seeds=[1, 2])}
    assert before < more


def test_a_twin_sees_the_same_seed_and_starts_from_fresh_weights():
    pairs = {}
    for node in nodes():
        if node.cell:
            pairs.setdefault((node.cell, node.seed), {})[node.source.pretrained] = node
    for pair in pairs.values():
        (handoff,) = [o for o in pair[True].overrides if o.startswith("handoff=")]
        assert handoff.replace("handoff=", "handoff=random:") in pair[False].overrides
    assert len(pairs) == 20


def test_finetuning_seeds_are_drawn_anew_within_each_pretraining_seed():
    seeds = {(n.source.seed, n.seed) for n in nodes(pretraining_seeds=[1, 2], finetuning_seeds=[1, 2]) if n.cell}
    assert seeds == {(1, 1001), (1, 1002), (2, 2001), (2, 2002)}


def test_a_grid_makes_an_arm_of_each_point_and_arms_that_are_untrained_alike_share_a_twin():
    pretrain = {"masked_language": {"overrides": ["backbone=bert"], "grid": {"collate.masking_rate": [0.15, 0.3]}}}
    finetune = {"docs_topic": {"overrides": ["task=docs_topic"], "modes": ["full"]}}
    study = expand(fabricated.spec(pretrain=pretrain, finetune=finetune), directory=HERE, resolve=fabricated.resolve)
    assert list(study.twins) == ["masking_rate 0.15", "masking_rate 0.3"]
    assert set(study.twins.values()) == {"masking_rate 0.15"}
    assert len(study.nodes) == 2 + 3 * 5


def test_the_budget_goes_to_every_pretraining():
    pretraining = [n for n in nodes(budget={"flops": 1e15, "hours": None}) if n.cell is None]
    assert all("budget.flops=1000000000000000.0" in n.overrides for n in pretraining)
    assert not any("hours" in o for n in pretraining for o in n.overrides)


def test_a_cell_is_judged_by_the_metric_that_its_task_selects_by(monkeypatch):
    monkeypatch.setitem(fabricated.SELECT, "digits", "-loss")
    finetune = {**fabricated.SPEC["finetune"]}
    finetune["docs_topic"] = {**finetune["docs_topic"], "metric": "test/f1_macro"}
    cells = {node.cell for node in nodes(finetune=finetune) if node.cell}
    assert {(cell.task, cell.metric) for cell in cells} == {("docs_topic", "test/f1_macro"), ("digits", "-test/loss")}
    assert {(cell.task, cell.column, cell.sign) for cell in cells} == {
        ("docs_topic", "test/f1_macro", 1),
        ("digits", "test/loss", -1),
    }


def test_a_ready_checkpoint_can_stand_beside_the_arms():
    finetune = {"digits": {"overrides": ["task=digits"], "modes": ["full"], "arms": ["imagenet"]}}
    found = nodes(handoffs={"imagenet": "torchvision:resnet18"}, finetune=finetune)
    assert [n.needs for n in found if n.cell] == [None] * 5
    assert "handoff=torchvision:resnet18" in found[-1].overrides


GRID = {"a": {"overrides": [], "grid": {"x.rate": [0.1, 0.2]}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finetune": {"t": {"overrides": [], "mode": ["full"]}}}, "unknown key 'mode'"),
        ({"finetune": {"t": {"overrides": []}}}, "lacks the key 'modes'"),
        ({"finetune": {"t": {"overrides": [], "modes": ["full"], "arms": ["bart"]}}}, "names 'bart'; the study has"),
        ({"finetune": {"t": {"overrides": [], "modes": ["full"], "shots": [1], "fractions": [1]}}}, "give one of them"),
        ({"finetuning_seeds": []}, "give a list of one or more whole numbers"),
        ({"pretraining_seeds": [1, 1]}, "whole numbers from 0 .* which all differ"),
        ({"pretrain": {}, "finetune": {}}, "nothing to compare"),
        ({"handoffs": {"simclr": "torchvision:resnet18"}}, "study.handoffs and study.pretrain both have 'simclr'"),
        ({"pretrain": GRID, "finetune": {}, "handoffs": {"rate 0.1": "hf:x"}}, "the arm 'rate 0.1' .* study.handoffs"),
        (
            {"pretrain": {"a": {"overrides": [], "grid": {"x.rate": [0.1, 0.1]}}}},
            "grid.x.rate=.*: give a list .* differ",
        ),
        ({"pretrain": {"a": {"overrides": [], "grid": {"x.rate": []}}}}, "grid.x.rate=.*: give a list"),
        ({"pretrain": ["simclr"]}, r"study.pretrain=\[simclr\]: give its settings by their names"),
        ({"pretrain": {1: {"overrides": []}}}, "study.pretrain=.*: give its settings by their names"),
        ({"handoffs": ["hf:x"]}, r"study.handoffs=\[hf:x\]: give its settings by their names"),
        ({"handoffs": {"x": 5}}, "study.handoffs.x=5: give a text"),
        ({"finetune": {"t": {"overrides": [], "modes": []}}}, "finetune.t.modes=.*: give a list of one or more"),
        ({"finetune": {"t": {"overrides": [], "modes": ["full"], "shots": []}}}, "finetune.t.shots=.*: give a list"),
        (
            {"finetune": {"t": {"overrides": [], "modes": ["full", "full"]}}},
            "finetune.t.modes=.*: give a list .* differ",
        ),
        ({"name": "../x"}, r"study.name=\.\./x: give the name of a folder"),
        ({"name": 5}, "study.name=5: give the name of a folder"),
        ({"question": None}, "study.question=null: give a text"),
        ({"workers": "2"}, "study.workers=2: give a whole number of at least 1"),
        ({"budget": 5}, "study.budget=5: give its settings"),
        ({"budget": {"steps": "many"}}, "study.budget.steps=many: give a whole number of at least 1"),
        ({"budget": {"steps": 5, "flops": 1e9}}, "study.budget has steps and flops: give one of them"),
        ({"budget": {"stepps": 5}}, "study.budget has the unknown key 'stepps'"),
        (
            {"references": "classical"},
            r"study.references=classical: give a list .* such as study.references=\[classical\]",
        ),
        ({"references": ["magic"]}, "choose never_pretrained, classical or supervised|never_pretrained, classical or"),
        ({"never_pretrained": "no"}, "study.never_pretrained=no: give true or false"),
        ({"finetune": {"t": {"overrides": [], "modes": "full"}}}, r"modes=full: give a list .* such as .*=\[full\]"),
        ({"finetune": {"t": {"overrides": [], "modes": ["full"], "arms": "simclr"}}}, r"arms=simclr: give a list"),
        ({"finetune": {"t": {"overrides": "a=1", "modes": ["full"]}}}, r"overrides=a=1: give a list"),
        ({"pretrain": {"simclr": {"overrides": "a=1"}}}, r"overrides=a=1: give a list"),
        ({"pretrain": "simclr"}, "study.pretrain=simclr: give its settings by their names"),
        ({"finetune": ["digits"]}, r"study.finetune=\[digits\]: give its settings by their names"),
        ({"handoffs": "torchvision:resnet18"}, "study.handoffs=torchvision:resnet18: give its settings"),
        ({"handoffs": {"imagenet": ["torchvision:resnet18"]}}, r"study.handoffs.imagenet=.*: give a text"),
        ({"budget": "flops"}, "study.budget=flops: give its settings"),
    ],
)
def test_a_misspelt_study_is_refused_with_the_key_and_the_choices(changes, words):
    with pytest.raises(StudyError, match=words):
        nodes(**changes)


def test_the_supervised_reference_is_the_twin_with_all_labels(tmp_path):
    asked = ["never_pretrained", "supervised"]
    plain, more = nodes(finetuning_seeds=[1, 2]), nodes(finetuning_seeds=[1, 2], references=asked)
    added = [node for node in more if node not in plain]
    assert [(node.cell.task, node.cell.mode, node.cell.labels, node.source.pretrained) for node in added] == [
        (task, "full", "all labels", False) for task in ("docs_topic", "digits") for _ in range(2)
    ]
    assert {node.name for node in plain} < {node.name for node in more}
    assert not [node for node in nodes(references=[]) if node.cell and not node.source.pretrained]


def test_overrides_are_quoted_only_where_hydra_needs_it():
    assert override("handoff", "random:runs/a-1/handoff/last") == "handoff=random:runs/a-1/handoff/last"
    assert override("data.path", "it's here/x=1") == r"data.path='it\'s here/x=1'"
    assert override("a", None) == "a=null"
    assert override("a", True) == "a=true"
    assert override("a", [0.8, 0.9]) == "a=[0.8, 0.9]"
