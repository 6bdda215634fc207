"""Group commit: one thread writes what many ask for, and answers each only when it is on the disk.

While one commit waits for the disk, requests gather; the next commit takes them all. So the number of
acknowledged writes a second is not bound by the number of fsyncs a second.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from chatwright.core.types import ChatwrightError

Handler = Callable[[Connection, Sequence[Any]], Sequence[Any]]
"""Writes several payloads in one transaction; returns a result for each, or the exception to raise for it."""
MOST = 512
"""Writes in one commit."""
PATIENCE = 0.05
"""Seconds that writes which nobody awaits may wait for company."""


class StoreBusy(ChatwrightError):
    """The disk does not keep up, and the queue is full: try again later."""


class StoreFailed(ChatwrightError):
    """The database refused a commit (disk full, server gone); nothing of it was acknowledged."""


class Write(NamedTuple):
    """One thing to write, and who waits for it if anybody does."""

    handler: Handler
    payload: Any
    future: Future[Any]
    awaited: bool


class Writer:
    """The thread that writes. `tidy` is called every `tidy_every` seconds between commits."""

    def __init__(
        self,
        engine: Engine,
        room: int = 50_000,
        tidy: Callable[[], object] | None = None,
        tidy_every: float = 3600.0,
    ) -> None:
        self._engine = engine
        self._queue: queue.Queue[Write | None] = queue.Queue(room)
        self._closed = False
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        """Set when somebody waits, or the end has come."""
        self._tidy, self._tidy_every = tidy, tidy_every
        self._thread = threading.Thread(target=self._work, name="chatwright-store", daemon=True)
        self._thread.start()

    def submit(self, handler: Handler, payload: Any, awaited: bool = True) -> Future[Any]:
        """Queue a write. The future ends after its commit; writes are done in the order they were queued,
        those that are not awaited within PATIENCE.

        Raises StoreBusy when the queue is full, StoreFailed after `close`.
        """
        write = Write(handler, payload, Future(), awaited)
        with self._lock:
            if self._closed:
                raise StoreFailed("the store is closed")
            try:
                self._queue.put_nowait(write)
            except queue.Full:
                raise StoreBusy("the store cannot keep up: too many writes wait; try again later") from None
        if awaited:
            self._hurry.set()
        return write.future

    @property
    def waiting(self) -> int:
        """Writes that are not committed yet, roughly."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what is queued, then end the thread. Closing twice does nothing more."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            self._queue.put(None)
            self._hurry.set()
        self._thread.join()

    def _work(self) -> None:
        due = time.monotonic()
        while True:
            if self._tidy and time.monotonic() >= due:
                self._tidy()
                due = time.monotonic() + self._tidy_every
            try:
                first = self._queue.get(timeout=max(0.01, due - time.monotonic()) if self._tidy else None)
            except queue.Empty:
                continue
            if first is not None and not first.awaited:
                self._hurry.wait(PATIENCE)
            self._hurry.clear()
            taken, ending = self._gather(first)
            if taken:
                commit(self._engine, taken)
            if ending:
                return

    def _gather(self, first: Write | None) -> tuple[list[Write], bool]:
        """(what is queued by now, whether it is the end); writes cancelled meanwhile are left out."""
        taken: list[Write] = []
        item = first
        while item is not None:
            if item.future.set_running_or_notify_cancel():
                taken.append(item)
            if len(taken) >= MOST:
                return taken, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return taken, False
        return taken, True


def commit(engine: Engine, writes: Sequence[Write]) -> None:
    """Write all in one transaction and tell everyone who waits.

    When one of them breaks it (a constraint, a bug), each gets a transaction of its own, so that it fails
    alone. When the database itself fails, all of them fail.
    """
    try:
        with engine.begin() as connection:
            results = [
                result
                for handler, group in groupby(writes, key=lambda write: write.handler)
                for result in handler(connection, [write.payload for write in group])
            ]
    except (OperationalError, InterfaceError) as error:
        failed = StoreFailed(f"the store could not write: {error.orig}")
        failed.__cause__ = error
        for write in writes:
            write.future.set_exception(failed)
    except Exception as error:
        if len(writes) == 1:
            writes[0].future.set_exception(error)
            return
        for write in writes:
            commit(engine, [write])
    else:
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, Exception):
                write.future.set_exception(result)
            else:
                write.future.set_result(result)
