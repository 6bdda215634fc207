"""From logits to tokens: one uniform number a row, no sort of the vocabulary where none is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatwright.sampling.base import Token
from chatwright.sampling.row import Row


def draw(logits: Tensor, rows: Sequence[Row]) -> list[Token]:
    """The next token of each row; `logits` are float32 [rows, V]."""
    scale = torch.tensor([1 / (row.config.temperature or 1.0) for row in rows], device=logits.device)
    tempered = logits * scale[:, None]
    shaped = _shaped(tempered, rows)
    greedy = torch.tensor([row.config.temperature == 0 for row in rows], device=logits.device)
    u = torch.tensor([row.uniform() for row in rows], device=logits.device)
    cumulative = shaped.softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, (u[:, None] * cumulative[:, -1:]).float(), right=True).squeeze(1)
    tokens = torch.where(greedy, shaped.argmax(-1), drawn.clamp(max=logits.size(-1) - 1))
    picked = tempered.gather(1, tokens[:, None]).squeeze(1) - tempered.logsumexp(-1)
    return [Token(token, logprob) for token, logprob in zip(tokens.tolist(), picked.tolist(), strict=True)]


def _shaped(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits after the settings that move or forbid tokens."""
    out = logits
    for i, row in enumerate(rows):
        c = row.config
        if not (
            c.repetition_penalty != 1
            or c.logit_bias
            or len(row.ids) < c.min_tokens
            or c.top_k
            or c.top_p < 1
            or c.min_p
            or row.request.constraint
        ):
            continue
        if out is logits:
            out = logits.clone()
        out[i] = _shaped_row(out[i], row)
    return out


def _shaped_row(logits: Tensor, row: Row) -> Tensor:
    c = row.config
    for token, bias in c.logit_bias.items():
        logits[token] += bias / (c.temperature or 1.0)
    if c.repetition_penalty != 1.0:
        said = torch.tensor(sorted({*row.request.prompt_ids, *row.ids}), device=logits.device)
        value = logits[said]
        logits[said] = torch.where(value > 0, value / c.repetition_penalty, value * c.repetition_penalty)
    if len(row.ids) < c.min_tokens:
        logits[list(row.stops)] = -torch.inf
    if row.request.constraint:
        logits = logits.masked_fill(~row.request.constraint.allowed(row.ids).to(logits.device), -torch.inf)
    if c.top_k and c.top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(c.top_k).values[-1], -torch.inf)
    if c.min_p:
        p = logits.softmax(-1)
        logits = logits.masked_fill(p < c.min_p * p.max(), -torch.inf)
    if c.top_p < 1:
        ordered, index = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        kept = ordered.masked_fill(before >= c.top_p, -torch.inf)
        logits = torch.full_like(logits, -torch.inf).scatter(0, index, kept)
    return logits
