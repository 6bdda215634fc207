"""How long the command line takes to say what it can do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.harness import Options, Round, Row, Sides, timed


def start(*arguments: str) -> Round:
    """Seconds of one start of the program."""
    with timed() as seconds:
        subprocess.run([sys.executable, "-m", "chatwright", *arguments], check=True, capture_output=True)
    return Round(seconds[0])


@contextmanager
def help_page(options: Options) -> Iterator[Sides]:
    """`chatwright --help`."""
    yield Sides(lambda: start("--help"))


ROWS = [Row("chatwright --help", "a person's patience", "s", "<= 0.3", help_page)]
