"""Speech encoders: transformers' own numbers, the same alone and padded, and hand-offs that transformers loads."""

import json

import numpy as np
import pytest
import torch
import transformers

from pretraining import handoff
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.errors import HandoffError
from tests.objectives.audio.small_audio import ENCODER, encoder

FAMILIES = {
    "wav2vec2": {},
    "hubert": {},
    "wavlm": {"num_buckets": 20, "max_bucket_distance": 40},
    "data2vec-audio": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
}
GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LOG_MEL = {"conv_dim": [20, 8, 12], "conv_kernel": [200, 3, 3], "conv_stride": [80, 2, 2]}
LENGTHS = (4000, 2400, 3100, 2400)


def waves():
    random = np.random.default_rng(0)
    padded = torch.zeros(len(LENGTHS), max(LENGTHS))
    for row, length in enumerate(LENGTHS):
        padded[row, :length] = torch.from_numpy(random.normal(size=length).astype(np.float32))
    return padded


def family(name, **changes):
    return encoder(model_type=name, **FAMILIES[name] | changes).eval()


def cases():
    yield from ((name, {}) for name in FAMILIES)
    yield from ((f"{name} group", GROUP) for name in ("wav2vec2", "hubert", "wavlm"))
    yield "log_mel", LOG_MEL


def built(name, changes):
    kind = name.split()[0]
    return encoder("log_mel", **changes).eval() if kind == "log_mel" else family(kind, **changes)


@torch.no_grad()
@pytest.mark.parametrize(("name", "changes"), cases(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_row_is_the_same_alone_and_padded(name, changes):
    backbone, padded = built(name, changes), waves()
    together = backbone(padded, torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = backbone(padded[row : row + 1, :length])
        count = alone.positions.shape[1]
        assert together.valid[row].sum() == count and together.valid[row, :count].all()
        torch.testing.assert_close(together.positions[row, :count], alone.positions[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_own_group_norm_is_not_the_same_padded():
    """What the test above is worth: run through the model itself, padding changes a row."""
    backbone, padded = family("wav2vec2", **GROUP), waves()
    mask = (torch.arange(padded.shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    theirs = backbone.model(padded, attention_mask=mask).last_hidden_state
    alone = backbone(padded[1:2, : LENGTHS[1]]).positions[0]
    assert (theirs[1, : len(alone)] - alone).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_numbers_are_transformers_own(name):
    backbone, whole = family(name), waves()[:1]
    torch.testing.assert_close(backbone(whole).positions, backbone.model(whole).last_hidden_state, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_hidden_frames_are_transformers_own(name):
    backbone, whole = family(name), waves()[:2, :2400]
    mask = torch.zeros(2, backbone(whole).positions.shape[1], dtype=torch.bool)
    mask[0, 5:15] = mask[1, 20:31] = True
    theirs = backbone.model(whole, mask_time_indices=mask).last_hidden_state
    torch.testing.assert_close(backbone(whole, mask=mask).positions, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(backbone(whole).positions, theirs, atol=1e-2)


def test_a_log_mel_frame_is_what_units_are_made_of():
    from pretraining.audio.spectrum import log_mel

    backbone = encoder("log_mel", **LOG_MEL)
    wave = waves()[0]
    ours = backbone.model.feature_extractor._energies(wave[None])[0]
    np.testing.assert_allclose(ours.numpy(), log_mel(wave.numpy(), 8000, 20), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*FAMILIES, "log_mel"])
def test_blocks_hold_every_parameter_once(name):
    backbone = built(name, LOG_MEL if name == "log_mel" else {})
    held = [id(parameter) for block in backbone.blocks() for parameter in block.parameters()]
    assert len(held) == len(set(held)) and set(held) == {id(parameter) for parameter in backbone.parameters()}
    assert len(backbone.blocks()) >= 3


def written(backbone, directory):
    preprocess = AudioPreprocess(sample_rate=8000, normalise=True)
    towers = AUDIO.towers(backbone, preprocess)
    return handoff.write(directory / "step-0000001", towers=towers, origin={"objective": "none"}, heads={})


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hand_off_is_loaded_by_transformers_and_read_back(name, tmp_path):
    backbone, whole = family(name), waves()[:1]
    place = written(backbone, tmp_path)
    theirs, report = transformers.AutoModel.from_pretrained(place, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = backbone(whole).positions
    torch.testing.assert_close(theirs.eval()(whole).last_hidden_state, expected, rtol=0, atol=1e-5)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(place)
    assert extractor.sampling_rate == 8000
    raw = np.random.default_rng(1).normal(2, 3, 900).astype(np.float32)
    prepared = extractor(raw, sampling_rate=8000).input_values[0]
    np.testing.assert_allclose(AudioPreprocess(sample_rate=8000, normalise=True)(raw), prepared, atol=1e-5)
    ours = handoff.read(str(place), modality=AUDIO)
    torch.testing.assert_close(ours.backbone.eval()(whole).positions, expected, rtol=0, atol=1e-6)
    fresh = handoff.read(f"random:{place}", modality=AUDIO, seed=3).backbone.eval()
    assert not torch.allclose(fresh(whole).positions, expected, atol=1e-2)
    library = handoff.read(f"hf:{place}", modality=AUDIO)
    assert library.preprocess.sample_rate == 8000 and library.backbone.kwargs["encoder"]["model_type"] == name
    torch.testing.assert_close(library.backbone.eval()(whole).positions, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_hand_off_with_a_log_mel_stem_is_read_back_and_says_that_transformers_cannot(tmp_path):
    backbone, whole = encoder("log_mel", **LOG_MEL).eval(), waves()[:1]
    place = written(backbone, tmp_path)
    ours = handoff.read(str(place), modality=AUDIO).backbone.eval()
    torch.testing.assert_close(ours(whole).positions, backbone(whole).positions, rtol=0, atol=0)
    assert "transformers has no such stem" in (place / "README.md").read_text()
    assert not (place / "config.json").exists()


@torch.no_grad()
def test_a_checkpoint_with_a_head_is_read_without_it_and_others_are_refused(tmp_path):
    config = transformers.AutoConfig.for_model(**ENCODER | {"vocab_size": 11, "layerdrop": 0.3})
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "ctc")
    AudioPreprocess(sample_rate=16000, normalise=False).save(tmp_path / "ctc")
    backbone = handoff.read(f"hf:{tmp_path / 'ctc'}", modality=AUDIO).backbone
    assert backbone.model.config.layerdrop == 0.0  # whose draws would differ between ranks
    bert = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    AudioPreprocess(sample_rate=16000, normalise=False).save(tmp_path / "bert")
    with pytest.raises(HandoffError, match="is a bert, not a speech encoder of these: wav2vec2, hubert"):
        handoff.read(f"hf:{tmp_path / 'bert'}", modality=AUDIO)


@torch.no_grad()
def test_a_checkpoint_of_data2vec_need_not_name_the_norm_of_its_stem(tmp_path):
    shape = {
        name: value for name, value in ENCODER.items() if name not in ("feat_extract_norm", "do_stable_layer_norm")
    }
    config = transformers.Data2VecAudioConfig(**shape | {"model_type": "data2vec-audio", "conv_pos_kernel_size": 3})
    assert not hasattr(config, "feat_extract_norm")
    theirs = transformers.Data2VecAudioModel(config).eval()
    theirs.save_pretrained(tmp_path)
    AudioPreprocess(sample_rate=8000, normalise=False).save(tmp_path)
    backbone = handoff.read(f"hf:{tmp_path}", modality=AUDIO).backbone.eval()
    assert backbone.takes_padding
    together = backbone(waves(), torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = theirs(waves()[row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(together.positions[row, : len(alone)], alone, rtol=0, atol=1e-5)


def test_what_cannot_be_built_is_named():
    for changes, told in (
        ({"model_type": "bert"}, "choose wav2vec2, hubert, wavlm, data2vec-audio"),
        ({"layerdrop": 0.1}, r"layerdrop=0\.1: .* would differ between ranks: set backbone\.layerdrop instead"),
    ):
        with pytest.raises(ValueError, match=told):
            encoder(**changes)
    with pytest.raises(ValueError, match="stem='mel' is unknown: choose waves or log_mel"):
        SpeechEncoder(encoder=ENCODER, stem="mel")
    with pytest.raises(ValueError, match="of which this backbone makes no frame"):
        encoder()(torch.zeros(1, 20))
    assert json.loads(json.dumps(encoder().kwargs))["stem"] == "waves"
