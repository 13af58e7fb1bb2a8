"""Recipes on audio: their numbers are the published ones, and the small ones reach the loss that they announce."""

import json
import re
from pathlib import Path

import pytest

from pretraining.cli.configuration import CONF, compose, instantiate
from pretraining.launch import main
from pretraining.objectives.audio.data2vec_audio import Data2VecAudio
from tests.objectives.audio.small_audio import encoder
from tests.one_step import plain_sgd

PUBLISHED = {  # rate, steps, clipping, seconds per step, longest row; hidden, penalty, stem's gradient, width compared
    "wav2vec2_base_ls960": ((5e-4, 400_000, None, 64 * 87.5, 15.625), (0.65, 10.0, 0.1, 256)),
    "wav2vec2_large_lv60": ((3e-4, 1_000_000, None, 128 * 75, 20.0), (0.65, 0.0, 1.0, 768)),
    "hubert_base_it1": ((5e-4, 400_000, 10.0, 32 * 87.5, 15.625), (0.8, 10.0, 0.1, 256)),
    "hubert_base_it2": ((5e-4, 400_000, 10.0, 32 * 87.5, 15.625), (0.8, 10.0, 0.1, 256)),
}
SIZES = {  # layers, width, heads, norm of the stem, normalised waves, LayerDrop
    "wav2vec2_base_ls960": (12, 768, 12, "group", False, 0.05),
    "wav2vec2_large_lv60": (24, 1024, 16, "layer", True, 0.0),
    "hubert_base_it1": (12, 768, 12, "group", False, 0.05),
    "hubert_base_it2": (12, 768, 12, "group", False, 0.05),
}
MORE = {"hubert_base_it2": ["preprocess.handoff=x"]}
SMOKES = {
    "masked_units_letters": "masked_units",
    "random_units_letters": "masked_units",
    "wav2vec2_letters": "contrastive",
    "data2vec_letters": "squared_error",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_numbers(name):
    config = composed(name)
    (rate, steps, clip, seconds, longest), (share, penalty, gradient, width) = PUBLISHED[name]
    optimizer, data, objective = config.optimizer, config.data, config.objective
    assert (optimizer.peak_lr, optimizer.warmup_steps, optimizer.schedule) == (rate, 32_000, "linear")
    assert (optimizer.weight_decay, list(optimizer.betas), optimizer.eps) == (0.01, [0.9, 0.98], 1e-6)
    assert (config.trainer.max_steps, config.trainer.clip_norm) == (steps, clip)
    assert (data.batch_seconds, data.fit, data.max_seconds, data.min_seconds) == (seconds, "crop", longest, 2.0)
    assert (config.collate.share, config.collate.span) == (share, 10)
    assert (objective.penalty_weight, objective.stem_gradient, objective.width) == (penalty, gradient, width)
    encoder = config.backbone.encoder
    layers, size, heads, norm, normalised, layerdrop = SIZES[name]
    assert (encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads) == (layers, size, heads)
    assert config.backbone.layerdrop == layerdrop
    assert encoder.feat_extract_norm == norm and config.preprocess.normalise == normalised
    assert list(config.collate.kernels) == [10, 3, 3, 3, 3, 2, 2] and list(config.collate.strides) == [5, *[2] * 6]
    assert config.preprocess.sample_rate == 16_000


@pytest.mark.parametrize("name", ["wav2vec2_base_ls960", "wav2vec2_large_lv60"])
def test_temperatures_end_where_the_published_factor_ends_them(name):
    config = compose([f"experiment={name}", "data.path=anywhere"])
    fall = config.objective.quantiser.temperature
    reached = config.trainer.max_steps * fall.share
    assert fall.start * 0.999995**reached == pytest.approx(fall.end, rel=1e-2)
    assert (config.objective.quantiser.groups, config.objective.quantiser.codes) == (2, 320)


@pytest.mark.parametrize("name", [*PUBLISHED, "data2vec_base"])
def test_one_gpu_and_eight_take_the_same_step(name):
    text = (Path(CONF) / "experiment" / f"{name}.yaml").read_text()
    eight = re.search(r"add  (trainer=ddp trainer\.devices=8 trainer\.accumulate=\d+)", text)
    one, many = (composed(name, *more) for more in ([], eight[1].split()))
    micro = [config.data.batch_seconds / config.trainer.devices / config.trainer.accumulate for config in (one, many)]
    assert one.data.max_seconds <= micro[1] <= micro[0] <= 100


def composed(name, *more):
    """Compose a recipe, with what only its user knows made up."""
    return compose([f"experiment={name}", "data.path=anywhere", *MORE.get(name, []), *more])


def test_the_second_iteration_has_units_of_the_first_one_s_sixth_layer():
    """Hsu et al. 2021, section IV-B: 100 clusters of MFCC, then 500 of what layer 6 says."""
    first, second = (composed(f"hubert_base_it{number}") for number in (1, 2))
    assert (first.preprocess.units, second.preprocess.units, second.preprocess.layer) == (100, 500, 6)
    assert first.preprocess._target_.endswith("KMeansUnits") and second.preprocess._target_.endswith("LayerUnits")
    assert second.objective.units == 500


def test_data2vec_has_the_published_numbers():
    """fairseq, examples/data2vec/config/audio/pretraining/base_librispeech.yaml; 320,000 samples at 16 kHz are 20 s."""
    config = compose(["experiment=data2vec_base", "data.path=anywhere"])
    optimizer, data, objective = config.optimizer, config.data, config.objective
    phases = (optimizer.warmup_steps / config.trainer.max_steps, optimizer.plateau)
    assert (optimizer.peak_lr, optimizer.schedule, phases) == (5e-4, "tri_stage", (0.03, 0.9))
    assert (optimizer.warmup_from, optimizer.final_fraction) == (0.01, 0.01)  # defaults of its tri_stage
    assert (optimizer.weight_decay, list(optimizer.betas), optimizer.eps) == (0.01, [0.9, 0.98], 1e-6)
    assert (config.trainer.max_steps, config.trainer.clip_norm) == (400_000, None)
    assert (data.max_seconds, data.min_seconds, config.preprocess.normalise) == (320_000 / 16_000, 2.0, True)
    assert (data.batch_seconds, data.fit, config.backbone.layerdrop) == (16 * 3_800_000 / 16_000, "crop", 0.05)
    rise = objective.momentum
    assert (rise.first, rise.last, rise.steps, rise.shape) == (0.999, 0.9999, 30_000, "linear")
    assert (objective.top_layers, objective.stem_gradient) == (8, 1.0)
    assert (config.collate.share, config.collate.span) == (0.65, 10)
    encoder = config.backbone.encoder
    assert (encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads) == (12, 768, 12)
    assert (encoder.num_conv_pos_embeddings, encoder.conv_pos_kernel_size) == (5, 95 // 5)
    assert encoder.feat_extract_norm == "layer" and not encoder.conv_bias and encoder.feat_proj_dropout == 0.0
    assert list(config.collate.kernels) == [10, 3, 3, 3, 3, 2, 2] and list(config.collate.strides) == [5, *[2] * 6]


def test_a_teacher_s_momentum_may_be_a_schedule_of_its_own():
    rise = instantiate(compose(["experiment=data2vec_base", "data.path=x"]).objective.momentum)
    parts = {"backbone": encoder(), "optimizer": plain_sgd(), "top_layers": 1, "stem_gradient": 1.0}
    assert [rise(step, 400_000) for step in (0, 15_000, 30_000, 400_000)] == pytest.approx(
        [0.999, 0.99945, 0.9999, 0.9999]
    )
    assert Data2VecAudio(**parts, momentum=rise, last_momentum=1.0).teacher.momentum is rise


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKES)
def test_a_small_recipe_reaches_the_loss_it_announces(name, tmp_path, cache_dir):
    text = (Path(CONF) / "experiment" / f"{name}.yaml").read_text()
    expected = float(re.search(rf"# Expected  validation/{SMOKES[name]} about ([\d.]+) after", text)[1])
    quiet = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
    run = main(compose([f"experiment={name}", *quiet, f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}"]))
    found = json.loads((run / "metrics.json").read_text())[f"validation/{SMOKES[name]}"]
    assert found == pytest.approx(expected, rel=0.05)
