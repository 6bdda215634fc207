"""Rows on the lean decoder: which slot each has, and what is run together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from chatwright.core.types import ChatwrightError
from chatwright.sampling.cache import Cache, Prefixes
from chatwright.sampling.decoder import Decoder, Group, can_pack
from chatwright.sampling.families import Spec
from chatwright.sampling.proof import prove
from chatwright.sampling.row import Row

GROUP = 16
"""On a CPU attention runs over so many slots at once, up to the longest of them."""


PROVE_EVERY = 50
"""So many publishes lie between two proofs that the decoder is the module."""


class Lean:
    """Runs rows over the training module's weights; see LocalSampler for who calls what."""

    def __init__(self, model: Any, spec: Spec, max_rows: int, budget: int) -> None:
        self.model, self.max_rows = model, max_rows
        weight = spec.embed.weight
        self.device = weight.device
        self.cache = Cache(
            len(spec.blocks), spec.kv_heads, spec.dim, weight.dtype, weight.device, budget * 3 // 4
        )
        self.prefixes = Prefixes(budget // 4)
        self.decoder = Decoder(spec, can_pack(model))
        self.rows: list[Row | None] = []
        self.version, self.unproved = -1, 0
        self.ahead = (0, 0)

    def fits(self, rows: Sequence[Row]) -> int:
        """How many of these rows, in this order, may join now."""
        running = [row for row in self.rows if row]
        room, count = max((row.need for row in running), default=1), len(running)
        for row in rows:
            wider = max(room, row.need)
            if count + 1 > min(self.max_rows, self.cache.most_rows(wider)):
                break
            room, count = wider, count + 1
        self.ahead = (count, room)
        return count - len(running)

    def check_size(self, row: Row) -> None:
        """Raise ChatwrightError when a row could not run even alone."""
        if self.cache.most_rows(row.need) < 1:
            size = row.need * self.cache.token_bytes / 1e6
            raise ChatwrightError(
                f"a prompt of {len(row.request.prompt_ids)} tokens with up to {row.limit} of an answer needs "
                f"{size:.0f} MB of keys and values, and {self.cache.budget / 1e6:.0f} MB are set aside; "
                "lower max_tokens, shorten the prompt or raise the sampler's memory"
            )

    def prefill(self, rows: Sequence[Row]) -> Tensor:
        """Admit rows and give the logits after their prompts, [rows, V]; equal prompts side by side are run
        once.
        """
        self._fresh()
        families = [list(same) for _, same in groupby(rows, key=lambda row: row.request.prompt_ids)]
        self.cache.reserve(*self.ahead, max((row.length for row in self.rows if row), default=0))
        self.decoder.reach(self.cache.room)
        slots = [[self._place(row) for row in family] for family in families]
        starts = [self._recall(family[0], at[0]) for family, at in zip(families, slots, strict=True)]
        found: dict[int, Tensor] = {}
        for start in sorted(set(starts)):
            chosen = [k for k, s in enumerate(starts) if s == start]
            prompts = [families[k][0].request.prompt_ids[start:] for k in chosen]
            logits = self._run(prompts, start, [slots[k][0] for k in chosen])
            found |= dict(zip(chosen, logits, strict=True))
        for family, (first, *others) in zip(families, slots, strict=True):
            n = len(family[0].request.prompt_ids)
            for other in others:
                self.cache.move(first, other, n)
        repeats = torch.tensor([len(family) for family in families], device=self.device)
        return torch.stack([found[k] for k in range(len(families))]).repeat_interleave(repeats, 0)

    def decode(self) -> tuple[list[Row], Tensor]:
        """Every row that runs, and the logits after its last token."""
        self._fresh()
        self._close_holes()
        rows = [row for row in self.rows if row]
        ids = torch.tensor([row.ids[-1] for row in rows], device=self.device)
        positions = torch.tensor([row.length - 1 for row in rows], device=self.device)
        return rows, self.decoder.decode(ids, positions, self.cache, groups([row.length for row in rows]))

    def drop(self, rows: Sequence[Row]) -> None:
        """Forget rows that are over; conversations leave their keys and values for the next turn."""
        for slot, row in enumerate(self.rows):
            if row is not None and any(row is one for one in rows):
                if row.keep and row.ids:
                    known = (*row.request.prompt_ids, *row.ids[:-1])
                    self.prefixes.keep(known, self.cache.data[:, :, slot, :, : len(known)])
                self.rows[slot] = None
        if not any(self.rows):
            self.rows.clear()

    def publish(self) -> None:
        """The weights have changed: projections are read again at the next step, kept prefixes forgotten."""
        self.version = -1
        self.unproved -= 1

    def release(self) -> None:
        """Give memory back while nothing runs."""
        self.cache.release()

    # inside

    def _fresh(self) -> None:
        """Follow the weights. In-place changes show in the tensors' own counters."""
        version = sum(p._version for p in self.model.parameters() if not p.is_inference())
        if version != self.version:
            self.version = version
            self.prefixes.clear()
            self.decoder.refresh()
        if self.unproved <= 0:
            prove(self.model, self.decoder)
            self.unproved = PROVE_EVERY

    def _place(self, row: Row) -> int:
        """A slot for a new row: the free one whose neighbours are nearest in length, else one at the end."""
        free = [slot for slot, other in enumerate(self.rows) if other is None]
        if not free:
            self.rows.append(row)
            slot = len(self.rows) - 1
        else:
            slot = min(free, key=lambda s: abs(self._height(s) - row.length))
            self.rows[slot] = row
        self.cache.used = len(self.rows)
        return slot

    def _height(self, slot: int) -> int:
        first = slot // GROUP * GROUP
        return max((row.length for row in self.rows[first : first + GROUP] if row), default=0)

    def _recall(self, row: Row, slot: int) -> int:
        """Fetch what is known of a prompt's beginning; how many tokens that is (never all: the last one is
        run for its logits).
        """
        if not row.keep:
            return 0
        known, data = self.prefixes.find(row.request.prompt_ids[:-1])
        if known < 8 or data is None:
            return 0
        self.cache.data[:, :, slot, :, :known] = data
        return known

    def _run(self, prompts: Sequence[Sequence[int]], start: int, slots: Sequence[int]) -> Tensor:
        width = max(map(len, prompts))
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        return self.decoder.prefill(ids, lengths, start, torch.tensor(slots, device=self.device), self.cache)

    def _close_holes(self) -> None:
        """Move the last rows into free slots, so that those in use are one block."""
        while None in self.rows:
            last = self.rows.pop()
            if last is not None:
                hole = self.rows.index(None)
                self.cache.move(len(self.rows), hole, last.length)
                self.rows[hole] = last
        self.cache.used = len(self.rows)


def groups(lengths: Sequence[int]) -> list[Group]:
    """Slots in blocks, each with the length of its longest row."""
    return [
        (a, min(a + GROUP, len(lengths)), max(lengths[a : a + GROUP])) for a in range(0, len(lengths), GROUP)
    ]
