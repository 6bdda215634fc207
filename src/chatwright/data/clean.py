"""From sources to lists of good rows: every bad one is reported, and nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from chatwright.core.files import write_jsonl
from chatwright.core.types import ChatwrightError, Config
from chatwright.data.formats import BadRow, Row, read

SHOWN = 3
"""Bad rows of each reason that an error message shows."""


class DataSource(Config):
    """Where rows come from."""

    path: str = Field(description="A file, folder or hub name; a format in front names it: pairs:file.jsonl.")
    limit: int | None = Field(None, ge=1, description="At most so many rows, from the beginning.")


def load(
    sources: Mapping[str, DataSource],
    on_bad_row: Literal["stop", "skip"],
    directory: Path,
    base: Path = Path(),
) -> dict[str, list[Row]]:
    """Every source's good rows by name.

    Raises ChatwrightError with counts by reason when there are bad rows, unless they are to be skipped; then they are
    written to `rejected.jsonl` in `directory`.
    """
    good: dict[str, list[Row]] = {}
    bad: list[BadRow] = []
    for name, source in sources.items():
        good[name] = []
        for row in read(source.path, base):
            if isinstance(row, BadRow):
                bad.append(row)
            elif source.limit is None or len(good[name]) < source.limit:
                good[name].append(row)
        if not good[name] and not bad:
            raise ChatwrightError(f"data: {name}: {source.path} holds no rows")
    if bad and on_bad_row == "stop":
        raise ChatwrightError(f"{describe(bad)}\nMend them, or set on_bad_row: skip to go on without them")
    if bad:
        rows = [{"where": b.where, "reason": b.reason, "detail": b.detail, "row": b.row} for b in bad]
        write_jsonl(directory / "rejected.jsonl", list(rows))
    return good


def describe(bad: Sequence[BadRow]) -> str:
    """Bad rows counted by reason, the first of each shown."""
    lines = [f"{len(bad)} bad row{'s' if len(bad) > 1 else ''}:"]
    for reason, count in Counter(row.reason for row in bad).most_common():
        lines.append(f"  {reason}: {count}")
        of_reason = [row for row in bad if row.reason == reason]
        lines += [f"    {row.where}{': ' + row.detail if row.detail else ''}" for row in of_reason[:SHOWN]]
    return "\n".join(lines)
