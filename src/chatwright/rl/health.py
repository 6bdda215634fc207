"""Monitors that act: what usually goes wrong in reinforcement learning is noticed while it happens."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from chatwright.core.types import ChatwrightError, Config, Metrics

logger = logging.getLogger("chatwright")


class HealthConfig(Config):
    """Bounds, and what happens when one is crossed `patience` rounds in a row. 0 switches a bound off."""

    action: Literal["warn", "stop", "off"] = Field(
        "warn", description="Say it once, or end the run with an error."
    )
    patience: int = Field(3, ge=1, description="Rounds in a row.")
    kl: float = Field(50.0, ge=0, description="Most nats of KL an answer.")
    entropy: float = Field(0.01, ge=0, description="Least entropy a token, in nats.")
    length: float = Field(3.0, ge=0, description="Most growth of the mean length over the first rounds'.")
    repetition: float = Field(0.5, ge=0, le=1, description="Most repeated trigrams.")
    dead_reward: bool = Field(True, description="Watch for rewards without any spread.")


@dataclass
class Health:
    """The hook that watches."""

    config: HealthConfig
    first_lengths: list[float] = field(default_factory=list)
    strikes: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    def __call__(self, step: int, metrics: Metrics) -> None:
        """Look at a round's numbers; raises ChatwrightError where the action is stop."""
        if self.config.action == "off":
            return
        if len(self.first_lengths) < 5:
            self.first_lengths.append(metrics["length"])
        for name, sentence in self._symptoms(metrics).items():
            self.strikes[name] = self.strikes.get(name, 0) + 1 if sentence else 0
            if self.strikes[name] >= self.config.patience:
                self._act(step, name, sentence)

    def _symptoms(self, m: Metrics) -> dict[str, str]:
        """Each bound's name and, if it is crossed, a sentence that says what to change."""
        c = self.config
        base = sum(self.first_lengths) / len(self.first_lengths)
        bad_kl = bool(c.kl) and m.get("kl", 0.0) > c.kl
        bad_entropy = bool(c.entropy) and m.get("entropy", math.inf) < c.entropy
        bad_length = bool(c.length) and m["length"] > c.length * base
        bad_repeat = bool(c.repetition) and m["repetition"] > c.repetition
        dead = c.dead_reward and m["reward_std"] < 1e-6
        seen = {
            "kl": (
                bad_kl,
                f"{m.get('kl', 0):.3g} nats an answer from the reference: raise kl or lower optim.lr",
            ),
            "entropy": (
                bad_entropy,
                f"entropy fell to {m.get('entropy', 0):.2g}: lower optim.lr or raise kl",
            ),
            "length": (
                bad_length,
                f"answers grew from {base:.0f} to {m['length']:.0f} tokens: is length rewarded?",
            ),
            "repetition": (
                bad_repeat,
                f"{m['repetition']:.0%} of trigrams repeat: the reward is gamed; raise kl",
            ),
            "dead_reward": (dead, "all answers of a round get the same reward: nothing is learned"),
        }
        return {name: sentence if bad else "" for name, (bad, sentence) in seen.items()}

    def _act(self, step: int, name: str, sentence: str) -> None:
        if self.config.action == "stop":
            raise ChatwrightError(
                f"round {step}: {sentence} (health.{name}; action: warn goes on regardless)"
            )
        if name not in self.said:
            self.said.add(name)
            logger.warning("round %d: %s", step, sentence)
