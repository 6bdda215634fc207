"""Which function runs which kind of stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatwright.stages import evaluate, gate, rl, serve, train
from chatwright.stages.job import Job, Outcome

STAGES: dict[str, Callable[[Any, Job], Outcome]] = {
    "train": train.run,
    "rl": rl.run,
    "evaluate": evaluate.run,
    "gate": gate.run,
    "serve": serve.run,
}
