"""API keys: made once and shown once, kept as a digest, good for some scopes; and how often one may call.

A key has 256 random bits, so that a plain SHA-256 of it cannot be turned back: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from fastapi import Request
from fastapi.security import HTTPBearer
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from sqlalchemy import Engine, select

from chatwright.serve.config import ServeConfig
from chatwright.serve.errors import ApiError
from chatwright.serve.tables import ApiKey

Scope = Literal["chat", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "cw-"

bearer = HTTPBearer(auto_error=False, description="An API key: `chatwright keys add NAME`.")
"""Declares the scheme in the OpenAPI schema."""


@dataclass(frozen=True)
class Caller:
    """Who calls: the key's id, None where keys are off; and what it may do."""

    key: str | None
    scopes: frozenset[str]


class KeyRow(NamedTuple):
    """A key as the store keeps it."""

    id: str
    scopes: Sequence[str]


def keys_in_force(engine: Engine) -> dict[str, KeyRow]:
    """The store's keys that were not withdrawn, by digest."""
    columns = ApiKey.digest, ApiKey.id, ApiKey.scopes
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(ApiKey.revoked.is_(None)))
        return {row.digest: KeyRow(row.id, tuple(row.scopes)) for row in rows}


def new_key() -> str:
    """A fresh key. Nobody but its owner ever sees it again."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


@dataclass
class Gate:
    """Lets requests in: knows the keys in force by their digests, and counts calls.

    `keys` is replaced from time to time by whoever reads the store, so that nothing here waits for it.
    """

    config: ServeConfig
    keys: Mapping[str, KeyRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._rate = parse(self.config.limits.rate) if self.config.limits.rate else None

    def caller(self, header: str | None) -> Caller:
        """Who sent this Authorization header; raises ApiError 401."""
        if not self.config.needs_key:
            return Caller(None, frozenset(SCOPES))
        kind, _, key = (header or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise ApiError(401, "this server needs an API key: send 'Authorization: Bearer cw-…'")
        row = self.keys.get(digest(key.strip()))
        if row is None:
            raise ApiError(401, "this API key is not known here, or was withdrawn")
        return Caller(row.id, frozenset(row.scopes))

    def count(self, caller: Caller) -> None:
        """One more call; raises ApiError 429 when the key has had its share."""
        if self._rate and caller.key and not self._limiter.hit(self._rate, caller.key):
            reset = self._limiter.get_window_stats(self._rate, caller.key).reset_time
            raise ApiError(429, f"this key may call {self._rate}; try again later", wait=reset - time.time())


def needs(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency of routes: the caller, who must have this scope and calls left."""

    async def check(request: Request) -> Caller:
        gate: Gate = request.app.state.gate
        caller = gate.caller(request.headers.get("authorization"))
        if scope not in caller.scopes:
            raise ApiError(403, f"this API key lacks the scope {scope!r}")
        gate.count(caller)
        return caller

    return check
