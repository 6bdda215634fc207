"""What a training backend must do. Five verbs; nothing about algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch.nn as nn
from pydantic import Field
from torch import Tensor

from chatwright.core.batch import Batch
from chatwright.core.types import Config, Metrics


class EngineConfig(Config):
    """Where and how a recipe is computed; it changes no result beyond rounding."""

    kind: Literal["torch"] = Field("torch", description="The training backend: torch is plain PyTorch.")
    device: str = Field(
        "auto", description="auto takes the first GPU and else the CPU; or cpu, cuda, cuda:1 …"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights.")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores when left out.")


Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
"""(model, batch) -> (sum over the batch's items, {metric: sum}). The engine divides both by the step's
denominator.
"""

Read = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> a tensor with one row per row of the batch; per-token tensors are [B, T]."""


class Term(NamedTuple):
    """One summand of a step's objective: `weight` · Σ loss / Σ share of `batch`. A step may have several
    (PPO + PTX).
    """

    batch: Batch
    loss: Loss
    weight: float = 1.0
    prefix: str = ""


class Engine(Protocol):
    """A module, its optimizer, and the arithmetic of one global step."""

    module: nn.Module

    def step(self, batch: Batch, loss: Loss, also: Sequence[Term] = ()) -> Metrics:
        """One optimizer step; returns the loss, the loss's metrics, `grad_norm` and `lr`."""
        ...

    def infer(self, batch: Batch, read: Read) -> Tensor:
        """`read` over the batch without gradients and without dropout, rows in the batch's order."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The module's tensors by name, one at a time, whole."""
        ...

    def save(self, path: Path) -> None:
        """Everything the next step depends on, into a new directory."""
        ...

    def load(self, path: Path) -> None:
        """Back to where `save` was."""
        ...
