"""From files to raw rows: JSONL, JSON, CSV, Parquet and text, also .gz; a folder of them; a name on the hub."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import charset_normalizer
import pyarrow.parquet as pq

from chatwright.core.types import ChatwrightError

logger = logging.getLogger("chatwright")

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")


class Raw(NamedTuple):
    """A row as it stands in its file, or why it cannot be read."""

    where: str
    row: Any
    problem: str = ""


def read_raw(path: Path) -> Iterator[Raw]:
    """Every row of a file, or of all readable files below a folder, in the order of their names."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p) in SUFFIXES)
        if not files:
            raise ChatwrightError(
                f"{path}: no data files in this folder; known are {', '.join(SUFFIXES)}, also .gz"
            )
        for file in files:
            yield from read_raw(file)
        return
    if not path.is_file():
        raise ChatwrightError(f"{path}: no such file")
    suffix = _suffix(path)
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    text = decode(path)
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".txt": _text, ".md": _text}.get(
        suffix
    )
    if reader is None:
        raise ChatwrightError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}, also .gz")
    yield from reader(path, text)


def read_hub(name: str) -> Iterator[Raw]:
    """The training split of a data set on the hub; needs a network."""
    import datasets

    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises many kinds, all of which mean: not to be had
        raise ChatwrightError(
            f"{name}: no such file, and it cannot be loaded from the hub either ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); check the spelling or the network"
        ) from error
    for number, row in enumerate(rows, 1):
        yield Raw(f"{name}:{number}", row)


def decode(path: Path) -> str:
    """A file's text: UTF-8 first, else what its bytes look like (GB18030, Big5 …), which is said."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ChatwrightError(f"{path}: not a whole gzip file: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        encoding = guess_encoding(data)
        if encoding is None:
            line = data[: bad.start].count(b"\n") + 1
            raise ChatwrightError(
                f"{path}:{line}: not UTF-8 and no other encoding fits; save it as UTF-8"
            ) from bad
        logger.info("%s: read as %s, for it is not UTF-8", path, encoding)
        return data.decode(encoding)


def guess_encoding(data: bytes) -> str | None:
    """The encoding text of unknown origin is in; Chinese ones are preferred where they decode everything."""
    found = charset_normalizer.from_bytes(
        data, cp_isolation=["gb18030", "big5", "utf_16", "cp1252", "shift_jis"]
    ).best()
    if found is None:
        return None
    # GB2312 and GBK are parts of GB18030
    return "gb18030" if found.encoding.startswith(("gb", "hz")) else found.encoding


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _jsonl(path: Path, text: str) -> Iterator[Raw]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield Raw(where, json.loads(line))
            except json.JSONDecodeError as error:
                yield Raw(where, line, f"{error.msg} at column {error.colno}")


def _json(path: Path, text: str) -> Iterator[Raw]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        yield Raw(f"{path}:{error.lineno}", text[:200], f"{error.msg} at column {error.colno}")
        return
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = (
            lists[0]
            if len(lists) == 1 and len(rows) <= 3 and lists[0] and isinstance(lists[0][0], dict)
            else [rows]
        )
    for number, row in enumerate(rows, 1):
        yield Raw(f"{path}#{number}", row)


def _csv(path: Path, text: str) -> Iterator[Raw]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if _suffix(path) == ".tsv" else ",")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row:
            yield Raw(where, row, f"more cells than the {len(reader.fieldnames or [])} columns of the header")
        else:
            yield Raw(where, {k: v for k, v in row.items() if v is not None})


def _text(path: Path, text: str) -> Iterator[Raw]:
    """A text file is one document, or several between lines `<|endoftext|>`."""
    line = 1
    for part in text.split("<|endoftext|>"):
        if part.strip():
            yield Raw(f"{path}:{line}", {"text": part.strip("\n")})
        line += part.count("\n")


def _parquet(path: Path) -> Iterator[Raw]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ChatwrightError(f"{path}: not a Parquet file: {error}") from error
    number = 0
    for batch in file.iter_batches(1024):
        for row in batch.to_pylist():
            number += 1
            yield Raw(f"{path}#{number}", row)
