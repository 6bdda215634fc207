"""Plain PyTorch on one device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatwright.core import dist
from chatwright.core.batch import Batch
from chatwright.core.files import read_json, write_json
from chatwright.core.seeds import derive
from chatwright.core.types import ChatwrightError, Metrics
from chatwright.engine.base import Loss, Read, Term
from chatwright.engine.optim import OptimConfig, build_optimizer, learning_rate
from chatwright.models.lora import plain_weights
from chatwright.models.readout import plain
from chatwright.models.trunk import lean

Bt = TypeVar("Bt", bound=Batch)

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Tokens of a micro-batch where nothing else is asked for: what stays in a processor's cache; what fills a
GPU."""
CPU_PART, GPU_PART = 64, 1024
"""What a further micro-batch costs, in tokens: another pass over the gradients; or over the kernels."""


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU and else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ChatwrightError(f"engine: device: {name}, but no GPU is usable here; write auto or cpu")
    return torch.device(name)


def tokens_at_once(asked: int | None, device: torch.device) -> int:
    """Tokens of a micro-batch, as asked for or as suits the device."""
    return asked or (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS)


class Frozen:
    """A module that only reads: a reference, or a reward model."""

    def __init__(self, module: nn.Module, device: str = "auto", micro_tokens: int | None = None) -> None:
        self.device, self.micro_tokens = pick_device(device), micro_tokens
        self.module = module.to(self.device).requires_grad_(False)

    def parts(self, batch: Bt) -> list[tuple[Tensor, Bt]]:
        """The micro-batches of a step: packed where the family allows it, else with as little padding as
        pays.
        """
        tokens = tokens_at_once(self.micro_tokens, self.device)
        cost = CPU_PART if self.device.type == "cpu" else GPU_PART
        return batch.micro_batches(tokens, lean(plain(self.module)), cost)

    def infer(self, batch: Batch, read: Read) -> Tensor:
        """See Engine.infer."""
        self.module.eval()
        rows, found = [], []
        with torch.no_grad():
            for index, part in self.parts(batch):
                rows.append(index)
                found.append(_widened(read(self.module, part.to(self.device)).cpu(), part, batch))
        return torch.cat(found)[torch.argsort(torch.cat(rows))]


class TorchEngine(Frozen):
    """The module, AdamW, and one global step at a time."""

    def __init__(
        self, module: nn.Module, optim: OptimConfig, total_steps: int, device: str = "auto", seed: int = 0
    ) -> None:
        self.device, self.micro_tokens = pick_device(device), optim.micro_tokens
        self.module = module.to(self.device)
        self.optim, self.total_steps, self.seed, self.steps = optim, total_steps, seed, 0
        if optim.gradient_checkpointing:
            # transformers renames the method on its way to version 6
            enable: Any = getattr(self.module, "activation_checkpointing_enable", None)
            enable = enable or self.module.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.optimizer = build_optimizer(self.module, optim)

    def step(self, batch: Batch, loss: Loss, also: Sequence[Term] = ()) -> Metrics:
        """See Engine.step; raises ChatwrightError on a loss or gradient that is not finite, before any
        weight moves.
        """
        self.module.train()
        torch.manual_seed(derive(self.seed, "dropout", self.steps))
        rate = learning_rate(self.optim, self.steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics: Metrics = {}
        for term in (Term(batch, loss), *also):
            metrics |= self._accumulate(term)
        norm = float(nn.utils.clip_grad_norm_(self._trained(), self.optim.clip or math.inf))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            what = f"{', '.join(bad)} and the gradient are" if bad else "the gradient is"
            raise ChatwrightError(
                f"step {self.steps + 1}: {what} not finite (gradient norm {norm}); no weight was changed. "
                f"Lower optim.lr (now {rate:.3g}), set optim.clip, or look at the data of this step"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return metrics | {"grad_norm": norm, "lr": rate}

    def _accumulate(self, term: Term) -> Metrics:
        """Add one term's gradient, micro-batch by micro-batch; its metrics are read from the device once."""
        denominator = float(dist.sum_(term.batch.denominator).clamp(min=1e-8))
        scale, names, total = term.weight / denominator, [""], None
        for _, part in self.parts(term.batch):
            value, sums = term.loss(self.module, part.to(self.device))
            (value * scale).backward()  # type: ignore[no-untyped-call]
            names = ["loss", *sums]
            found = torch.stack([x.detach().float() for x in (value, *sums.values())])
            total = found if total is None else total + found
        assert total is not None
        means = (dist.sum_(total) / denominator).tolist()
        return {term.prefix + name: mean for name, mean in zip(names, means, strict=True)}

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See Engine.weights."""
        yield from plain_weights(self.module)

    def save(self, path: Path) -> None:
        """See Engine.save: trained weights, optimizer state, step number."""
        path.mkdir(parents=True)
        trained = {
            name: p.detach().contiguous() for name, p in self.module.named_parameters() if p.requires_grad
        }
        save_file(trained, path / "weights.safetensors")
        torch.save(self.optimizer.state_dict(), path / "optimizer.pt")
        write_json(path / "engine.json", {"steps": self.steps})

    def load(self, path: Path) -> None:
        """See Engine.load."""
        saved = load_file(path / "weights.safetensors", device=str(self.device))
        parameters = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
        state: dict[str, Any] = torch.load(path / "optimizer.pt", map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state)
        self.steps = int(read_json(path / "engine.json")["steps"])


def _widened(found: Tensor, part: Batch, whole: Batch) -> Tensor:
    """Per-token results of a trimmed part, back at the whole batch's width."""
    if found.dim() == 2 and found.size(1) == part.ids.size(1):
        return nn.functional.pad(found, (0, whole.ids.size(1) - part.ids.size(1)))
    return found
