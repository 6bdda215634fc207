"""trl's trainers on our rows, and how long their training loop takes."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import trl
from bench.harness import Round
from bench.workload import ADAM, LR
from transformers import TrainerCallback

Row = dict[str, Any]


class Stopwatch(TrainerCallback):
    """Seconds from the first to the last step of a call of `train`; what comes before is not counted."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def settings(scratch: str, **more: Any) -> dict[str, Any]:
    """What all trainers get: nothing that costs time without being asked for."""
    return {
        "output_dir": scratch, "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True, "gradient_checkpointing": False, "max_grad_norm": 1.0,
        "learning_rate": LR, "lr_scheduler_type": "constant", "adam_beta1": ADAM[0], "adam_beta2": ADAM[1],
        "weight_decay": 0.0, "num_train_epochs": 1, **more,
    }  # fmt: skip


class Peer:
    """A trl trainer that takes one optimizer step over all of its rows each time it is asked."""

    def __init__(
        self, kind: str, model: Any, tokenizer: Any, rows: Sequence[Row], size: int, **more: Any
    ) -> None:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        datasets.disable_progress_bars()
        self.folder = tempfile.TemporaryDirectory()
        config = getattr(trl, f"{kind}Config")(
            **settings(self.folder.name, per_device_train_batch_size=size, **more)
        )
        self.watch = Stopwatch()
        start = time.perf_counter()
        self.trainer = getattr(trl, f"{kind}Trainer")(
            model=model, args=config, train_dataset=datasets.Dataset.from_list(list(rows)),
            processing_class=tokenizer, callbacks=[self.watch],
        )  # fmt: skip
        self.setup = time.perf_counter() - start
        micro = -(-len(self.trainer.train_dataset) // size)
        self.trainer.args.gradient_accumulation_steps = micro

    def step(self) -> tuple[float, Mapping[str, float]]:
        """(seconds, what the step logged)."""
        self.trainer.train()
        logged = next(entry for entry in reversed(self.trainer.state.log_history) if "loss" in entry)
        return self.watch.seconds, logged

    def round(self, amount: float, note: str, extra: float = 0.0) -> Round:
        """One step as a benchmark's round; `extra` seconds are added (a reference pass made beforehand)."""
        seconds, logged = self.step()
        same = {"loss": float(logged["loss"]), "gradient norm": float(logged["grad_norm"])}
        return Round(amount / (seconds + extra), same, note)


def demos(rows: Sequence[Row]) -> list[Row]:
    """SFT: ids and labels of the trained tokens."""
    return [
        {
            "input_ids": r["ids"],
            "labels": [i if m else -100 for i, m in zip(r["ids"], r["mask"], strict=True)],
        }
        for r in rows
    ]


def pairs(rows: Sequence[Row]) -> list[Row]:
    """RewardTrainer and DPOTrainer each take their columns."""
    made = []
    for r in rows:
        cut = r["mask"].index(1)
        made.append(
            {
                "prompt_ids": r["ids"][:cut], "chosen_ids": r["ids"][cut:],
                "rejected_ids": r["other_ids"][r["other_mask"].index(1) :],
            }
        )  # fmt: skip
    return made


def whole_pairs(rows: Sequence[Row]) -> list[Row]:
    """The reward trainer scores whole texts."""
    return [{"chosen_ids": r["ids"], "rejected_ids": r["other_ids"]} for r in rows]
