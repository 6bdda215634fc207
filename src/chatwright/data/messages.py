"""Turns of a conversation in the spellings there are: OpenAI's, ShareGPT's, and Anthropic's HH texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from chatwright.core.types import Message, Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
HH = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class RowError(Exception):
    """Why a row makes no record: a reason rows are counted by, and what exactly."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def messages_of(value: Any, strict: bool = True) -> list[Message] | None:
    """A value as turns, or None when it does not look like turns (a plain text, say).

    One message, a list of them, and the JSON of either in a CSV cell are turns. Raises RowError for turns
    that have something wrong, unless `strict` is off: then these too are None.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{", "[ {")):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(m, Mapping) for m in value):
        return None
    if not any(key in value[0] for key in ("role", "from")):
        return None
    try:
        return [_message(m, number) for number, m in enumerate(value, 1)]
    except RowError:
        if strict:
            raise
        return None


def _message(turn: Mapping[str, Any], number: int) -> Message:
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str) or name.strip().lower() not in ROLES:
        raise RowError("unknown role", f"turn {number} is by {name!r}; roles: {', '.join(ROLES)}")
    role = ROLES[name.strip().lower()]
    said = turn.get("content", turn.get("value"))
    content = "" if said is None else text_of(said, f"turn {number}")
    calls = turn.get("tool_calls") or []
    if name.strip().lower() == "function_call":
        calls, content = [content], ""
    written = [f"<tool_call>\n{_call(call)}\n</tool_call>" for call in calls]
    return Message(role, "\n".join([*([content] if content else []), *written]))


def _call(call: Any) -> str:
    """A tool call as the JSON models of the Hermes and Qwen kind write."""
    if isinstance(call, str):
        return call
    inner = call.get("function", call)
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise RowError("wrong type", f"a tool call's arguments are no JSON: {error.msg}") from None
    return json.dumps({"name": inner.get("name"), "arguments": arguments}, ensure_ascii=False)


def text_of(value: Any, what: str) -> str:
    """A text without the space around it, OpenAI's parts joined; raises RowError for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, Mapping) and "type" in part for part in value):
        others = {str(part["type"]) for part in value} - {"text", "input_text", "output_text"}
        if others:
            raise RowError("not text", f"{what} holds {', '.join(sorted(others))}; only text is learned from")
        return "".join(cast(str, part.get("text", "")) for part in value).strip()
    raise RowError("wrong type", f"{what} is {str(value)[:60]!r}, which is no text")


def optional_text(value: Any, what: str) -> str:
    """A text that may be missing."""
    return "" if value is None else text_of(value, what)


def is_hh(text: str) -> bool:
    """Is this a conversation of Anthropic's HH data: `\\n\\nHuman: … \\n\\nAssistant: …`?"""
    return bool(HH.match(text.lstrip("\n ") if text.lstrip().startswith(("Human:", "Assistant:")) else text))


def hh_turns(text: str) -> list[Message]:
    """The turns of an HH conversation."""
    parts = HH.split("\n\n" + text.lstrip())[1:]
    return [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[0::2], parts[1::2], strict=True)
    ]
