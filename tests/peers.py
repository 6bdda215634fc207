"""What the comparisons with trl share: rows of ids, trl's layout of them, and what equal means."""

from typing import Any

import pytest
import torch

MARKS = [
    pytest.mark.peer,
    # trl and the libraries below it warn about each other
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def rows(prompt: int = 4) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) as ids, of many lengths."""
    generator = torch.Generator().manual_seed(2)

    def ids(n: int) -> list[int]:
        return torch.randint(5, 300, (n,), generator=generator).tolist()

    return [(ids(prompt + i % 3 if prompt > 1 else 1), ids(3 + 2 * i), ids(9 - i)) for i in range(4)]


def pair_rows(margins: tuple[float, ...] = (0.0,) * 4) -> list[dict[str, Any]]:
    """The same as rows of pairs."""
    return [
        {
            "ids": p + c, "mask": [0] * len(p) + [1] * len(c),
            "other_ids": p + r, "other_mask": [0] * len(p) + [1] * len(r), "margin": m,
        }
        for (p, c, r), m in zip(rows(), margins, strict=True)
    ]  # fmt: skip


def padded(sequences: list[list[int]], masks: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
    """What trl's collators make of them."""
    width = max(map(len, sequences))

    def fill(lists: list[list[int]]) -> torch.Tensor:
        return torch.tensor([x + [0] * (width - len(x)) for x in lists])

    made = {"input_ids": fill(sequences), "attention_mask": fill([[1] * len(s) for s in sequences])}
    return made | ({"completion_mask": fill(masks)} if masks else {})


def arguments(config: Any, folder: Any, **settings: Any) -> Any:
    """A trl configuration for a test."""
    return config(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False,
        disable_tqdm=True, **{"per_device_train_batch_size": 4, **settings},
    )  # fmt: skip


def same(ours: torch.Tensor, model: Any, theirs: torch.Tensor, other: Any) -> None:
    """Losses to 1e-5, gradients to 1e-4 of their size, and none on one side alone."""
    # the absolute part is for policy losses, sums of terms of order 1 that nearly cancel
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5, abs=5e-6)
    ours.backward()
    theirs.backward()
    grads = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    mine = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert mine.keys() == grads.keys() and len(mine) > 5
    whole = torch.stack([g.norm() for g in grads.values()]).norm()
    assert whole > 0
    for name, grad in mine.items():
        gap = (grad - grads[name]).norm()
        assert gap < 1e-4 * grads[name].norm() or gap < 1e-6 * whole, f"{name}: {gap}"


def mean(loss: Any, model: Any, batch: Any) -> torch.Tensor:
    """A loss as the engine divides it."""
    total, _ = loss(model, batch)
    return total / batch.denominator
