"""What can sit on a backbone besides the vocabulary: one number per token, for reward models and critics."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as hf_logging

from chatwright.core.types import ChatwrightError
from chatwright.models.load import first_line


def scalar_model(name: str, dtype: str = "float32") -> Any:
    """A backbone with a scalar head (`score`), an ordinary Hugging Face sequence classifier with one label.

    A folder that holds a reward model is loaded as it is. On any other model the head is new and zero, so
    every score is 0 before the first step: a head with random weights makes a critic's first advantages
    noise (Huang et al. 2024).
    """
    before = hf_logging.get_verbosity()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        trained = any("SequenceClassification" in kind for kind in config.architectures or [])
        hf_logging.set_verbosity_error()  # the new head is meant, not an accident to warn about
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            num_labels=1,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise ChatwrightError(
            f"{name}: no scalar head can be put on this model: {first_line(error)}"
        ) from error
    finally:
        hf_logging.set_verbosity(before)
    if not trained:
        torch.nn.init.zeros_(model.score.weight)
    return model
