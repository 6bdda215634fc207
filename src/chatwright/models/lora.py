"""Low-rank adapters through peft: train little, switch off for the reference, merge only into what is
saved.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from chatwright.core.types import Config

if not torch.cuda.is_available():  # peft imports DeepSpeed where it is, which looks for a GPU and says so
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
import peft
from peft.tuners.lora import LoraLayer


class LoraConfig(Config):
    """Adapters in place of all weights (Hu et al. 2021)."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapters' input.")
    targets: str | tuple[str, ...] = Field("all-linear", description="Module names, or all-linear.")


def add_lora(model: Any, config: LoraConfig, seed: int, scalar: bool = False) -> Any:
    """The model with fresh adapters, which alone are trained (and with `scalar` its head)."""
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        modules_to_save=["score"] if scalar else None,
        task_type=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, settings)


def has_lora(model: Any) -> bool:
    """Is this a model with adapters?"""
    return isinstance(model, peft.PeftModel)


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Inside, the model is the one its adapters were put on."""
    with model.disable_adapter():
        yield


def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors by the names they have without adapters, adapters merged in one at a time."""
    if not has_lora(model):
        yield from model.state_dict().items()
        return
    layers = {name: m for name, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    for name, tensor in model.get_base_model().state_dict().items():
        if not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, tensor
    for path, layer in layers.items():
        for name, tensor in plain_layer(layer):
            yield f"{path}.{name}", tensor


def plain_layer(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """An adapted layer's tensors as they would be without adapters, these merged in."""
    for name, tensor in layer.base_layer.state_dict().items():
        if name == "weight":
            tensor = tensor + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        yield name, tensor


def merged(model: Any) -> Any:
    """A plain model with the adapters merged in; the trained one is not touched."""
    return copy.deepcopy(model).merge_and_unload() if has_lora(model) else model
