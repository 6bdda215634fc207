"""From a conversation to ids and a mask, once for everything: training, sampling, evaluation and chat.

A conversation is cut into segments, prompt side and answers in turn, and each segment is tokenised by itself. So the ids
of a prompt are the same in SFT, in RL and in chat, what was sampled is what is trained, and a longer conversation
always begins with the ids of a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

from pydantic import Field

from chatwright.core.types import ChatwrightError, Config, Message


class TemplateConfig(Config):
    """How conversations are written down for the model."""

    name: Literal["auto", "chatml", "plain"] = Field(
        "auto",
        description="auto is the model's own template where it has one, else a shipped one that fits its vocabulary.",
    )
    system: str | None = Field(None, description="A system prompt for conversations that have none.")
    train_on: Literal["all", "last"] = Field("all", description="Which assistant turns are trained.")


class Encoded(NamedTuple):
    """A row of tokens, and 1 where a token is trained."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class Template:
    """One model's way of writing conversations down."""

    tokenizer: Any
    jinja: str
    end_of_turn: int
    stop_ids: frozenset[int]
    pad_id: int
    config: TemplateConfig

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, config: TemplateConfig) -> Template:
        """The tokenizer's own template, or the shipped one that fits its vocabulary."""
        jinja = _choose(tokenizer, config.name)
        end = _end_of_turn(tokenizer, jinja)
        stops = {end, tokenizer.eos_token_id} - {None}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
        template = cls(tokenizer, jinja, end, frozenset(stops), pad, config)
        template._prove()
        return template

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the model answers."""
        return [token for segment in self._segments(messages, answer_next=True) for token in segment.ids]

    def response_ids(self, text: str) -> list[int]:
        """An answer's ids, end of turn included."""
        return [*self._ids(text), self.end_of_turn]

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """A whole conversation; the assistant's turns and their ends are trained."""
        segments = self._segments(messages, answer_next=False)
        last = max((i for i, segment in enumerate(segments) if any(segment.mask)), default=-1)
        ids: list[int] = []
        mask: list[int] = []
        for i, segment in enumerate(segments):
            ids += segment.ids
            on = self.config.train_on == "all" or i == last
            mask += segment.mask if on else [0] * len(segment.ids)
        return Encoded(ids, mask)

    def answered(self, prompt: Sequence[Message], response: str) -> Encoded:
        """A prompt and one answer to it, of which the answer is trained."""
        before, after = self.prompt_ids(prompt), self.response_ids(response)
        return Encoded(before + after, [0] * len(before) + [1] * len(after))

    def text(self, text: str) -> list[int]:
        """A document to learn language from, with its separator behind it."""
        return [*self._ids(text), self._separator()]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def show(self, token: int) -> str:
        """Text of one token, special tokens by name."""
        return str(self.tokenizer.decode([token]))

    def _segments(self, messages: Sequence[Message], answer_next: bool) -> list[Encoded]:
        """Prompt sides (mask 0) and answers (mask 1), in turn."""
        turns = list(messages)
        if self.config.system is not None and (not turns or turns[0].role != "system"):
            turns.insert(0, Message("system", self.config.system))
        segments, written = [], ""
        for i, message in enumerate(turns):
            if message.role != "assistant":
                continue
            before, whole = self._render(turns[:i], True), self._render(turns[: i + 1], False)
            segments.append(self._context(self._grown(before, written)))
            answer, _, _ = self._grown(whole, before).rpartition(self.show(self.end_of_turn))
            ids = self.response_ids(answer or message.content)  # the template may trim what was said
            segments.append(Encoded(ids, [1] * len(ids)))
            written = before + answer + self.show(self.end_of_turn) if answer else whole
        after = self._render(turns, answer_next)
        if len(after) > len(written) or answer_next:
            rest = self._grown(after, written)
            if answer_next or (turns and turns[-1].role != "assistant"):
                segments.append(self._context(rest))
        return segments

    def _grown(self, text: str, before: str) -> str:
        if not text.startswith(before):
            raise ChatwrightError(
                "this model's chat template rewrites earlier turns when a conversation grows, so what is trained would "
                "not be what is sampled; set template: {name: chatml} or {name: plain} in the recipe"
            )
        return text[len(before) :]

    def _context(self, text: str) -> Encoded:
        ids = self._ids(text)
        return Encoded(ids, [0] * len(ids))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: Sequence[Message], answer_next: bool) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return str(
            self.tokenizer.apply_chat_template(
                turns, chat_template=self.jinja, tokenize=False, add_generation_prompt=answer_next
            )
        )

    def _separator(self) -> int:
        found = self.tokenizer.get_vocab().get("<|endoftext|>")
        return self.end_of_turn if found is None else int(found)

    def _prove(self) -> None:
        """A two-turn conversation goes through, begins with its own prompt, and has at most one BOS."""
        ask, say = Message("user", "a"), Message("assistant", "b")
        whole = self.conversation([ask, say, ask, say])
        prompt = self.prompt_ids([ask, say, ask])
        bos = self.tokenizer.bos_token_id
        if whole.ids[: len(prompt)] != prompt:
            raise ChatwrightError(
                "this model's chat template is not prefix-preserving; set template: {name: chatml}"
            )
        if bos is not None and bos != self.end_of_turn and prompt.count(bos) > 1:
            raise ChatwrightError(
                "this model's chat template writes BOS more than once; set template: {name: chatml}"
            )


def _choose(tokenizer: Any, name: str) -> str:
    if name == "auto" and tokenizer.chat_template:
        return str(tokenizer.chat_template)
    if name == "auto":
        name = "chatml" if "<|im_end|>" in tokenizer.get_vocab() else "plain"
    if name == "chatml" and "<|im_end|>" not in tokenizer.get_vocab():
        raise ChatwrightError(
            "template: chatml needs the tokens <|im_start|> and <|im_end|>; this vocabulary has none"
        )
    if name == "plain" and tokenizer.eos_token_id is None:
        raise ChatwrightError(
            "template: plain ends answers with the tokenizer's end-of-text token, and it has none"
        )
    asset = resources.files("chatwright") / "assets" / "templates" / f"{name}.jinja"
    return asset.read_text(encoding="utf-8").rstrip("\n")


def _end_of_turn(tokenizer: Any, jinja: str) -> int:
    """The token the template writes behind an answer."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "XYZ"}]
    rendered = tokenizer.apply_chat_template(turns, chat_template=jinja, tokenize=False)
    tail = rendered.rpartition("XYZ")[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if ids and ids[0] in special:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise ChatwrightError(
            "the chat template ends answers with no special token and the tokenizer has no end-of-text token, so a model "
            "could never learn to stop; use a tokenizer with an eos_token"
        )
    return int(tokenizer.eos_token_id)
