"""Ctrl-C, politely: the first asks the loop to stop at the next safe place, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user (or the scheduler, by SIGTERM) asked to stop, and everything is saved."""

    def __init__(self, done: str, by: signal.Signals) -> None:
        super().__init__(done)
        self.by = by


class StopFlag:
    """True once somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.by = signal.SIGTERM
        """The first signal; a rank that had none stops because another got a SIGTERM."""

    @contextmanager
    def listening(self) -> Iterator[StopFlag]:
        """Turn the first SIGINT or SIGTERM into `asked`; a second SIGINT raises KeyboardInterrupt."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            if not self.asked:
                self.asked, self.by = True, signal.Signals(number)

        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
