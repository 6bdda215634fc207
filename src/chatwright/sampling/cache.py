"""Keys and values: of running rows within a budget, and of ended conversations as long as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from chatwright.core.memory import available

STEP = 64
"""A row's room is a multiple of so many tokens."""


class Cache:
    """One tensor [layer, key or value, slot, head, token, dim]; the slots 0 … used-1 belong to running rows.

    It grows as rows come, up to `budget` bytes, and all slots have the same room, that of the longest row. So
    a long request leaves room for fewer rows while it runs. The memory goes back when nothing runs.
    """

    def __init__(
        self, layers: int, heads: int, dim: int, dtype: torch.dtype, device: torch.device, budget: int
    ) -> None:
        self.layers, self.heads, self.dim = layers, heads, dim
        self.dtype, self.device, self.budget = dtype, device, budget
        self.token_bytes = layers * 2 * heads * dim * dtype.itemsize
        self.used, self.data = 0, self._zeros(0, 0)

    @property
    def rows(self) -> int:
        """Slots there are now."""
        return self.data.size(2)

    @property
    def room(self) -> int:
        """Tokens a slot holds."""
        return self.data.size(4)

    def most_rows(self, room: int) -> int:
        """How many rows of so many tokens the budget allows."""
        return self.budget // (self.token_bytes * _rounded(room))

    def reserve(self, rows: int, room: int, tokens: int) -> None:
        """Make place for so many rows of so many tokens; the first `tokens` of those in use are kept."""
        if rows <= self.rows and room <= self.room:
            return
        rows, room = max(rows, self.rows), max(_rounded(room), self.room)
        old, kept = self.data, self.used
        self.data = self._zeros(rows, room)
        if kept:
            self.data[:, :, :kept, :, :tokens] = old[:, :, :kept, :, :tokens]

    def release(self) -> None:
        """Give the memory back; only when no row runs."""
        self.data = self._zeros(0, 0)
        self.used = 0

    def move(self, source: int, target: int, tokens: int) -> None:
        """Put a row into another slot."""
        self.data[:, :, target, :, :tokens] = self.data[:, :, source, :, :tokens]

    def _zeros(self, rows: int, room: int) -> Tensor:
        """Zeros, for what is not a number must not reach a masked place; on a CPU the system hands out zeroed
        pages when they are first touched, so what is not used costs nothing.
        """
        shape = (self.layers, 2, rows, self.heads, room, self.dim)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            return torch.from_numpy(np.zeros(shape, np.float32))
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


class Prefixes:
    """Keys and values of ended conversations within `budget` bytes; the longest unused go first."""

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def keep(self, ids: Sequence[int], data: Tensor) -> None:
        """Remember the keys and values [layer, 2, head, token, dim] of these tokens; they are copied."""
        size = data.numel() * data.element_size()
        if size > self.budget or not ids:
            return
        key = tuple(ids)
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= old.nbytes
        while self.bytes + size > self.budget:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept[key] = data.clone(memory_format=torch.contiguous_format)
        self.bytes += size

    def find(self, ids: Sequence[int]) -> tuple[int, Tensor | None]:
        """The longest remembered beginning of these tokens: its length and its keys and values."""
        wanted = np.asarray(ids)
        best, key = 0, None
        for kept in self._kept:
            n = min(len(kept), len(wanted))
            differ = np.nonzero(wanted[:n] != np.asarray(kept[:n]))[0]
            same = int(differ[0]) if len(differ) else n
            if same > best:
                best, key = same, kept
        if key is None:
            return 0, None
        self._kept.move_to_end(key)
        return best, self._kept[key][..., :best, :]

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self._kept.clear()
        self.bytes = 0


def default_budget(device: torch.device) -> int:
    """A third of the memory that is free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 3
    return available() // 3


def _rounded(room: int) -> int:
    return -(-room // STEP) * STEP
