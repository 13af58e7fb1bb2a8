"""The online probe measures what offline probes do, changes nothing learnt, survives a kill and agrees over ranks."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pretraining import handoff, probes
from pretraining.callbacks.online_probe import OnlineProbe, ProbeSettings
from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.image.data.builtin import Digits
from pretraining.launch import main
from pretraining.runs.checkpoint_files import newest_valid
from tests import killing
from tests.runs import assert_equal, assert_same_end, finish, kill_group, start, wait_for

SETTINGS = ProbeSettings()
MEASURES = {"linear_accuracy", "knn_accuracy", "effective_rank", "uniformity", "feature_spread", "alignment"}


def overrides(run_dir, *more, steps=12):
    return [
        "objective=simclr",
        "backbone.width=4",
        "objective.projector.output=8",
        "data.batch_size=64",
        "optimizer.peak_lr=4e-3",
        "optimizer.warmup_steps=2",
        f"trainer.max_steps={steps}",
        "trainer.log_every=4",
        "trainer.val_every=6",
        "trainer.checkpoint_every=3",
        "trainer.precision=fp32",
        "logger.wandb.mode=disabled",
        "logger.progress=false",
        f"run_dir={run_dir}",
        *more,
    ]


def rows(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("probe/effective_rank")]


def probe_state(run_dir):
    checkpoint = torch.load(newest_valid(run_dir / "checkpoints"), weights_only=True)
    (state,) = (value for name, value in checkpoint["callbacks"].items() if name.startswith("OnlineProbe"))
    return state


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "watched"
    assert finish(overrides(path, "probe.bank=128")) == 0
    return path


def test_it_is_on_for_images_and_measures_at_each_validation(watched):
    assert compose(["objective=simclr"]).probe is not None and compose([]).probe is None
    found = rows(watched)
    assert [row["step"] for row in found] == ["6", "12"]
    final = json.loads((watched / "metrics.json").read_text())
    for name in MEASURES:
        assert float(found[-1][f"probe/{name}"]) == pytest.approx(final[f"probe/{name}"])
    assert 1 <= final["probe/effective_rank"] <= 32 and -8 <= final["probe/uniformity"] <= 0


def test_what_is_learnt_is_bit_for_bit_the_same_without_it(watched, tmp_path):
    assert finish(overrides(tmp_path / "plain", "probe=none")) == 0
    ours, theirs = (
        torch.load(newest_valid(path / "checkpoints"), weights_only=True) for path in (watched, tmp_path / "plain")
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "meter"):
        assert_equal(ours[part], theirs[part], part)
    assert "probe/knn_accuracy" in ours["measured"] and "probe/knn_accuracy" not in theirs["measured"]
    digests = [
        json.loads((path / "handoff" / "last" / "handoff.json").read_text())["sha256"]
        for path in (watched, tmp_path / "plain")
    ]
    assert digests[0]["model.safetensors"] == digests[1]["model.safetensors"]


def test_its_numbers_are_those_of_the_handed_over_network_on_clean_images(watched):
    given = handoff.read(str(watched / "handoff" / "last"))
    split = Digits(batch_size=1, eval_batch_size=1, workers=0, cache_dir=".").split("validation")
    with torch.no_grad():
        features = given.backbone.eval()(images=given.preprocess(torch.from_numpy(split.images))).pooled
    state, final = probe_state(watched), json.loads((watched / "metrics.json").read_text())
    assert final["probe/effective_rank"] == pytest.approx(probes.effective_rank(features), rel=1e-4)
    assert final["probe/uniformity"] == pytest.approx(probes.uniformity(features), rel=1e-4)
    assert final["probe/feature_spread"] == pytest.approx(probes.feature_spread(features), rel=1e-4)
    linear = (features @ state["weight"].T + state["bias"]).argmax(1).numpy()
    assert final["probe/linear_accuracy"] == pytest.approx((linear == split.labels).mean(), abs=1e-6)
    bank, labels = state["features"].flatten(0, 1), state["labels"].flatten()
    assert bank.shape == (128, features.shape[1])  # the last two steps of 64
    neighbours = KNeighborsClassifier(128, metric="cosine", weights=lambda distance: np.exp(-distance / 0.1)).fit(
        bank, labels
    )
    assert final["probe/knn_accuracy"] == pytest.approx(neighbours.score(features.numpy(), split.labels), abs=1e-6)


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_is_killed_and_resumed_measures_what_it_would_have(watched, tmp_path, step):
    path = tmp_path / "killed"
    mine = overrides(path, "probe.bank=128", "resume=auto")
    process = start(mine)
    wait_for(lambda: (path / "checkpoints" / f"step-{step:07d}.json").exists() or not process.is_alive())
    kill_group(process)
    assert finish(mine) == 0
    assert_same_end(watched, path)
    assert_equal(probe_state(watched), probe_state(path), "probe")


def test_two_ranks_and_micro_batches_measure_what_one_process_does(tmp_path):
    exact = [
        "trainer.precision=fp64",
        "backbone=vit_tiny",
        "backbone.options.num_layers=1",
        "objective.projector.hidden_norm=none",
    ]
    exact += [
        "backbone.options.hidden_dim=12",
        "backbone.options.mlp_dim=24",
        "data.eval_batch_size=100",
    ]  # 179 images: the second rank has fewer
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(overrides(one, *exact, steps=6)) == 0
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.accumulate=2"]
    assert killing.finish([*ddp, *overrides(two, *exact, steps=6)], ranks=2)[0] == 0
    (first,), (second,) = rows(one), rows(two)
    for name in MEASURES:
        assert float(first[f"probe/{name}"]) == pytest.approx(float(second[f"probe/{name}"]), rel=1e-7), name
    ours, theirs = probe_state(one), probe_state(two)
    assert torch.allclose(ours["weight"], theirs["weight"], atol=1e-9) and ours["weight"].abs().max() > 1e-4
    assert sorted(ours["labels"].flatten().tolist()) == sorted(theirs["labels"].flatten().tolist())


def probe_of(classes, dim, **changes):
    probe = OnlineProbe(
        ProbeSettings(**changes), validation=None, every=0, preprocess=None, classes=classes, batch_size=100
    )
    probe.weight, probe.bias = torch.zeros(classes, dim).requires_grad_(), torch.zeros(classes).requires_grad_()
    probe.optimizer = torch.optim.Adam([probe.weight, probe.bias], lr=changes.get("rate", 1e-3))
    return probe


def test_the_classifier_converges_to_scikit_learn_s():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (200,), generator=generator)
    features = torch.randn(3, 5, generator=generator)[labels] + 3 * torch.randn(200, 5, generator=generator)
    probe = probe_of(3, 5, rate=0.05)
    for _ in range(800):
        probe._learn(torch.stack([features, features]), labels)
    theirs = LogisticRegression(C=math.inf, max_iter=1000, tol=1e-8).fit(features.numpy(), labels.numpy())
    ours = torch.softmax(features @ probe.weight.T + probe.bias, 1).detach().numpy()
    assert abs(ours - theirs.predict_proba(features.numpy())).max() < 2e-3


def test_its_first_step_follows_the_gradient_of_the_mean_over_all_views():
    probe = probe_of(4, 6)
    views, labels = torch.randn(2, 10, 6), torch.arange(10) % 4
    probe._learn(views, labels)
    wanted = torch.full((4, 6), 0.0)
    for view in views:
        wanted += (
            (0.25 - torch.nn.functional.one_hot(labels, 4).float()).T @ view / 20
        )  # softmax of zeros minus the targets
    assert torch.allclose(probe.weight.grad, wanted, atol=1e-6)


def test_without_labels_only_the_geometry_is_measured(tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    more = [
        "data=image_folder",
        f"data.path={folder}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.decoding.size=16",
        "preprocess.size=16",
    ]
    run = main(compose(overrides(tmp_path / "run", *more, "data.batch_size=16", steps=2)))
    measured = {name for name in json.loads((run / "metrics.json").read_text()) if name.startswith("probe/")}
    assert measured == {f"probe/{name}" for name in MEASURES - {"linear_accuracy", "knn_accuracy"}}


def test_it_is_refused_for_text_and_with_numbers_that_mean_nothing(tmp_path):
    with pytest.raises(RunError, match=r"probe=online is not for text \(data=StdlibDocs\): set probe=none"):
        main(compose(["probe=online", f"run_dir={tmp_path / 'a'}"]))
    with pytest.raises(RunError, match=r"probe.k=0"):
        main(compose(overrides(tmp_path / "b", "probe.k=0")))
    assert not list(tmp_path.iterdir())


def test_the_yaml_s_values_are_the_defaults():
    config = compose(["objective=simclr"]).probe
    assert {name: value for name, value in config.items() if name != "_target_"} == vars(SETTINGS)


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_s_vector_is_spread_over_nothing(count, monkeypatch):
    options = {"validation": None, "every": 1, "preprocess": None, "classes": None, "batch_size": 4}
    probe = OnlineProbe(SETTINGS, **options)
    monkeypatch.setattr(probe, "_clean_features", lambda objective: (torch.randn(count, 4), torch.zeros(count)))
    values = probe._measure(None, torch.randn(2, 3, 4))
    expected = {"probe/effective_rank", "probe/alignment"}
    expected |= {"probe/uniformity", "probe/feature_spread"} if count > 1 else set()
    assert set(values) == expected and all(map(math.isfinite, values.values()))
