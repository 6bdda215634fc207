"""Models answer the same held-out prompts with the same seeds; differences carry paired intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from chatwright.core.files import write_jsonl
from chatwright.core.seeds import derive
from chatwright.core.types import ChatwrightError, Prompt, Rollout
from chatwright.engine.torch_engine import Frozen
from chatwright.evaluate.compare import compare
from chatwright.models.readout import token_logprobs
from chatwright.recipe.schema import EvaluateStage
from chatwright.rl.config import RLConfig
from chatwright.rl.experience import collate
from chatwright.rl.policy_gradient import aligned
from chatwright.stages import build
from chatwright.stages.job import Job, Outcome
from chatwright.stages.rl import prompt_of


class Answered(NamedTuple):
    """What the models said, with scores; `answers` follow the prompts, several in a row for each."""

    prompts: Sequence[Prompt]
    baseline: build.Policy
    answers: dict[str, list[Rollout]]
    groups: Sequence[Hashable] | None
    """Which prompts belong together, where some do."""


def run(stage: EvaluateStage, job: Job) -> Outcome:
    """Sample, score, compare with the first model, and keep every answer."""
    outcome = Outcome()
    found = answers_of(stage, job, outcome)
    with outcome.phase("compare"):
        write_jsonl(job.directory / "samples.jsonl", samples(found, stage, job))
        outcome.result = {
            "baseline": stage.compare[0],
            "comparisons": comparisons(found, stage),
            "correct": stage.correct,
        }
    return outcome


def answers_of(stage: EvaluateStage, job: Job, outcome: Outcome) -> Answered:
    """Every model's answers to the same prompts with the same seeds."""
    prompts = [prompt_of(record, stage.name) for name in stage.data for record in job.data[name]][
        : stage.limit
    ]
    outcome.data = {"prompts": {"rows": len(prompts)}}
    groups = clusters(prompts, stage)
    baseline = build.policy(job, stage.compare[0])
    reward = build.rewards(stage.reward, job, baseline.template)
    answers: dict[str, list[Rollout]] = {}
    for name in stage.compare:
        with outcome.phase(f"answers of {name}"):
            sampler = build.sampler(build.policy(job, name), job)
            seed = derive(job.seed, stage.name, "answers")
            answers[name] = reward(sampler.generate(prompts, stage.answers, stage.sampling, seed))
            sampler.close()
        job.say(f"{name}: mean reward {fmean(r.reward for r in answers[name]):.4g} on {len(prompts)} prompts")
    return Answered(prompts, baseline, answers, groups)


def scores_of(stage: EvaluateStage) -> tuple[str, ...]:
    """What models are compared by."""
    return ("reward", *stage.reward, "length")


def comparisons(found: Answered, stage: EvaluateStage) -> dict[str, Any]:
    """{model: {score: what it gained over the first one}}."""
    first, *others = stage.compare
    return {
        name: {
            score: compare(
                values(found.answers[first], score, stage),
                values(found.answers[name], score, stage),
                groups=found.groups,
            ).as_dict()
            for score in scores_of(stage)
        }
        for name in others
    }


def values(rollouts: Sequence[Rollout], score: str, stage: EvaluateStage) -> list[float]:
    """One number a prompt: the mean of a score over its answers."""
    found = [
        r.reward if score == "reward" else float(len(r.response_ids)) if score == "length" else r.parts[score]
        for r in rollouts
    ]
    return [fmean(found[i : i + stage.answers]) for i in range(0, len(found), stage.answers)]


def clusters(prompts: Sequence[Prompt], stage: EvaluateStage) -> list[Hashable] | None:
    """Which prompts belong together: those alike in the stage's `cluster`; one without it stands alone."""
    if stage.cluster is None:
        return None
    if not any(stage.cluster in prompt.meta for prompt in prompts):
        raise ChatwrightError(
            f"stage {stage.name!r}: cluster: no prompt has {stage.cluster!r} in its `meta`; "
            f"leave `cluster` out where every prompt stands alone"
        )
    return [
        ("alike", str(prompt.meta[stage.cluster])) if stage.cluster in prompt.meta else ("alone", i)
        for i, prompt in enumerate(prompts)
    ]


def divergence(
    rollouts: Sequence[Rollout], baseline: build.Policy, stage: EvaluateStage, job: Job
) -> list[float]:
    """log π − log π_baseline of each answer, summed over its tokens: one sample of the KL divergence."""
    frozen = Frozen(baseline.model, job.engine.device)
    batch = collate(rollouts, RLConfig(), stage.sampling.max_tokens, baseline.template.pad_id)
    temperature = stage.sampling.temperature or 1.0
    theirs = frozen.infer(batch, lambda model, part: token_logprobs(model, part, temperature))
    return (aligned(rollouts, batch) - theirs).sum(1).tolist()


def samples(found: Answered, stage: EvaluateStage, job: Job) -> list[dict[str, Any]]:
    """Every prompt with every model's first answer, for the report and for eyes."""
    n = stage.answers
    kl = {name: divergence(rollouts, found.baseline, stage, job) for name, rollouts in found.answers.items()}
    return [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "reference": prompt.answer,
            "meta": dict(prompt.meta),
            "answers": {
                name: {
                    "text": (r := rollouts[i * n]).text,
                    "reward": fmean(x.reward for x in rollouts[i * n : i * n + n]),
                    "tokens": len(r.response_ids),
                    "finished": r.finished,
                    "parts": dict(r.parts),
                    "kl": fmean(kl[name][i * n : i * n + n]),
                }
                for name, rollouts in found.answers.items()
            },
        }
        for i, prompt in enumerate(found.prompts)
    ]
