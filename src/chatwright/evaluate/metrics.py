"""What can be said of a set of answers without a model: a row of METRICS each, (texts, token counts …) ->
number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve

from chatwright.evaluate.stats import Interval, proportion

Answer = dict[str, Any]
"""An answer as samples.jsonl holds it: text, tokens, finished, reward, parts."""


def mean_length(answers: Sequence[Answer]) -> float:
    """Tokens an answer."""
    return fmean(a["tokens"] for a in answers)


def finished(answers: Sequence[Answer]) -> float:
    """Share of answers that came to their end."""
    return fmean(float(a["finished"]) for a in answers)


def distinct(answers: Sequence[Answer], n: int = 2) -> float:
    """Share of different character n-grams among all (Li et al. 2016's distinct-n, on characters for any
    language).
    """
    grams = [a["text"][i : i + n] for a in answers for i in range(len(a["text"]) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def mean_reward(answers: Sequence[Answer]) -> float:
    """Mean reward."""
    return fmean(a["reward"] for a in answers)


METRICS: dict[str, Callable[[Sequence[Answer]], float]] = {
    "reward": mean_reward,
    "length": mean_length,
    "finished": finished,
    "distinct": distinct,
}


def judge_quality(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    """A reward model's figures on held-out pairs: accuracy with interval, margin, calibration, length bias.

    A tie is half right. The calibration error compares σ(margin), what the model says its chance of being
    right is, with how often it is (expected calibration error over ten bins); its curve comes along.
    """
    margins = np.array([s["chosen"] - s["rejected"] for s in scores])
    right = (margins > 0) + 0.5 * (margins == 0)
    said = 1 / (1 + np.exp(-np.abs(margins)))
    interval: Interval = proportion(int(right.sum()), len(margins))
    everything = np.array([s[k] for s in scores for k in ("chosen", "rejected")])
    lengths = np.array([s[f"{k}_tokens"] for s in scores for k in ("chosen", "rejected")])
    flat = np.ptp(everything) == 0 or np.ptp(lengths) == 0
    kept = margins != 0
    curve: list[list[float]] = []
    if kept.any():
        truth, claim = calibration_curve((margins > 0)[kept], said[kept], n_bins=10)
        curve = [[float(c), float(t)] for c, t in zip(claim, truth, strict=True)]
    return {
        "accuracy": float(right.mean()),
        "accuracy_ci": [interval.low, interval.high],
        "pairs": len(margins),
        "margin": float(margins.mean()),
        "ece": _expected_error(said[kept], (margins > 0)[kept]),
        "length_bias": 0.0 if flat else float(np.corrcoef(everything, lengths)[0, 1]),
        "longer_is_better": float(np.mean([s["chosen_tokens"] > s["rejected_tokens"] for s in scores])),
        "calibration": curve,
    }


def _expected_error(said: Any, right: Any, bins: int = 10) -> float:
    """Σ over bins of (share of answers) · |mean claim − share right|."""
    if not len(said):
        return 0.0
    place = np.minimum((said * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(said[place == b].mean() - right[place == b].mean()) * (place == b).mean()
            for b in range(bins)
            if (place == b).any()
        )
    )
