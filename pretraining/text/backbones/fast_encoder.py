"""The forward pass of transformers' encoders without what a padded batch wastes: `backbone.impl=fast`.

It computes with the modules of a transformers model, whose weights stay where they are and what they are called: what
reads checkpoints, hands over or finetunes sees nothing of it. What differs from transformers' pass, to rounding error:

- Padding is left out: tokens make one stream, [N, D]. (Not when compiled or on a GPU, where shapes stay [B * T, D].)
- Query, key and value are one matrix product.
- Documents of a row attend to themselves alone, without a mask of all pairs of a row: see `attention`.
- The last layer is computed only where its output is wanted.

Shapes: B rows, T tokens, N tokens of the stream, D width, H heads, K wanted places.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretraining.kernels.attention import Layout, attend, lay_out
from pretraining.kernels.dropout import dropout
from pretraining.kernels.inference import activated

POST_NORM = ("bert", "roberta", "xlm-roberta", "camembert")
PRE_NORM = ("roberta-prelayernorm", "modernbert")


class Rates(NamedTuple):
    """Dropout rates, 0 in evaluation: `attended` of attention's output, `inner` inside of the feed-forward part."""

    embeddings: float
    weights: float
    attended: float
    inner: float
    output: float


class Layer(nn.Module):
    """One layer, made of a transformers layer's modules; its two norms stand before its two parts, or behind them."""

    def __init__(
        self, qkv: list[nn.Module], out: nn.Module, norms: tuple[nn.Module, nn.Module], feed_forward: tuple[Any, ...]
    ) -> None:
        super().__init__()
        self.qkv, self.out = nn.ModuleList(qkv), out
        self.first_norm, self.second_norm = norms
        self.up, self.activation, self.down = feed_forward

    def forward(
        self,
        stream: Tensor,
        layout: Layout,
        rates: Rates,
        heads: int,
        pre_norm: bool,
        window: int | None,
        rotation: tuple[Tensor, Tensor] | None,
        wanted: Tensor | None,
    ) -> Tensor:
        """Compute [N, D] -> [N, D], or [K, D] at the `wanted` places of the stream."""
        projected = self._project(self.first_norm(stream) if pre_norm else stream)
        if rotation is not None:
            projected = rotate(projected, rotation, heads)
        context = attend(projected, layout, heads=heads, window=window, rate=rates.weights)
        if wanted is not None:
            context, stream = context.index_select(0, wanted), stream.index_select(0, wanted)
        stream = stream + dropout(self.out(context), rates.attended)
        stream = stream if pre_norm else self.first_norm(stream)
        inside = self.second_norm(stream) if pre_norm else stream
        if self.down.in_features != self.up.out_features:  # gated units (Shazeer 2020)
            value, gate = self.up(inside).chunk(2, dim=-1)
            inside = self.activation(value) * gate
        else:
            inside = activated(self.up, self.activation, inside)
        stream = stream + dropout(self.down(dropout(inside, rates.inner)), rates.output)
        return stream if pre_norm else self.second_norm(stream)

    def _project(self, stream: Tensor) -> Tensor:
        """Compute queries, keys and values in one product. [N, 3 * D]"""
        if len(self.qkv) == 1:
            return self.qkv[0](stream)
        weight = torch.cat([part.weight for part in self.qkv])  # type: ignore[misc]
        return F.linear(stream, weight, torch.cat([part.bias for part in self.qkv]))  # type: ignore[misc]


def rotate(projected: Tensor, rotation: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """Turn queries and keys by their positions (Su et al. 2021), in the rotation's precision. [N, 3 * D]"""
    parts = projected.unflatten(-1, (3, heads, -1))
    cosine, sine = (part[:, None, None] for part in rotation)
    turned = parts[:, :2]
    left, right = turned.chunk(2, dim=-1)
    turned = (turned * cosine + torch.cat([-right, left], dim=-1) * sine).to(parts.dtype)
    return torch.cat([turned, parts[:, 2:]], dim=1).flatten(1)


def reason_against(model: Any) -> str | None:
    """Say what keeps a transformers encoder from being computed here; None: nothing."""
    family = model.config.model_type
    if family not in POST_NORM + PRE_NORM:
        return f"computes {', '.join(POST_NORM + PRE_NORM)}, not {family}"
    if getattr(model.config, "position_embedding_type", "absolute") != "absolute":
        return "has absolute positions only"
    return None


class FastEncoder:
    """Runs a transformers encoder. It is no module, and owns no weight: those of `model` stay the model's.

    `static` keeps padding in the stream, so that shapes depend on nothing in a batch. Beside CPUs it is always kept.
    """

    def __init__(self, model: Any) -> None:
        family = model.config.model_type
        if (reason := reason_against(model)) is not None:
            raise ValueError(f"backbone.impl=fast {reason}: choose backbone.impl=transformers")
        self.model, self.heads, self.pre_norm = model, model.config.num_attention_heads, family in PRE_NORM
        if family == "modernbert":
            self.layers = [_modern_layer(layer) for layer in model.layers]
        else:
            self.layers = [_bert_layer(layer, self.pre_norm) for layer in model.encoder.layer]
        self.static, self.activation_checkpointing = False, False

    def compile(self) -> None:
        """Compile each layer; they share their code, so one compilation serves all."""
        self.static = True
        for layer in self.layers:
            layer.compile(fullgraph=True)

    def __call__(
        self, tokens: Tensor, documents: Tensor, types: Tensor | None, positions: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Compute the last layer's output, [B, T, D], with zeros at padding; or [K, D] at flat `places` in [B, T].

        `documents` number tokens' documents, `positions` their places in these, as the position table counts. [B, T]
        """
        layout = lay_out(documents, self.heads, keep_padding=self.static or documents.device.type != "cpu")
        tokens, numbers = (part.flatten()[layout.places] for part in (tokens, positions))
        types = None if types is None else types.flatten()[layout.places]
        rates = self._rates()
        stream = dropout(self._embed(tokens, numbers, types), rates.embeddings)
        wanted = None if places is None else layout.back[places]
        rotations = self._rotations(numbers) if hasattr(self.model, "rotary_emb") else {}
        for number, layer in enumerate(self.layers):
            kind = self._kind(number)
            window = self.model.config.local_attention // 2 if kind == "sliding_attention" else None
            last = wanted if number == len(self.layers) - 1 else None
            run: Callable[..., Tensor] = layer
            if self.activation_checkpointing and self.model.training:  # keeps a layer's input alone
                run = functools.partial(checkpoint, layer, use_reentrant=False)
            stream = run(stream, layout, rates, self.heads, self.pre_norm, window, rotations.get(kind), last)
        if self.pre_norm:
            stream = (self.model.final_norm if hasattr(self.model, "final_norm") else self.model.LayerNorm)(stream)
        if places is not None:
            return stream
        whole = stream.index_select(0, layout.back).unflatten(0, documents.shape)
        return whole * (documents > 0)[..., None].to(whole.dtype)

    def _kind(self, number: int) -> str:
        """Name how far a layer sees."""
        kinds = getattr(self.model.config, "layer_types", None)
        return kinds[number] if kinds else "full_attention"

    def _embed(self, input_ids: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """Look tokens up, with their positions and segments where the model has those. [N, D]"""
        parts = self.model.embeddings
        if hasattr(parts, "tok_embeddings"):
            return parts.norm(parts.tok_embeddings(input_ids))
        segments = parts.token_type_embeddings.weight[0] if types is None else parts.token_type_embeddings(types)
        return parts.LayerNorm(parts.word_embeddings(input_ids) + segments + parts.position_embeddings(positions))

    def _rotations(self, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Compute cosines and sines for each kind of layer. [N, D / H] each."""
        table = self.model.rotary_emb
        like = self.model.embeddings.tok_embeddings.weight
        like = like if like.dtype == torch.float64 else like.float()
        return {kind: tuple(part[0] for part in table(like, positions[None], kind)) for kind in table.rope_type}  # type: ignore[misc]

    def _rates(self) -> Rates:
        config = self.model.config
        if not self.model.training:
            return Rates(0.0, 0.0, 0.0, 0.0, 0.0)
        if config.model_type == "modernbert":
            attention = config.attention_dropout
            return Rates(config.embedding_dropout, attention, attention, config.mlp_dropout, 0.0)
        hidden = config.hidden_dropout_prob
        return Rates(hidden, config.attention_probs_dropout_prob, hidden, 0.0, hidden)


def _bert_layer(layer: Any, pre_norm: bool) -> Layer:
    attention, inner, output = layer.attention, layer.intermediate, layer.output
    norms = (attention.LayerNorm, inner.LayerNorm) if pre_norm else (attention.output.LayerNorm, output.LayerNorm)
    qkv = [attention.self.query, attention.self.key, attention.self.value]
    return Layer(qkv, attention.output.dense, norms, (inner.dense, inner.intermediate_act_fn, output.dense))


def _modern_layer(layer: Any) -> Layer:
    part, mlp = layer.attn, layer.mlp
    return Layer([part.Wqkv], part.Wo, (layer.attn_norm, layer.mlp_norm), (mlp.Wi, mlp.act, mlp.Wo))
