"""What the commands share: the console they print to, and options that mean the same everywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

# No emoji: `file.jsonl:100:` is a place. Lines in a log file are not wrapped to 80 columns.
# Of several ranks only the first speaks.
console = Console(
    emoji=False, width=None if sys.stdout.isatty() else 160, quiet=os.environ.get("RANK", "0") != "0"
)
RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value: stages.sft.optim.lr=1e-4"),
]
StorePlace = Annotated[
    str, typer.Option("--store", envvar="CHATWRIGHT_STORE", help="The store: a file, or postgresql://…")
]
