"""The sides of `speech_step`: this package, and transformers' own model with its own helpers in a plain loop.

Both train the same wav2vec 2.0 on the same rows in the same order with AdamW: spoken letters at 16 kHz of up to
`SECONDS`, padded to the longest of a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.turns import Turn
from pretraining.audio.data.base import AudioSource
from pretraining.audio.data.letters import SpokenLetters
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.random import permuted

RATE, SECONDS, ROWS, WORDS, SEED, ENDLESS = 16_000, 8.0, 512, 16, 1, 10**6
SHARE, SPAN, NEGATIVES, CLIP, LOG_EVERY = 0.65, 10, 100, 1.0, 10
LEARNING: dict[str, Any] = {"weight_decay": 0.01, "betas": (0.9, 0.98), "eps": 1e-6}
PEAK_LR, WARMUP = 5e-4, 100
GROUPS, CODES, WIDTH, QUANTISER_DROPOUT = 2, 320, 256, 0.1
STEM = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": True}
SHAPES = {  # layers, width, heads, channels of the stem, dropout
    "small": (4, 256, 4, 128, 0.1),
    "base": (12, 768, 12, 512, 0.1),
}


class Setting(NamedTuple):
    """What a side trains with; `workers` are the peer's."""

    shape: str
    batch: int
    device: str
    threads: int
    workers: int
    cache_dir: str
    precision: str = "fp32"
    seed: int = SEED

    @property
    def encoder(self) -> dict[str, Any]:
        """Describe the network, with a stem that is safe under padding."""
        layers, width, heads, channels, dropout = SHAPES[self.shape]
        sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
        rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "feat_proj_dropout"), dropout)
        norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        plain = {"activation_dropout": 0.0, "layerdrop": 0.0, "mask_time_prob": SHARE, "mask_time_length": SPAN}
        return {**sizes, "intermediate_size": 4 * width, "conv_dim": [channels] * 7, **STEM, **norms, **rates, **plain}

    @property
    def source(self) -> AudioSource:
        """Open the rows, which are made when they are first asked for."""
        reading: dict[str, Any] = {"min_seconds": 1.0, "max_seconds": SECONDS, "on_bad": "refuse", "workers": 0}
        reading |= {"batch_size": self.batch, "eval_batch_size": self.batch, "cache_dir": Path(self.cache_dir)}
        data = SpokenLetters(size=ROWS, max_words=WORDS, seed=self.seed, **reading)
        return data.source("train", self.preprocess)

    @property
    def preprocess(self) -> AudioPreprocess:
        """Say how rows are prepared."""
        return AudioPreprocess(sample_rate=RATE, normalise=True)


def ours(turn: Turn, setting: Setting) -> None:
    """Train as the command line does."""
    from experiments.benchmarks import our_loop
    from pretraining.audio.backbones.speech_encoder import SpeechEncoder
    from pretraining.objectives.audio.frames import MaskFrames
    from pretraining.objectives.audio.quantiser import ProductQuantiser, Temperature
    from pretraining.objectives.audio.wav2vec2 import Wav2Vec2
    from pretraining.optim.optimizers import AdamW

    our_loop.prepare_process()
    backbone = SpeechEncoder(encoder={"model_type": "wav2vec2", **setting.encoder}, sample_rate=RATE)
    schedule: dict[str, Any] = {"warmup_steps": WARMUP, "schedule": "constant", "final_fraction": 1.0}
    fall = Temperature(start=2.0, end=0.5, share=0.69)
    quantiser = ProductQuantiser(groups=GROUPS, codes=CODES, width=WIDTH, dropout=QUANTISER_DROPOUT, temperature=fall)
    module = Wav2Vec2(
        backbone=backbone,
        optimizer=AdamW(peak_lr=PEAK_LR, **LEARNING, **schedule),
        quantiser=quantiser,
        negatives=NEGATIVES,
        width=WIDTH,
        diversity_weight=0.1,
        penalty_weight=10.0,
        stem_gradient=0.1,
    )
    stem = {"kernels": backbone.kernels, "strides": backbone.strides}
    collate = MaskFrames(preprocess=setting.preprocess, **stem, share=SHARE, span=SPAN)
    options = {"max_steps": ENDLESS, "clip_norm": CLIP}
    our_loop.train(turn, setting, module, setting.source, collate, facts={}, **options)


class Rows(torch.utils.data.Dataset[dict[str, np.ndarray]]):
    """The rows in the order of this package's loader, normalised ahead of time as transformers' example has them."""

    def __init__(self, setting: Setting) -> None:
        source, preprocess = setting.source, setting.preprocess
        self.waves = [preprocess(samples) for samples in source.read(0, np.arange(source.count(0))).each()]
        self.seed = setting.seed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(number, len(self.waves))
        row = permuted(np.array([place]), len(self.waves), seed=self.seed, epoch=epoch, stream="train")
        return {"input_values": self.waves[int(row[0])]}


class Collate:
    """Pads, and draws masks and negatives with transformers' own helpers, as its example for pretraining does."""

    def __init__(self, model: Any) -> None:
        import transformers

        described = {"feature_size": 1, "sampling_rate": RATE, "do_normalize": True, "return_attention_mask": True}
        self.model, self.extractor = model, transformers.Wav2Vec2FeatureExtractor(padding_value=0.0, **described)

    def __call__(self, examples: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """Make a batch."""
        from transformers.models.wav2vec2 import modeling_wav2vec2 as theirs

        batch = dict(self.extractor.pad(examples, padding=True, return_tensors="pt"))  # type: ignore[arg-type]
        frames = int(self.model._get_feat_extract_output_lengths(batch["input_values"].shape[-1]))
        inside = self.model._get_feature_vector_attention_mask(frames, batch["attention_mask"])
        shape = len(examples), frames
        hidden = theirs._compute_mask_indices(shape, SHARE, SPAN, attention_mask=inside)
        others = theirs._sample_negative_indices(shape, NEGATIVES, mask_time_indices=hidden)
        drawn = {"mask_time_indices": torch.from_numpy(hidden), "sampled_negative_indices": torch.from_numpy(others)}
        return {**batch, **drawn}


def plain(turn: Turn, setting: Setting) -> None:
    """Train transformers' model as its example does: padded batches, Gumbel's temperature by the step, AdamW."""
    import transformers

    quantiser: dict[str, Any] = {"num_codevector_groups": GROUPS, "num_codevectors_per_group": CODES}
    quantiser |= {"codevector_dim": WIDTH, "proj_codevector_dim": WIDTH, "num_negatives": NEGATIVES}
    quantiser |= {"feat_quantizer_dropout": QUANTISER_DROPOUT, "attn_implementation": "sdpa"}
    model: Any = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**setting.encoder, **quantiser))
    model = model.to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, **LEARNING)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    shape: dict[str, Any] = {"num_workers": setting.workers, "persistent_workers": setting.workers > 0}
    loader = torch.utils.data.DataLoader(Rows(setting), setting.batch, collate_fn=Collate(model), **shape)
    turn.tell({"precision": setting.precision, "workers": setting.workers})
    for number, batch in enumerate(loader, 1):
        moved = {name: tensor.to(setting.device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=setting.precision == "bf16"):
            loss = model(**moved).loss / moved["mask_time_indices"].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.set_gumbel_temperature(max(2.0 * 0.999995**number, 0.5))
        turn.step(float(batch["attention_mask"].sum()) / RATE, loss.item() if number % LOG_EVERY == 0 else None)
