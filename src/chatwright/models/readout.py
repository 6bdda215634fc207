"""From a model's hidden states to per-token columns: the only place that shifts by one.

Column t of what comes out speaks about token t, so what the model said after token t - 1 moves to column t.
The vocabulary is met in chunks of tokens, and only at tokens that are trained: neither the forward nor the
backward pass holds logits for a whole micro-batch. Rows are padded on the right, so causal attention alone
keeps real tokens from seeing padding and no attention mask is needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chatwright.core.batch import Batch

CHUNK_ELEMENTS = 1 << 22
"""Logits that exist at once, at most: 16 MiB in float32."""


class TokenStats(NamedTuple):
    """Per token [B, T], zero where nothing is trained: log p(token | before) and the entropy of that
    distribution.
    """

    logprobs: Tensor
    entropy: Tensor


def plain(model: Any) -> Any:
    """The Hugging Face model below a peft wrapper, with the adapters in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """The backbone's last hidden states, [B, T, H]."""
    whole = plain(model)
    backbone = getattr(whole, whole.base_model_prefix)
    return backbone(input_ids=batch.ids, use_cache=False).last_hidden_state


def token_logprobs(model: nn.Module, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log p(token t | the tokens before it) at `temperature`, [B, T] float32; 0 where `batch.mask` is off."""
    return token_stats(model, batch, temperature).logprobs


def token_stats(model: nn.Module, batch: Batch, temperature: float = 1.0) -> TokenStats:
    """Log-probabilities, and entropies without gradient, of the trained tokens."""
    if temperature <= 0:
        raise ValueError("log-probabilities need a temperature above 0")
    head = VocabularyHead(plain(model), temperature)
    row, column = batch.mask.nonzero(as_tuple=True)
    row, column = row[column > 0], column[column > 0]
    states = hidden_states(model, batch)[row, column - 1]
    targets = batch.ids[row, column]
    size = max(1, CHUNK_ELEMENTS // head.vocabulary)
    parts = [
        _chunk(head, s, t) for s, t in zip(torch.split(states, size), torch.split(targets, size), strict=True)
    ]
    empty = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
    if not parts:
        return TokenStats(empty + 0 * states.sum(), empty)
    logprobs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenStats(empty.index_put((row, column), logprobs), empty.index_put((row, column), entropy))


class VocabularyHead:
    """Hidden states to float32 logits as the model itself would make them, divided by the temperature."""

    def __init__(self, model: Any, temperature: float) -> None:
        config = model.config.get_text_config()
        self.project = model.get_output_embeddings()
        self.vocabulary = int(self.project.weight.shape[0])
        self.cap = getattr(config, "final_logit_softcapping", None)
        self.scale = getattr(config, "logit_scale", None) or 1 / (
            getattr(config, "logits_scaling", None) or 1
        )
        self.temperature = temperature

    def __call__(self, states: Tensor) -> Tensor:
        """[N, H] to [N, V]."""
        logits = self.project(states).float() * self.scale
        if self.cap:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits / self.temperature


def _chunk(head: VocabularyHead, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(log-probabilities, entropies) of a chunk; its logits are made again in the backward pass, not kept."""
    if torch.is_grad_enabled():
        return checkpoint(_read, head, states, targets, use_reentrant=False, preserve_rng_state=False)
    return _read(head, states, targets)


def _read(head: VocabularyHead, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(states)
    normaliser = logits.logsumexp(-1)
    with torch.no_grad():
        entropy = normaliser - (logits * (logits - normaliser[:, None]).exp()).sum(-1)
    return logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser, entropy


def token_scores(model: nn.Module, batch: Batch) -> Tensor:
    """A scalar model's score after reading token t, [B, T] float32: no shift."""
    return plain(model).score(hidden_states(model, batch)).squeeze(-1).float()


def token_values(model: nn.Module, batch: Batch) -> Tensor:
    """A critic's value of the state in which token t is chosen, before it is seen, [B, T] float32; column 0
    is 0.
    """
    return nn.functional.pad(token_scores(model, batch)[:, :-1], (1, 0))


def final_score(model: nn.Module, batch: Batch) -> Tensor:
    """A reward model's score of each row, read at its last real token, [B] float32."""
    states = hidden_states(model, batch)
    last = states[torch.arange(len(states), device=states.device), batch.lengths - 1]
    return plain(model).score(last).squeeze(-1).float()
