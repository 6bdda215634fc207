"""What an arm does to a metric, compared with the control: estimates with intervals valid at all times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from chatwright.serve.experiment import Metric
from chatwright.serve.measures import MEASURES, Person, Request, Thumb, people, values
from chatwright.serve.pairwise import Adjusted, Vote, adjusted
from chatwright.serve.sequential import (
    Bound,
    Posterior,
    block_sizes,
    blocks,
    mean_bound,
    posterior,
    quantile_bound,
    ratio_bound,
)

LAG = 60.0
"""Seconds after a change of shares until every server surely knows of it; who comes meanwhile is left out."""


class Segment(NamedTuple):
    """A time, from `start` on, in which the shares stood still."""

    start: float
    shares: Mapping[str, float]


class Ballot(NamedTuple):
    """A side-by-side vote between two arms."""

    person: str
    created: float
    left: str
    right: str
    winner: str
    """left, right, tie, or bad (both are)."""
    left_tokens: int
    right_tokens: int


@dataclass(frozen=True)
class Facts:
    """What happened since the experiment began (or a model of it was replaced)."""

    segments: Sequence[Segment]
    requests: Sequence[Request] = ()
    thumbs: Sequence[Thumb] = ()
    ballots: Sequence[Ballot] = ()


@dataclass(frozen=True)
class Effect:
    """An arm's difference from the control, and its ratio to it."""

    metric: Metric
    arm: str
    users: tuple[int, int]
    """Of the control and of the arm: those whose numbers are used."""
    difference: Bound
    ratio: Bound | None = None
    posterior: Posterior | None = None
    adjusted: Adjusted | None = None
    """Of pairwise wins: the same at equal length and neutral side."""


class Evidence:
    """The facts, sorted by person, as they stand at a time."""

    def __init__(self, facts: Facts, control: str, now: float) -> None:
        self.facts, self.control, self.now = facts, control, now
        everybody, self.crossed = people(facts.requests, facts.thumbs)
        changes = [segment.start for segment in facts.segments[1:]]
        self.people = [p for p in everybody if not any(0 <= p.arrived - t < LAG for t in changes)]

    def arrived(self) -> list[dict[str, int]]:
        """{arm: users who came} for each segment."""
        counts: list[dict[str, int]] = [{} for _ in self.facts.segments]
        for person in self.people:
            place = counts[self._segment(person)]
            place[person.arm] = place.get(person.arm, 0) + 1
        return counts

    def mean(self, metric: Metric, arm: str, seconds: float, alpha: float) -> Bound:
        """An arm's own mean (or quantile) of a metric over its users."""
        found, measure = self._values(metric, arm, seconds), MEASURES[metric]
        if measure.quantile is not None:
            return quantile_bound([v for part in found for v in part], measure.quantile, alpha)
        flat = [v[0] for part in found for v in part]
        return _scaled(mean_bound(flat, 0.0, 1.0, alpha), measure.top)

    def effect(self, metric: Metric, arm: str, seconds: float, alpha: float) -> Effect:
        """The arm compared with the control; each end of an interval is wrong with chance α/2 at most."""
        if metric == "pairwise":
            return self._pairwise(arm, seconds, alpha)
        measure = MEASURES[metric]
        before, after = (self._values(metric, name, seconds) for name in (self.control, arm))
        if measure.quantile is not None:
            return _of_quantiles(metric, arm, before[-1], after[-1], measure.quantile, alpha)
        steps = [
            blocks([v[0] for v in a], [v[0] for v in b], block_sizes(s.shares[self.control], s.shares[arm]))
            for a, b, s in zip(before, after, self.facts.segments, strict=True)
            if s.shares.get(self.control, 0) > 0 and s.shares.get(arm, 0) > 0
        ]
        a, b = (np.concatenate([step[i] for step in steps]) if steps else np.zeros(0) for i in (0, 1))
        flat = [[v[0] for part in side for v in part] for side in (before, after)]
        return Effect(
            metric=metric,
            arm=arm,
            users=(len(flat[0]), len(flat[1])),
            difference=_scaled(mean_bound(b - a, -1.0, 1.0, alpha), measure.top),
            ratio=ratio_bound(b, a, alpha),
            posterior=posterior(*flat) if measure.top == 1.0 else None,
        )

    def votes(self, arm: str, seconds: float) -> list[Vote]:
        """The votes between an arm and the control, those of each person's first `seconds` of voting."""
        first: dict[str, float] = {}
        found = []
        for ballot in sorted(self.facts.ballots, key=lambda b: b.created):
            if {ballot.left, ballot.right} != {arm, self.control}:
                continue
            begun = first.setdefault(ballot.person, ballot.created)
            if begun + seconds <= self.now and ballot.created <= begun + seconds:
                winner = {"left": 1.0, "right": 0.0}.get(ballot.winner, 0.5)
                sides = (ballot.left_tokens, ballot.right_tokens)
                found.append(Vote(ballot.person, ballot.left == arm, winner, *sides))
        return found

    def _pairwise(self, arm: str, seconds: float, alpha: float) -> Effect:
        """How much more than half of the votes the arm wins. Sides are drawn by lot, so a taste for one side
        takes as much from the arm as it gives.
        """
        votes = self.votes(arm, seconds)
        won: dict[str, list[float]] = {}
        for vote in votes:
            won.setdefault(vote.person, []).append(vote.winner if vote.arm_left else 1 - vote.winner)
        share = mean_bound([fmean(w) for w in won.values()], 0.0, 1.0, alpha)
        difference = Bound(*(end - 0.5 for end in share))
        return Effect("pairwise", arm, (len(won), len(won)), difference, adjusted=adjusted(votes, alpha))

    def _values(self, metric: Metric, arm: str, seconds: float) -> list[list[Sequence[float]]]:
        """The numbers of an arm's people whose time is over, by segment, in the order of their arrival."""
        found: list[list[Sequence[float]]] = [[] for _ in self.facts.segments]
        for person in self.people:
            if person.arm == arm and person.arrived + seconds <= self.now:
                said = values(person, metric, seconds)
                if len(said):
                    found[self._segment(person)].append(said)
        return found

    def _segment(self, person: Person) -> int:
        starts = [segment.start for segment in self.facts.segments]
        return max(0, int(np.searchsorted(starts, person.arrived, side="right")) - 1)


def _of_quantiles(
    metric: Metric, arm: str, before: Sequence[Sequence[float]], after: Sequence[Sequence[float]],
    share: float, alpha: float,
) -> Effect:  # fmt: skip
    """Two intervals, each with half of the chance of error; only people of the present shares, because
    quantiles of different times do not mix.
    """
    a, b = quantile_bound(before, share, alpha / 2), quantile_bound(after, share, alpha / 2)
    difference = Bound(b.low - a.high, b.mean - a.mean, b.high - a.low)
    most = b.high / a.low if a.low > 0 else float("inf")
    middle = b.mean / a.mean if a.mean > 0 else float("nan")
    ratio = Bound(b.low / a.high if a.high > 0 else 0.0, middle, most)
    return Effect(metric, arm, (len(before), len(after)), difference, ratio)


def _scaled(bound: Bound, top: float) -> Bound:
    return Bound(*(end * top for end in bound))
