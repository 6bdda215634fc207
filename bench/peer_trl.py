"""trl's trainers on our rows, and how long their training loop takes."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import trl
from bench.harness import Round
from bench.workload import ADAM, LR
from torch.utils.data import DataLoader
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


class TokenisedDpo(trl.DPOTrainer):
    """trl's DPO trainer on rows that are ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


KINDS = {"SFT": trl.SFTTrainer, "Reward": trl.RewardTrainer, "DPO": TokenisedDpo}


class Peer:
    """A trl trainer that takes one optimizer step over all of its rows each time it is asked."""

    def __init__(
        self,
        kind: str,
        model: Any,
        tokenizer: Any,
        rows: Sequence[Row],
        size: int,
        ref_model: Any = None,
        **more: Any,
    ) -> None:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        datasets.disable_progress_bars()
        self.folder = tempfile.TemporaryDirectory()
        config = getattr(trl, f"{kind}Config")(
            **settings(self.folder.name, per_device_train_batch_size=size, **more)
        )
        self.watch = Stopwatch()
        extra = {} if ref_model is None else {"ref_model": ref_model}
        self.trainer = KINDS[kind](
            model=model, args=config, train_dataset=datasets.Dataset.from_list(list(rows)),
            processing_class=tokenizer, callbacks=[self.watch], **extra,
        )  # fmt: skip
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


class Dpo(Peer):
    """DPO with the reference precomputed; that pass is made anew, and timed, in every round."""

    def __init__(self, model: Any, reference: Any, tokenizer: Any, rows: Sequence[Row], size: int) -> None:
        super().__init__(
            "DPO", model, tokenizer, rows, size, ref_model=reference, beta=0.1, max_length=None,
            precompute_ref_log_probs=True, train_sampling_strategy="sequential",
        )  # fmt: skip
        self.reference = reference
        given = datasets.Dataset.from_list(list(rows))
        self.loader = DataLoader(given, batch_size=size, collate_fn=self.trainer.data_collator)

    def round(self, amount: float, note: str, extra: float = 0.0) -> Round:
        """See Peer.round."""
        start = time.perf_counter()
        for batch in self.loader:
            self.trainer.compute_ref_log_probs(self.reference, batch)
        return super().round(amount, note, extra + time.perf_counter() - start)


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
    """DPO: a prompt and two answers; pairs of like length stand together, which spares trl padding."""
    made = []
    for r in by_length(rows):
        cut = r["mask"].index(1)
        made.append(
            {
                "prompt_ids": r["ids"][:cut], "chosen_ids": r["ids"][cut:],
                "rejected_ids": r["other_ids"][r["other_mask"].index(1) :],
            }
        )  # fmt: skip
    return made


def whole_pairs(rows: Sequence[Row]) -> list[Row]:
    """Reward model: whole texts, pairs of like length together."""
    return [{"chosen_ids": r["ids"], "rejected_ids": r["other_ids"]} for r in by_length(rows)]


def by_length(rows: Sequence[Row]) -> list[Row]:
    """Pairs in the order of their longer text."""
    return sorted(rows, key=lambda r: max(len(r["ids"]), len(r["other_ids"])))


class Grpo:
    """One GRPO step over all prompts, trl's own generation and update."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: Any,
        prompts: Sequence[Any],
        answers: int,
        length: int,
        rule: Callable[[Sequence[int]], float],
        **more: Any,
    ) -> None:
        datasets.disable_progress_bars()
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        self.folder, self.drawn, self.answers = tempfile.TemporaryDirectory(), 0, answers * len(prompts)
        model.config._name_or_path = self.folder.name

        def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
            self.drawn = sum(len(ids) for ids in completion_ids)
            return [rule(ids) for ids in completion_ids]

        config = trl.GRPOConfig(
            **settings(
                self.folder.name, per_device_train_batch_size=self.answers, num_generations=answers,
                max_completion_length=length, temperature=1.0, beta=0.0, shuffle_dataset=False,
                generation_kwargs={"min_new_tokens": length}, **more,
            )
        )  # fmt: skip
        texts = [tokenizer.decode(template.prompt_ids(p.messages)) for p in prompts]
        self.watch = Stopwatch()
        self.trainer = trl.GRPOTrainer(
            model, reward, config, train_dataset=datasets.Dataset.from_list([{"prompt": t} for t in texts]),
            processing_class=tokenizer, callbacks=[self.watch],
        )  # fmt: skip

    def go(self) -> Round:
        """One step."""
        self.trainer._step, self.trainer._buffered_inputs = 0, None
        self.trainer.train()
        rate = self.answers / self.watch.seconds
        return Round(rate, {"answer tokens": float(self.drawn)}, "trl: generate of transformers, all at once")
