"""Intervals: no difference is reported without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int = 0, resamples: int = 5000) -> Interval:
    """The mean of values and its percentile bootstrap interval; for paired data pass the differences.

    The same values give the same interval. One value, or values all alike, have an interval without width.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Interval(math.nan, math.nan, math.nan)
    if len(x) == 1 or np.ptp(x) == 0:
        return Interval(float(x.mean()), float(x.mean()), float(x.mean()))
    found = stats.bootstrap(
        (x,), np.mean, n_resamples=resamples, method="percentile", batch=256, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(float(x.mean()), float(found.low), float(found.high))


def proportion(successes: int, n: int) -> Interval:
    """A share and its Wilson interval."""
    found = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided p-value that two paired yes/no outcomes are equally often yes (McNemar 1947)."""
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def detectable(differences: Sequence[float], power: float = 0.8) -> float:
    """The smallest mean difference so many pairs would have shown with this power at the 5 % level."""
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.nan
    return (stats.norm.ppf(0.975) + stats.norm.ppf(power)) * spread / math.sqrt(len(differences))
