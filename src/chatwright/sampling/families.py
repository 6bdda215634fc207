"""What the decoder must know about a model: where its weights lie, and how its layers are put together.

A family is a function from the module to a `Spec`. What it cannot express (sliding windows that would cut,
rotary frequencies that depend on the length, post-norms) raises `Unlike`, and the module's own forward is
used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from transformers.pytorch_utils import Conv1D


class Unlike(Exception):
    """This model is not built as its family's decode path expects; the message says in what."""


@dataclass(frozen=True)
class Norm:
    """RMS norm where there is no bias and `rms`, else layer norm."""

    module: Any
    eps: float
    rms: bool


@dataclass(frozen=True)
class Projection:
    """Linear maps of one input, their outputs side by side. `heads` > 0: the output is written head by head
    as (query, key, value) and must be read as all queries, all keys, all values.
    """

    modules: tuple[Any, ...]
    interleaved: int = 0

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Weight [out, in] and bias [out]; of one plain module the live tensors themselves."""
        pairs = [weight_and_bias(module) for module in self.modules]
        weight = pairs[0][0] if len(pairs) == 1 else torch.cat([w for w, _ in pairs])
        biases = [b for _, b in pairs]
        bias = None
        if any(b is not None for b in biases):
            filled = [w.new_zeros(w.size(0)) if b is None else b for w, b in pairs]
            bias = filled[0] if len(filled) == 1 else torch.cat(filled)
        if self.interleaved:
            weight = _by_kind(weight, self.interleaved)
            bias = None if bias is None else _by_kind(bias, self.interleaved)
        return weight, bias


@dataclass(frozen=True)
class Block:
    """A layer. The feed-forward part is down(act(gate) * up) where `gated`, else down(act(up))."""

    norm1: Norm
    qkv: Projection
    out: Projection
    norm2: Norm
    up: Projection
    down: Projection
    q_norm: Norm | None = None
    k_norm: Norm | None = None


@dataclass(frozen=True)
class Spec:
    """A decoder-only transformer. `rotary` gives (cos, sin) [T, rotated dims] of positions; `positions` is
    the table of learned ones and `offset` where it begins; with `parallel`, attention and feed-forward read
    the same input.
    """

    family: str
    heads: int
    kv_heads: int
    dim: int
    blocks: tuple[Block, ...]
    embed: Any
    final: Norm
    head: Projection
    act: Callable[[Tensor], Tensor]
    gated: bool
    parallel: bool = False
    rotary: Any = None
    positions: Any = None
    offset: int = 0


def describe(model: Any) -> Spec:
    """The spec of a model; raises Unlike."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    family = base.config.model_type
    if family not in FAMILIES:
        raise Unlike(f"no decode path for {family!r} models")
    return FAMILIES[family](base)


def weight_and_bias(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias of a linear map; with adapters the sum of both, in new memory."""
    if hasattr(module, "get_base_layer"):
        weight, bias = weight_and_bias(module.get_base_layer())
        if module.disable_adapters or module.merged:
            return weight, bias
        for name in module.active_adapters:
            if name in module.lora_A:
                delta = module.get_delta_weight(name)
                weight = weight + (delta.t() if isinstance(module.get_base_layer(), Conv1D) else delta)
        return weight, bias
    if type(module) is nn.Linear:
        return module.weight, module.bias
    if type(module) is Conv1D:
        return module.weight.t(), module.bias
    raise Unlike(f"a projection is a {type(module).__name__}")


def _by_kind(weight: Tensor, heads: int) -> Tensor:
    return weight.reshape(heads, 3, -1, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)


def _llama(model: Any) -> Spec:
    """Llama, Mistral, Qwen2 and Qwen3."""
    config, core = model.config, model.model
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in ("default", "linear", "llama3", "yarn"):
        raise Unlike(f"its rotary frequencies are {rope!r}, which depend on the length")
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if window and sliding and window < config.max_position_embeddings:
        raise Unlike(f"it attends to a window of {window} tokens")
    if isinstance(getattr(core.layers[0].mlp, "gate_up_proj", None), nn.Module):
        raise Unlike("its feed-forward projections are fused in the module")
    eps = config.rms_norm_eps

    def rms(module: Any) -> Norm:
        return Norm(module, eps, rms=True)

    blocks = tuple(
        Block(
            norm1=rms(layer.input_layernorm),
            qkv=Projection((a := layer.self_attn) and (a.q_proj, a.k_proj, a.v_proj)),
            out=Projection((a.o_proj,)),
            norm2=rms(layer.post_attention_layernorm),
            up=Projection((layer.mlp.gate_proj, layer.mlp.up_proj)),
            down=Projection((layer.mlp.down_proj,)),
            q_norm=rms(a.q_norm) if hasattr(a, "q_norm") else None,
            k_norm=rms(a.k_norm) if hasattr(a, "k_norm") else None,
        )
        for layer in core.layers
    )
    return Spec(
        family=config.model_type,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        dim=core.layers[0].self_attn.head_dim,
        blocks=blocks,
        embed=core.embed_tokens,
        final=rms(core.norm),
        head=Projection((model.lm_head,)),
        act=core.layers[0].mlp.act_fn,
        gated=True,
        rotary=core.rotary_emb,
    )


def _gpt2(model: Any) -> Spec:
    config, core = model.config, model.transformer
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention:
        raise Unlike("its attention is scaled in a way of its own")

    def norm(module: Any) -> Norm:
        return Norm(module, config.layer_norm_epsilon, rms=False)

    blocks = tuple(
        Block(
            norm1=norm(layer.ln_1),
            qkv=Projection((layer.attn.c_attn,)),
            out=Projection((layer.attn.c_proj,)),
            norm2=norm(layer.ln_2),
            up=Projection((layer.mlp.c_fc,)),
            down=Projection((layer.mlp.c_proj,)),
        )
        for layer in core.h
    )
    return Spec(
        family="gpt2",
        heads=config.n_head,
        kv_heads=config.n_head,
        dim=config.n_embd // config.n_head,
        blocks=blocks,
        embed=core.wte,
        final=norm(core.ln_f),
        head=Projection((model.lm_head,)),
        act=core.h[0].mlp.act,
        gated=False,
        positions=core.wpe,
    )


def _opt(model: Any) -> Spec:
    config, core = model.config, model.model.decoder
    if not config.do_layer_norm_before or core.project_in is not None or core.final_layer_norm is None:
        raise Unlike("it normalises behind its layers, or projects its embeddings")

    def norm(module: Any) -> Norm:
        return Norm(module, module.eps, rms=False)

    blocks = tuple(
        Block(
            norm1=norm(layer.self_attn_layer_norm),
            qkv=Projection((layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)),
            out=Projection((layer.self_attn.out_proj,)),
            norm2=norm(layer.final_layer_norm),
            up=Projection((layer.fc1,)),
            down=Projection((layer.fc2,)),
        )
        for layer in core.layers
    )
    return Spec(
        family="opt",
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        dim=config.hidden_size // config.num_attention_heads,
        blocks=blocks,
        embed=core.embed_tokens,
        final=norm(core.final_layer_norm),
        head=Projection((model.lm_head,)),
        act=core.layers[0].activation_fn,
        gated=False,
        positions=core.embed_positions,
        offset=core.embed_positions.offset,
    )


def _gpt_neox(model: Any) -> Spec:
    config, core = model.config, model.gpt_neox
    heads = config.num_attention_heads

    def norm(module: Any) -> Norm:
        return Norm(module, config.layer_norm_eps, rms=False)

    blocks = tuple(
        Block(
            norm1=norm(layer.input_layernorm),
            qkv=Projection((layer.attention.query_key_value,), interleaved=heads),
            out=Projection((layer.attention.dense,)),
            norm2=norm(layer.post_attention_layernorm),
            up=Projection((layer.mlp.dense_h_to_4h,)),
            down=Projection((layer.mlp.dense_4h_to_h,)),
        )
        for layer in core.layers
    )
    return Spec(
        family="gpt_neox",
        heads=heads,
        kv_heads=heads,
        dim=config.hidden_size // heads,
        blocks=blocks,
        embed=core.embed_in,
        final=norm(core.final_layer_norm),
        head=Projection((model.lm_head,)),
        act=core.layers[0].mlp.act,
        gated=False,
        parallel=config.use_parallel_residual,
        rotary=core.rotary_emb,
    )


FAMILIES: dict[str, Callable[[Any], Spec]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "opt": _opt,
    "gpt_neox": _gpt_neox,
}
