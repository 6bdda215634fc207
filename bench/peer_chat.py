"""DeepSpeed-Chat's published PPO loop, restated with plain transformers.

Its workload is fixed: every prompt and every answer has the same length, one epoch, one update of actor and
critic a batch. A round generates with the actor (the whole batch to the full length), runs actor, reference,
critic and reward model over the batch with full logits, charges k1 KL a token in the reward, takes GAE
(γ 1, λ 0.95) and makes one clipped step of the actor and one of the critic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from bench.workload import ADAM, LR
from torch import Tensor

KL, CLIP, VALUE_CLIP, GAMMA, LAM, REWARD_CLIP = 0.1, 0.2, 0.2, 1.0, 0.95, 5.0


class ChatLoop:
    """Four models and two optimizers."""

    def __init__(self, actor: Any, reference: Any, critic: Any, reward: Any, pad_id: int) -> None:
        self.actor, self.reference, self.critic, self.reward = actor, reference.eval(), critic, reward.eval()
        self.pad_id = pad_id
        self.steps = [
            torch.optim.AdamW(m.parameters(), lr=LR, betas=ADAM, weight_decay=0.0, fused=True)
            for m in (actor, critic)
        ]

    def round(self, prompts: Tensor, answer: int) -> Tensor:
        """One batch of prompts [B, P]: generate, score, learn. Returns the sequences [B, P + answer]."""
        start = prompts.size(1)
        self.actor.eval(), self.critic.eval()
        with torch.no_grad():
            ids = self.actor.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, temperature=1.0,
                max_new_tokens=answer, min_new_tokens=answer, pad_token_id=self.pad_id,
            )  # fmt: skip
            mask = torch.ones_like(ids)
            old = logprobs(self.actor(ids, attention_mask=mask, use_cache=False).logits, ids)
            ref = logprobs(self.reference(ids, attention_mask=mask, use_cache=False).logits, ids)
            values = self.values(ids, mask)[:, :-1]
            score = self.reward(ids, attention_mask=mask).logits[:, 0].clamp(-REWARD_CLIP, REWARD_CLIP)
        rewards = -KL * (old - ref)
        rewards[:, -1] += score
        advantages, returns = gae(values[:, start - 1 :], rewards[:, start - 1 :])
        self.actor.train(), self.critic.train()
        new = logprobs(self.actor(ids, attention_mask=mask, use_cache=False).logits, ids)[:, start - 1 :]
        ratio = (new - old[:, start - 1 :]).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        self.step(0, torch.maximum(-advantages * ratio, -advantages * clipped).mean())
        found, before = self.values(ids, mask)[:, start - 1 : -1], values[:, start - 1 :]
        near = before + (found - before).clamp(-VALUE_CLIP, VALUE_CLIP)
        self.step(1, 0.5 * torch.maximum((found - returns) ** 2, (near - returns) ** 2).mean())
        return ids

    def values(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The critic's value at every token, [B, T]."""
        states = self.critic.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.critic.score(states).squeeze(-1)

    def step(self, which: int, loss: Tensor) -> None:
        """One update of the actor (0) or the critic (1)."""
        loss.backward()
        model = (self.actor, self.critic)[which]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.steps[which].step()
        self.steps[which].zero_grad()


def logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log p of every token but the first, from full logits, [B, T - 1]."""
    table = F.log_softmax(logits[:, :-1], -1)
    return table.gather(-1, ids[:, 1:, None]).squeeze(-1)


def gae(values: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns, backwards over the answer."""
    found, last = [], torch.zeros(len(values))
    for t in reversed(range(values.size(1))):
        after = values[:, t + 1] if t + 1 < values.size(1) else torch.zeros(len(values))
        last = rewards[:, t] + GAMMA * after - values[:, t] + GAMMA * LAM * last
        found.append(last)
    advantages = torch.stack(found[::-1], 1)
    return advantages, advantages + values
