"""report.html and report.json: a run told so that somebody who was not there can judge it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from chatwright.core.files import read_json, write_json, write_text
from chatwright.core.types import ChatwrightError
from chatwright.evaluate import plots
from chatwright.evaluate.figures import figures, rows_of, stages_of, verdict

TRAINING = ("loss", "accuracy", "margin", "held_out/loss", "held_out/accuracy", "grad_norm", "lr")
PRACTICE = (
    "reward", "kl", "entropy", "length", "finished", "reward_std", "explained_variance",
    "clipped_high", "clipped_low", "kl_old", "critic/loss", "sampler_gap", "repetition", "beta",
    "grad_norm", "lr", "tokens_per_second",
)  # fmt: skip


def write_report(run: Path) -> Path:
    """Both files, into the run's folder; returns the page's path.

    Raises ChatwrightError where there is no run.
    """
    if not (run / "manifest.json").exists():
        raise ChatwrightError(f"{run}: no run in this folder (it has no manifest.json)")
    found = figures(run)
    write_json(run / "report.json", found)
    page = resources.files("chatwright") / "assets" / "report" / "page.html"
    template = jinja2.Environment(autoescape=True).from_string(page.read_text(encoding="utf-8"))
    html = template.render(
        run=found,
        about=read_json(run / "manifest.json"),
        verdict=verdict(found),
        stages=[_stage(run, name, stage) for name, stage in stages_of(run).items()],
        judges=[(name, judge, _picture(plots.calibration(judge["calibration"])))
                for name, judge in found.get("reward_models", {}).items()],
        lineage=_lineage(run),
        samples=_samples(run),
        spread=_spread(run),
        times=_picture(plots.bars(*_times(found), "seconds a stage")) if found["stages"] else "",
    )  # fmt: skip
    write_text(run / "report.html", html)
    return run / "report.html"


def _picture(svg: str) -> Any:
    return markupsafe.Markup(svg)


def _times(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    return list(found["stages"]), [stage["seconds"] for stage in found["stages"].values()]


def _stage(run: Path, name: str, stage: dict[str, Any]) -> dict[str, Any]:
    """A stage's curves, contract and times."""
    rows = rows_of(run, name, "metrics.jsonl")
    names = PRACTICE if stage["kind"] == "rl" else TRAINING
    pictures = plots.curves(rows, names)
    if stage["kind"] == "rl":
        pictures += plots.kl_against_reward(rows)
    preflight = run / name / "preflight.json"
    checks = read_json(preflight) if preflight.exists() else []
    return {**stage, "name": name, "pictures": _picture(pictures), "checks": checks}


def _lineage(run: Path) -> list[dict[str, Any]]:
    """Each stage with what it was made of and the fingerprint it is known by."""
    return [
        {
            "name": name,
            "inputs": [i for i in stage["inputs"] if i in stages_of(run)],
            "data": stage["data"] or {},
            "sources": list(stage["config"].get("data", {})),
            "fingerprint": stage["fingerprint"][:12],
        }
        for name, stage in stages_of(run).items()
    ]


def _evaluations(run: Path) -> list[list[dict[str, Any]]]:
    found = [
        rows_of(run, name, "samples.jsonl") for name, s in stages_of(run).items() if s["kind"] == "evaluate"
    ]
    return [rows for rows in found if rows]


def _samples(run: Path, most: int = 60) -> dict[str, Any]:
    """Answers side by side: the largest gains and losses and an even pick of the rest."""
    evaluations = _evaluations(run)
    if not evaluations:
        return {"models": [], "rows": "[]"}
    rows, models = evaluations[-1], list(evaluations[-1][0]["answers"])
    first, last = models[0], models[-1]
    ordered = sorted(rows, key=lambda r: r["answers"][last]["reward"] - r["answers"][first]["reward"])
    chosen = ordered[: most // 4] + ordered[-(most // 4) :] + ordered[:: max(1, len(ordered) // (most // 2))]
    unique = list({id(row): row for row in chosen}.values())
    text = json.dumps(unique, ensure_ascii=False).replace("</", "<\\/")
    return {"models": [first, last] if first != last else [first], "rows": _picture(text), "total": len(rows)}


def _spread(run: Path) -> Any:
    """Distributions of reward and length, before and after."""
    evaluations = _evaluations(run)
    if not evaluations or len(evaluations[-1][0]["answers"]) < 2:
        return ""
    rows, models = evaluations[-1], list(evaluations[-1][0]["answers"])
    names = (models[0], models[-1])
    drawn = ""
    for key, title in (("reward", "reward"), ("tokens", "tokens an answer")):
        before, after = ([row["answers"][name][key] for row in rows] for name in names)
        drawn += plots.distributions(before, after, names, title)
    return _picture(drawn)
