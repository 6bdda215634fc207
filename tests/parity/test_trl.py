"""Loss and gradient equal trl's on the same tiny model and batch: trl's own trainers compute theirs."""

import copy
from typing import Any

import datasets
import pytest
import torch

from chatwright.core.batch import Experience
from chatwright.core.types import Message, Prompt, Rollout
from chatwright.data.batches import collate_demos, collate_pairs, collate_rated
from chatwright.engine.optim import OptimConfig
from chatwright.engine.torch_engine import Frozen, TorchEngine
from chatwright.models.heads import scalar_model
from chatwright.models.load import save_model
from chatwright.models.readout import token_logprobs
from chatwright.rl.config import RLConfig
from chatwright.rl.experience import collate
from chatwright.rl.methods import resolve
from chatwright.rl.policy_gradient import PolicyGradient
from chatwright.train.objectives import (
    OBJECTIVES,
    DpoConfig,
    KtoConfig,
    NoSettings,
    OrpoConfig,
    RewardConfig,
    reward_loss,
    sft_loss,
)
from tiny import tiny_lm, tiny_template, tiny_tokenizer

trl = pytest.importorskip("trl", reason="trl is in the test extra")
pytestmark = [
    pytest.mark.peer,
    # trl and the libraries below it warn about each other
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def rows(prompt: int = 4) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) as ids, of many lengths."""
    generator = torch.Generator().manual_seed(2)

    def ids(n: int) -> list[int]:
        return torch.randint(5, 300, (n,), generator=generator).tolist()

    return [(ids(prompt + i % 3 if prompt > 1 else 1), ids(3 + 2 * i), ids(9 - i)) for i in range(4)]


def pair_rows(prompt: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "ids": p + c, "mask": [0] * len(p) + [1] * len(c),
            "other_ids": p + r, "other_mask": [0] * len(p) + [1] * len(r), "margin": 0.0,
        }
        for p, c, r in rows(prompt)
    ]  # fmt: skip


def padded(sequences: list[list[int]], masks: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
    width = max(map(len, sequences))

    def fill(lists: list[list[int]]) -> torch.Tensor:
        return torch.tensor([x + [0] * (width - len(x)) for x in lists])

    made = {"input_ids": fill(sequences), "attention_mask": fill([[1] * len(s) for s in sequences])}
    return made | ({"completion_mask": fill(masks)} if masks else {})


def arguments(config: Any, folder: Any, **settings: Any) -> Any:
    return config(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=4,
        gradient_checkpointing=False, disable_tqdm=True, **settings,
    )  # fmt: skip


def same(ours: torch.Tensor, model: Any, theirs: torch.Tensor, other: Any) -> None:
    """Losses to 1e-5, gradients to 1e-4 of their size."""
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5, abs=1e-6)
    ours.backward()
    theirs.backward()
    grads = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    checked = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gap = (parameter.grad - grads[name]).norm() / grads[name].norm().clamp(min=1e-6)
            assert gap < 1e-4, f"{name}: {gap}"
            checked += 1
    assert checked > 5


def mean(loss: Any, model: Any, batch: Any) -> torch.Tensor:
    total, _ = loss(model, batch)
    return total / batch.denominator


def test_sft(tmp_path):
    data = datasets.Dataset.from_list([{"text": "a parcel"}] * 4)
    other = tiny_lm()
    trainer = trl.SFTTrainer(
        other, arguments(trl.SFTConfig, tmp_path), train_dataset=data, processing_class=tiny_tokenizer()
    )
    demos = [{"ids": p + c, "mask": [0] * len(p) + [1] * len(c)} for p, c, _ in rows()]
    batch, model = collate_demos(demos, 0), tiny_lm()
    inputs = padded([d["ids"] for d in demos], [d["mask"] for d in demos])
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
    same(
        mean(sft_loss(NoSettings()), model, batch),
        model,
        trainer.compute_loss(trainer.model, inputs),
        trainer.model,
    )


def test_reward_model(tmp_path):
    template = tiny_template()
    save_model(tiny_lm(), template.tokenizer, template, tmp_path / "lm")
    model = scalar_model(str(tmp_path / "lm"))
    torch.nn.init.normal_(model.score.weight)
    other = copy.deepcopy(model)
    data = datasets.Dataset.from_list([{"chosen": "a", "rejected": "b"}] * 4)
    config = arguments(trl.RewardConfig, tmp_path, center_rewards_coefficient=0.03)
    trainer = trl.RewardTrainer(
        other, config, train_dataset=data, processing_class=copy.deepcopy(template.tokenizer)
    )
    chosen, rejected = [p + c for p, c, _ in rows()], [p + r for p, _, r in rows()]
    ours = mean(reward_loss(RewardConfig(centring=0.03)), model, collate_pairs(pair_rows(), 0))
    same(ours, model, trainer.compute_loss(trainer.model, padded(chosen + rejected)), trainer.model)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge", "robust"])
def test_dpo(tmp_path, kind):
    data = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4)
    config = arguments(trl.DPOConfig, tmp_path, loss_type=[kind], beta=0.2, label_smoothing=0.1)
    trainer = trl.DPOTrainer(
        tiny_lm(), tiny_lm(seed=1), config, train_dataset=data, processing_class=tiny_tokenizer()
    )
    settings, model = DpoConfig(loss=kind, beta=0.2, flip=0.1), tiny_lm()
    objective = OBJECTIVES["dpo"]
    frozen = Frozen(tiny_lm(seed=1), "cpu")
    batch = objective.annotate(
        collate_pairs(pair_rows(), 0), None, lambda b: frozen.infer(b, token_logprobs), settings
    )
    inputs = padded(
        [p + c for p, c, _ in rows()] + [p + r for p, _, r in rows()],
        [[0] * len(p) + [1] * len(c) for p, c, _ in rows()]
        + [[0] * len(p) + [1] * len(r) for p, _, r in rows()],
    )
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    same(mean(objective.loss(settings), model, batch), model, theirs, trainer.model)


def test_orpo_on_prompts_of_one_token(tmp_path):
    """trl's likelihood term counts prompts too; a prompt of one token has nothing to count."""
    orpo = pytest.importorskip("trl.experimental.orpo")
    data = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4)
    config = arguments(orpo.ORPOConfig, tmp_path, beta=0.3)
    trainer = orpo.ORPOTrainer(tiny_lm(), config, train_dataset=data, processing_class=tiny_tokenizer())
    inputs = {}
    for side, k in (("chosen", 1), ("rejected", 2)):
        made = padded([r[0] + r[k] for r in rows(1)], [[0] + [1] * len(r[k]) for r in rows(1)])
        inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"] = (
            made["input_ids"],
            made["attention_mask"],
        )
        inputs[f"{side}_labels"] = made["input_ids"].masked_fill(made["completion_mask"] == 0, -100)
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, inputs)
    model, objective = tiny_lm(), OBJECTIVES["orpo"]
    ours = mean(objective.loss(OrpoConfig(weight=0.3)), model, collate_pairs(pair_rows(1), 0))
    same(ours, model, theirs, trainer.model)


def test_kto(tmp_path):
    data = datasets.Dataset.from_list(
        [{"prompt": "a", "completion": "b", "label": i % 2 == 0} for i in range(4)]
    )
    config = arguments(trl.KTOConfig, tmp_path, beta=0.2, desirable_weight=1.2, undesirable_weight=0.7)
    trainer = trl.KTOTrainer(
        tiny_lm(), tiny_lm(seed=1), config, train_dataset=data, processing_class=tiny_tokenizer()
    )
    liked = [True, False, True, False]
    answers = [(p, c) for p, c, _ in rows()]
    inputs: dict[str, Any] = padded(
        [p + a for p, a in answers], [[0] * len(p) + [1] * len(a) for p, a in answers]
    )
    mixed = [(p, answers[i - 1][1]) for i, (p, _) in enumerate(answers)]
    for key, value in padded(
        [p + a for p, a in mixed], [[0] * len(p) + [1] * len(a) for p, a in mixed]
    ).items():
        inputs[f"KL_{key}"] = value
    inputs["label"] = torch.tensor(liked)
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    settings, objective = KtoConfig(beta=0.2, up=1.2, down=0.7), OBJECTIVES["kto"]
    made = [
        {"ids": p + a, "mask": [0] * len(p) + [1] * len(a), "desirable": d}
        for (p, a), d in zip(answers, liked, strict=True)
    ]
    engine = TorchEngine(tiny_lm(), OptimConfig(), 1, "cpu")
    frozen = Frozen(tiny_lm(seed=1), "cpu")
    batch = objective.annotate(
        collate_rated(made, 0), engine, lambda b: frozen.infer(b, token_logprobs), settings
    )
    same(mean(objective.loss(settings), engine.module, batch), engine.module, theirs, trainer.model)


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.1, False), (0.1, True)])
def test_grpo_family(tmp_path, method, beta, corrected):
    longest = 16
    data = datasets.Dataset.from_list([{"prompt": "a"}] * 8)
    config = arguments(
        trl.GRPOConfig, tmp_path, loss_type=method, beta=beta, num_generations=2,
        max_completion_length=longest,
        epsilon=0.1, epsilon_high=0.15, use_bias_correction_kl=corrected,
    )  # fmt: skip
    other, template = tiny_lm(), tiny_template()
    save_model(tiny_lm(seed=1), template.tokenizer, template, tmp_path / "reference")
    other.config._name_or_path = str(tmp_path / "reference")  # where trl looks for the reference
    trainer = trl.GRPOTrainer(
        other, lambda completions, **_: [0.0] * len(completions), config, train_dataset=data,
        processing_class=tiny_tokenizer(),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    settings = resolve(
        method,
        RLConfig(
            kl=beta,
            kl_place="loss",
            kl_estimator="k3",
            clip_low=0.1,
            clip_high=0.15,
            answers=2,
            dynamic_sampling=False,
            kl_correction=corrected,
        ),
    )
    rollouts = [
        Rollout(Prompt((Message("user", "?"),)), tuple(p), tuple(c), (0.0,) * len(c), group=i // 2, reward=r)
        for i, ((p, c, _), r) in enumerate(zip(rows(), (1.0, 0.0, 0.3, 0.9), strict=True))
    ]
    batch = collate(rollouts, settings, longest, 0)
    read = Frozen(tiny_lm(seed=1), "cpu").infer(batch, token_logprobs)
    old = Frozen(tiny_lm(), "cpu").infer(batch, token_logprobs) + 0.2 * torch.randn_like(read) * batch.mask
    advantages = torch.tensor([0.7, -0.7, -1.1, 1.1])
    experience = Experience(
        **vars(batch),
        logprobs=old,
        advantages=advantages[:, None] * batch.mask,
        reference=read if beta else None,
    )
    model = tiny_lm()
    algorithm = PolicyGradient(
        method, settings, TorchEngine(model, OptimConfig(), 1, "cpu"), 1.0, longest, 0, 0
    )
    ours = mean(algorithm._policy_loss, model.train(), experience)

    width = max(len(r.prompt_ids) for r in rollouts)
    answers = padded([list(r.response_ids) for r in rollouts])

    def columns(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(answers["input_ids"].shape)
        for i, r in enumerate(rollouts):
            n, at = len(r.response_ids), len(r.prompt_ids)
            out[i, :n] = values[i, at : at + n]
        return out

    theirs = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": torch.tensor(
                [[0] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in rollouts]
            ),
            "prompt_mask": torch.tensor(
                [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rollouts]
            ),
            "completion_ids": answers["input_ids"],
            "completion_mask": answers["attention_mask"],
            "advantages": advantages,
            "old_per_token_logps": columns(old),
            "ref_per_token_logps": columns(read),
            "num_items_in_batch": answers["attention_mask"].sum(),
        },
    )
    if method != "dapo":  # trl divides these by the accumulation that its own loop then multiplies away
        theirs = theirs * trainer.current_gradient_accumulation_steps
    same(ours, model, theirs, trainer.model)
