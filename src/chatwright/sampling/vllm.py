"""The sampler on vLLM: in process, or a server by URL. New weights go in place and are checked there.

Two things of vLLM are worked around on purpose. Its log-probabilities are taken either before the temperature
or after truncation (`logprobs_mode`), and learning needs log softmax(logits / T) of the whole vocabulary: so
the logits are divided by T inside the model and vLLM samples at temperature 1, which makes its `raw_logprobs`
the wanted ones. One temperature is at work at a time; requests with another wait until the engine is idle.
And its prefix cache knows nothing of new weights: it is emptied by `publish`.

The same seed gives the same answer here and nowhere else: vLLM draws by its own rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from chatwright.core.seeds import derive
from chatwright.core.types import ChatwrightError, Prompt, Rollout
from chatwright.data.template import Template
from chatwright.sampling.base import Event, Request, SamplingConfig, Token
from chatwright.sampling.weights import checksums, differing, together

BUCKET = 1 << 26
"""Bytes of weights that are handed over at once."""
HEADS = ("lm_head.weight", "embed_out.weight")
"""Names that a tied head has besides its embedding's."""


class Piece(NamedTuple):
    """What vLLM did for a request."""

    request: int
    tokens: tuple[Token, ...] = ()
    end: Literal["stop", "length", "error"] | None = None
    error: str = ""


class Backend(Protocol):
    """A place where vLLM runs."""

    room: int
    """Most tokens a prompt and its answer may have together."""
    dtype: torch.dtype
    tied: bool
    """Its head is its embedding."""

    def add(self, number: int, request: Request, settings: Mapping[str, Any], stream: bool) -> None:
        """Start a request; without `stream` it is heard of once, at its end. `settings` are vLLM's."""
        ...

    def poll(self) -> list[Piece]:
        """Wait for something to happen to the running requests, and tell it."""
        ...

    def abort(self, number: int) -> None:
        """Stop a request; it is not heard of again."""
        ...

    def temper(self, temperature: float) -> None:
        """Divide all logits by this from now on."""
        ...

    def receive(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        """Copy some of the model's weights into the engine's."""
        ...

    def held(self) -> list[dict[str, int]]:
        """Every worker's checksums of the weights it holds; keys and values of prefixes computed with earlier
        ones are forgotten."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass
class _Answer:
    """A request on its way."""

    request: Request
    stream: bool
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    said: str = ""


class VllmSampler:
    """See StepSampler."""

    def __init__(self, backend: Backend, template: Template) -> None:
        self.backend, self.template = backend, template
        self._waiting: deque[int] = deque()
        self._running: set[int] = set()
        self._answers: dict[int, _Answer] = {}
        self._failed: list[Event] = []
        self._count, self._temperature = 0, 1.0

    def generate(self, prompts: Sequence[Prompt], n: int, config: SamplingConfig, seed: int) -> list[Rollout]:
        """See Sampler.generate; raises ChatwrightError when an answer cannot be had."""
        places, found = {}, {}
        for i, prompt in enumerate(prompts):
            ids = tuple(self.template.prompt_ids(prompt.messages))
            for j in range(n):
                number = self._submit(Request(ids, config, derive(seed, i, j)), stream=False)
                places[number] = i
        while len(found) < len(places):
            for number, (answer, event) in self._advance().items():
                if event.end == "error" and number in places:
                    raise ChatwrightError(event.error)
                if event.end and number in places:
                    found[number] = self._rollout(prompts[places[number]], places[number], answer, event)
        return [found[number] for number in places]

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See Sampler.publish; raises ChatwrightError when vLLM then holds something else."""
        sent: dict[str, int] = {}
        bucket: list[tuple[str, Tensor]] = []
        for name, tensor in weights:
            if not (self.backend.tied and name.endswith(HEADS)):
                bucket.append((name, tensor.detach().to(self.backend.dtype)))
            if sum(t.numel() * t.element_size() for _, t in bucket) >= BUCKET:
                sent, bucket = self._hand_over(bucket, sent), []
        sent = self._hand_over(bucket, sent)
        held = self.backend.held()
        if len(held) == 1 and (places := differing(sent, held[0])):
            raise ChatwrightError(
                f"vLLM does not hold the published weights: {', '.join(places)} differ. Its model is another, or "
                "this version of vLLM stores weights in a way Chatwright does not know; use sampler: local"
            )

    def _hand_over(self, bucket: list[tuple[str, Tensor]], sent: dict[str, int]) -> dict[str, int]:
        self.backend.receive(bucket)
        return together(sent, checksums(bucket, self.backend.dtype))

    def submit(self, request: Request) -> int:
        """See StepSampler.submit."""
        return self._submit(request, stream=True)

    def _submit(self, request: Request, stream: bool) -> int:
        self._count += 1
        number, long = self._count, len(request.prompt_ids)
        self._answers[number] = _Answer(request, stream)
        why = ""
        if long >= self.backend.room:
            why = f"a prompt has {long} tokens and the model takes {self.backend.room} with its answer"
        elif request.constraint is not None:
            why = "vLLM takes no grammar from Chatwright; use sampler: local"
        if why:
            self._failed.append(Event(number, end="error", error=why))
        else:
            self._waiting.append(number)
        return number

    def step(self) -> list[Event]:
        """See StepSampler.step."""
        return [event for _, event in self._advance().values()]

    def cancel(self, number: int) -> None:
        """See StepSampler.cancel."""
        if number in self._running:
            self.backend.abort(number)
        elif number in self._waiting:
            self._waiting.remove(number)
        self._running.discard(number)
        self._answers.pop(number, None)
        self._failed = [event for event in self._failed if event.request != number]

    @property
    def waiting(self) -> int:
        """See StepSampler.waiting."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """See StepSampler.running."""
        return len(self._running)

    def close(self) -> None:
        """See Sampler.close."""
        self.backend.close()

    def _advance(self) -> dict[int, tuple[_Answer, Event]]:
        """Start what may run, wait for news, and sort them by request."""
        news = {event.request: (self._answers.pop(event.request), event) for event in self._failed}
        self._failed = []
        self._admit()
        for piece in self.backend.poll() if self._running and not news else ():
            if (answer := self._answers.get(piece.request)) is None:
                continue
            event = self._event(answer, piece)
            if event.end:
                self._running.discard(piece.request)
                del self._answers[piece.request]
            news[piece.request] = answer, event
        return news

    def _admit(self) -> None:
        """Hand requests to vLLM, as long as they want the temperature that is at work."""
        while self._waiting:
            number = self._waiting[0]
            answer = self._answers[number]
            temperature = answer.request.config.temperature or 1.0
            if temperature != self._temperature:
                if self._running:
                    return
                self.backend.temper(temperature)
                self._temperature = temperature
            self._waiting.popleft()
            self._running.add(number)
            settings = self._settings(answer.request)
            self.backend.add(number, answer.request, settings, answer.stream)

    def _settings(self, request: Request) -> dict[str, Any]:
        """A request in vLLM's words."""
        config, room = request.config, self.backend.room - len(request.prompt_ids)
        return {
            "max_tokens": min(config.max_tokens, room),
            "min_tokens": min(config.min_tokens, room),
            "temperature": 1.0 if config.temperature else 0.0,
            "top_k": config.top_k,
            "top_p": config.top_p,
            "min_p": config.min_p,
            "repetition_penalty": config.repetition_penalty,
            "stop": list(config.stop),
            "stop_token_ids": sorted({*self.template.stop_ids, *config.stop_ids}),
            "ignore_eos": True,  # the template's stops are all there are
            "logit_bias": dict(config.logit_bias) or None,
            "logprobs": config.top_logprobs,
            "seed": request.seed,
        }

    def _event(self, answer: _Answer, piece: Piece) -> Event:
        answer.ids += [token.id for token in piece.tokens]
        answer.logprobs += [token.logprob for token in piece.tokens]
        text = self._text(answer, ended=piece.end is not None)
        new = text[len(answer.said) :]
        answer.said += new
        return Event(piece.request, piece.tokens, new, piece.end, piece.error)

    def _text(self, answer: _Answer, ended: bool) -> str:
        """What of the answer's text is certain: cut at a stop text, and while it goes on without half
        characters and beginnings of stop texts."""
        stops = answer.request.config.stop
        ids = answer.ids
        last = bool(ids) and ids[-1] in {*self.template.stop_ids, *answer.request.config.stop_ids}
        text = self.template.decode(ids[:-1] if last else ids)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
        if ended:
            return text
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        begun = [k for stop in stops for k in range(1, len(stop)) if text.endswith(stop[:k])]
        return text[: len(text) - max(begun, default=0)]

    def _rollout(self, prompt: Prompt, group: int, answer: _Answer, event: Event) -> Rollout:
        return Rollout(
            prompt=prompt,
            prompt_ids=answer.request.prompt_ids,
            response_ids=tuple(answer.ids),
            logprobs=tuple(answer.logprobs),
            text=answer.said,
            finished=event.end == "stop",
            group=group,
        )
