"""What finetuning on recordings hides in training, and which parts of the encoder it leaves as they are."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from finetuning.data.splits import Examples
from finetuning.inputs.audio import AudioInputs, SpanMasks
from finetuning.inputs.base import Picked
from finetuning.modes import Partial
from pretraining import handoff
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.data.letters import spoken
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.errors import RunError
from pretraining.random import Keys
from tests.audio.test_speech_encoder import LENGTHS, waves
from tests.finetuning.conftest import Finetune
from tests.finetuning.test_audio import LOG_MEL
from tests.objectives.audio.small_audio import encoder

PLAIN = AudioPreprocess(sample_rate=8000, normalise=True)


@pytest.fixture(scope="module")
def audio_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    towers = AUDIO.towers(encoder("log_mel", **LOG_MEL), PLAIN)
    directory = tmp_path_factory.mktemp("audio") / "step-0000001"
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


def masks(**changes: float) -> SpanMasks:
    return SpanMasks(**{"share": 0.4, "span": 3, "channel_share": 0.3, "channel_span": 4} | changes)  # type: ignore[arg-type]


def split_of(**changes: float):
    clips = [spoken(0, "train", number, longest=2) for number in range(6)]
    inputs = AudioInputs(max_seconds=9.0, longer="refuse", masks=masks(**changes))
    examples = Examples.of(audio=clips, label=["x"] * 6)
    return inputs.encode(examples, [np.zeros(1, np.int64)] * 6, PLAIN, encoder("log_mel", **LOG_MEL))


def keys(stream: str, epoch: int = 0) -> Keys:
    return Keys(1, stream, np.full(6, epoch), np.arange(6))


def covered(size: int, span: int, share: float) -> float:
    """Compute how much spans hide: a place stays unless none of those that would reach it is among those drawn."""
    starts, wanted = size - span + 1, share * size / span
    reach = [min(place, starts - 1) - max(place - span + 1, 0) + 1 for place in range(size)]
    low = math.floor(wanted)
    parts = {low: 1 - (wanted - low), low + 1: wanted - low}
    stays = [
        math.comb(starts - near, count) / math.comb(starts, count) * p for near in reach for count, p in parts.items()
    ]
    return 1 - sum(stays) / size


def test_training_alone_hides_spans_that_its_keys_draw() -> None:
    split = split_of()
    rows = Picked(np.arange(6))
    first, again, later = (split.collate(rows, keys("train", epoch))["inputs"] for epoch in (0, 0, 1))
    assert torch.equal(first["mask"], again["mask"]) and torch.equal(first["channel_mask"], again["channel_mask"])
    assert not torch.equal(first["mask"], later["mask"])
    assert not torch.equal(first["channel_mask"], later["channel_mask"])
    assert not {"mask", "channel_mask"} & split.collate(rows, keys("validation"))["inputs"].keys()
    assert first["mask"].shape == (6, split.frames.max()) and first["channel_mask"].shape == (6, 32)
    behind = np.arange(split.frames.max()) >= split.frames[:, None]
    assert not first["mask"][torch.from_numpy(behind)].any()
    wide = masks().draw(np.full(400, 100), 64, Keys(1, "train", np.zeros(400, np.int64), np.arange(400)))
    assert wide["mask"].float().mean().item() == pytest.approx(covered(100, 3, 0.4), abs=0.01)
    assert wide["channel_mask"].float().mean().item() == pytest.approx(covered(64, 4, 0.3), abs=0.01)
    assert not masks(share=0.0, channel_share=0.0).draw(np.array([9]), 8, keys("train"))


def test_a_hidden_channel_is_zero_and_a_hidden_frame_is_the_vector_of_pretraining() -> None:
    backbone, seen = encoder().eval(), []
    backbone.model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    lengths, frames = torch.tensor(LENGTHS), backbone(waves(), torch.tensor(LENGTHS)).positions.shape[1]
    hidden, channels = torch.zeros(4, frames, dtype=torch.bool), torch.zeros(4, 16, dtype=torch.bool)
    hidden[1, 5:9], channels[0, 3:7], channels[1, 0] = True, True, True
    backbone(waves(), lengths, hidden, channels)
    plain, masked = seen
    expected = plain.clone()
    expected[1, 5:9] = backbone.model.masked_spec_embed
    expected[0, :, 3:7] = expected[1, :, 0] = 0.0
    torch.testing.assert_close(masked, expected)


def test_runs_with_masks_repeat_and_differ_from_runs_without(finetune: Finetune, audio_handoff: Path) -> None:
    words = ["task=spoken_letters", f"handoff={audio_handoff}", "data.size=40", "trainer.max_steps=4"]
    words += ["trainer.log_every=1", "trainer.val_every=4", "mode=partial", "mode.frozen_blocks=0", "mode.head_steps=2"]
    shares = ["task.inputs.masks.share=0.3", "task.inputs.masks.channel_share=0.2"]

    def losses(name: str, *more: str) -> list[float]:
        run = finetune(*words, *more, name=name)
        with (run / "metrics.csv").open() as file:
            return [float(row["train/ctc"]) for row in csv.DictReader(file) if row["train/ctc"]]

    plain, first, second = losses("plain"), losses("first", *shares), losses("second", *shares)
    assert len(plain) == 4 and first == second and all(a != b for a, b in zip(plain, first, strict=True))


def test_the_stem_stays_and_the_encoder_joins_after_the_head_s_steps() -> None:
    backbone = encoder()
    mode = Partial(frozen_blocks=0, layer_decay=1.0, head_steps=2)
    mode.begin(backbone)
    seen = []
    for step in range(4):
        mode.advance(backbone, step, 4)
        seen.append({name for name, parameter in backbone.named_parameters() if parameter.requires_grad})
    rest = {name for name, _ in backbone.named_parameters() if "feature_extractor" not in name}
    assert seen == [set(), set(), *[rest - {"model.masked_spec_embed"}] * 2]
    assert any("feature_projection" in name for name in rest) and any("pos_conv" in name for name in rest)


def test_masks_that_cannot_be_drawn_are_named(finetune: Finetune, audio_handoff: Path, tmp_path: Path) -> None:
    words = ["task=spoken_letters", "data.size=20", "trainer.max_steps=2"]
    with pytest.raises(RunError, match=r"task\.inputs\.masks\.share=1.5"):
        finetune(*words, f"handoff={audio_handoff}", "task.inputs.masks.share=1.5")
    with pytest.raises(RunError, match=r"task\.inputs\.masks\.channel_span=0"):
        finetune(*words, f"handoff={audio_handoff}", "task.inputs.masks.channel_span=0")
    backbone = encoder("log_mel", **LOG_MEL)
    del backbone.model.masked_spec_embed
    assert isinstance(backbone, SpeechEncoder) and not backbone.hides
    with pytest.raises(RunError, match=r"no vector for hidden frames: set their shares to 0"):
        inputs = AudioInputs(max_seconds=9.0, longer="cut", masks=masks())
        inputs.encode(Examples.of(audio=[], label=[]), [], PLAIN, backbone)
