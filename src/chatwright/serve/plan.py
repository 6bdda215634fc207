"""How many users a test needs: for the sequential test that is really used, and for a fixed one beside it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator
from scipy import special, stats

from chatwright.core.types import ChatwrightError, Config
from chatwright.serve.sequential import STAKES, Array, block_sizes

RUNS = 1000
"""Simulated experiments; the power they show is uncertain by about 1.3 percentage points."""
LOOKS = 600
"""Looks at a simulated experiment; more would find the crossing a little earlier."""
GRID = np.linspace(-1, 1, 65)
"""Where differences of blocks are put for the simulation: between two points in proportion, which keeps the
mean and can only widen the spread.
"""


class PlanConfig(Config):
    """What is expected of a test of two arms on a rate."""

    baseline: float = Field(gt=0, lt=1, description="The control's rate, such as the share of thumbs up.")
    effect: float = Field(description="The difference to be found.")
    share: float = Field(0.5, gt=0, lt=1, description="The new arm's share of the users.")
    power: float = Field(0.8, gt=0.05, lt=0.995, description="Chance of finding it.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a false finding.")
    ratings: int = Field(1, ge=1, le=100, description="Ratings of a user who rates.")
    icc: float = Field(
        0.3, ge=0, lt=1, description="Correlation of the ratings of one user (with several of them)."
    )

    @model_validator(mode="after")
    def _possible(self) -> PlanConfig:
        if self.effect == 0 or not 0 < self.baseline + self.effect < 1:
            raise ValueError(
                f"effect: {self.baseline:g} {self.effect:+g} must be another rate between 0 and 1"
            )
        return self


class Plan(NamedTuple):
    """Users who rate: (control, arm) of each design."""

    fixed: tuple[int, int]
    """For one look at the end (the textbook's number)."""
    sequential: tuple[int, int]
    """After which the always-valid test has found the effect with the wanted power."""
    typical: tuple[int, int]
    """After which half of all tests have found it."""


def plan(config: PlanConfig, seed: int = 0) -> Plan:
    """Both numbers; the sequential one by simulating the test itself.

    Raises ChatwrightError where more than a hundred million users would be needed.
    """
    sizes = block_sizes(1 - config.share, config.share)
    fixed = fixed_users(config)
    blocks = max(LOOKS, math.ceil(3 * max(fixed[0] / sizes[0], fixed[1] / sizes[1])))
    found = crossings(config, sizes, blocks, seed)
    while np.mean(found <= blocks) < config.power:
        blocks *= 2
        if blocks * sum(sizes) > 1e8:
            raise ChatwrightError("ab plan: an effect so small needs more than 100 million users")
        found = crossings(config, sizes, blocks, seed)
    needed, half = (int(np.quantile(found, q, method="higher")) for q in (config.power, 0.5))
    return Plan(fixed, *((n * sizes[0], n * sizes[1]) for n in (needed, half)))


def fixed_users(config: PlanConfig) -> tuple[int, int]:
    """Users (control, arm) for a z-test at one fixed time; several ratings of a user count by Kish's design
    effect.
    """
    a, b = config.baseline, config.baseline + config.effect
    shrunk = (1 + (config.ratings - 1) * config.icc) / config.ratings
    z = float(stats.norm.ppf(1 - config.alpha / 2) + stats.norm.ppf(config.power))
    variance = a * (1 - a) / (1 - config.share) + b * (1 - b) / config.share
    total = z * z * shrunk * variance / config.effect**2
    return math.ceil(total * (1 - config.share)), math.ceil(total * config.share)


def crossings(config: PlanConfig, sizes: tuple[int, int], blocks: int, seed: int = 0) -> Array:
    """After how many blocks each of RUNS simulated tests shows the effect in its true direction; infinite
    for those that do not within `blocks`.
    """
    chance = _differences(config, sizes)
    kept = chance > 0
    points, chance = GRID[kept] * math.copysign(1, config.effect), chance[kept] / chance[kept].sum()
    step = math.ceil(blocks / LOOKS)
    counts = np.random.default_rng(seed).multinomial(step, chance, (RUNS, math.ceil(blocks / step)))
    money = np.cumsum(counts @ np.log1p(np.multiply.outer(STAKES, points)).T, axis=1)
    enough = special.logsumexp(money, axis=2) - math.log(len(STAKES)) >= math.log(2 / config.alpha)
    return np.where(enough.any(1), (enough.argmax(1) + 1) * step, np.inf)


def _differences(config: PlanConfig, sizes: tuple[int, int]) -> Array:
    """Distribution of a block's difference on GRID."""
    before, after = (
        _mean_of(config, rate, size)
        for rate, size in zip((config.baseline, config.baseline + config.effect), sizes, strict=True)
    )
    values = np.subtract.outer(np.linspace(0, 1, len(after)), np.linspace(0, 1, len(before))).ravel()
    chance = np.multiply.outer(after, before).ravel()
    place = np.clip((values + 1) * (len(GRID) - 1) / 2, 0, len(GRID) - 1)
    left = np.minimum(place.astype(int), len(GRID) - 2)
    found = np.bincount(left, chance * (1 - (place - left)), len(GRID))
    return found + np.bincount(left + 1, chance * (place - left), len(GRID))


def _mean_of(config: PlanConfig, rate: float, users: int) -> Array:
    """Chances of 0, 1/n … 1 as the mean of so many users' shares of thumbs up, n = users × ratings: each
    user's is beta-binomial.
    """
    k = np.arange(config.ratings + 1)
    if config.icc == 0 or config.ratings == 1:
        one = stats.binom.pmf(k, config.ratings, rate)
    else:
        certain = 1 / config.icc - 1
        one = stats.betabinom.pmf(k, config.ratings, rate * certain, (1 - rate) * certain)
    found = np.ones(1)
    for _ in range(users):
        found = np.convolve(found, one)
    return found
