"""Ctrl-C, politely: the first asks the loop to stop at the next safe place, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user (or the scheduler, by SIGTERM) asked to stop, and everything is saved."""


class StopFlag:
    """True once somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[StopFlag]:
        """Turn the first SIGINT or SIGTERM into `asked`; a second SIGINT raises KeyboardInterrupt."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
