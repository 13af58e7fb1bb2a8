"""Hand-offs of wav2vec 2.0 as transformers' class for pretraining: equal codes, targets and projected frames."""

import pytest
import torch
import transformers

from pretraining import handoff
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.errors import HandoffError
from pretraining.export import export
from pretraining.objectives.audio.masked_units import MaskedUnits
from pretraining.objectives.audio.quantiser import ProductQuantiser, Temperature
from pretraining.objectives.audio.wav2vec2 import Wav2Vec2
from tests.one_step import plain_sgd
from tests.test_onnx_form import SPEECH


def wav2vec2(encoder):
    torch.manual_seed(0)
    flat = Temperature(start=1.0, end=0.5, share=1.0)
    quantiser = ProductQuantiser(groups=2, codes=6, width=8, dropout=0.0, temperature=flat)
    return Wav2Vec2(backbone=SpeechEncoder(encoder=encoder, sample_rate=8000), optimizer=plain_sgd(), negatives=3,
                    quantiser=quantiser, width=10, diversity_weight=0.1, penalty_weight=10.0,
                    stem_gradient=0.1).eval()  # fmt: skip


def written(objective, directory):
    described = {"_target_": f"{type(objective).__module__}.{type(objective).__qualname__}"}
    towers = AUDIO.towers(objective.backbone, AudioPreprocess(sample_rate=8000, normalise=True))
    extra = {"heads": objective.heads(), "recipe": {"objective": described}}
    origin = {"objective": type(objective).__name__}
    return handoff.read(str(handoff.write(directory / "step-1", towers=towers, origin=origin, **extra)))


@torch.no_grad()
def test_codes_and_projections_are_those_of_the_objective(tmp_path):
    objective = wav2vec2(SPEECH)
    place = export(written(objective, tmp_path), "transformers", tmp_path / "model")
    model, report = transformers.AutoModelForPreTraining.from_pretrained(place, output_loading_info=True)
    assert type(model) is transformers.Wav2Vec2ForPreTraining
    assert not report["missing_keys"] and not report["unexpected_keys"]
    waves = torch.randn(3, 6000)
    output = model.eval()(input_values=waves)
    normed = objective.backbone.normed(objective.backbone.stem(waves, None)[0])
    quantised = objective.quantiser(normed, None, 1.0)
    targets = objective.project_target(quantised.vectors)
    frames = objective.project_context(objective.backbone(waves=waves).positions)
    torch.testing.assert_close(output.projected_quantized_states, targets, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.projected_states, frames, rtol=0, atol=1e-5)
    assert len(quantised.chosen.flatten(0, 1).unique(dim=0)) > 3  # or any code would do
    prepared = transformers.AutoFeatureExtractor.from_pretrained(place)
    assert prepared.sampling_rate == 8000 and prepared.do_normalize


def test_other_heads_and_stems_are_refused_and_say_what_reads_them(tmp_path):
    encoder = SpeechEncoder(encoder={**SPEECH, "model_type": "hubert"}, sample_rate=8000)
    units = MaskedUnits(
        backbone=encoder, optimizer=plain_sgd(), units=5, width=8, penalty_weight=1.0, stem_gradient=1.0
    )
    with pytest.raises(
        HandoffError, match=r"no class for the head of objective=MaskedUnits.*AutoModel\.from_pretrained"
    ):
        export(written(units, tmp_path / "units"), "transformers", tmp_path / "model")
    with pytest.raises(HandoffError, match=r"objective=Wav2Vec2 on SpeechEncoder: AutoModel\.from_pretrained"):
        export(
            written(wav2vec2({**SPEECH, "model_type": "hubert"}), tmp_path / "other"), "transformers", tmp_path / "m"
        )
    given = handoff.read(f"random:{written(wav2vec2(SPEECH), tmp_path / 'fresh').path}")
    with pytest.raises(HandoffError, match="holds no trained head: take to=onnx"):
        export(given, "transformers", tmp_path / "model")
    assert not (tmp_path / "model").exists()
