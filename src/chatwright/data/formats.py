"""From raw rows to records. A format is a row of FORMATS: which keys show it, and how a row becomes a Record."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.core.types import (
    ChatwrightError,
    Conversation,
    Demo,
    Message,
    Pair,
    Prompt,
    Rated,
    Record,
    Text,
)
from chatwright.data.readers import Raw, read_hub, read_raw

logger = logging.getLogger("chatwright")


class Bad(Exception):
    """A row that cannot be used: a short reason that rows are counted by, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Row(NamedTuple):
    """A record and where it stands."""

    record: Record
    where: str


class BadRow(NamedTuple):
    """A row that cannot be used, and why."""

    where: str
    reason: str
    detail: str
    row: Any = None


@dataclass(frozen=True)
class Format:
    """How to know a format by a row's keys, and how to read a row of it."""

    detect: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], Record]


ROLES = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "system": "system", "tool": "tool",
    "observation": "tool", "function_call": "assistant",
}  # fmt: skip
HH_TURN = re.compile(r"\n\n(Human|Assistant):")


def text_of(row: Mapping[str, Any], *keys: str, needed: bool = True) -> str:
    """The first of several keys that is there, as text; empty texts are bad where one is needed."""
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise Bad("wrong type", f"{key!r} is {type(value).__name__}, not text")
        if needed and not value.strip():
            raise Bad("empty text", f"{key!r} is empty")
        return value
    if needed:
        raise Bad("missing key", f"none of {', '.join(keys)}")
    return ""


def turns(rows: Any, role: str = "role", content: str = "content") -> Conversation:
    """A conversation out of a list of turns, in a valid order."""
    rows = _parsed(rows)
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise Bad("wrong type", "a conversation is a non-empty list of turns")
    made = []
    for turn in rows:
        if not isinstance(turn, Mapping) or role not in turn:
            raise Bad("missing key", f"a turn without {role!r}")
        if turn[role] not in ROLES:
            raise Bad("unknown role", repr(turn[role]))
        made.append(Message(ROLES[turn[role]], _said(turn.get(content), turn)))  # type: ignore[arg-type]
    return ordered(made)


def _said(content: Any, turn: Mapping[str, Any]) -> str:
    """A turn's text: a string, or OpenAI's list of parts."""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    if not content and turn.get("tool_calls"):
        content = json.dumps(turn["tool_calls"], ensure_ascii=False)
    if not isinstance(content, str):
        raise Bad("wrong type", "a turn's content is not text")
    return content


def ordered(messages: Sequence[Message]) -> Conversation:
    """Checks the order of roles: system first or never, no assistant before a user, nobody twice in a row."""
    rest = list(messages)
    if rest and rest[0].role == "system":
        rest = rest[1:]
    if any(m.role == "system" for m in rest):
        raise Bad("wrong role order", "a system turn that is not the first")
    if not rest or rest[0].role != "user":
        raise Bad("wrong role order", "the conversation does not begin with the user")
    for one, two in itertools.pairwise(rest):
        if one.role == two.role and one.role != "tool":
            raise Bad("wrong role order", f"two {one.role} turns in a row")
    for message in rest:
        if not message.content.strip():
            raise Bad(
                "empty answer" if message.role == "assistant" else "empty text", f"a {message.role} turn"
            )
    return tuple(messages)


def asked(value: Any) -> Conversation:
    """A prompt out of a text or a list of turns; it ends with the user (or a tool)."""
    value = _parsed(value)
    if isinstance(value, str):
        if not value.strip():
            raise Bad("empty text", "the prompt is empty")
        return (Message("user", value),)
    messages = turns(value)
    if messages[-1].role == "assistant":
        raise Bad("wrong role order", "the prompt ends with the assistant")
    return messages


def _parsed(value: Any) -> Any:
    """CSV cells may hold a list of turns as JSON."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def conversation(row: Mapping[str, Any]) -> Record:
    """OpenAI messages."""
    return _demo(turns(row["messages"]))


def sharegpt(row: Mapping[str, Any]) -> Record:
    """ShareGPT: conversations of from/value turns, and an optional system text."""
    rows = _parsed(row["conversations"])
    first = rows[0] if rows and isinstance(rows, list) and isinstance(rows[0], Mapping) else {}
    messages = turns(rows, "from", "value") if "from" in first else turns(rows)
    system = text_of(row, "system", needed=False)
    return _demo((Message("system", system), *messages) if system else messages)


def _demo(messages: Conversation) -> Demo:
    if messages[-1].role != "assistant":
        messages = messages[
            : max((i + 1 for i, m in enumerate(messages) if m.role == "assistant"), default=0)
        ]
    if not messages:
        raise Bad("no assistant turn", "nothing to learn from")
    return Demo(messages)


def alpaca(row: Mapping[str, Any]) -> Record:
    """Alpaca: instruction, optional input and history, output."""
    question = text_of(row, "instruction")
    if extra := text_of(row, "input", needed=False).strip():
        question = f"{question}\n\n{extra}"
    answer = text_of(row, "output", "response", needed=False)
    if not answer.strip():
        raise Bad("empty answer", "'output' is empty")
    past = [Message(r, t) for q, a in row.get("history") or [] for r, t in (("user", q), ("assistant", a))]  # type: ignore[arg-type]
    system = text_of(row, "system", needed=False)
    head = [Message("system", system)] if system else []
    return Demo(ordered([*head, *past, Message("user", question), Message("assistant", answer)]))


def completion(row: Mapping[str, Any]) -> Record:
    """A prompt and its completion; either may be a list of turns."""
    prompt = asked(row["prompt"])
    answer = row.get("completion", row.get("response"))
    answer = _parsed(answer)
    if isinstance(answer, list):
        return _demo(ordered([*prompt, *(Message(ROLES[t["role"]], t["content"]) for t in answer)]))  # type: ignore[arg-type]
    if not isinstance(answer, str) or not answer.strip():
        raise Bad("empty answer", "the completion is empty")
    return Demo((*prompt, Message("assistant", answer)))


def running_text(row: Mapping[str, Any]) -> Record:
    """A document."""
    return Text(text_of(row, "text", "content"))


def pairs(row: Mapping[str, Any]) -> Record:
    """Preferences: texts or messages, with a prompt or with the prompt at the beginning of both (also in HH's form)."""
    chosen, rejected = _parsed(row["chosen"]), _parsed(row["rejected"])
    prompt = row.get("prompt") or row.get("instruction") or row.get("question")
    if isinstance(chosen, list) and isinstance(rejected, list):
        context, good, bad = _common(turns(chosen) if prompt is None else chosen, rejected, prompt)
    elif not isinstance(chosen, str) or not isinstance(rejected, str):
        raise Bad("wrong type", "chosen and rejected are not two texts or two lists of turns")
    elif prompt is None:
        context, good = hh(chosen)
        other, bad = hh(rejected)
        if context != other:
            raise Bad("prompts differ", "chosen and rejected do not share their prompt")
    else:
        context, good, bad = asked(prompt), chosen, rejected
    if not good.strip() or not bad.strip():
        raise Bad("empty answer", "chosen" if not good.strip() else "rejected")
    if good.strip() == bad.strip():
        raise Bad("chosen = rejected", good.strip()[:60])
    return Pair(Prompt(context), good, bad, float(row.get("margin") or 0.0))


def _common(chosen: Any, rejected: Any, prompt: Any) -> tuple[Conversation, str, str]:
    """Prompt and last answers of two lists of turns."""
    if prompt is not None:
        return asked(prompt), str(chosen[-1]["content"]), str(rejected[-1]["content"])
    other = turns(rejected)
    if chosen[:-1] != other[:-1]:
        raise Bad("prompts differ", "chosen and rejected do not share their prompt")
    return (
        asked([{"role": m.role, "content": m.content} for m in chosen[:-1]]),
        chosen[-1].content,
        other[-1].content,
    )


def hh(text: str) -> tuple[Conversation, str]:
    """Anthropic's HH form: '\\n\\nHuman: … \\n\\nAssistant: …'; returns the prompt and the last answer."""
    parts = HH_TURN.split(text if text.startswith("\n\n") else "\n\n" + text)
    if len(parts) < 5 or parts[-2] != "Assistant":
        raise Bad(
            "missing key", "no 'prompt', and the texts are not in the form '\\n\\nHuman: …\\n\\nAssistant: …'"
        )
    names = ["user" if who == "Human" else "assistant" for who in parts[1::2]]
    messages = [Message(who, said.strip()) for who, said in zip(names, parts[2::2], strict=True)]  # type: ignore[arg-type]
    return ordered(messages[:-1]), messages[-1].content


def rated(row: Mapping[str, Any]) -> Record:
    """A judged answer: a label (KTO), a thumb, a score, a reward."""
    key = next(k for k in RATINGS if row.get(k) is not None)
    value = row[key]
    words = {"true": 1.0, "up": 1.0, "good": 1.0, "false": -1.0, "down": -1.0, "bad": -1.0}
    if isinstance(value, bool):
        score = 1.0 if value else -1.0
    elif isinstance(value, str) and value.lower() in words:
        score = words[value.lower()]
    else:
        try:
            score = float(value)
        except (TypeError, ValueError) as error:
            raise Bad(
                "wrong type", f"{key!r} is {value!r}: a number, true/false or up/down is needed"
            ) from error
        score = score if key not in ("label", "reward") or score != 0 else -1.0
    if "messages" in row and "response" not in row and "completion" not in row:
        messages = turns(row["messages"])
        if messages[-1].role != "assistant":
            raise Bad("no assistant turn", "nothing to judge")
        return Rated(Prompt(messages[:-1]), messages[-1].content, score)
    answer = _parsed(row.get("response", row.get("completion")))
    answer = answer[-1]["content"] if isinstance(answer, list) and answer else answer
    if not isinstance(answer, str) or not answer.strip():
        raise Bad("empty answer", "'response' is empty")
    context = row.get("prompt") or row.get("messages") or row.get("instruction")
    if context is None:
        raise Bad("missing key", "none of prompt, messages")
    return Rated(Prompt(asked(context)), answer, score)


def prompts(row: Mapping[str, Any]) -> Record:
    """A question, with an optional reference answer; further keys go to `meta`, where rules find them."""
    question = next((row[k] for k in ("prompt", "question", "messages", "instruction") if row.get(k)), None)
    if question is None:
        raise Bad("missing key", "none of prompt, question, messages, instruction")
    answer = next((row[k] for k in ("answer", "final", "reference", "output") if row.get(k) is not None), "")
    used = {"prompt", "question", "messages", "instruction", "answer", "meta"}
    meta = {k: v for k, v in row.items() if k not in used}
    given = row.get("meta")
    if isinstance(given, str) and given.startswith("{"):
        given = json.loads(given)
    if isinstance(given, Mapping):
        meta |= given
    return Prompt(asked(question), str(answer), meta)


RATINGS = ("label", "score", "rating", "reward", "thumb", "thumbs", "kto_tag")

FORMATS: dict[str, Format] = {
    "pairs": Format(lambda r: "chosen" in r and "rejected" in r, pairs),
    "rated": Format(
        lambda r: (
            any(k in r for k in RATINGS) and any(k in r for k in ("response", "completion", "messages"))
        ),
        rated,
    ),
    "sharegpt": Format(lambda r: "conversations" in r, sharegpt),
    "alpaca": Format(lambda r: "instruction" in r and ("output" in r or "response" in r), alpaca),
    "completion": Format(lambda r: "prompt" in r and ("completion" in r or "response" in r), completion),
    "messages": Format(lambda r: "messages" in r, conversation),
    "prompts": Format(lambda r: "prompt" in r or "question" in r, prompts),
    "text": Format(lambda r: "text" in r or "content" in r, running_text),
}
ALIASES = {"chat": "messages", "openai": "messages", "preference": "pairs", "kto": "rated", "thumbs": "rated"}


def read(spec: str, base: Path = Path()) -> Iterator[Row | BadRow]:
    """Every row of a source as a record, or as what is wrong with it.

    `spec` is a path or a hub name, with a format in front to name it (`pairs:file.jsonl`). Raises ChatwrightError for
    a file that is not there and for rows whose format cannot be told.
    """
    name, path = named(spec)
    raw = read_raw(base / path) if (base / path).exists() or not _hub_like(path) else read_hub(path)
    yield from _records(raw, name, path)


def named(spec: str) -> tuple[str | None, str]:
    """(format or None, path) of a source."""
    head, colon, rest = spec.partition(":")
    head = ALIASES.get(head, head)
    return (head, rest) if colon and head in FORMATS else (None, spec)


def _hub_like(path: str) -> bool:
    return (
        re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
        and not path.startswith(".")
        and "." not in Path(path).suffix
    )


def _records(raw: Iterator[Raw], name: str | None, path: str) -> Iterator[Row | BadRow]:
    for item in raw:
        if item.problem:
            yield BadRow(
                item.where,
                "not JSON" if isinstance(item.row, str) else "malformed row",
                item.problem,
                item.row,
            )
        elif not isinstance(item.row, Mapping):
            yield BadRow(item.where, "wrong type", "a row is an object with keys", item.row)
        else:
            if name is None:
                name = detect(item.row, path)
            yield _record(item, name)


def _record(item: Raw, name: str) -> Row | BadRow:
    try:
        return Row(FORMATS[name].read(item.row), item.where)
    except Bad as bad:
        return BadRow(item.where, bad.reason, bad.detail, item.row)
    except (KeyError, StopIteration) as error:
        return BadRow(item.where, "missing key", f"a row of the format {name} needs {error}", item.row)


def detect(row: Mapping[str, Any], path: str) -> str:
    """The format of a first row, which the whole source is then read as."""
    for name, form in FORMATS.items():
        if form.detect(row):
            logger.info("%s: read as %s", path, name)
            return name
    raise ChatwrightError(
        f"{path}: its format cannot be told from the keys {', '.join(map(str, row))}; rename them, or name one of "
        f"{', '.join(FORMATS)} in front, as in pairs:{path}"
    )
