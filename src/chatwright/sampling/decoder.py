"""A lean forward pass over the weights of the trained module: few kernels, no bookkeeping, no autograd.

Embeddings and norms are the module's own tensors. Projections are too where nothing is gained by a copy; on a
CPU in float32 they are packed for its matrix kernels (two to three times the speed of a plain product on AMD
processors at the sizes of a decode step), which `refresh` repeats when the weights have changed. Adapters are
added into such copies and never into the trained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright.models.products import filled, has_onednn, multiply
from chatwright.sampling.cache import Cache, Piece
from chatwright.sampling.families import Block, Norm, Projection, Spec


class Matrix:
    """A projection, ready to be applied."""

    def __init__(self, projection: Projection, pack: bool) -> None:
        self.packed: Tensor | None = None
        self.parts: list[tuple[Tensor, Tensor | None]] = []
        if pack:
            weight, self.bias = projection.read()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        elif projection.interleaved:
            self.parts = [projection.read()]
        else:
            self.parts = [Projection((module,)).read() for module in projection.modules]

    def tensors(self) -> list[Tensor]:
        """What it multiplies with."""
        return [x for part in self.parts for x in part if x is not None]

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T + b, [..., out]."""
        if self.packed is not None:
            rows = x.flatten(0, -2)
            more = filled(len(rows)) - len(rows)
            out = multiply(F.pad(rows, (0, 0, 0, more)) if more else rows, self.packed, self.bias)
            return out[: len(rows)].view(*x.shape[:-1], -1)
        found = [F.linear(x, weight, bias) for weight, bias in self.parts]
        return found[0] if len(found) == 1 else torch.cat(found, -1)


def can_pack(model: Any) -> bool:
    """Are there packed matrix kernels for this model's device and type?"""
    parameter = next(model.parameters())
    return parameter.device.type == "cpu" and parameter.dtype == torch.float32 and has_onednn()


class Layer:
    """A block with its matrices."""

    def __init__(self, block: Block, pack: bool) -> None:
        self.block = block
        self.qkv, self.out = Matrix(block.qkv, pack), Matrix(block.out, pack)
        self.up, self.down = Matrix(block.up, pack), Matrix(block.down, pack)


class Decoder:
    """Runs prompts and single tokens of a model that `spec` describes, over a Cache."""

    def __init__(self, spec: Spec, pack: bool) -> None:
        self.spec, self.pack = spec, pack
        self.cos = self.sin = torch.empty(0, 0)

    def refresh(self) -> None:
        """Take over the module's weights as they are now."""
        self.layers = [Layer(block, self.pack) for block in self.spec.blocks]
        self.head = Matrix(self.spec.head, self.pack)

    def addresses(self) -> list[int]:
        """Where the projections lie: as long as these stay, a recorded step stays true."""
        matrices = [m for layer in self.layers for m in (layer.qkv, layer.out, layer.up, layer.down)]
        found = [x.data_ptr() for matrix in (*matrices, self.head) for x in matrix.tensors()]
        return [*found, self.cos.data_ptr()]

    def decode(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: Cache,
        longest: int,
        pieces: Sequence[Piece] | None = None,
    ) -> Tensor:
        """Logits [rows, V] after one token each of the rows in slots 0 … rows-1, at `positions` [rows];
        the longest row has so many tokens with it. `pieces` are what rows reach of the cache, by default all.
        """
        s, count = self.spec, len(ids)
        rows, page, place = (
            torch.arange(count, device=ids.device),
            positions // cache.places,
            positions % cache.places,
        )
        if cache.paged:
            longest = cache.pages(longest) * cache.places
            pieces = pieces or cache.pieces([longest] * count)
        seen = torch.arange(longest, device=ids.device) <= positions[:, None]
        mask = torch.where(seen, 0.0, -torch.inf)[:, None, None].to(cache.dtype)

        def attend(i: int, qkv: Tensor) -> Tensor:
            data = cache.data[i]
            data[:, page, rows, :, place] = qkv[:, s.heads :].reshape(-1, 2, s.kv_heads, s.dim)
            # the queries that share a key head stand as so many positions: nothing is repeated
            query = qkv[:, : s.heads].reshape(count, s.kv_heads, -1, s.dim)
            if pieces:
                return _attend(query, data, mask, pieces)
            key, value = data[:, 0, :count, :, :longest]
            return F.scaled_dot_product_attention(query, key, value, mask).flatten(1)

        return self._logits(self._layers(ids, positions, attend))

    def prefill(
        self, ids: Tensor, lengths: Tensor, start: int, slots: Tensor, cache: Cache, trace: Any = None
    ) -> Tensor:
        """Logits [rows, V] after the last of each row's `lengths` tokens; `ids` [rows, T], padded right,
        stand at positions start …; their keys and values go into `slots`.
        """
        s, width = self.spec, ids.size(1)
        positions = torch.arange(start, start + width, device=ids.device)
        seen = torch.ones(width, start + width, dtype=torch.bool, device=ids.device).tril(start)

        def attend(i: int, qkv: Tensor) -> Tensor:
            query, key, value = torch.split(qkv.transpose(1, 2), [s.heads, s.kv_heads, s.kv_heads], 1)
            layer = slice(i, i + 1)
            cache.write(slots, start, torch.stack([key, value])[None], layer)
            if start:
                key, value = cache.read(slots, start + width, layer)[0]
            if s.kv_heads < s.heads:
                key, value = (x.repeat_interleave(s.heads // s.kv_heads, 1) for x in (key, value))
            mask = seen if start else None
            found = F.scaled_dot_product_attention(query, key, value, mask, is_causal=not start)
            return found.transpose(1, 2).flatten(2)

        x = self._layers(ids, positions.expand_as(ids), attend, trace)
        return self._logits(x[torch.arange(len(ids), device=ids.device), lengths - 1])

    def _layers(
        self, ids: Tensor, positions: Tensor, attend: Callable[[int, Tensor], Tensor], trace: Any = None
    ) -> Tensor:
        """The hidden states behind the last block, [..., hidden]; `trace` gets those behind each."""
        s = self.spec
        x = F.embedding(ids, s.embed.weight)
        if s.positions is not None:
            x = x + F.embedding(positions + s.offset, s.positions.weight)
        turn = self._turn(positions)
        for i, layer in enumerate(self.layers):
            block = layer.block
            qkv = layer.qkv(_norm(x, block.norm1))
            qkv = qkv.view(*qkv.shape[:-1], -1, s.dim)
            if block.q_norm and block.k_norm:
                query = _norm(qkv[..., : s.heads, :], block.q_norm)
                key = _norm(qkv[..., s.heads : s.heads + s.kv_heads, :], block.k_norm)
                qkv = torch.cat([query, key, qkv[..., s.heads + s.kv_heads :, :]], -2)
            if turn:
                _rotate(qkv[..., : s.heads + s.kv_heads, :], *turn)
            attended = layer.out(attend(i, qkv))
            if s.parallel:
                x = x + attended + self._feed(layer, x)
            else:
                x = x + attended
                x = x + self._feed(layer, x)
            if trace is not None:
                trace.append(x)
        return x

    def _feed(self, layer: Layer, x: Tensor) -> Tensor:
        up = layer.up(_norm(x, layer.block.norm2))
        if self.spec.gated:
            gate, up = up.chunk(2, -1)
            return layer.down(self.spec.act(gate) * up)
        return layer.down(self.spec.act(up))

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(_norm(x, self.spec.final)).float()

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and signed sin of the positions, [..., 1, rotated dims]."""
        if self.spec.rotary is None:
            return None
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)

    def reach(self, positions: int) -> None:
        """Compute rotary tables up to so many positions."""
        if self.spec.rotary is None or positions <= len(self.cos):
            return
        weight = self.spec.embed.weight
        at = torch.arange(-(-positions // 512) * 512, device=weight.device)[None]
        cos, sin = self.spec.rotary(weight[:1], at)
        half = cos.size(-1) // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)


def _attend(query: Tensor, data: Tensor, mask: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Attention of one step, [rows, heads × dim]; `query` [rows, kv heads, queries, dim], `data` [2, page,
    slot, kv head, place, dim] are keys and values, `mask` [rows, 1, 1, tokens] is added to the scores.

    A step is bound by reading the cache: each product reads the keys or values of a piece from end to end.
    """
    rows, heads, queries, dim = query.shape
    places = data.size(-2)
    columns = (query.reshape(rows * heads, queries, dim) * dim**-0.5).transpose(1, 2)
    scores = query.new_full((rows * heads, queries, mask.size(-1)), -torch.inf)
    parts = [
        (page, slice(a, b), slice(a * heads, b * heads), slice(page * places, (page + 1) * places))
        for page, a, b in pieces
    ]
    for page, slots, some, tokens in parts:
        key = data[0, page, slots].flatten(0, 1)
        scores[some, :, tokens] = torch.bmm(key, columns[some]).transpose(1, 2)
    share = (scores.view(rows, heads, queries, -1) + mask).softmax(-1).view_as(scores)
    found = query.new_zeros(rows * heads, queries, dim)
    for page, slots, some, tokens in parts:
        found[some].baddbmm_(share[some, :, tokens], data[1, page, slots].flatten(0, 1))
    return found.view(rows, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary positions (Su et al. 2021) in place: two halves of the rotated dims are a complex number's."""
    x = x[..., : cos.size(-1)]
    one, two = x.chunk(2, -1)
    swapped = torch.cat([two, one], -1)
    x.mul_(cos).addcmul_(swapped, sin)


def _norm(x: Tensor, norm: Norm) -> Tensor:
    weight = norm.module.weight
    if norm.rms:
        return F.rms_norm(x, weight.shape, weight, norm.eps)
    return F.layer_norm(x, weight.shape, weight, norm.module.bias, norm.eps)
