"""Any transformers architecture as a backbone: encoders, decoders and encoder–decoders, fresh or from a checkpoint.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features
from pretraining.backbones.transformers_loading import (
    LOADERS,
    Architecture,
    build,
    quieten,
    read,
    special_tokens,
)
from pretraining.text.backbones.fast_encoder import FastEncoder, reason_against
from pretraining.text.cost import TextRow
from pretraining.text.modality import TEXT

Pooling = Literal["mean", "first", "pooler", "last"]
POOLED = {  # how the vector of a text is made, in words for whoever loads the network alone
    "mean": "a text's vector is the mean of last_hidden_state over its tokens, special ones included",
    "first": "a text's vector is last_hidden_state at its first token",
    "last": "a text's vector is last_hidden_state at its last token",
    "pooler": "a text's vector is pooler_output",
}
CAUSAL = ("clip_text_model",)  # encoders whose tokens see nothing later
Implementation = Literal["transformers", "fast"]


class TransformersBackbone(Backbone):
    """A transformers model built from `config` (a dict with `model_type`), or read from `init_from`.

    `architecture` says which automatic class holds it: encoders are the base model; causal and seq2seq models keep
    their head. `pooling` makes one vector per row: the mean over its tokens, the first token's or the last one's
    vector, or the model's own pooler (BERT's tanh layer). `vocab_size`, `pad_id` and `frame_ids` ("bos" and "eos",
    which open and close a text) come from the tokenizer and override those of the config, but not of a checkpoint.
    `impl` says what computes: transformers (which attends as `config.attn_implementation` says, "sdpa" by default), or
    for encoders of BERT's kind `FastEncoder`, with the same result.
    """

    modality = TEXT
    model: Any  # transformers', whose parts the type checker does not know

    def __init__(
        self,
        *,
        config: dict[str, Any] | None,
        architecture: Architecture = "encoder",
        pooling: Pooling = "mean",
        init_from: str | None = None,
        vocab_size: int | None = None,
        pad_id: int | None = None,
        frame_ids: dict[str, int | None] | None = None,
        impl: Implementation = "transformers",
    ) -> None:
        super().__init__()
        self.architecture, self.pooling = architecture, pooling
        ids = {"pad_token_id": pad_id, **special_tokens(architecture, config, pad_id, frame_ids or {})}
        self.model = build(architecture, config, init_from, vocab_size, ids)
        self.dim = self.model.config.hidden_size
        plain = self.model.config.to_diff_dict() | {"model_type": self.model.config.model_type}
        plain.pop("transformers_version", None)
        self.kwargs = {"config": plain, "architecture": architecture, "pooling": pooling}
        self._first_position = _first_position(self.model)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        self.max_tokens = None if positions is None else positions - self._first_position
        self._check_pooling()
        self._fast = _fast(self.model, architecture, impl)
        # A pooler that nothing trains would be an unused parameter to data-parallel backends; it is still exported.
        if pooling != "pooler" and getattr(self.base, "pooler", None) is not None:
            self.base.pooler.requires_grad_(False)

    @property
    def base(self) -> Any:
        """The model without a language-model head."""
        return self.model if self.architecture == "encoder" else self.model.base_model

    @property
    def input_embeddings(self) -> nn.Embedding:
        """The token embeddings, which language-model heads tie to."""
        return self.model.get_input_embeddings()

    def forward(self, input_ids: Tensor, document_ids: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """Compute token vectors and a pooled one per row; a token sees its document only (nothing later, if causal)."""
        positions = self._position_ids(document_ids)
        if self._fast is not None:
            hidden = self._fast(input_ids, document_ids, token_type_ids, positions)
        else:
            hidden = self._by_library(input_ids, document_ids, token_type_ids, positions)
        real = document_ids > 0
        return Features(hidden, self._pool(hidden, real), valid=real)

    def of_single_texts(self, input_ids: Tensor, real: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """Compute what `forward` does for rows of one document, padded at the end, by transformers' modules alone.

        `real` [B, T] is 1 at tokens and 0 at padding. This is what other runtimes are made from.
        """
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + self._first_position
        hidden = self._by_library(input_ids, real, token_type_ids, places.expand_as(input_ids))
        return Features(hidden, self._pool(hidden, real > 0), valid=real > 0)

    def _by_library(self, input_ids: Tensor, document_ids: Tensor, types: Tensor | None, positions: Tensor) -> Tensor:
        """Compute the last layer's output by transformers. [B, T, D]"""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": self._mask(document_ids)}
        taken = inspect.signature(self._body.forward).parameters
        if types is not None and "token_type_ids" in taken:
            inputs["token_type_ids"] = types
        if "position_ids" in taken:
            inputs["position_ids"] = positions
        return self._body(**inputs).last_hidden_state

    def stack(self) -> list[nn.Module]:
        """See `Backbone.stack`; of an encoder–decoder the encoder's."""
        return max(_stacks(self._body), key=len)

    def of_layer(self, output: Tensor, last: Features) -> Features:
        """See `Backbone.of_layer`; below the last layer the first token's vector stands for a pooler's."""
        assert last.valid is not None
        pooled = output[:, 0] if self.pooling == "pooler" else self._pool(output, last.valid)
        return Features(output, pooled, valid=last.valid)

    def hidden_layers(self, **inputs: Any) -> list[Features]:
        """See `Backbone.hidden_layers`; computed by transformers, whose layers say something each."""
        fast, self._fast = self._fast, None
        try:
            return super().hidden_layers(**inputs)
        finally:
            self._fast = fast

    def at(self, places: Tensor, input_ids: Tensor, document_ids: Tensor) -> Tensor:
        """Compute token vectors at flat `places` [K] of the batch alone. [K, D]"""
        if self._fast is not None:
            return self._fast(input_ids, document_ids, None, self._position_ids(document_ids), places)
        return self(input_ids=input_ids, document_ids=document_ids).positions.flatten(0, 1).index_select(0, places)

    def decode(self, decoder_input_ids: Tensor, memory: Features) -> Tensor:
        """Run the decoder on its inputs [B, U] over what the encoder said: hidden states [B, U, D].

        The encoder's padding is not read. What is written is padded at its end, which a causal decoder's real positions
        never see: it needs no mask of its own.
        """
        assert memory.valid is not None
        read = {"encoder_hidden_states": memory.positions, "encoder_attention_mask": memory.valid.long()}
        return self.model.get_decoder()(input_ids=decoder_input_ids, **read, use_cache=False).last_hidden_state

    def set_compute(self, *, compiled: bool, activation_checkpointing: bool, sharded: bool) -> None:
        """See `Backbone.set_compute`."""
        if self._fast is not None:
            if sharded:
                raise ValueError("backbone.impl=fast reads whole weights: use trainer=ddp, or impl=transformers")
            self._fast.activation_checkpointing = activation_checkpointing
            if compiled:
                self._fast.compile()
            return
        if activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        super().set_compute(compiled=compiled, activation_checkpointing=False, sharded=sharded)

    @property
    def _body(self) -> Any:
        return self.base.encoder if self.architecture == "seq2seq" else self.base

    def _mask(self, document_ids: Tensor) -> Tensor | dict[str, Tensor]:
        """Mark which tokens each token sees. bool [B, 1, T, T]; padding sees padding, so that no row of it is empty."""
        same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
        place = torch.arange(document_ids.shape[1], device=document_ids.device)
        if self.architecture == "causal" or self.model.config.model_type in CAUSAL:
            same = same & (place[:, None] >= place[None, :])
        if self.model.config.model_type == "modernbert":
            near = (place[:, None] - place[None, :]).abs() <= self.model.config.local_attention // 2
            return {"full_attention": same, "sliding_attention": same & near}
        return same

    def _position_ids(self, document_ids: Tensor) -> Tensor:
        """Number the tokens of each document from the model's first position. int64 [B, T]."""
        place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
        begins = torch.ones_like(document_ids, dtype=torch.bool)
        begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        start = torch.where(begins, place, 0).cummax(1).values
        return place - start + self._first_position

    def _pool(self, hidden: Tensor, real: Tensor) -> Tensor:
        if self.pooling == "first":
            return hidden[:, 0]
        if self.pooling == "pooler":
            return self.base.pooler(hidden)
        if self.pooling == "last":
            place = torch.arange(real.shape[1], device=real.device)
            return hidden[torch.arange(len(hidden), device=hidden.device), (real * place).argmax(1)]
        weight = real.to(hidden.dtype)[..., None]
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _check_pooling(self) -> None:
        if self.pooling not in ("mean", "first", "pooler", "last"):
            raise ValueError(f"pooling={self.pooling!r} is unknown: choose mean, first, pooler or last")
        if self.pooling == "pooler" and getattr(self.base, "pooler", None) is None:
            family = self.model.config.model_type
            raise ValueError(f"{family} has no pooler: choose backbone.pooling=mean, first or last")

    def blocks(self) -> list[nn.Module]:
        """List embeddings, each layer, and what follows the layers."""
        deep = [layer for stack in _stacks(self.model) for layer in stack]
        inside = {id(parameter) for layer in deep for parameter in layer.parameters()}
        rest = [m for m in self.model.modules() if any(id(p) not in inside for p in m.parameters(recurse=False))]
        first = [module for module in rest if isinstance(module, nn.Embedding)]  # of tokens, and of positions
        root = [m for m in self.base.children() if any(e in set(m.modules()) for e in first)] or first
        covered = inside | {id(p) for module in root for p in module.parameters()}
        last = [module for module in rest if any(id(p) not in covered for p in module.parameters(recurse=False))]
        return [nn.ModuleList(root), *deep, nn.ModuleList(last)] if last else [nn.ModuleList(root), *deep]

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors as `save_pretrained` does."""
        quieten()
        self.model.save_pretrained(directory)

    def load(self, directory: Path) -> None:
        """Read the weights strictly: a weight that is missing, unexpected or of another shape is an error."""
        loaded = read(self.architecture, str(directory), {})
        self.model.load_state_dict(loaded.state_dict())

    def take_shortcuts(self, dtype: torch.dtype) -> bool:
        """Leave padding out where that is possible: see `Backbone.take_shortcuts`."""
        fits = self.architecture == "encoder" and reason_against(self.model) is None
        if fits:
            self.model.to(dtype)
            self._fast = FastEncoder(self.model)
        return fits

    def take_no_shortcut(self) -> None:
        """Compute as transformers does."""
        self._fast = None

    def forward_flops(self, row: TextRow) -> float:
        """Count one row's forward pass (2 per multiply-add), of an encoder–decoder the encoder's.

        Look-ups of embeddings and norms are not counted; masked parts of attention are: plain attention computes them.
        """
        entries = matrix_entries(self._body, without={id(getattr(self.base, "pooler", None))})
        attention = 4.0 * self.model.config.num_hidden_layers * self.attention_width * row.seen
        pooler = 2.0 * self.dim**2 if self.pooling == "pooler" else 0.0
        return row.read * (2.0 * entries + attention) + pooler

    @property
    def attention_width(self) -> int:
        """The width of all heads together, which is not the model's width everywhere."""
        config = self.model.config
        heads = config.num_attention_heads
        return heads * (getattr(config, "head_dim", None) or self.dim // heads)

    def as_transformers(self) -> Any:
        """See `Backbone.as_transformers`."""
        return self.base

    def usage(self) -> str:
        """Write the lines that load it with transformers alone."""
        loader, pooled = LOADERS[self.architecture], POOLED[self.pooling]
        lines = f'import transformers\n\nmodel = transformers.{loader}.from_pretrained("DIR")'
        return f"{lines}\n# {pooled}" if self.architecture == "encoder" else lines


def matrix_entries(module: nn.Module, without: Collection[int] = ()) -> int:
    """Count the weights that each position is multiplied by, but not those of parts whose id is in `without`."""
    if id(module) in without:
        return 0
    own = module.weight.numel() if type(module).__name__ in ("Linear", "Conv1D") else 0  # type: ignore[union-attr, operator]
    return own + sum(matrix_entries(part, without) for part in module.children())


def _stacks(model: nn.Module) -> list[list[nn.Module]]:
    """List the lists of layers of one kind."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    filled = [part for part in lists if any(p.numel() for layer in part for p in layer.parameters())]
    return [stack for stack in filled if len({type(layer) for layer in stack}) == 1]


def _fast(model: Any, architecture: Architecture, impl: Implementation) -> FastEncoder | None:
    if impl not in ("transformers", "fast"):
        raise ValueError(f"backbone.impl={impl!r} is unknown: choose transformers or fast")
    if impl == "fast" and architecture != "encoder":
        told = f"backbone.impl=fast computes encoders, and architecture={architecture} is none"
        raise ValueError(f"{told}: choose backbone.impl=transformers")
    return FastEncoder(model) if impl == "fast" else None


def _first_position(model: nn.Module) -> int:
    """Tell where a model's positions begin: behind the one for padding, where its table has one (RoBERTa)."""
    parts = [part for name, part in model.named_modules() if name.endswith("position_embeddings")]
    paddings = [part.padding_idx for part in parts if isinstance(part, nn.Embedding) and part.padding_idx is not None]
    return max(paddings, default=-1) + 1
