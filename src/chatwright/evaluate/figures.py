"""The figures of a run, out of what its stages left on disk: what report.json holds and report.html shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatwright.core.files import read_json, read_jsonl
from chatwright.evaluate.metrics import METRICS, judge_quality


def stages_of(run: Path) -> dict[str, dict[str, Any]]:
    """Manifests of the finished stages by name, in the recipe's order; results set aside are left out."""
    about = read_json(run / "manifest.json")
    names = ["base", *(stage["name"] for stage in about["recipe"]["stages"])]
    return {n: read_json(run / n / "manifest.json") for n in names if (run / n / "manifest.json").exists()}


def rows_of(run: Path, stage: str, file: str) -> list[dict[str, Any]]:
    """A JSONL file of a stage; none is empty."""
    path = run / stage / file
    return read_jsonl(path) if path.exists() else []


def figures(run: Path) -> dict[str, Any]:
    """Everything a reader may want to check by number."""
    about, stages = read_json(run / "manifest.json"), stages_of(run)
    found: dict[str, Any] = {
        "name": about["name"],
        "seed": about["seed"],
        "versions": about["versions"],
        "hardware": about["hardware"],
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "stages": {name: _stage(run, name, stage) for name, stage in stages.items()},
    }
    judges = {n: judge_quality(s) for n in stages if (s := rows_of(run, n, "scores.jsonl"))}
    if judges:
        found["reward_models"] = judges
        found["reward_model"] = list(judges.values())[-1]
    for name, stage in stages.items():
        if stage["kind"] == "evaluate":
            found |= _evaluation(rows_of(run, name, "samples.jsonl"), stage)
    return found


def _stage(run: Path, name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    metrics = rows_of(run, name, "metrics.jsonl")
    last = {k: v for row in metrics for k, v in row.items()}
    keys = ("kind", "objective", "method", "seconds", "phases", "result", "data", "contract", "fingerprint")
    return {**{key: stage.get(key) for key in keys}, "last": last}


def _evaluation(samples: list[dict[str, Any]], stage: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison of the last model with the first, under the names that scripts read."""
    result, models = stage["result"], list(samples[0]["answers"]) if samples else []
    found: dict[str, Any] = {
        "comparisons": result["comparisons"],
        "answers": {
            m: {k: f([s["answers"][m] for s in samples]) for k, f in METRICS.items()} for m in models
        },
    }
    if not result["comparisons"]:
        return found
    last = list(result["comparisons"])[-1]
    versus = result["comparisons"][last]
    gain, length = versus["reward"], versus["length"]
    found["rl"] = {
        "before": result["baseline"],
        "after": last,
        "prompts": gain["n"],
        "reward_before": gain["before"],
        "reward_after": gain["after"],
        "reward_gain": gain["difference"],
        "reward_gain_ci": [gain["low"], gain["high"]],
        "kl": sum(s["answers"][last]["kl"] for s in samples) / len(samples),
        "length_before": length["before"],
        "length_after": length["after"],
    }
    if result.get("correct"):
        right = versus[result["correct"]]
        found["correctness"] = {
            "sft": right["before"],
            "rl": right["after"],
            "difference": right["difference"],
            "ci": [right["low"], right["high"]],
            "p_value": right["p_value"],
        }
    return found


def verdict(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The run in sentences, each with its colour: good, bad or open."""
    said: list[tuple[str, str]] = []
    if judge := found.get("reward_model"):
        low, high = judge["accuracy_ci"]
        tone = "good" if low > max(0.5, judge["longer_is_better"]) else "open"
        said.append(
            (
                tone,
                f"The reward model picks the better of two held-out answers in {judge['accuracy']:.1%} "
                f"of cases (95 % interval {low:.1%} to {high:.1%}, {judge['pairs']} pairs).",
            )
        )
    if rl := found.get("rl"):
        low, high = rl["reward_gain_ci"]
        tone = _tone(low, high)
        does = {"good": "is better than", "bad": "is worse than", "open": "cannot be told from"}[tone]
        said.append(
            (
                tone,
                f"{rl['after']} {does} {rl['before']} on {rl['prompts']} held-out prompts: mean reward "
                f"{rl['reward_before']:.3g} → {rl['reward_after']:.3g}, a gain of {rl['reward_gain']:.3g} "
                f"({low:.3g} to {high:.3g}), {rl['kl']:.3g} nats away.",
            )
        )
    if right := found.get("correctness"):
        low, high = right["ci"]
        change = f"(difference {low:+.1%} to {high:+.1%})."
        said.append(
            (
                _tone(low, high),
                f"Correct answers, checked by rule: {right['sft']:.1%} → {right['rl']:.1%} {change}",
            )
        )
    return said


def _tone(low: float, high: float) -> str:
    """What an interval of a gain says."""
    return "good" if low > 0 else "bad" if high < 0 else "open"
