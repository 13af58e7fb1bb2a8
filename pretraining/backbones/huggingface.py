"""Any transformers architecture as a backbone: encoders, decoders and encoder–decoders, fresh or from a checkpoint.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features

Architecture = Literal["encoder", "causal", "seq2seq"]
Pooling = Literal["mean", "first", "pooler", "last"]
_LOADERS = {"encoder": "AutoModel", "causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}


class TransformersBackbone(Backbone):
    """A transformers model built from `config` (a dict with `model_type`), or read from `init_from`.

    `architecture` says which automatic class holds it: encoders are the base model; causal and seq2seq models keep their head.
    `pooling` makes one vector per row: the mean over its tokens, the first token's or the last one's vector, or the model's own pooler
    (BERT's tanh layer). `vocab_size`, `pad_id` and `frame_ids` (the "first" and "last" id of a text) come from the tokenizer and
    override those of the config, but not of a checkpoint.
    """

    modality = "text"
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
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.architecture, self.pooling = architecture, pooling
        ids = {"pad_token_id": pad_id, **_frame(architecture, config, pad_id, frame_ids or {})}
        self.model = _build(architecture, config, init_from, vocab_size, ids, attention)
        self.dim = self.model.config.hidden_size
        self.max_tokens = getattr(self.model.config, "max_position_embeddings", None)
        plain = self.model.config.to_diff_dict() | {"model_type": self.model.config.model_type}
        plain.pop("transformers_version", None)
        self.kwargs = {"config": plain, "architecture": architecture, "pooling": pooling, "attention": attention}
        self._first_position = _first_position(self.model)
        self._check_pooling()
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

    @property
    def packs(self) -> bool:
        """Whether rows of several documents are possible: the model must take positions that start over in each."""
        body = self.base.encoder if self.architecture == "seq2seq" else self.base
        relative = self.model.config.model_type in ("t5", "mt5", "umt5")
        return relative or "position_ids" in inspect.signature(body.forward).parameters

    def forward(self, input_ids: Tensor, documents: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """Compute token vectors and one pooled vector per row; a token sees its own document only (and no later token, if causal)."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": self._mask(documents)}
        if token_type_ids is not None and "token_type_ids" in self._arguments:
            inputs["token_type_ids"] = token_type_ids
        if "position_ids" in self._arguments:
            inputs["position_ids"] = self._position_ids(documents)
        output = self._body(**inputs)
        return Features(output.last_hidden_state, self._pool(output, documents))

    @property
    def _body(self) -> Any:
        return self.base.encoder if self.architecture == "seq2seq" else self.base

    @property
    def _arguments(self) -> set[str]:
        return set(inspect.signature(self._body.forward).parameters)

    def _mask(self, documents: Tensor) -> Tensor | dict[str, Tensor]:
        """Mark which tokens each token sees. bool [B, 1, T, T]; padding sees padding, so that no row of it is empty."""
        same = documents[:, None, :, None] == documents[:, None, None, :]
        place = torch.arange(documents.shape[1], device=documents.device)
        if self.architecture == "causal":
            same = same & (place[:, None] >= place[None, :])
        if self.model.config.model_type == "modernbert":
            near = (place[:, None] - place[None, :]).abs() <= self.model.config.local_attention // 2
            return {"full_attention": same, "sliding_attention": same & near}
        return same

    def _position_ids(self, documents: Tensor) -> Tensor:
        """Number the tokens of each document from the model's first position. int64 [B, T]."""
        place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        start = torch.where(begins, place, 0).cummax(1).values
        return place - start + self._first_position

    def _pool(self, output: Any, documents: Tensor) -> Tensor:
        hidden = output.last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        if self.pooling == "pooler":
            return output.pooler_output
        real = documents > 0
        if self.pooling == "last":
            place = torch.arange(documents.shape[1], device=documents.device)
            return hidden[torch.arange(len(hidden), device=hidden.device), (real * place).argmax(1)]
        weight = real.to(hidden.dtype)[..., None]
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _check_pooling(self) -> None:
        if self.pooling not in ("mean", "first", "pooler", "last"):
            raise ValueError(f"pooling={self.pooling!r} is unknown: choose mean, first, pooler or last")
        if self.pooling == "pooler" and getattr(self.base, "pooler", None) is None:
            raise ValueError(f"{self.model.config.model_type} has no pooler: choose backbone.pooling=mean, first or last")

    def blocks(self) -> list[nn.Module]:
        """List embeddings, each layer, and what follows the layers."""
        layers = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        deep = [layer for stack in layers if _is_layer_stack(stack) for layer in stack]
        inside = {id(parameter) for layer in deep for parameter in layer.parameters()}
        rest = [module for module in self.model.modules() if _owns(module, inside)]
        embeddings = {id(self.input_embeddings.weight)}
        first = [module for module in rest if any(id(p) in embeddings for p in module.parameters(recurse=False))]
        root = [m for m in self.base.children() if any(e in set(m.modules()) for e in first)] or first
        covered = inside | {id(p) for module in root for p in module.parameters()}
        last = [module for module in rest if any(id(p) not in covered for p in module.parameters(recurse=False))]
        return [nn.ModuleList(root), *deep, nn.ModuleList(last)] if last else [nn.ModuleList(root), *deep]

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors as `save_pretrained` does."""
        _quieten()
        self.model.save_pretrained(directory)

    def load(self, directory: Path) -> None:
        """Read the weights strictly: a weight that is missing, unexpected or of another shape is an error."""
        loaded = _read(self.architecture, str(directory), {})
        self.model.load_state_dict(loaded.state_dict())

    def forward_flops(self, shape: tuple[int, ...]) -> float:
        """Count one row's forward pass; `shape` is (tokens, tokens each of them sees). Embedding look-ups and norms are not counted."""
        tokens, seen = shape
        head = self.model.get_output_embeddings() if self.architecture != "encoder" else None
        per_token = 0.0
        for name, module in self.model.named_modules():
            if module is not head and "pooler" not in name and type(module).__name__ in ("Linear", "Conv1D"):
                per_token += 2.0 * module.weight.numel()
        layers = self.model.config.num_hidden_layers
        return tokens * (per_token + 4.0 * layers * self.dim * seen)

    def usage(self) -> str:
        """Give the lines that load it with transformers alone."""
        loader = _LOADERS[self.architecture]
        return f'import transformers\n\nmodel = transformers.{loader}.from_pretrained("DIR")'


def _frame(
    architecture: Architecture, config: dict[str, Any] | None, pad_id: int | None, frame_ids: dict[str, int | None]
) -> dict[str, int | None]:
    """Name a tokenizer's ids as configurations do; a decoder starts from the padding token in T5's family, else from the last one."""
    if not frame_ids:
        return {}
    last = frame_ids["last"]
    first = last if frame_ids["first"] is None and architecture == "causal" else frame_ids["first"]  # GPT-2 has one token for both
    named = {"bos_token_id": first, "eos_token_id": last}
    if architecture == "seq2seq" and config:
        family = config.get("model_type")
        named["decoder_start_token_id"] = pad_id if family in ("t5", "mt5", "umt5", "longt5", "pegasus") else last
        if family in ("bart", "mbart"):
            named["forced_eos_token_id"] = last
    return named


def _build(
    architecture: Architecture,
    config: dict[str, Any] | None,
    init_from: str | None,
    vocab_size: int | None,
    ids: dict[str, int | None],
    attention: str,
) -> Any:
    import transformers

    if architecture not in _LOADERS:
        raise ValueError(f"backbone.architecture={architecture!r} is unknown: choose {', '.join(_LOADERS)}")
    if init_from is not None:
        model = _read(architecture, init_from, {"attn_implementation": attention})
        if vocab_size is not None and vocab_size > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {vocab_size} tokens, but backbone.init_from={init_from} has embeddings for "
                f"{model.config.vocab_size}: take its own tokenizer (preprocess=pretrained_tokenizer preprocess.path={init_from})"
            )
        return model
    if not config or "model_type" not in config:
        raise ValueError("backbone.config must name a model_type (bert, roberta, modernbert, bart, t5, gpt2, llama, ...)")
    given = {name: value for name, value in config.items() if name != "model_type"}
    if vocab_size is not None:
        given["vocab_size"] = vocab_size
    given |= {name: value for name, value in ids.items() if value is not None}
    try:
        filled = transformers.AutoConfig.for_model(config["model_type"], **given)
    except ValueError as error:
        raise ValueError(f"backbone.config.model_type={config['model_type']!r} is not one that transformers knows") from error
    return getattr(transformers, _LOADERS[architecture]).from_config(filled, attn_implementation=attention)


def _first_position(model: nn.Module) -> int:
    """Tell where a model's positions begin: behind the one that stands for padding, where its table has such (RoBERTa's family)."""
    tables = [part for name, part in model.named_modules() if name.endswith("position_embeddings") and isinstance(part, nn.Embedding)]
    return max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)


def _quieten() -> None:
    """Leave progress bars to what takes long."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _read(architecture: Architecture, directory: str, options: dict[str, Any]) -> Any:
    import transformers

    _quieten()
    loader = getattr(transformers, _LOADERS[architecture])
    model, report = loader.from_pretrained(directory, output_loading_info=True, dtype=torch.float32, **options)
    # The pooler of a base model is new where the checkpoint was written by a masked language model; everything else must be there.
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    broken = [*missing, *(str(item) for item in report["mismatched_keys"])]
    if broken:
        raise ValueError(f"{directory} lacks weights of {type(model).__name__}: {', '.join(sorted(broken)[:5])}")
    return model


def _is_layer_stack(stack: nn.ModuleList) -> bool:
    return len(stack) > 0 and sum(p.numel() for p in stack.parameters()) > 0 and len({type(layer) for layer in stack}) == 1


def _owns(module: nn.Module, inside: set[int]) -> bool:
    return any(id(parameter) not in inside for parameter in module.parameters(recurse=False))


def architecture_of(name: str) -> Architecture:
    """Tell which architecture a checkpoint has, from its config: what its language-model head is, else an encoder."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    written = " ".join(config.architectures or [])
    if config.is_encoder_decoder:
        return "seq2seq"
    return "causal" if "CausalLM" in written or "LMHead" in written else "encoder"
