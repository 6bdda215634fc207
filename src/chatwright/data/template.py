"""From a conversation to ids and a mask, once for everything: training, sampling, evaluation and chat.

A conversation is cut into segments, prompt side and answers in turn, and each segment is tokenised by itself.
So the ids of a prompt are the same in SFT, in RL and in chat, what was sampled is what is trained, and a
longer conversation always begins with the ids of a shorter one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from pydantic import Field
from transformers.utils.chat_template_utils import render_jinja_template

from chatwright.core.types import ChatwrightError, Config, Message

ADVICE = "set template: {name: chatml} or {name: plain} in the recipe"
GENERATION = re.compile(r"{%-?\s*generation\b")


class TemplateConfig(Config):
    """How conversations are written down for the model."""

    name: Literal["auto", "chatml", "plain"] = Field(
        "auto",
        description="auto is the model's own template, or where it has none a shipped one that fits.",
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
        """The tokenizer's own template, or the shipped one that fits its vocabulary.

        Raises ChatwrightError naming the template when it rewrites earlier turns, doubles BOS, or never ends
        a turn.
        """
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
        ids, mask = self.answered((Message("user", "a"),), text)
        return [token for token, trained in zip(ids, mask, strict=True) if trained]

    def conversation(self, messages: Sequence[Message]) -> Encoded:
        """A whole conversation; the assistant's turns and their ends are trained, all or the last."""
        return _joined(self._segments(messages, answer_next=False), self.config.train_on)

    def answered(self, prompt: Sequence[Message], response: str) -> Encoded:
        """A prompt and one answer to it, of which the answer is trained; it begins with the prompt's ids."""
        return _joined(self._segments([*prompt, Message("assistant", response)], answer_next=False), "last")

    def text(self, text: str) -> list[int]:
        """A document to learn language from, with BOS before it where the tokenizer writes one, and its
        separator behind it.
        """
        bos = [self.tokenizer.bos_token_id] if _adds_bos(self.tokenizer) else []
        return [*bos, *self._ids(self._harmless(text)), self._separator]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def show(self, token: int) -> str:
        """Text of one token, special tokens by name."""
        return str(self.tokenizer.decode([token]))

    def _segments(self, messages: Sequence[Message], answer_next: bool) -> list[Encoded]:
        """Prompt sides (mask 0) and answers (mask 1), in turn, each tokenised by itself."""
        turns = [Message(m.role, self._harmless(m.content)) for m in messages]
        if self.config.system is not None and (not turns or turns[0].role != "system"):
            turns.insert(0, Message("system", self.config.system))
        whole, at = _render(self.tokenizer, self.jinja, turns, answer_next), 0
        segments = []
        for start, end in self._spans(turns, whole):
            segments.append(self._context(whole[at:start]))
            ids = [*self._ids(whole[start:end].removesuffix(self._end_text)), self.end_of_turn]
            segments.append(Encoded(ids, [1] * len(ids)))
            at = end
        # What a template writes behind the last answer (a line break, mostly) belongs to the next turn.
        if answer_next or not turns or turns[-1].role != "assistant":
            segments.append(self._context(whole[at:]))
        return segments

    def _spans(self, turns: Sequence[Message], whole: str) -> list[tuple[int, int]]:
        """Where the answers with their ends stand in the rendering: as the template's `{% generation %}`
        marks say, else from where a prompt ends to where its answer does.
        """
        if GENERATION.search(self.jinja):
            return [self._with_end(whole, *span) for span in self._marked(turns)]
        spans = []
        for i, message in enumerate(turns):
            if message.role != "assistant":
                continue
            after = _render(self.tokenizer, self.jinja, turns[: i + 1], False)
            before = (
                _render(self.tokenizer, self.jinja, turns[:i], True) if i else self._opening(after, turns)
            )
            self._hold(after, before)
            end = after.rfind(self._end_text, len(before))
            # A template without an end of turn in its text: the token is put behind what was said.
            end = end + len(self._end_text) if end >= 0 else len(after.rstrip())
            self._hold(whole, after[:end])
            spans.append((len(before), end))
        return spans

    def _opening(self, after: str, turns: Sequence[Message]) -> str:
        """What stands before an answer that begins a conversation: templates render no empty one."""
        said = turns[0].content.strip()
        end = after.rfind(self._end_text)
        return after[: max(after.rfind(said, 0, end if end >= 0 else len(after)), 0)]

    def _marked(self, turns: Sequence[Message]) -> list[tuple[int, int]]:
        """The spans between {% generation %} and {% endgeneration %}."""
        try:
            _, spans = render_jinja_template(
                [_plain(turns)], chat_template=self.jinja, return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )  # fmt: skip
        except TemplateError as error:
            raise _refused(self.tokenizer, error) from error
        return [(int(start), int(end)) for start, end in spans[0]]

    def _with_end(self, whole: str, start: int, end: int) -> tuple[int, int]:
        """The span with the end of turn that directly follows it; the space behind one inside is left out."""
        if whole.startswith(self._end_text, end):
            return start, end + len(self._end_text)
        inside = whole.rfind(self._end_text, start, end)
        return start, inside + len(self._end_text) if inside >= 0 else end

    def _hold(self, text: str, beginning: str) -> None:
        if not text.startswith(beginning):
            raise ChatwrightError(
                f"the chat template of {_name(self.tokenizer)} is not prefix-preserving: it rewrites earlier "
                f"turns when a conversation grows, so what is trained would not be what is sampled; {ADVICE}"
            )

    def _context(self, text: str) -> Encoded:
        ids = self._ids(text)
        return Encoded(ids, [0] * len(ids))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _harmless(self, text: str) -> str:
        """A text in which the names of control tokens are only letters: what a user types or a web page holds
        cannot end a turn or begin one.
        """
        return (
            self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text) if self._control else text
        )

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        names = [name for name in self.tokenizer.all_special_tokens if len(name) > 1]
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def _end_text(self) -> str:
        return self.show(self.end_of_turn)

    @cached_property
    def _separator(self) -> int:
        """What parts documents: the vocabulary's end of text, which is not always what ends a turn."""
        end = self.tokenizer.eos_token_id
        known = self.tokenizer.get_vocab()
        return int(known.get("<|endoftext|>", self.end_of_turn if end is None else end))

    def _prove(self) -> None:
        """A two-turn conversation goes through, holds its answers, begins with its own prompt, and BOS never
        stands twice.
        """
        ask, say = Message("user", "a"), Message("assistant", "b")
        whole = self.conversation([ask, say, ask, say])
        prompt = self.prompt_ids([ask, say, ask])
        name, bos = _name(self.tokenizer), self.tokenizer.bos_token_id
        if whole.ids[: len(prompt)] != prompt:
            raise ChatwrightError(f"the chat template of {name} is not prefix-preserving; {ADVICE}")
        answer = [token for token, trained in zip(whole.ids, whole.mask, strict=True) if trained]
        if "b" not in self.decode(answer) or whole.ids[-1] != self.end_of_turn:
            raise ChatwrightError(
                f"the chat template of {name} does not write what the assistant said; {ADVICE}"
            )
        if any(one == other == bos for one, other in itertools.pairwise(prompt)):
            raise ChatwrightError(f"the chat template of {name} writes BOS twice; {ADVICE}")


def _render(tokenizer: Any, jinja: str, turns: Sequence[Message], answer_next: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            _plain(turns), chat_template=jinja, tokenize=False, add_generation_prompt=answer_next
        )
    except TemplateError as error:
        raise _refused(tokenizer, error) from error
    return str(text)


def _refused(tokenizer: Any, error: TemplateError) -> ChatwrightError:
    return ChatwrightError(
        f"the chat template of {_name(tokenizer)} refuses a conversation: {error}. "
        f"Change the rows, or {ADVICE}"
    )


def _joined(segments: Sequence[Encoded], train_on: str) -> Encoded:
    """Segments as one row; with `last`, only the last answer is trained."""
    last = max((i for i, segment in enumerate(segments) if any(segment.mask)), default=-1)
    ids = [token for segment in segments for token in segment.ids]
    mask = [
        bit * (train_on == "all" or i == last) for i, segment in enumerate(segments) for bit in segment.mask
    ]
    return Encoded(ids, mask)


def _plain(turns: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in turns]


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "this tokenizer")


def _adds_bos(tokenizer: Any) -> bool:
    """Does this tokenizer write BOS in front of a text by itself?"""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos]


def _choose(tokenizer: Any, name: str) -> str:
    if name == "auto" and tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
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
    bos = "{{- bos_token }}" if _adds_bos(tokenizer) else ""
    return bos + asset.read_text(encoding="utf-8").rstrip("\n")


def _end_of_turn(tokenizer: Any, jinja: str) -> int:
    """The token the template writes behind an answer."""
    rendered = _render(tokenizer, jinja, [Message("user", "a"), Message("assistant", "XYZ")], False)
    tail = rendered.rpartition("XYZ")[2].lstrip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if ids and ids[0] in special:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise ChatwrightError(
            "the chat template ends answers with no special token and the tokenizer has no end-of-text "
            "token, so a model could never learn to stop; use a tokenizer with an eos_token"
        )
    return int(tokenizer.eos_token_id)
