"""What a rollout engine must do. Training, evaluation, chat and serving all speak to this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import Field
from torch import Tensor

from chatwright.core.types import Config, Prompt, Rollout


class SamplingConfig(Config):
    """How answers are drawn."""

    max_tokens: int = Field(128, ge=1, description="Most tokens an answer may have, end-of-turn included.")
    min_tokens: int = Field(0, ge=0, description="The end of turn cannot be drawn before this many tokens.")
    temperature: float = Field(
        1.0, ge=0, description="Logits are divided by it; 0 takes the likeliest token."
    )
    top_k: int = Field(0, ge=0, description="Only the k likeliest tokens; 0 for all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Only the likeliest tokens that together reach p.")
    repetition_penalty: float = Field(
        1.0, gt=0, description="Above 1 makes tokens that were already said less likely."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end an answer; they are cut from its text.")


class Sampler(Protocol):
    """Draws answers from the current policy."""

    def generate(self, prompts: Sequence[Prompt], n: int, config: SamplingConfig, seed: int) -> list[Rollout]:
        """n answers to each prompt, a prompt's answers side by side; `group` is the prompt's number.

        The same (seed, prompt number, answer number) gives the same answer whatever else is in the batch.
        """
        ...

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's new weights."""
        ...
