"""Supervised training against trl: tokens and pairs a second, peak memory, and the distance to the limit.

Every round of a row is one optimizer step over the same rows on both sides, from the same weights; the step's
loss and gradient norm must be equal. The clock of trl's side runs inside its training loop alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from bench import workload
from bench.harness import Options, Round, Row, Sides, in_own_process, peak_growth, timed

from chatwright.core.batch import Batch
from chatwright.data.batches import collate_demos, collate_pairs
from chatwright.engine.torch_engine import Frozen, TorchEngine
from chatwright.models.readout import token_logprobs
from chatwright.train.objectives import (
    OBJECTIVES,
    DpoConfig,
    NoSettings,
    RewardConfig,
    dpo_loss,
    reward_loss,
    sft_loss,
)

Rows = Sequence[dict[str, Any]]


def chosen(options: Options, count: int) -> Rows:
    """The first rows of the pairs, as they come."""
    return workload.encoded(options.data)[: 8 if options.quick else count]


def ours(make: Callable[[], float], step: Callable[[], Mapping[str, float]]) -> Callable[[], Round]:
    """A round of our side: `make` says how much work a step is, `step` does it and returns its metrics."""

    def go() -> Round:
        with timed() as seconds:
            metrics = step()
        same = {"loss": metrics["loss"], "gradient norm": metrics["grad_norm"]}
        return Round(make() / seconds[0], same)

    return go


def waste(engine: TorchEngine, batch: Batch) -> str:
    """What share of the tokens that run is padding, packed and if nothing were packed."""
    real = int(batch.attention.sum())
    padded = sum(part.ids.numel() for _, part in batch.micro_batches(2048))
    return f"padding: none in packed rows; {1 - real / padded:.1%} where a family runs padded"


@contextmanager
def sft(options: Options) -> Iterator[Sides]:
    """Real tokens a second; trl packs."""
    from bench import peer_trl

    rows = chosen(options, 32)
    engine = workload.engine(workload.model(options.data))
    loss, real = sft_loss(NoSettings()), sum(len(r["ids"]) for r in rows)
    note = waste(engine, collate_demos(rows, 0))
    peer = peer_trl.Peer(
        "SFT", workload.model(options.data), workload.tokenizer(options.data), peer_trl.demos(rows), 1,
        packing=True, max_length=workload.LONGEST,
    )  # fmt: skip
    mine = ours(lambda: real, lambda: engine.step(collate_demos(rows, 0), loss))
    yield Sides(
        lambda: mine()._replace(note=note), lambda: peer.round(real, "trl packs, one row of 512 at once")
    )


@contextmanager
def reward_model(options: Options) -> Iterator[Sides]:
    """Pairs a second."""
    from bench import peer_trl

    rows = chosen(options, 16)
    engine = workload.engine(workload.scorer(options.data))
    loss = reward_loss(RewardConfig(centring=0.01))
    peer = peer_trl.Peer(
        "Reward", workload.scorer(options.data), workload.tokenizer(options.data),
        peer_trl.whole_pairs(rows), 2, center_rewards_coefficient=0.01, max_length=None,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    yield Sides(
        ours(lambda: len(rows), lambda: engine.step(collate_pairs(rows, 0), loss)),
        lambda: peer.round(len(rows), "trl: 2 pairs at once, sorted by length"),
    )


@contextmanager
def dpo(options: Options) -> Iterator[Sides]:
    """Pairs a second, the reference's pass included on both sides."""
    from bench import peer_trl

    rows, tokenizer = chosen(options, 16), workload.tokenizer(options.data)
    engine, frozen = (
        workload.engine(workload.model(options.data)),
        Frozen(workload.model(options.data, 1), "cpu"),
    )
    objective, settings = OBJECTIVES["dpo"], DpoConfig(beta=0.1)
    loss = dpo_loss(settings)

    def step() -> Mapping[str, float]:
        batch = collate_pairs(rows, 0)
        made = objective.annotate(batch, engine, lambda b: frozen.infer(b, token_logprobs), settings)
        return engine.step(made, loss)

    peer = peer_trl.Dpo(
        workload.model(options.data), workload.model(options.data, 1), tokenizer, peer_trl.pairs(rows), 2
    )
    yield Sides(
        ours(lambda: len(rows), step),
        lambda: peer.round(len(rows), "trl: reference precomputed (its time is counted), 2 pairs at once"),
    )


@contextmanager
def memory(options: Options) -> Iterator[Sides]:
    """Peak bytes of SFT above the model, vocabulary 32 000, 4096 tokens a micro-batch."""
    shape = (options.data, 512 if options.quick else 4096)
    yield Sides(
        lambda: Round(in_own_process("bench.training:our_peak", *shape)),
        lambda: Round(in_own_process("bench.training:trl_peak", *shape)),
    )


def tokens_of(data: str, tokens: int) -> Rows:
    """Full rows, all trained."""
    ids = [i for row in workload.encoded(data) for i in row["ids"]]
    width = min(512, tokens)
    cut = [ids[i : i + width] for i in range(0, tokens, width)]
    return [{"ids": row, "mask": [0] + [1] * (len(row) - 1)} for row in cut]


def our_peak(data: str, tokens: int) -> int:
    """Bytes that two steps add to a process that holds the model."""
    rows = tokens_of(data, tokens)
    engine = workload.engine(workload.big_vocabulary(data), micro_tokens=tokens)
    gc.collect()
    with peak_growth() as grown:
        for _ in range(2):
            engine.step(collate_demos(rows, 0), sft_loss(NoSettings()))
    return grown[0]


def trl_peak(data: str, tokens: int) -> int:
    """The same at trl."""
    from bench import peer_trl

    rows = peer_trl.demos(tokens_of(data, tokens))
    model = workload.big_vocabulary(data)
    peer = peer_trl.Peer("SFT", model, workload.tokenizer(data), rows, len(rows), max_length=None)
    gc.collect()
    with peak_growth() as grown:
        for _ in range(2):
            peer.step()
    return grown[0]


@contextmanager
def limit(options: Options) -> Iterator[Sides]:
    """FLOP/s of an SFT step over FLOP/s of its own matrix products, alone, one after the other."""
    rows = chosen(options, 32)
    engine = workload.engine(workload.model(options.data))
    batch = collate_demos(rows, 0)
    real, trained = int(batch.attention.sum()), int(batch.mask.sum())
    work = step_flops(engine.module.config, batch)

    def step() -> Round:
        with timed() as seconds:
            engine.step(collate_demos(rows, 0), sft_loss(NoSettings()))
        return Round(
            work / seconds[0] / 1e9, note=f"{real} tokens, {trained} trained, {work / 1e9:.0f} GFLOP a step"
        )

    yield Sides(step, lambda: Round(matmul_rate(engine.module.config, trained / real) / 1e9))


def step_flops(config: Any, batch: Batch) -> float:
    """Operations of a step's matrix products: forward once, backward twice that. What is left out of the
    last layer and the vocabulary (untrained tokens) is not counted, nor is attention's upper triangle."""
    hidden, wide = config.hidden_size, config.intermediate_size
    real, trained = float(batch.attention.sum()), float(batch.mask.sum())
    attention, rest = 3 * hidden * hidden, hidden * hidden + 3 * hidden * wide
    layers = config.num_hidden_layers
    linear = real * (layers * attention + (layers - 1) * rest) + trained * (rest + hidden * config.vocab_size)
    scores = layers * float((batch.lengths.float() ** 2).sum()) * hidden  # two products, half of them masked
    return 6 * linear + 3 * 2 * scores


def matmul_rate(config: Any, trained: float, tokens: int = 2048, seconds: float = 2.0) -> float:
    """FLOP/s of the model's products, forward and both backward ones, in the proportions of a step."""
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    few = max(1, int(tokens * trained))
    shapes = [(tokens, hidden, hidden)] * 4 + [(tokens, hidden, wide)] * 2 + [(tokens, wide, hidden)]
    shapes = shapes * layers + [(few, hidden, config.vocab_size)]
    made = {s: (torch.randn(s[0], s[1]), torch.randn(s[2], s[1]), torch.randn(s[0], s[2])) for s in shapes}
    work, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for shape in shapes:
            x, w, g = made[shape]
            x @ w.t(), g @ w, g.t() @ x
            work += 6.0 * shape[0] * shape[1] * shape[2]
    return work / (time.perf_counter() - start)


ROWS = [
    Row("SFT, HH", "trl SFTTrainer", "real tokens/s", ">= 1.6", sft),
    Row("reward model, HH", "trl RewardTrainer", "pairs/s", ">= 2", reward_model),
    Row("DPO, HH", "trl DPOTrainer", "pairs/s", ">= 3", dpo),
    Row(
        "peak memory, SFT, vocabulary 32000, 4096 tokens",
        "trl SFTTrainer",
        "bytes",
        "<= 0.6",
        memory,
        warm=False,
    ),
    Row("SFT, distance to the limit", "its matrix products alone", "GFLOP/s", ">= 0.6", limit),
]
