"""The text encoder of LaDiC: embeddings and lower layers of a BERT, frozen, needed in training only.

It is never saved with a decoder. A codec records where it came from and the digest of its weights; whoever trains gets
it again from there.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vislex.errors import CheckpointError, ConfigError
from vislex.hub import reading
from vislex.modules.digest import weights_digest
from vislex.text import minilm_folder

__all__ = ["TextEncoder", "load_text_encoder", "open_text_model"]


class TextEncoder(nn.Module):
    """Embeddings and the first layers of a BERT-like model, frozen and in eval mode for good.

    Args:
        model: A base model with ``embeddings`` and ``encoder.layer``, such as ``BertModel``; it is cut in place.
        split_layer: Number of layers that are kept; 0 gives the embeddings themselves.
    """

    def __init__(self, model: PreTrainedModel, split_layer: int) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.layers = model.encoder.layer[:split_layer]
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in eval mode: dropout would make the latents noisy."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.parameters()).dtype
        return dtype

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states float[B, L, D] after the last kept layer.

        Args:
            input_ids: int64[B, L] ids of the text model's own vocabulary.
            attention_mask: int64[B, L] or bool, 1 on real tokens.
        """
        hidden = self.embeddings(input_ids=input_ids)
        mask = additive_mask(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """float[B, 1, 1, L] that both attention implementations of transformers take: 0 on real tokens, else the lowest."""
    if mask is None:
        return None
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return hidden.masked_fill(~mask.bool(), torch.finfo(dtype).min)[:, None, None]


def open_text_model(source: str | Path, *, random_seed: int | None = None) -> tuple[PreTrainedModel, set[str]]:
    """Opens a BERT-like masked language model.

    Args:
        source: "minilm", a folder, or a hub id.
        random_seed: Draws random weights of this seed instead of the trained ones.

    Returns:
        The model, and the names of the weights that its checkpoint does not hold (a head, for MiniLM).

    Raises:
        CheckpointError: If nothing can be read from ``source``.
        ConfigError: If the model has another build than BERT's.
    """
    folder = minilm_folder() if source == "minilm" else source
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a missing head is no news here
    try:
        with reading(f"no text model can be read from '{source}'"):
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    base = model.base_model
    if not (hasattr(base, "embeddings") and hasattr(getattr(base, "encoder", None), "layer")):
        raise ConfigError(
            f"'{source}' is a {type(model).__name__}, which cannot be split; a text model of LaDiC has 'embeddings' "
            "and 'encoder.layer' as BERT, RoBERTa and MiniLM have"
        )
    if random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            model = AutoModelForMaskedLM.from_config(copy.deepcopy(model.config))
        info = {"missing_keys": set(model.state_dict())}
    model.eval()
    return model, set(info["missing_keys"])


def load_text_encoder(source: dict[str, Any], split_layer: int, *, random_seed: int | None = None) -> TextEncoder:
    """Loads the text encoder that a codec was made with.

    Args:
        source: Record of the codec: ``location`` ("minilm", a folder, a hub id) and ``sha256`` of the weights.
        split_layer: Number of lower layers.
        random_seed: Seed of random weights, if the codec was made with such.

    Raises:
        CheckpointError: If the weights there are others than those recorded.
    """
    model, _ = open_text_model(source["location"], random_seed=random_seed)
    encoder = TextEncoder(model.base_model, split_layer)
    found = weights_digest(encoder)
    if source.get("sha256") not in (None, found):
        raise CheckpointError(
            f"the text encoder at '{source['location']}' is not the one that this codec was made with (sha256 {found}, "
            f"recorded {source['sha256']}); latents of another text encoder mean something else: restore it, or train "
            "a codec for it with 'vislex train ladic_codec'"
        )
    return encoder
