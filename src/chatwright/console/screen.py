"""What the commands share: the console they print to, and options that mean the same everywhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

# No emoji: `file.jsonl:100:` is a place. Lines in a log file are not wrapped to 80 columns.
console = Console(emoji=False, width=None if sys.stdout.isatty() else 160)
StorePlace = Annotated[
    str, typer.Option("--store", envvar="CHATWRIGHT_STORE", help="The store: a file, or postgresql://…")
]
