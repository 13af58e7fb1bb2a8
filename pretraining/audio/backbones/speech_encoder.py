"""transformers' speech encoders of wav2vec 2.0's form as backbones: Wav2Vec2, HuBERT, WavLM, data2vec.

Shapes: B rows, N samples, T frames, C channels of the stem, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.audio.backbones.layerdrop import drawn_layers, without_layers
from pretraining.audio.backbones.log_mel_stem import LogMelStem
from pretraining.audio.geometry import check_geometry, frames_of
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.backbones.base import Backbone, Features
from pretraining.backbones.transformers_loading import build, quieten
from pretraining.modality import Tower

Stem = Literal["waves", "log_mel"]
FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
MASK = "masked_spec_embed"  # transformers' name of the vector that stands for hidden frames


class SpeechEncoder(Backbone):
    """A model of `encoder` (a dict with `model_type`: wav2vec2, hubert, wavlm or data2vec-audio), or from `init_from`.

    A row's vectors are the same alone and padded, whatever the stem's norm: one over time (`feat_extract_norm: group`)
    is computed for rows of each length by themselves. `stem=log_mel` puts mel energies in place of the stem's first
    layer, whose kernel and stride are then its window and hop, and its channels the mel bins; such a network is not one
    that transformers knows. Each training step leaves each layer out with probability `layerdrop`.
    """

    modality = AUDIO
    model: Any  # transformers', whose parts the type checker does not know

    def __init__(
        self,
        *,
        encoder: dict[str, Any] | None,
        stem: Stem = "waves",
        init_from: str | None = None,
        sample_rate: int = 16_000,
        layerdrop: float = 0.0,
    ) -> None:
        super().__init__()
        if stem not in ("waves", "log_mel"):
            raise ValueError(f"backbone.stem={stem!r} is unknown: choose waves or log_mel")
        self.model = read(init_from) if init_from is not None else _fresh(encoder)
        config = self.model.config
        self.kernels, self.strides = list(config.conv_kernel), list(config.conv_stride)
        check_geometry(self.kernels, self.strides)
        self.stem_kind, self.dim, self.stem_dim = stem, config.hidden_size, config.conv_dim[-1]
        if stem == "log_mel":
            self.model.feature_extractor = LogMelStem(config.conv_dim, self.kernels, self.strides, sample_rate)
        plain = config.to_diff_dict() | {"model_type": config.model_type}
        plain.pop("transformers_version", None)
        self.kwargs = {"encoder": plain, "stem": stem, "sample_rate": sample_rate, "layerdrop": layerdrop}
        self.layerdrop, self.left_out = layerdrop, frozenset[int]()
        # Nothing reads it but objectives that hide frames: an unused parameter to data-parallel backends.
        if self.hides:
            getattr(self.model, MASK).requires_grad_(False)

    def as_transformers(self) -> Any | None:
        """See `Backbone.as_transformers`."""
        return self.model if self.stem_kind == "waves" else None

    @property
    def convolves(self) -> bool:
        """Convolutions in one dimension have not been checked in bf16 on CPUs, either."""
        return True

    def begin_step(self, seed: int, step: int) -> None:
        """Draw the layers that this step leaves out. WavLM's first makes what the others read."""
        drawn = drawn_layers(seed, step, len(self.model.encoder.layers), self.layerdrop)
        self.left_out = drawn - {0} if self.model.config.model_type == "wavlm" else drawn

    @property
    def hides(self) -> bool:
        """Whether there is a vector that stands for hidden frames."""
        return hasattr(self.model, MASK)

    @property
    def takes_padding(self) -> bool:
        """Whether rows of unequal length are computed together: a norm over time takes those of each length alone."""
        # data2vec's configuration names no norm: its stem has one over channels.
        return self.stem_kind != "waves" or getattr(self.model.config, "feat_extract_norm", "layer") != "group"

    def learn_mask(self) -> None:
        """Let the vector that stands for hidden frames train, for an objective that hides some."""
        if not self.hides:
            what = "this checkpoint has no vector for hidden frames (mask_time_prob=0 in its config)"
            raise ValueError(f"{what}: set it above 0 there, or take another backbone.init_from")
        getattr(self.model, MASK).requires_grad_(True)

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
    ) -> Features:
        """Compute the frames of waves [B, N], of which each row's first `lengths` count; a pooled vector is their mean.

        Frames where `mask` [B, T] is True are hidden from the encoder, and so are channels where `channel_mask` [B, D]
        is.
        """
        frames, valid = self.stem(waves, lengths)
        return self.encode(self.normed(frames), valid, mask, channel_mask)

    def stem(self, waves: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the stem: frames [B, T, C], and which of them hold something (None: all). bool [B, T]"""
        waves = waves.to(next(self.model.feature_projection.parameters()).dtype)
        count = frames_of(waves.shape[1], self.kernels, self.strides)
        if count < 1:
            what = f"got recordings of {waves.shape[1]} samples, of which this backbone makes no frame"
            raise ValueError(f"{what}: give longer ones (data.min_seconds)")
        if lengths is None:
            return self.model.feature_extractor(waves).transpose(1, 2), None
        counts = frames_of(lengths, self.kernels, self.strides)
        valid = torch.arange(count, device=waves.device) < counts[:, None]
        if not self.takes_padding:
            return self._stem_by_length(waves, lengths, count), valid
        return self.model.feature_extractor(waves).transpose(1, 2), valid

    def _stem_by_length(self, waves: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Run a stem that normalises over time on rows of equal length at a time, without their padding. [B, T, C]"""
        parts, order = [], []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten()
            frames = self.model.feature_extractor(waves[rows, :length]).transpose(1, 2)
            parts.append(F.pad(frames, (0, 0, 0, count - frames.shape[1])))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def normed(self, frames: Tensor) -> Tensor:
        """Normalise what the stem made over its channels, as what is predicted of hidden frames is. [B, T, C]"""
        norm = getattr(self.model.feature_projection, "layer_norm", None)
        return frames if norm is None else norm(frames)

    def encode(
        self, normed: Tensor, valid: Tensor | None, mask: Tensor | None, channel_mask: Tensor | None = None
    ) -> Features:
        """Project frames, hide those where `mask` is True and channels where `channel_mask` is, and run the encoder."""
        project = self.model.feature_projection
        hidden = project.dropout(project.projection(normed))
        if mask is not None:
            hidden = torch.where(mask[..., None], getattr(self.model, MASK).to(hidden.dtype), hidden)
        if channel_mask is not None:
            hidden = hidden.masked_fill(channel_mask[:, None], 0.0)
        left_out = self.left_out if self.training else frozenset[int]()
        with self._blank_padding(valid), without_layers(self.model.encoder, left_out):
            # The encoder writes zeros over padding in place.
            states = self.model.encoder(hidden.clone(), attention_mask=valid).last_hidden_state
        return _averaged(states, valid)

    def stack(self) -> list[nn.Module]:
        """See `Backbone.stack`."""
        return list(self.model.encoder.layers)

    def of_layer(self, output: Tensor, last: Features) -> Features:
        """See `Backbone.of_layer`."""
        return _averaged(output, last.valid)

    @contextlib.contextmanager
    def _blank_padding(self, valid: Tensor | None) -> Iterator[None]:
        """Keep padding zero between data2vec's five positional convolutions, or it would leak into what is before."""
        layers = [] if valid is None else getattr(self.model.encoder.pos_conv_embed, "layers", [])

        def blank(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            assert valid is not None
            return output * valid[:, None].to(output.dtype)

        handles = [layer.register_forward_hook(blank) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def set_compute(self, *, compiled: bool, activation_checkpointing: bool, sharded: bool) -> None:
        """See `Backbone.set_compute`."""
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        super().set_compute(compiled=compiled, activation_checkpointing=False, sharded=sharded)

    def blocks(self) -> list[nn.Module]:
        """List the stem, the rest before the layers, each layer, and what follows them."""
        model, encoder = self.model, self.model.encoder
        last = [encoder.layer_norm] if getattr(model.config, "do_stable_layer_norm", False) else []
        first = [model.feature_projection, encoder.pos_conv_embed]
        first += [] if last else [encoder.layer_norm]
        first += [nn.ParameterList([getattr(model, MASK)])] if self.hides else []
        return [nn.ModuleList([model.feature_extractor]), nn.ModuleList(first), *encoder.layers, *last]

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors as `save_pretrained` does; the weights alone with another stem."""
        if self.stem_kind == "waves":
            quieten()
            self.model.save_pretrained(directory)
            return
        from safetensors.torch import save_file

        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        save_file(weights, directory / "model.safetensors")

    def load(self, directory: Path) -> None:
        """Read the weights strictly."""
        if self.stem_kind == "waves":
            self.model.load_state_dict(read(str(directory)).state_dict())
            return
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)

    def usage(self) -> str:
        """Write the lines that load it: with transformers alone where it knows the stem."""
        if self.stem_kind == "waves":
            return 'import transformers\n\nmodel = transformers.AutoModel.from_pretrained("DIR")'
        return (
            'from pretraining import handoff  # transformers has no such stem\n\nmodel = handoff.read("DIR").backbone'
        )


def _averaged(states: Tensor, valid: Tensor | None) -> Features:
    """Pool frames by their mean over those that hold something."""
    if valid is None:
        return Features(states, states.mean(1))
    weight = valid[..., None].to(states.dtype)
    return Features(states, (states * weight).sum(1) / weight.sum(1).clamp(min=1), valid=valid)


def _fresh(encoder: dict[str, Any] | None) -> Any:
    if not encoder or encoder.get("model_type") not in FAMILIES:
        told = (encoder or {}).get("model_type")
        raise ValueError(f"got backbone.encoder.model_type={told!r}: choose {', '.join(FAMILIES)}")
    if encoder.get("layerdrop"):
        what = f"got backbone.encoder.layerdrop={encoder['layerdrop']}: transformers' draws would differ between ranks"
        raise ValueError(f"{what}: set backbone.layerdrop instead")
    return build("encoder", {"layerdrop": 0.0, "attn_implementation": _attention(encoder), **encoder}, None, None, {})


def _attention(config: dict[str, Any]) -> str:
    return "eager" if config["model_type"] == "wavlm" else "sdpa"  # transformers has nothing else for WavLM


def read(name: str) -> Any:
    """Read a transformers checkpoint, also one with a head; a weight that is missing is an error.

    The vector that stands for hidden frames may be: what was finetuned without hiding any has none.
    """
    import transformers

    quieten()
    config = transformers.AutoConfig.from_pretrained(name)
    if config.model_type not in FAMILIES:
        raise ValueError(f"{name} is a {config.model_type}, not a speech encoder of these: {', '.join(FAMILIES)}")
    options = {"dtype": torch.float32, "attn_implementation": _attention(config.to_dict()), "layerdrop": 0.0}
    model, report = transformers.AutoModel.from_pretrained(name, output_loading_info=True, **options)
    broken = [*sorted(set(report["missing_keys"]) - {MASK}), *map(str, report["mismatched_keys"])]
    if broken:
        raise ValueError(f"{name} lacks weights of {type(model).__name__}: {', '.join(broken[:5])}")
    if getattr(model, "adapter", None) is not None:
        raise ValueError(f"{name} has an adapter behind its encoder, which is not read: take one without")
    return model


def read_checkpoint(name: str) -> Tower:
    """Read a transformers checkpoint with its preparation: a directory, or a name of the hub."""
    preprocess = AudioPreprocess.of_transformers(name)
    return Tower(SpeechEncoder(encoder=None, init_from=name, sample_rate=preprocess.sample_rate), preprocess)
