"""Several sources as one, and one as two: mixing by weight, and a held-out part that shares no prompt."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from chatwright.core.seeds import derive
from chatwright.core.types import Demo, Record, Text


def mix(sources: Mapping[str, Sequence[Record]], weights: Mapping[str, float], seed: int) -> list[Record]:
    """All rows of every source, `weight` times each.

    A weight of 2 brings every row twice, 0.5 every second row and 1.5 every row and then half of them again,
    chosen by the seed.
    """
    mixed: list[Record] = []
    for name, rows in sources.items():
        whole, part = divmod(weights[name], 1)
        mixed += list(rows) * int(whole)
        extra = round(part * len(rows))
        mixed += random.Random(derive(seed, name)).sample(list(rows), extra)
    return mixed


def split(records: Sequence[Record], held_out: float) -> tuple[list[Record], list[Record]]:
    """(training, held-out) rows by the hash of their prompt, so that no prompt is on both sides."""
    train: list[Record] = []
    held: list[Record] = []
    for record in records:
        (held if _share(prompt_key(record)) < held_out else train).append(record)
    return train, held


def prompt_key(record: Record) -> str:
    """The text that decides which side of a split a record falls on."""
    if isinstance(record, Text):
        return record.text
    if isinstance(record, Demo):
        first = next(
            (i for i, m in enumerate(record.messages) if m.role == "assistant"), len(record.messages)
        )
        return "\x1f".join(m.content.strip() for m in record.messages[:first])
    messages = getattr(record, "messages", None) or record.prompt.messages  # type: ignore[union-attr]
    return "\x1f".join(m.content.strip() for m in messages)


def _share(text: str) -> float:
    """A number in [0, 1) that follows from the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
