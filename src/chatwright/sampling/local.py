"""Sampling with the module that is trained: there is nothing to publish, and nothing can disagree.

Prompts go in order of length; the n answers of a prompt share its prefill; a row that ends leaves the
batch. A row draws one uniform number a token, from a generator of its own that is named by (seed, prompt,
answer), so an answer does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from chatwright.core.seeds import derive
from chatwright.core.types import ChatwrightError, Message, Prompt, Rollout
from chatwright.data.template import Template
from chatwright.sampling.base import SamplingConfig


@dataclass
class _Row:
    """One answer in the making."""

    prompt_ids: tuple[int, ...]
    uniforms: Any  # float64 [max_tokens]
    limit: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False

    @property
    def over(self) -> bool:
        return self.finished or len(self.ids) >= self.limit


class LocalSampler:
    """Batched generation with a KV cache over any Hugging Face causal language model."""

    def __init__(self, model: Any, template: Template, max_rows: int = 128) -> None:
        self.model, self.template, self.max_rows = model, template, max_rows

    def generate(self, prompts: Sequence[Prompt], n: int, config: SamplingConfig, seed: int) -> list[Rollout]:
        """See Sampler.generate."""
        ids = [tuple(self.template.prompt_ids(prompt.messages)) for prompt in prompts]
        rows = [[self._row(p, derive(seed, i, j), config) for j in range(n)] for i, p in enumerate(ids)]
        order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
        width = max(1, self.max_rows // n)
        for start in range(0, len(order), width):
            for _ in self._decode([rows[i] for i in order[start : start + width]], config):
                pass
        return [self._rollout(prompt, row, i, config) for i, prompt in enumerate(prompts) for row in rows[i]]

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: the module is the trained one."""

    def close(self) -> None:
        """Nothing to give back."""

    def stream(self, messages: Sequence[Message], config: SamplingConfig, seed: int) -> Iterator[str]:
        """One answer, in pieces of whole characters as they come."""
        row = self._row(tuple(self.template.prompt_ids(tuple(messages))), derive(seed, 0, 0), config)
        said = ""
        for _ in self._decode([[row]], config):
            text = self._text(row, config)
            safe = text if row.over else text[: len(text) - _unsure(text, config.stop)]
            if len(safe) > len(said):
                yield safe[len(said) :]
                said = safe

    def _row(self, prompt_ids: tuple[int, ...], seed: int, config: SamplingConfig) -> _Row:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        if len(prompt_ids) >= room:
            raise ChatwrightError(
                f"a prompt has {len(prompt_ids)} tokens and the model takes {room} with its answer"
            )
        uniforms = np.random.Generator(np.random.Philox(key=seed)).random(config.max_tokens)
        return _Row(prompt_ids, uniforms, min(config.max_tokens, room - len(prompt_ids)))

    def _decode(self, groups: list[list[_Row]], config: SamplingConfig) -> Iterator[None]:
        """Extend every row to its end, yielding after each token; rows of a group have one prompt."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield from self._steps(groups, config)
        finally:
            self.model.train(was_training)

    def _steps(self, groups: list[list[_Row]], config: SamplingConfig) -> Iterator[None]:
        device, n = self.model.device, len(groups[0])
        live = [row for group in groups for row in group]
        ids, attention = _left_padded([group[0].prompt_ids for group in groups], self.template.pad_id, device)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, attention, cache)
        if n > 1:
            cache.batch_repeat_interleave(n)
            logits, attention = logits.repeat_interleave(n, 0), attention.repeat_interleave(n, 0)
        while True:
            tokens = self._draw(logits, live, config)
            yield
            alive = [i for i, row in enumerate(live) if not row.over]
            if not alive:
                return
            if len(alive) <= 0.75 * len(live):
                index = torch.tensor(alive, device=device)
                cache.batch_select_indices(index)
                tokens, attention, live = tokens[index], attention[index], [live[i] for i in alive]
            attention = torch.cat([attention, attention.new_ones(len(live), 1)], 1)
            logits = self._forward(tokens[:, None], attention, cache)

    def _forward(self, ids: Tensor, attention: Tensor, cache: DynamicCache) -> Tensor:
        """Logits after the last column, float32 [rows, V]."""
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]
        out = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def _draw(self, logits: Tensor, rows: list[_Row], config: SamplingConfig) -> Tensor:
        """Choose a token for each row and write it down in those that are not over."""
        tempered = logits / (config.temperature or 1.0)
        shaped = self._shape(tempered, rows, config)
        if config.temperature == 0:
            tokens = shaped.argmax(-1)
        else:
            cumulative = shaped.softmax(-1).cumsum(-1)
            drawn = [row.uniforms[min(len(row.ids), len(row.uniforms) - 1)] for row in rows]
            u = (
                torch.tensor(drawn, dtype=cumulative.dtype, device=logits.device)[:, None]
                * cumulative[:, -1:]
            )
            tokens = torch.searchsorted(cumulative, u, right=True).squeeze(1).clamp(max=logits.size(-1) - 1)
        logprobs = tempered.gather(1, tokens[:, None]).squeeze(1) - tempered.logsumexp(-1)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.over:
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.finished = token in self.template.stop_ids or bool(
                config.stop and _cut(self._raw(row), config.stop) is not None
            )
        return tokens

    def _shape(self, logits: Tensor, rows: list[_Row], config: SamplingConfig) -> Tensor:
        """Logits after the settings that move or forbid tokens."""
        if config.repetition_penalty != 1.0:
            logits = logits.clone()
            for i, row in enumerate(rows):
                said = torch.tensor(sorted({*row.prompt_ids, *row.ids}), device=logits.device)
                value = logits[i, said]
                penalty = config.repetition_penalty
                logits[i, said] = torch.where(value > 0, value / penalty, value * penalty)
        if config.min_tokens:
            early = torch.tensor([len(row.ids) < config.min_tokens for row in rows], device=logits.device)
            stops = torch.zeros(logits.size(-1), dtype=torch.bool, device=logits.device)
            stops[list(self.template.stop_ids)] = True
            logits = logits.masked_fill(early[:, None] & stops, -torch.inf)
        if config.top_k and config.top_k < logits.size(-1):
            least = logits.topk(config.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if config.top_p < 1:
            ordered, index = logits.sort(-1, descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            kept = ordered.masked_fill(before >= config.top_p, -torch.inf)
            logits = torch.full_like(logits, -torch.inf).scatter(1, index, kept)
        return logits

    def _raw(self, row: _Row) -> str:
        ended = row.ids and row.ids[-1] in self.template.stop_ids
        return self.template.decode(row.ids[:-1] if ended else row.ids)

    def _text(self, row: _Row, config: SamplingConfig) -> str:
        text = self._raw(row)
        cut = _cut(text, config.stop)
        return text if cut is None else text[:cut]

    def _rollout(self, prompt: Prompt, row: _Row, group: int, config: SamplingConfig) -> Rollout:
        return Rollout(
            prompt=prompt,
            prompt_ids=row.prompt_ids,
            response_ids=tuple(row.ids),
            logprobs=tuple(row.logprobs),
            text=self._text(row, config),
            finished=row.finished,
            group=group,
        )


def _left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, attention


def _cut(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found) if found else None


def _unsure(text: str, stops: Sequence[str]) -> int:
    """How many last characters may still change: half a character, or the beginning of a stop text."""
    if text.endswith("\N{REPLACEMENT CHARACTER}"):
        return len(text) - len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    return max((k for stop in stops for k in range(1, len(stop)) if text.endswith(stop[:k])), default=0)
