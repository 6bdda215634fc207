"""What a training backend must do. Five verbs; nothing about algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch.nn as nn
from pydantic import Field, model_validator
from torch import Tensor

from chatwright.core.batch import Batch
from chatwright.core.types import Config, Metrics


class EngineConfig(Config):
    """Where and how a recipe is computed; it changes no result beyond rounding."""

    kind: Literal["torch", "deepspeed"] = Field(
        "torch", description="The training backend: plain PyTorch, or DeepSpeed ZeRO (extra: deepspeed)."
    )
    device: str = Field(
        "auto", description="auto takes the first GPU and else the CPU; or cpu, cuda, cuda:1 …"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights.")
    compile: bool = Field(
        False,
        description="torch: compile the layers at first use, for seconds to minutes a stage. Pays in long "
        "runs on a GPU; on a CPU only for families without a packed forward.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores when left out.")
    zero: Literal[0, 1, 2, 3] = Field(
        1,
        description="deepspeed: what ranks share out: 1 optimizer state, 2 gradients too, 3 weights too.",
    )
    offload: Literal["cpu", "nvme"] | None = Field(
        None, description="deepspeed: where the optimizer state lives in place of the device."
    )
    optimizer: Literal["torch", "deepspeed"] = Field(
        "torch",
        description="deepspeed, with offload: DeepSpeed's Adam for CPUs, compiled at first use, or torch's.",
    )
    offload_weights: Literal["cpu", "nvme"] | None = Field(
        None, description="deepspeed, zero 3: where weights live that are not in use."
    )
    nvme: Path | None = Field(None, description="deepspeed: the folder that nvme offload uses.")
    timeout: float = Field(
        30.0, gt=0, description="Minutes without progress after which several ranks give up, with a reason."
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="DeepSpeed's own configuration, merged over ours."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> EngineConfig:
        given = self.model_fields_set & {
            "zero", "offload", "offload_weights", "optimizer", "nvme", "deepspeed",
        }  # fmt: skip
        if self.kind == "torch" and given:
            raise ValueError(f"{', '.join(sorted(given))}: only with kind: deepspeed")
        if self.kind == "deepspeed" and self.compile:
            raise ValueError("compile: only with kind: torch")
        if self.offload and self.zero == 0:
            raise ValueError("offload needs zero: 1, 2 or 3: stage 0 keeps its state whole on every device")
        if self.optimizer == "deepspeed" and not self.offload:
            raise ValueError("optimizer: deepspeed needs offload: its Adam is for state in the CPU's memory")
        if self.offload == "nvme" and self.zero != 3:
            raise ValueError("offload: nvme needs zero: 3")
        if self.offload_weights and self.zero != 3:
            raise ValueError("offload_weights needs zero: 3: below it weights are whole on every device")
        if "nvme" in (self.offload, self.offload_weights) and self.nvme is None:
            raise ValueError("offload to nvme needs `nvme`: a folder on a fast disk")
        return self


Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
"""(model, batch) -> (sum over the batch's items, {metric: sum}). The engine divides both by the step's
denominator.
"""

Read = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> a tensor with one row per row of the batch; per-token tensors are [B, T]."""


Write = Callable[[Path], None]
"""Writes what it holds into a new directory."""


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
    whole: bool
    """Is every parameter whole on every rank, so that the module can be read as it is?"""

    def step(self, batch: Batch, loss: Loss, also: Sequence[Term] = ()) -> Metrics:
        """One optimizer step; returns the loss, the loss's metrics, `grad_norm` and `lr`."""
        ...

    def infer(self, batch: Batch, read: Read) -> Tensor:
        """`read` over the batch without gradients and without dropout, rows in the batch's order."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The module's tensors by name, one at a time, whole."""
        ...

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained, by the module's own names (adapters apart), one at a time, whole."""
        ...

    def save(self, path: Path) -> None:
        """Everything the next step depends on, into a new directory."""
        ...

    def snapshot(self, copy: bool) -> Write:
        """What `save` would write, to be written later; with `copy` it stays as it is now while steps go
        on.
        """
        ...

    def load(self, path: Path) -> None:
        """Back to where `save` was."""
        ...
