"""Attention of documents to themselves: grouped by length on a CPU, masked rows of static shape elsewhere.

Shapes: B rows, T tokens, N tokens of the stream, D width, H heads, d width of a head; G documents of a group, L its
longest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.kernels.dropout import draw_kept, zero_dropped
from pretraining.kernels.inference import is_inference

SHORTEST_SHARE = 0.7  # of a group's longest document: a shorter one opens a group of its own
SHORT = 16  # tokens: documents up to this length make one group
ROUND = 256  # tokens: without gradients a stream is filled up to sizes that come again; each new one costs milliseconds
PLAIN_UP_TO = 512  # tokens: up to here a product, a softmax and a product beat the fused kernel's backward pass on CPUs
_FAR = -1e30  # added to a score that does not count: finite, so that a row of nothing else stays a number


class Group(NamedTuple):
    """Documents of about one length. Row numbers say where to gather from: nothing is moved twice."""

    size: tuple[int, int]  # G, L
    valid: Tensor | None  # bool [G, L]; None where all are equally long
    inputs: Tensor  # int64 [3 * G * H * L], rows of [N * 3 * H, d]: queries, keys and values
    outputs: Tensor  # int64 [G * H * L], rows of [N * H, d]


class Layout(NamedTuple):
    """Where the tokens of a batch [B, T] stand in the stream, and which of them see each other."""

    places: Tensor  # int64 [N], the flat place of each token of the stream, which may be filled up at its end
    back: Tensor  # int64 [B * T], the place in the stream of each flat place; 0 at padding
    groups: list[Group]
    from_outputs: Tensor | None  # int64 [N * H], the row of each token and head among all groups' outputs
    from_inputs: Tensor | None  # int64 [N * 3 * H], and among all groups' inputs
    mask: Tensor | None  # bool [B, 1, T, T] where there are no groups: the stream keeps its padding, shapes are static
    runs: tuple[tuple[int, int], ...] = ()  # without gradients: how many documents of which length follow each other


def lay_out(document_ids: Tensor, heads: int, *, keep_padding: bool) -> Layout:
    """Lay a batch out. `document_ids` [B, T] numbers the documents of each row; 0 is padding."""
    if keep_padding:
        everything = torch.arange(document_ids.numel(), device=document_ids.device)
        mask = document_ids[:, None, :, None] == document_ids[:, None, None, :]
        return Layout(everything, everything, [], None, None, mask)
    tensor = torch.from_numpy
    starts, lengths = _documents(document_ids.numpy())
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    # The stream holds documents from the longest to the shortest.
    before = np.cumsum(lengths) - lengths
    count = int(lengths.sum())
    places = np.repeat(starts - before, lengths) + np.arange(count)
    back = np.zeros(document_ids.numel(), dtype=np.int64)
    back[places] = np.arange(count)
    if is_inference():
        kinds, counts = np.unique(-lengths, return_counts=True)
        runs = tuple(zip(counts.tolist(), (-kinds).tolist(), strict=True))
        size = min(ROUND, 1 << max(0, count.bit_length() - 3)) if len(runs) > 1 else 1
        whole = np.pad(places, (0, -count % size), mode="edge")
        return Layout(tensor(whole), tensor(back), [], None, None, None, runs)
    groups = []
    from_outputs, from_inputs = (np.empty(count * heads * parts, dtype=np.int64) for parts in (1, 3))
    head, filled = np.arange(heads)[:, None], 0
    for first, behind in _grouped(lengths):
        grid = np.arange(int(lengths[first]))
        valid = grid < lengths[first:behind, None]
        tokens = np.where(valid, before[first:behind, None] + grid, before[first])[:, None]  # [G, 1, L]
        outputs = tokens * heads + head
        inputs = tokens * (3 * heads) + np.arange(3)[:, None, None, None] * heads + head
        for rows, found, parts in ((outputs, from_outputs, 1), (inputs, from_inputs, 3)):
            real = np.broadcast_to(valid[:, None], rows.shape)
            found[rows[real]] = filled * heads * parts + np.flatnonzero(real)
        filled += valid.size
        flat = (tensor(rows.reshape(-1)) for rows in (inputs, outputs))
        groups.append(Group(valid.shape, None if valid.all() else tensor(valid), *flat))
    return Layout(tensor(places), tensor(back), groups, tensor(from_outputs), tensor(from_inputs), None)


def _documents(document_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the flat start and the length of each document, padding left out."""
    begins = np.ones(document_ids.shape, dtype=bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=document_ids.size)
    real = document_ids.reshape(-1)[starts] > 0
    return starts[real], lengths[real]


def _grouped(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Cut falling lengths into runs of about one length each."""
    bounds, first = [], 0
    while first < len(lengths):
        limit = 0 if lengths[first] <= SHORT else SHORTEST_SHARE * lengths[first]
        behind = int(np.searchsorted(-lengths, -limit, side="right"))
        bounds.append((first, behind))
        first = behind
    return bounds


def attend(projected: Tensor, layout: Layout, *, heads: int, window: int | None, rate: float) -> Tensor:
    """Attend: queries, keys and values [N, 3 * D] -> [N, D]; each token sees its document.

    `window` is the most tokens that it sees to either side, `rate` the dropout of attention weights.
    """
    if layout.mask is not None:
        return _attend_rows(projected, layout.mask, heads, window, rate)
    if layout.runs:
        return _attend_runs(projected, layout.runs, heads, window)
    rows = projected.reshape(len(projected) * 3 * heads, -1)
    if layout.groups[0].size[1] > PLAIN_UP_TO:
        attended = torch.cat([_attend_fused(rows, group, heads, window, rate) for group in layout.groups])
        attended = attended.index_select(0, layout.from_outputs)  # type: ignore[arg-type]
    else:
        attended = _Grouped.apply(rows, layout, heads, window, rate)  # type: ignore[no-untyped-call]
    return attended.reshape(len(projected), -1)


def _attend_rows(projected: Tensor, mask: Tensor, heads: int, window: int | None, rate: float) -> Tensor:
    rows, _, tokens, _ = mask.shape
    query, key, value = projected.view(rows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mask = mask if window is None else mask & _near(tokens, window, mask.device)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
    return attended.transpose(1, 2).reshape(rows * tokens, -1)


def _attend_runs(projected: Tensor, runs: tuple[tuple[int, int], ...], heads: int, window: int | None) -> Tensor:
    """Attend without gradients: documents of one length stand side by side in the stream, so nothing is gathered."""
    attended, first = [], 0
    for count, length in runs:
        own = projected[first : first + count * length].view(count, length, 3, heads, -1)
        query, key, value = own.permute(2, 0, 3, 1, 4)
        near = None if window is None or window >= length - 1 else _near(length, window, projected.device)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=near)
        attended.append(found.transpose(1, 2).reshape(count * length, -1))
        first += count * length
    return torch.cat([*attended, attended[0].new_zeros(len(projected) - first, attended[0].shape[1])])


def _attend_fused(rows: Tensor, group: Group, heads: int, window: int | None, rate: float) -> Tensor:
    query, key, value = rows.index_select(0, group.inputs).view(3, group.size[0], heads, group.size[1], -1)
    mask = _added(group, window, rows.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate).flatten(0, 2)


def _near(tokens: int, window: int, device: torch.device) -> Tensor:
    place = torch.arange(tokens, device=device)
    return (place[:, None] - place).abs() <= window


def _added(group: Group, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Compute what is added to a group's scores, [G or 1, 1, 1 or L, L], or None."""
    seen = None if group.valid is None else group.valid[:, None, None]
    if window is not None and window < group.size[1] - 1:
        near = _near(group.size[1], window, torch.device("cpu"))
        seen = near[None, None] if seen is None else seen & near
    return None if seen is None else torch.where(seen, 0.0, _FAR).to(dtype)


class _Grouped(torch.autograd.Function):
    """Attention by matrix products, group by group, with its derivative written out: that of a gather is a gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout, heads: int, window: int | None, rate: float) -> Tensor:
        scale, saved, filled = 1.0 / math.sqrt(rows.shape[1]), [], 0
        attended = rows.new_empty(sum(len(group.outputs) for group in layout.groups), rows.shape[1])
        for group in layout.groups:
            count, longest = group.size
            inputs = rows.index_select(0, group.inputs).view(3, count * heads, longest, -1)
            query, key, value = inputs
            scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
            added = _added(group, window, rows.dtype)
            if added is not None:
                scores.view(count, heads, longest, longest).add_(added)
            weights = torch.softmax(scores, -1)
            keep = draw_kept(weights, rate) if rate else None
            out = attended[filled : filled + len(group.outputs)].view(count * heads, longest, -1)
            torch.bmm(weights if keep is None else zero_dropped(weights, keep), value, out=out)
            saved += [inputs, weights, keep]
            filled += len(group.outputs)
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.heads, ctx.scale, ctx.rate = layout, heads, scale, rate
        found = attended.index_select(0, layout.from_outputs)  # type: ignore[arg-type]
        return found.mul_(1.0 / (1.0 - rate)) if rate else found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        layout, heads, saved, filled = ctx.layout, ctx.heads, ctx.saved_tensors, 0
        found = gradient.new_empty(sum(len(group.inputs) for group in layout.groups), gradient.shape[-1])
        for number, group in enumerate(layout.groups):
            (query, key, value), weights, keep = saved[3 * number : 3 * number + 3]
            count, longest = group.size
            outer = gradient.index_select(0, group.outputs).view(count * heads, longest, -1)
            if group.valid is not None:  # what stands behind a document's end has no effect
                outer.view(count, heads, longest, -1).mul_(group.valid[:, None, :, None].to(outer.dtype))
            if keep is not None:
                outer.mul_(1.0 / (1.0 - ctx.rate))
            to_weights = torch.bmm(outer, value.transpose(1, 2))
            to_weights = to_weights if keep is None else zero_dropped(to_weights, keep)
            to_query, to_key, to_value = found[filled : filled + len(group.inputs)].view(3, count * heads, longest, -1)
            torch.bmm((weights if keep is None else zero_dropped(weights, keep)).transpose(1, 2), outer, out=to_value)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            torch.bmm(to_scores, key, out=to_query)
            torch.bmm(to_scores.transpose(1, 2), query, out=to_key)
            filled += len(group.inputs)
        return found.index_select(0, layout.from_inputs), None, None, None, None
