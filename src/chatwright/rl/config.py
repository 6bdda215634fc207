"""What a method of reinforcement learning can be told. None means: as the method's row in METHODS says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatwright.core.types import Config


class RLConfig(Config):
    """Settings of all methods; those a method does not use are refused where they would be wishes."""

    prompts: int | None = Field(None, ge=1, description="Prompts a round.")
    answers: int | None = Field(None, ge=1, description="Answers to each prompt: the group.")
    minibatch: int | None = Field(
        None, ge=1, description="Answers of one optimizer step; all of a round by default."
    )
    epochs: int = Field(1, ge=1, description="Passes over a round's answers.")

    kl: float | None = Field(None, ge=0, description="Weight β of the KL divergence to the reference.")
    kl_place: Literal["reward", "loss"] | None = Field(
        None, description="Where the KL divergence is charged."
    )
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(
        None, description="How it is estimated from samples."
    )
    kl_correction: bool = Field(
        False, description="Multiply a KL charge in the loss by the ratio, which makes its gradient unbiased."
    )
    kl_target: float | None = Field(
        None, gt=0, description="Adapt β to this KL an answer, in nats (Ziegler 2019)."
    )
    kl_horizon: float = Field(10_000, gt=0, description="Answers over which β adapts.")

    gamma: float = Field(1.0, gt=0, le=1, description="Discount of later rewards.")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's λ.")
    bootstrap: bool = Field(False, description="GAE: a cut answer keeps the value of its last state.")
    whiten: bool | None = Field(None, description="Whiten advantages over the global batch.")
    aggregation: Literal["token", "sequence", "constant"] | None = Field(
        None,
        description="Mean over tokens; over answers of token means; or sum over tokens by a constant length.",
    )

    clip_low: float | None = Field(None, ge=0, description="The ratio's lower bound is 1 − clip_low.")
    clip_high: float | None = Field(None, ge=0, description="The ratio's upper bound is 1 + clip_high.")
    dual_clip: float = Field(
        0.0, ge=0, description="Bound of the loss of bad answers; 0 for none, verl has 3."
    )
    value_clip: float = Field(
        0.2, ge=0, description="How far a value may move from its old one in a round; 0: any."
    )
    critic_warmup: int = Field(0, ge=0, description="Rounds in which only the critic learns.")

    reward_clip: float = Field(0.0, ge=0, description="Rewards are cut to ± this; 0 for no cut.")
    reward_normalise: bool = Field(
        False, description="Take the running mean off rewards and divide by their std."
    )
    whiten_rewards: bool = Field(
        False, description="Divide token rewards by their std over the global batch."
    )
    truncated: Literal["keep", "mask", "penalty"] = Field(
        "keep",
        description="Answers cut at the length limit: train on them, leave them out, or penalise them.",
    )
    truncation_penalty: float = Field(1.0, ge=0, description="What truncated: penalty takes off the reward.")
    overlong_buffer: int = Field(
        0, ge=0, description="DAPO: tokens before the limit in which a penalty grows to 1."
    )
    dynamic_sampling: bool | None = Field(
        None, description="Drop groups whose rewards are all equal and refill."
    )
    refills: int = Field(3, ge=0, description="How often dynamic sampling may sample again in a round.")

    old_logprobs: Literal["auto", "trainer", "sampler"] = Field(
        "auto",
        description="Whose log-probabilities are the ratio's denominator. trainer: a pass before the round's "
        "steps; auto: the same numbers, without that pass where a round is one step; sampler: those of the "
        "drawing, which saves the pass too, for where sampler and trainer agree (same weights and dtype).",
    )
    importance_cap: float = Field(
        0.0, ge=0, description="Cap C of the sampler–trainer correction; 0 for none."
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Keep an average of the policy's weights with this decay; 0: none."
    )
