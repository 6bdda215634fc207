"""What is checked before time is spent: each finding has a name, a verdict and a number, and is kept with
the run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from chatwright.core.batch import Batch
from chatwright.core.files import write_json
from chatwright.core.memory import available
from chatwright.core.types import ChatwrightError, Rollout
from chatwright.data.template import Template
from chatwright.engine.torch_engine import pick_device
from chatwright.stages.job import Job
from chatwright.stages.memory import Need, elements, size_of


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `advice` says what to change when it failed."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@dataclass
class Preflight:
    """Collects findings, stores them beside the run, and stops it when one failed."""

    job: Job
    findings: list[Finding] = field(default_factory=list)

    def check(self, name: str, ok: bool, detail: str, advice: str = "") -> None:
        """Note one finding."""
        self.findings.append(Finding(name, bool(ok), detail, advice))

    def conclude(self) -> None:
        """Write preflight.json; raises ChatwrightError naming every failed check, except in a trial."""
        write_json(self.job.directory / "preflight.json", [asdict(finding) for finding in self.findings])
        failed = [f"{f.name}: {f.detail}. {f.advice}" for f in self.findings if not f.ok]
        if failed:
            said = f"stage {self.job.directory.name!r} fails its preflight: " + "; ".join(failed)
            if not self.job.trial:
                raise ChatwrightError(said)
            self.job.say(said)
            return
        names = ", ".join(finding.name for finding in self.findings)
        self.job.say(f"[dim]preflight: {len(self.findings)} checks passed ({names})[/dim]")

    def room(self, model: nn.Module, need: Need) -> None:
        """Memory for what the stage will take, disk for two checkpoints and the result."""
        device = pick_device(self.job.engine.device)
        free, whole = room_on(device), sum(elements(p) * p.element_size() for p in model.parameters())
        taken = sum(elements(p) * p.element_size() for p in model.parameters() if not p.is_meta)
        wanted = need.total - taken  # the model is there already
        self.check(
            "memory",
            wanted < free,
            f"about {_gib(wanted)} more needed, {_gib(free)} free",
            "`chatwright plan` tells which settings fit",
        )
        disk = size_of(model).trained * 12 * 2 + whole * 2
        left = shutil.disk_usage(_existing(self.job.directory)).free
        self.check(
            "disk",
            disk < left,
            f"about {_gib(disk)} needed, {_gib(left)} free",
            "Free some space or use --out",
        )

    def mask(self, batch: Batch, template: Template, spoken: bool) -> None:
        """Something is trained in the first batch, and where answers are, their end of turn too."""
        trained = int(batch.mask.sum())
        share = trained / max(int(batch.attention.sum()), 1)
        self.check(
            "trained tokens",
            trained > 0,
            f"{trained} ({share:.0%} of the first batch)",
            "Look at `chatwright data show`",
        )
        if spoken:
            ends = int(((batch.ids == template.end_of_turn) & batch.mask).sum())
            self.check(
                "end of turn is trained",
                ends > 0,
                f"{ends} times in the first batch",
                "Look at `chatwright data show`",
            )

    def same(self, name: str, one: Tensor, other: Tensor, bound: float, advice: str) -> None:
        """Two ways to compute the same numbers agree."""
        gap = float((one - other).abs().max())
        self.check(name, gap <= bound, f"largest difference {gap:.2g} (allowed {bound:g})", advice)

    def answers(self, rollouts: Sequence[Rollout]) -> None:
        """The reward tells answers apart: not one value for all of the first batch."""
        values = {r.reward for r in rollouts}
        low, high = min(values), max(values)
        self.check(
            "reward varies",
            len(values) > 1,
            f"{low:.3g} … {high:.3g}",
            "Look at the stage's reward: it is constant",
        )


def room_on(device: torch.device) -> int:
    """Bytes that are free there now; processes of one machine share its memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
