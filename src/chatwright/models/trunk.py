"""The lean way through a Llama-like backbone: packed rows, no padding, shared beginnings run once.

It reads the module's own weights through the module's own projections (so adapters work) and equals the
module's forward to rounding (tests/models/test_trunk.py). What it leaves out is work whose result nobody
asks for: padding, a prompt's second run for the other answer of its pair or group, and, in the last layer,
everything at tokens whose state is not read. What it cannot serve goes through the module (`lean`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chatwright.core.batch import Batch, shared_beginning
from chatwright.models.products import as_call, filler, project

FAMILIES = {"LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"}
FIXED_ROTARY = {"default", "linear", "llama3", "yarn"}
"""Position encodings that do not change with a batch's length."""
LEAST_SHARED = 16
"""A shared beginning shorter than this is cheaper to run again."""


def lean(model: Any) -> bool:
    """Can this model's backbone be run packed? `model` is a Hugging Face model without a peft wrapper.

    Not where attention is windowed or dropped out, nor where ranks share rows, nor on a GPU, where launching
    many small kernels costs more than padding does.
    """
    backbone: Any = getattr(model, model.base_model_prefix, None)
    if type(backbone).__name__ not in FAMILIES:
        return False
    config = backbone.config
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    weight = backbone.norm.weight
    return (
        rotary in FIXED_ROTARY
        and not windowed(config)
        and not getattr(config, "attention_dropout", 0.0)
        and config.hidden_act in ("silu", "swish")
        and not hasattr(backbone, "shares_rows")
        and weight.device.type == "cpu"
    )


def windowed(config: Any) -> bool:
    """Does a layer of such a model see less of a row than all that came before?"""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return any(kind != "full_attention" for kind in kinds)
    window = getattr(config, "sliding_window", None)
    return window is not None and window < config.max_position_embeddings


def drops_out(model: Any) -> bool:
    """Does anything in this model's training forward roll dice?"""
    settings = model.config.get_text_config().to_dict().items()
    shares = [v for k, v in settings if "drop" in k and not k.startswith(("summary", "classifier"))]
    asked = any(isinstance(share, float) and share > 0 for share in shares)
    return asked or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())


class Segment(NamedTuple):
    """A row's own tokens, and how many tokens of the last whole row they go on from (0: it is whole)."""

    length: int
    prefix: int


class Layout(NamedTuple):
    """Rows of a batch end to end, [N] tokens in all; the last segment may be filler, never read."""

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    place: Tensor  # [B, T] where a row's token lies, 0 on padding
    segments: tuple[Segment, ...]


def lay_end_to_end(batch: Batch) -> Layout:
    """The packed form of a batch; a row that begins like the last whole row shares that beginning with it."""
    rows = batch.token_lists()
    place = torch.zeros(batch.ids.shape, dtype=torch.long)
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    leader, start = rows[0], 0
    for i, row in enumerate(rows):
        shared = shared_beginning(row, leader) if i else 0
        if shared < LEAST_SHARED:
            leader, start, shared = row, len(ids), 0
        place[i, :shared] = torch.arange(start, start + shared)
        place[i, shared : len(row)] = torch.arange(len(ids), len(ids) + len(row) - shared)
        if len(row) > shared:
            segments.append(Segment(len(row) - shared, shared))
            ids += row[shared:]
            positions += range(shared, len(row))
    if more := filler(len(ids)):
        segments.append(Segment(more, 0))
        ids += [0] * more
        positions += range(more)
    device = batch.ids.device
    packed, where = (torch.tensor(column, device=device) for column in (ids, positions))
    return Layout(packed, where, place.to(device), tuple(segments))


def run(model: Any, layout: Layout, wanted: Tensor) -> Tensor:
    """The backbone's last hidden states at packed places `wanted` [M], [M, H]."""
    count = len(wanted)
    wanted = F.pad(wanted, (0, filler(count)))
    backbone = getattr(model, model.base_model_prefix)
    x = backbone.embed_tokens(layout.ids)
    cos, sin = (t[0, :, None] for t in backbone.rotary_emb(x[None], layout.positions[None]))
    masks = [
        torch.ones(length, prefix + length, dtype=torch.bool, device=x.device).tril(prefix)
        if prefix
        else None
        for length, prefix in layout.segments
    ]
    layers = backbone.layers[: backbone.config.num_hidden_layers]
    again = backbone.training and any(getattr(m, "gradient_checkpointing", False) for m in backbone.modules())
    for i, layer in enumerate(layers):
        kept = wanted if i == len(layers) - 1 else None
        given = (layer, x, cos, sin, layout.segments, masks, kept)
        x = checkpoint(_layer, *given, use_reentrant=False) if again else _layer(*given)
    return _norm(backbone.norm, x)[:count]


def _layer(
    layer: Any,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    segments: Sequence[Segment],
    masks: Sequence[Tensor | None],
    kept: Tensor | None,
) -> Tensor:
    """A decoder layer, [N, H] to [N, H], or to [M, H] where only the states at `kept` are asked for."""
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, x)
    shape = (len(x), -1, attention.head_dim)
    ways = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (project(way, normed).view(shape) for way in ways)
    if hasattr(attention, "q_norm"):
        q, k = _norm(attention.q_norm, q), _norm(attention.k_norm, k)
    q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
    mixed = attend(q, k, v, segments, masks, attention.scaling).flatten(1)
    if kept is not None:
        x, mixed = x[kept], mixed[kept]
    x = x + project(attention.o_proj, mixed)
    mlp, normed = layer.mlp, _norm(layer.post_attention_layernorm, x)
    return x + project(mlp.down_proj, F.silu(project(mlp.gate_proj, normed)) * project(mlp.up_proj, normed))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Sequence[Segment],
    masks: Sequence[Tensor | None],
    scale: float,
) -> Tensor:
    """Causal attention of each segment to itself and to what it goes on from; all are [N, heads, d]."""
    lengths = [s.length for s in segments]
    out, grouped = [], k.size(1) != q.size(1)
    first: tuple[Tensor, Tensor] = (k, v)
    own = zip(*(torch.split(t, lengths) for t in (q, k, v)), strict=True)
    for (_, prefix), mask, (q_, k_, v_) in zip(segments, masks, own, strict=True):
        if prefix:
            k_, v_ = torch.cat([first[0][:prefix], k_]), torch.cat([first[1][:prefix], v_])
        else:
            first = (k_, v_)
        q_, k_, v_ = (t.transpose(0, 1)[None] for t in (q_, k_, v_))
        found = F.scaled_dot_product_attention(
            q_, k_, v_, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        out.append(found[0].transpose(0, 1))
    return torch.cat(out)


def _norm(module: Any, x: Tensor) -> Tensor:
    def work(rows: Tensor) -> Any:
        given = (rows, module.weight, module.variance_epsilon)
        return _RootMeanSquare.apply(*given)  # type: ignore[no-untyped-call]

    found: Tensor = as_call(module, work, x)
    return found


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]


class _RootMeanSquare(torch.autograd.Function):
    """x / sqrt(mean x² + ε) · w over the last dimension, in few passes over memory; float32 inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps)
        # ∞ - ∞: a square that overflowed must come out as NaN, not as a state of zeros with no gradient
        scale = square.rsqrt() + (square - square)
        ctx.save_for_backward(x, weight, scale)
        return (
            (wide * scale).to(x.dtype).mul(weight) if x.dtype != torch.float32 else (x * scale).mul_(weight)
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        grad = grad.float()
        inner = grad * normed
        for_weight = inner.flatten(0, -2).sum(0).to(weight.dtype)
        mean = (inner @ weight.float())[..., None].div_(x.size(-1))
        for_x = (grad * weight).addcmul_(normed, mean, value=-1).mul_(scale)
        return for_x.to(x.dtype), for_weight, None


class _Rotate(torch.autograd.Function):
    """Rotary position encoding of [N, heads, d] by cos and sin [N, 1, d]; going back is turning back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    half = x.size(-1) // 2
    out, sin = x * cos, sin[..., :half]
    out[..., :half].addcmul_(x[..., half:], sin, value=-way)
    out[..., half:].addcmul_(x[..., :half], sin, value=way)
    return out
