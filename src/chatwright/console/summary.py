"""The last screen of a run: what came out, where the report lies, how to talk to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatwright.console.screen import PLANNED, clock
from chatwright.core.files import read_json
from chatwright.core.memory import amount
from chatwright.evaluate.figures import stages_of
from chatwright.evaluate.report import write_report


def print_summary(directory: Path, console: Console) -> None:
    """Write the report and print its main figures."""
    page = write_report(directory)
    figures = read_json(directory / "report.json")
    table = Table("what", "result", "95 % interval", title=f"{directory.name}: results", title_justify="left")
    for row in _rows(figures):
        table.add_row(*row)
    if table.row_count:
        console.print(table)
    against = _against_plan(directory)
    if against.row_count:
        console.print(against)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    stages = sorted(directory.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    talkers = [p.parent for p in stages if read_json(p)["kind"] in ("train", "rl") and _talks(p.parent)]
    if talkers:
        folder = talkers[-1]
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        console.print(f"talk to it: chatwright chat {shown}", highlight=False, soft_wrap=True)


def _against_plan(directory: Path) -> Table:
    """What each stage was planned to take and what it took; hours only where a probe foretold them."""
    foretold = read_json(directory / PLANNED) if (directory / PLANNED).exists() else {}
    table = Table(title="plan against actual", title_justify="left")
    for heading in (
        "stage",
        "memory planned",
        "used at most",
        *(["time foretold", "taken"] if foretold else []),
    ):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, stage in stages_of(directory).items():
        memory = stage.get("memory") or {}
        planned = (memory.get("planned") or {}).get("total")
        if planned is None and name not in foretold:
            continue
        cells = [amount(planned or 0), amount(memory.get("peak", 0))]
        if foretold:
            taken = sum((stage.get("phases") or {}).values())
            cells += [clock(foretold[name]) if name in foretold else "", clock(taken)]
        table.add_row(name, *cells)
    return table


def _talks(stage: Path) -> bool:
    config = stage / "model" / "config.json"
    return config.is_file() and "CausalLM" in str(read_json(config).get("architectures", "LMHead"))


def _rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The report's main figures, those that are there."""
    judge, rl, right = (figures.get(k) or {} for k in ("reward_model", "rl", "correctness"))
    candidates = [
        ("reward model: held-out accuracy", judge.get("accuracy"), judge.get("accuracy_ci")),
        ("mean reward before", rl.get("reward_before"), None),
        ("mean reward after", rl.get("reward_after"), None),
        ("reward gained", rl.get("reward_gain"), rl.get("reward_gain_ci")),
        ("KL to the start, nats an answer", rl.get("kl"), None),
        ("tokens an answer before", rl.get("length_before"), None),
        ("tokens an answer after", rl.get("length_after"), None),
        ("correct before", right.get("sft"), None),
        ("correct after", right.get("rl"), None),
        ("correct gained", right.get("difference"), right.get("ci")),
    ]
    rows = [(name, f"{value:.3g}", _interval(ci)) for name, value, ci in candidates if value is not None]
    if (seconds := figures.get("seconds")) is not None:
        rows.append(("time", f"{seconds / 60:.1f} min", ""))
    return rows


def _interval(ci: Any) -> str:
    return f"{ci[0]:.3g} … {ci[1]:.3g}" if ci else ""
