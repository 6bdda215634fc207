"""Log-probabilities through the vocabulary: every way equals a plain log-softmax, value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from chatwright.models import vocabulary
from chatwright.models.lora import LoraConfig, add_lora
from chatwright.models.readout import plain
from chatwright.models.vocabulary import VocabularyHead, read_out, weighted_sum
from tiny import tiny_lm

TOKENS = 23


def case(change=""):
    model = tiny_lm(tie=False)
    if change == "softcapped":
        model.config.final_logit_softcapping = 5.0
    if change == "scaled":
        model.config.logit_scale = 0.25
    if change == "adapted":
        model = add_lora(model, LoraConfig(rank=2, targets=("lm_head",)), seed=0)
    if change == "biased":
        old = model.lm_head
        model.lm_head = torch.nn.Linear(32, old.weight.size(0))
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, 32, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (TOKENS,), generator=generator)
    return plain(model), states, targets, torch.randn(TOKENS, generator=generator)


def by_hand(model, states, targets, temperature):
    """The whole table of log-probabilities, and entropies."""
    logits = model.get_output_embeddings()(states) * (getattr(model.config, "logit_scale", None) or 1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    table = (logits / temperature).log_softmax(-1)
    return table.gather(1, targets[:, None]).squeeze(1), -(table.exp() * table).sum(-1)


def gradients(total, model, states):
    head = [p for p in model.get_output_embeddings().parameters() if p.requires_grad]
    return torch.autograd.grad(total, [states, *head])


@pytest.mark.parametrize("change", ["", "scaled", "softcapped", "biased", "adapted"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_entropies_and_gradients(change, temperature, monkeypatch):
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", 400 * 5)
    model, states, targets, weights = case(change)
    head = VocabularyHead(model, temperature)
    assert head.plain is (change in ("", "scaled"))
    logprobs, entropy = read_out(head, states, targets, True)
    wanted, spread = by_hand(model, states, targets, temperature)
    torch.testing.assert_close(logprobs, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, spread.detach(), rtol=1e-4, atol=1e-5)
    found = gradients((logprobs**2 * weights).sum(), model, states)  # a gradient that depends on the value
    for one, other in zip(found, gradients((wanted**2 * weights).sum(), model, states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    total = weighted_sum(head, states, targets, weights)
    plain_total = (by_hand(model, states, targets, temperature)[0] * weights).sum()
    assert total.item() == pytest.approx(plain_total.item(), rel=1e-5)
    for one, other in zip(
        gradients(total * 3, model, states), gradients(plain_total * 3, model, states), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_it_equals_torchs_own_fused_cross_entropy():
    model, states, targets, weights = case()
    weight = model.get_output_embeddings().weight
    total = (F.linear_cross_entropy(states, weight, targets, reduction="none") * weights).sum()
    found = weighted_sum(VocabularyHead(model, 1.0), states, targets, weights)
    assert found.item() == pytest.approx(-total.item(), rel=1e-5)
    for one, other in zip(gradients(found, model, states), gradients(-total, model, states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_reading_keeps_nothing():
    model, states, targets, weights = case()
    head = VocabularyHead(model, 1.0)
    head.project.weight.requires_grad_(False)
    weighted_sum(head, states, targets, weights).backward()
    one, states.grad = states.grad.clone(), None
    (read_out(head, states, targets, False)[0] * weights).sum().backward()
    torch.testing.assert_close(states.grad, one)
    assert head.project.weight.grad is None
    with torch.no_grad():
        assert not weighted_sum(head, states, targets, weights).requires_grad


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature above 0"):
        VocabularyHead(tiny_lm(), 0.0)
