"""What a run will take, before it runs: all up to the first optimizer step is done, nothing is trained."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from chatwright.core.interrupt import StopFlag
from chatwright.core.types import Record
from chatwright.engine.torch_engine import pick_device, tokens_at_once
from chatwright.models.vocabulary import CHUNK_ELEMENTS
from chatwright.recipe.schema import EvaluateStage, FreshModel, GateStage, Recipe, RLStage, Stage, TrainStage
from chatwright.rl.methods import METHODS, resolve
from chatwright.stages import build
from chatwright.stages.fresh import make_base
from chatwright.stages.job import MODEL, Job, Outcome
from chatwright.stages.preflight import BYTES_TRAINED
from chatwright.stages.rl import prompt_of
from chatwright.stages.train import rows_of
from chatwright.train.objectives import OBJECTIVES

MakeJob = Callable[[str, Mapping[str, Sequence[Record]], StopFlag], Job]


def print_plan(
    recipe: Recipe, records: Mapping[str, Sequence[Record]], make_job: MakeJob, console: Console
) -> None:
    """Tokenise every stage's data, check its settings, and print steps, tokens, parameters and memory."""
    with tempfile.TemporaryDirectory(prefix="chatwright-plan-") as scratch:
        job = make_job("plan", records, StopFlag())
        job = replace(job, directory=Path(scratch), cache=Path(scratch) / "cache")
        start = base_model(recipe, job)
        roots = {stage.name: start for stage in recipe.stages}
        job = replace(job, models={**job.models, **roots, "base": start})
        table = Table(title=f"Plan of {recipe.name}", title_justify="left")
        for heading in ("stage", "what", "rows", "steps", "tokens", "trained", "memory, about"):
            table.add_column(heading)
        for stage in recipe.stages:
            table.add_row(stage.name, *row_of(stage, job))
    console.print(table)
    console.print("Everything fits together; nothing was trained or written.", highlight=False)


def base_model(recipe: Recipe, job: Job) -> str:
    """The recipe's model; a new one is made in the scratch folder, so that its tokenizer can count."""
    if not isinstance(recipe.model, FreshModel):
        return job.model("base")
    used = {name for stage in recipe.stages if isinstance(stage, TrainStage | RLStage) for name in stage.data}
    texts = {name: job.data[name] for name in sorted(used)}
    make_base(recipe.model.new, replace(job, directory=job.directory / "base", data=texts))
    return str(job.directory / "base" / MODEL)


def row_of(stage: Stage, job: Job) -> tuple[str, ...]:
    """A stage's line of the table."""
    if isinstance(stage, EvaluateStage | GateStage):
        prompts = sum(len(job.data[name]) for name in stage.data)
        return stage.kind, str(prompts), "", "", "", ""
    if not isinstance(stage, TrainStage | RLStage):
        return stage.kind, "", "", "", "", ""
    policy = build.policy(job, "base", stage.lora)
    whole = sum(p.numel() for p in policy.model.parameters())
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    if isinstance(stage, RLStage):
        return _practice(stage, job, whole, trained)
    objective = OBJECTIVES[stage.objective]
    rows, _ = rows_of(stage, job, objective, policy.template, Outcome())
    tokens = sum(len(row["ids"]) + len(row.get("other_ids") or ()) for row in rows.rows)
    steps = stage.steps or max(1, math.ceil(stage.epochs * len(rows.rows) / stage.batch))
    seen = tokens * steps * stage.batch / len(rows.rows)
    copies = 2 if objective.needs_reference and not stage.lora else 1
    memory = estimate(policy.model, trained, whole * copies, at_once(stage, job))
    return (
        stage.objective,
        f"{len(rows.rows):,}",
        f"{steps:,}",
        f"{seen:,.0f}",
        _count(trained),
        _size(memory),
    )


def _practice(stage: RLStage, job: Job, whole: int, trained: int) -> tuple[str, ...]:
    settings = resolve(stage.method, stage.settings, stage.preset)
    prompts = [prompt_of(record, stage.name) for name in stage.data for record in job.data[name]]
    answers = (settings.prompts or 1) * (settings.answers or 1) * stage.steps
    critic = METHODS[stage.method].critic
    models = 2 + 2 * critic  # policy and reference, critic and reward model
    policy = build.policy(job, "base", stage.lora)
    memory = estimate(policy.model, trained * (2 if critic else 1), whole * models, at_once(stage, job))
    most = f"up to {answers * stage.sampling.max_tokens:,}"
    return stage.method, f"{len(prompts):,}", f"{stage.steps:,}", most, _count(trained), _size(memory)


def at_once(stage: TrainStage | RLStage, job: Job) -> int:
    """Tokens of a micro-batch."""
    return tokens_at_once(stage.optim.micro_tokens, pick_device(job.engine.device))


def estimate(model: Any, trained: int, held: int, micro_tokens: int) -> float:
    """Bytes: trained parameters with gradients and Adam's moments, frozen ones, activations, logits.

    Activations are counted as 16 vectors of the model's width a token and layer, logits as three chunks.
    """
    config = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    activations = micro_tokens * config.num_hidden_layers * config.hidden_size * 16 * size
    return trained * BYTES_TRAINED + max(held - trained, 0) * size + activations + 3 * CHUNK_ELEMENTS * 4


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M"


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
