"""Sampling by several ranks: each answers its share of the prompts, and every rank gets all answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from chatwright.core import dist
from chatwright.core.types import ChatwrightError, Prompt, Rollout
from chatwright.data.template import Template
from chatwright.sampling.base import Sampler, SamplingConfig


class Shared:
    """Shares prompts out by length, longest first in turn, so that ranks finish together."""

    def __init__(self, inner: Sampler, template: Template) -> None:
        self.inner, self.template = inner, template

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        config: SamplingConfig,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """See Sampler.generate: the answers are those of one process."""
        numbers = range(len(prompts)) if numbers is None else numbers
        lengths = [len(self.template.prompt_ids(prompt.messages)) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -lengths[i])
        mine = order[dist.rank() :: dist.world_size()]
        found = self.inner.generate([prompts[i] for i in mine], n, config, seed, [numbers[i] for i in mine])
        place = {number: i for i, number in enumerate(numbers)}
        return sorted(dist.everyones(found), key=lambda rollout: place[rollout.group])

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """See Sampler.publish."""
        self.inner.publish(weights)

    def close(self) -> None:
        """See Sampler.close."""
        self.inner.close()


class Mirrored:
    """A sampler over its own copy of the policy, for engines that leave no rank a whole one."""

    def __init__(self, inner: Sampler, model: Any) -> None:
        self.inner, self.model = inner, model

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        config: SamplingConfig,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """See Sampler.generate."""
        return self.inner.generate(prompts, n, config, seed, numbers)

    def publish(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the weights as they come, one at a time; raises where ranks end with unlike copies."""
        parameters, total = dict(self.model.named_parameters()), torch.zeros((), dtype=torch.float64)

        with torch.no_grad():
            for name, value in weights:
                if name in parameters:
                    parameters[name].copy_(value)
                    total += parameters[name].double().sum().cpu()
        self.inner.publish(parameters.items())
        sums = dist.gather(total[None])
        if not torch.equal(sums, sums[:1].expand_as(sums)):
            raise ChatwrightError(
                f"the ranks' samplers hold unlike weights after publishing, a bug (checksums {sums.tolist()})"
            )

    def close(self) -> None:
        """See Sampler.close."""
        self.inner.close()
