"""Which bytes are which letters: UTF-8 first, then what Chinese files used to be saved in."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path
from typing import IO

from charset_normalizer import from_bytes

logger = logging.getLogger("chatwright")

SAMPLE = 1 << 16
LEGACY = ["gb18030", "big5", "big5hkscs", "shift_jis", "euc_kr", "cp1252", "cp1251"]
"""Encodings that are told apart. GBK and GB2312 are parts of GB18030 and are read as it."""

MARKS = "，。、；：？！“”‘’（）《》「」—…　"
FREQUENT = {
    "gb18030": (b"\xb0\xa1", b"\xd7\xf9", "gb2312"),
    "big5": (b"\xa4\x40", b"\xc6\x7e", "big5"),
}
"""Where each encoding keeps its frequent characters: first, last, table."""


def encoding_of(stream: IO[bytes], path: Path) -> str:
    """The encoding of a whole file, which is read once for it.

    A file is UTF-8 when most of its lines beyond ASCII are, so that one damaged line stays one bad row and
    does not turn the file into noise. Anything else is said through the log.
    """
    head = stream.read(4)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _said("utf-16", path)
    stream.seek(0)
    good, bad, sample = 0, 0, bytearray()
    for line in stream:
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            good += 1
        except UnicodeDecodeError:
            bad += 1
            if len(sample) < SAMPLE:
                sample += line[:SAMPLE]
    if good >= bad:
        return "utf-8"
    return _said(legacy_encoding(bytes(sample)), path)


def legacy_encoding(sample: bytes) -> str:
    """The likeliest encoding of bytes that are no UTF-8."""
    fitting = [name for name in LEGACY if _decodes(sample, name)]
    chinese = {name: _commonness(sample, name) for name in fitting if name in FREQUENT}
    best = max(chinese, key=lambda name: chinese[name], default=None)
    # A short text decodes in several encodings; wrong ones yield characters that nobody uses.
    if best is not None and chinese[best] > 0.5:
        return best
    found = from_bytes(sample, cp_isolation=fitting or LEGACY, enable_fallback=False).best()
    return found.encoding if found is not None else (fitting[0] if fitting else "gb18030")


def _commonness(sample: bytes, encoding: str) -> float:
    """Share of the letters beyond ASCII that are everyday ones: punctuation, or in the first level of the
    encoding's own table, where the standard put the frequent characters.
    """
    text = sample.decode(encoding, "replace")
    letters = [c for c in text if ord(c) > 0x7F]
    first, last, table = FREQUENT[encoding]
    frequent = sum(c in MARKS or first <= c.encode(table, "ignore") <= last for c in letters)
    return frequent / max(len(letters), 1)


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        # A sample of whole lines may still hold one damaged line, and must not exclude the right answer.
        text = sample.decode(encoding, "replace")
    except LookupError:
        return False
    return text.count("\ufffd") <= len(text) // 100


def _said(encoding: str, path: Path) -> str:
    logger.info("%s: not UTF-8 but %s, and read as such", path, encoding)
    return encoding
