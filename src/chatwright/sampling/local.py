"""Continuous batching in this process: rows join the batch as others leave it.

`step` is the whole engine: admit waiting requests as far as there is room, run their prompts, then extend
every running answer by a token. `generate` and `stream` are loops around it. A row draws one uniform number
a token, from a generator of its own that its request's seed names, so an answer does not depend on what else
is in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from chatwright.core.seeds import derive
from chatwright.core.types import ChatwrightError, Message, Prompt, Rollout
from chatwright.data.template import Template
from chatwright.sampling.base import Event, Request, SamplingConfig
from chatwright.sampling.draw import draw
from chatwright.sampling.own_forward import OwnForward
from chatwright.sampling.row import Row


class LocalSampler:
    """Generation over any Hugging Face causal language model: a StepSampler, and `stream` for a terminal."""

    def __init__(
        self, model: Any, template: Template, max_rows: int = 128, prefill_tokens: int = 2048
    ) -> None:
        self.model, self.template, self.prefill_tokens = model, template, prefill_tokens
        self.runner = OwnForward(model, template.pad_id, max_rows)
        self._queue: deque[Row] = deque()
        self._running: dict[int, Row] = {}
        self._refused: list[Event] = []
        self._next = 0

    # a server's way in

    def submit(self, request: Request) -> int:
        """See StepSampler.submit."""
        self._next += 1
        try:
            self._queue.append(self._row(self._next, request))
        except ChatwrightError as error:
            self._refused.append(Event(self._next, end="error", error=str(error)))
        return self._next

    def step(self) -> list[Event]:
        """See StepSampler.step."""
        refused, self._refused = self._refused, []
        return refused + [row.event() for row in self._advance()]

    def cancel(self, number: int) -> None:
        """See StepSampler.cancel."""
        self._queue = deque(row for row in self._queue if row.number != number)
        self._refused = [event for event in self._refused if event.request != number]
        row = self._running.pop(number, None)
        if row:
            self.runner.drop([row])

    @property
    def waiting(self) -> int:
        """See StepSampler.waiting."""
        return len(self._queue) + len(self._refused)

    @property
    def running(self) -> int:
        """See StepSampler.running."""
        return len(self._running)

    # whole answers

    def generate(self, prompts: Sequence[Prompt], n: int, config: SamplingConfig, seed: int) -> list[Rollout]:
        """See Sampler.generate; raises ChatwrightError that names the prompts that do not fit, before any
        answer is drawn.
        """
        ids = [tuple(self.template.prompt_ids(prompt.messages)) for prompt in prompts]
        rows = []
        for i, prompt_ids in enumerate(ids):
            for j in range(n):
                self._next += 1
                rows.append(self._row(self._next, Request(prompt_ids, config, derive(seed, i, j))))
        self._queue.extend(sorted(rows, key=lambda row: len(row.request.prompt_ids)))
        while self._queue or self._running:
            self._advance()
        return [
            Rollout(
                prompt=prompts[k // n],
                prompt_ids=row.request.prompt_ids,
                response_ids=tuple(row.ids),
                logprobs=tuple(token.logprob for token in row.tokens),
                text=row.text(),
                finished=row.end == "stop",
                group=k // n,
            )
            for k, row in enumerate(rows)
        ]

    def stream(self, messages: Sequence[Message], config: SamplingConfig, seed: int) -> Iterator[str]:
        """One answer, in pieces of whole characters as they come."""
        request = Request(tuple(self.template.prompt_ids(tuple(messages))), config, derive(seed, 0, 0))
        number = self.submit(request)
        try:
            while True:
                for event in self.step():
                    if event.request != number:
                        continue
                    if event.text:
                        yield event.text
                    if event.end == "error":
                        raise ChatwrightError(event.error)
                    if event.end:
                        return
        finally:
            self.cancel(number)

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: the module is the trained one."""

    def close(self) -> None:
        """Nothing to give back."""

    # the engine

    def _advance(self) -> list[Row]:
        """One step; the rows that got a token."""
        if not (self._queue or self._running):
            return []
        with self._reading():
            grown: list[Row] = []
            if self._running:
                grown += self._extend(*self.runner.decode())
            joining = self._joining()
            if joining:
                self._running |= {row.number: row for row in joining}
                grown += self._extend(joining, self.runner.prefill(joining))
            return grown

    def _joining(self) -> list[Row]:
        """Waiting rows for which there is room, their prompts within the token budget (one always goes)."""
        rows = list(self._queue)[: self.runner.fits(self._queue)]
        taken: list[Row] = []
        tokens = 0
        for row in rows:
            fresh = not taken or row.request.prompt_ids != taken[-1].request.prompt_ids
            tokens += len(row.request.prompt_ids) * fresh
            if taken and tokens > self.prefill_tokens:
                break
            taken.append(self._queue.popleft())
        return taken

    def _extend(self, rows: list[Row], logits: Tensor) -> list[Row]:
        for row, token in zip(rows, draw(logits, rows), strict=True):
            row.add(token)
        over = [row for row in rows if row.end]
        if over:
            self.runner.drop(over)
            for row in over:
                del self._running[row.number]
        return rows

    def _row(self, number: int, request: Request) -> Row:
        """The request as a row; raises ChatwrightError when its prompt cannot be answered."""
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        length = len(request.prompt_ids)
        if not length:
            raise ChatwrightError("a prompt is empty; it needs at least one token to answer")
        if length >= room:
            raise ChatwrightError(f"a prompt has {length} tokens and the model takes {room} with its answer")
        stops = self.template.stop_ids | set(request.config.stop_ids)
        limit = min(request.config.max_tokens, room - length)
        return Row(number, request, limit, stops, self.template)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """The module in evaluation mode and without gradients, as long as a step takes."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)
