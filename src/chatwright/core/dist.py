"""Collectives that also work with one process and no process group."""

from __future__ import annotations

import torch
import torch.distributed as d
from torch import Tensor


def rank() -> int:
    """This process's number; 0 alone."""
    return d.get_rank() if d.is_initialized() else 0


def world_size() -> int:
    """How many processes train together; 1 alone."""
    return d.get_world_size() if d.is_initialized() else 1


def sum_(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, on every rank; `x` itself is not touched."""
    if not d.is_initialized():
        return x
    x = x.clone()
    d.all_reduce(x)
    return x


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, in the order of ranks, on every rank; ranks may hold unlike numbers of rows."""
    if not d.is_initialized():
        return x
    mine = torch.tensor([x.size(0)], device=x.device)
    sizes = [torch.zeros_like(mine) for _ in range(world_size())]
    d.all_gather(sizes, mine)
    padded = x.new_zeros(max(int(n) for n in sizes), *x.shape[1:])
    padded[: x.size(0)] = x
    parts = [torch.zeros_like(padded) for _ in sizes]
    d.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, sizes, strict=True)])


def masked_mean_std(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of `x` where `mask`, over all ranks.

    Two passes, because the one-pass form cancels catastrophically when the mean is large.
    """
    on = mask.to(torch.float64)
    wide = x.to(torch.float64)
    n, total = sum_(torch.stack([on.sum(), (wide * on).sum()]))
    mean = total / n.clamp(min=1)
    variance = sum_(((wide - mean) ** 2 * on).sum()) / (n - 1).clamp(min=1)
    return mean.to(x.dtype), variance.sqrt().to(x.dtype)
