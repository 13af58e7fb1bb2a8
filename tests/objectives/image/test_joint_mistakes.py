"""What joint-embedding objectives cannot take is said in a line, before anything is read."""

import json
import math

import pytest
from PIL import Image

from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.evaluate import evaluate
from pretraining.launch import main
from pretraining.objectives.memory import Queue
from tests.objectives.image.joint_small import built, head, views

PLAIN = ["data.batch_size=16", "trainer.max_steps=2", "trainer.precision=fp32", "probe=none", "logger.progress=false",
         "logger.wandb.mode=disabled"]  # fmt: skip


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco_v3"])
def test_a_predictor_of_another_width_than_what_it_predicts_is_refused(name):
    with pytest.raises(ValueError, match=r"^objective\.predictor\.output=5 predicts objective\.projector\.output=12: "):
        built(name, predictor=head("vit", output=5))


@pytest.mark.parametrize("name", ["dino", "ibot", "swav"])
def test_local_views_of_no_whole_number_of_patches_are_refused(name):
    told = r"objective\.local_views\.crop\.size=10 is no whole number of patches of 4 pixels: set it to a multiple of 4"
    with pytest.raises(ValueError, match=told):
        built(name, local_views=views(2, 10))
    if name != "ibot":
        built(name, "resnet", local_views=views(2, 10))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objective=dino", "objective.distillation.prototypes=1"], r"prototypes=1: give a whole number of at least 2"),
        (["objective=ibot", "objective.distillation.prototypes=1"], r"prototypes=1: give a whole number of at least 2"),
        (["objective=swav", "objective.codes.prototypes=1"], r"prototypes=1: give a whole number of at least 2"),
        (
            ["objective=i_jepa", "objective.blocks.aspect=[1.5,0.75]"],
            r"aspect must rise from above 0, got \[1.5, 0.75\]",
        ),
        (["objective=ibot", "data=stdlib_docs"], r"IBOT learns from image, .* choose three of one kind"),
        (["objective=simclr", "data=stdlib_docs", "backbone=vit_tiny"], r"choose three of one kind"),
    ],
)
def test_a_wrong_setting_is_named(overrides, told, tmp_path):
    with pytest.raises(RunError, match=told):
        main(compose([*overrides, *PLAIN, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("split", "told"),
    [
        (["data.batch_size=1"], "micro-batches of 1: raise data.batch_size"),
        (["data.batch_size=2", "trainer.accumulate=2"], "of 1: raise data.batch_size or lower trainer.accumulate"),
    ],
)
def test_a_single_value_per_channel_of_batch_normalisation_is_refused(split, told, tmp_path, cache_dir):
    given = ["objective=moco_v2", *PLAIN, *split, "backbone.width=8", f"data.cache_dir={cache_dir}"]
    with pytest.raises(RunError, match=rf"^batch normalisation gets a single value per channel from .*{told}$"):
        main(compose([*given, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_run_whose_weights_left_the_numbers_is_measured_to_its_end(tmp_path, cache_dir):
    given = ["objective=byol", *PLAIN, "backbone.width=8", "optimizer.peak_lr=1e30", "trainer.clip_norm=null"]
    given += ["trainer.on_nonfinite=skip", f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}"]
    measured = json.loads((main(compose(given)) / "metrics.json").read_text())
    assert measured["validation/effective_rank"] is None or math.isnan(measured["validation/effective_rank"])


def test_pictures_of_other_channels_than_a_hand_off_reads_are_refused(tmp_path, cache_dir):
    run = main(compose(["objective=byol", *PLAIN, f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}"]))
    for number in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (60 * number, 9, 9)).save(tmp_path / "photos" / f"{number}.png")
    given = [f"handoff={run}/handoff/last", "data=image_folder", f"data.path={tmp_path / 'photos'}", "split=train"]
    given += ["data.decoding.size=8", "data.batch_size=2", f"data.cache_dir={cache_dir}"]
    with pytest.raises(RunError, match=r"images have 3 channel\(s\), .* or data\.decoding\.channels=1$"):
        evaluate(compose(given, root="evaluate"))
    assert evaluate(compose([*given, "data.decoding.channels=1"], root="evaluate"))["rows"] > 0


def test_a_queue_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match=r"a queue of 10,000,000,000,000 rows of 128 numbers takes 5,120,000 GB"):
        Queue(128, 10**13)


def test_a_vision_transformer_of_pairs_takes_the_size_of_their_images():
    config = compose(["objective=clip", "backbone@backbone.towers.image=vit_tiny"])
    assert config.backbone.towers.image.options.image_size == config.preprocess.sides.image.size > 0


def test_local_views_are_an_option_of_augment_where_there_are_none():
    given = ["objective=swav", "+augment@objective.local_views=digits", "objective.local_views.crop.size=4"]
    assert compose([*given, "objective.local_views.count=3"]).objective.local_views.crop.size == 4
