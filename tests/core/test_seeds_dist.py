"""Seeds by name, and the two-pass standard deviation."""

import torch

from chatwright.core.batch import masked_mean_std
from chatwright.core.seeds import derive


def test_seeds_are_stable_across_processes_and_differ_by_name():
    assert derive(7, "order", 0) == 32022201590543578
    assert len({derive(s, n, i) for s in range(3) for n in ("a", "b") for i in range(3)}) == 18
    assert all(0 <= derive(s, "x") < 2**63 for s in range(100))


def test_masked_mean_and_std_are_those_of_the_masked_values():
    x, mask = torch.randn(4, 5) + 1000, torch.rand(4, 5) > 0.4
    mean, std = masked_mean_std(x, mask)
    torch.testing.assert_close(mean, x[mask].mean())
    torch.testing.assert_close(std, x[mask].double().std().float())
