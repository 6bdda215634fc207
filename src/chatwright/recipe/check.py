"""Whether the names in a recipe mean something, before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from chatwright.rewards.rules import REWARDS
from chatwright.rl.methods import check_method
from chatwright.train.objectives import OBJECTIVES

PIPELINED = ("pretrain", "sft")
"""Objectives that `engine: {pipeline: …}` serves."""

if TYPE_CHECKING:
    from chatwright.recipe.schema import (
        EvaluateStage,
        GateStage,
        Recipe,
        RewardPart,
        RLStage,
        ServeStage,
        Stage,
        TrainStage,
    )


def check_names(recipe: Recipe) -> None:
    """Every stage's inputs exist and come before it; raises ValueError naming the stage and the key."""
    earlier: dict[str, Any] = {}
    for stage in recipe.stages:
        where = f"stage {stage.name!r}"
        _stages_of_layers(stage, recipe, where)
        if stage.name in earlier:
            raise ValueError(f"{where}: two stages have this name")
        if stage.kind == "train":
            _check_train(stage, recipe, earlier, where)
        elif stage.kind == "rl":
            _check_rl(stage, recipe, earlier, where)
        elif stage.kind == "gate":
            _check_gate(stage, recipe, earlier, where)
        elif stage.kind == "serve":
            _check_serve(stage, earlier, where)
        else:
            _check_evaluate(stage, recipe, earlier, where)
        earlier[stage.name] = stage


def _stages_of_layers(stage: Stage, recipe: Recipe, where: str) -> None:
    """Only what learns from one model alone can be trained in a pipeline."""
    what = stage.objective if stage.kind == "train" else stage.method if stage.kind == "rl" else ""
    if recipe.engine.pipeline > 1 and what not in ("", *PIPELINED):
        raise ValueError(
            f"{where}: engine: pipeline is for {' and '.join(PIPELINED)}, and not for {what}: what others "
            "need beside the model they train (reference, reward model, sampler) would be whole on every "
            "rank. Use zero: 3 (with offload), or tensor, for models too large for a device"
        )


def _check_train(stage: TrainStage, recipe: Recipe, earlier: Mapping[str, Stage], where: str) -> None:
    _sources([*stage.data, *stage.held_out_data], recipe, where)
    _policy(stage.from_, earlier, f"{where}: from")
    _policy(stage.reference, earlier, f"{where}: reference")


def _check_rl(stage: RLStage, recipe: Recipe, earlier: Mapping[str, Stage], where: str) -> None:
    _sources([*stage.data, *(stage.ptx.data if stage.ptx else ())], recipe, where)
    _policy(stage.from_, earlier, f"{where}: from")
    _policy(stage.reference, earlier, f"{where}: reference")
    _rewards(stage.reward, earlier, where)
    if stage.critic.from_ is not None and not is_reward_model(earlier.get(stage.critic.from_)):
        raise ValueError(f"{where}: critic: from: {stage.critic.from_!r} is no earlier reward-model stage")
    try:
        check_method(stage.method, stage.settings, stage.preset)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_evaluate(stage: EvaluateStage, recipe: Recipe, earlier: Mapping[str, Stage], where: str) -> None:
    _sources(stage.data, recipe, where)
    for name in stage.compare:
        _policy(name, earlier, f"{where}: compare")
    _rewards(stage.reward, earlier, where)
    if stage.correct is not None and stage.correct not in stage.reward:
        raise ValueError(
            f"{where}: correct: {stage.correct!r} is not among its rewards {sorted(stage.reward)}"
        )


def _check_gate(stage: GateStage, recipe: Recipe, earlier: Mapping[str, Stage], where: str) -> None:
    _sources(stage.data, recipe, where)
    _policy(stage.model, earlier, f"{where}: model")
    _policy(stage.live, earlier, f"{where}: live")
    _rewards(stage.reward, earlier, where)
    scores = ["reward", *stage.reward, "length"]
    for key, name in [("decides", stage.decides), *(("guardrails", score) for score in stage.guardrails)]:
        if name not in scores:
            raise ValueError(f"{where}: {key}: {name!r} is no score of it{nearest(name, scores)}")


def _check_serve(stage: ServeStage, earlier: Mapping[str, Stage], where: str) -> None:
    for name in stage.arms:
        _policy(name, earlier, f"{where}: arms")


def is_reward_model(stage: Stage | None) -> bool:
    """Does this stage make a model with a scalar head?"""
    objective = getattr(stage, "objective", None)
    return objective is not None and OBJECTIVES[objective].scalar


def _sources(names: Iterable[str], recipe: Recipe, where: str) -> None:
    for name in names:
        if name not in recipe.data:
            raise ValueError(f"{where}: no data source {name!r}{nearest(name, recipe.data)}")


def _policy(name: str | None, earlier: Mapping[str, Stage], where: str) -> None:
    """A model to talk: an earlier stage's, or a folder or hub name (which has a slash or a dot in front)."""
    if name is None or name == "base" or "/" in name or name.startswith("."):
        return
    if name not in earlier:
        raise ValueError(
            f"{where}: no earlier stage {name!r}{nearest(name, earlier)} (a folder is written ./{name})"
        )
    if is_reward_model(earlier[name]):
        raise ValueError(f"{where}: {name!r} is a reward model, which scores but does not speak")
    if earlier[name].kind in ("evaluate", "gate", "serve"):
        raise ValueError(f"{where}: {name!r} is of kind {earlier[name].kind} and makes no model")


def _rewards(reward: Mapping[str, RewardPart], earlier: Mapping[str, Stage], where: str) -> None:
    if not reward:
        raise ValueError(f"{where}: reward: needs at least one part")
    models = [name for name, stage in earlier.items() if is_reward_model(stage)]
    for name, part in reward.items():
        rule = part.rule or name
        if rule not in REWARDS and rule not in models and ":" not in rule and "/" not in rule:
            hint = nearest(rule, [*models, *REWARDS])
            raise ValueError(
                f"{where}: reward: {rule!r} is no earlier reward model, rule or module:function{hint}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: what was probably meant, or all there is."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"
