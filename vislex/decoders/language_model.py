"""Text models that a decoder starts from: a folder or hub id, with the vocabulary cut to a pruned tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vislex.errors import ConfigError
from vislex.hub import check_weights, reading
from vislex.text import minilm_folder

__all__ = ["load_language_model", "start_from_embeddings"]


def load_language_model(
    auto_class: Any, source: str | Path, *, vocab_size: int, token_index: Tensor | None = None, **changes: Any
) -> PreTrainedModel:
    """Loads a pretrained text model for a tokenizer of ``vocab_size`` entries.

    Args:
        auto_class: transformers class with ``from_pretrained``.
        source: Folder, hub id or "minilm".
        vocab_size: Number of entries of the tokenizer that the decoder will use.
        token_index: int64[vocab_size] from ``prune_tokenizer``: which of the model's tokens each entry is.
        **changes: Fields of its config to change.

    Raises:
        CheckpointError: If nothing can be read from ``source``.
        ConfigError: If the tokenizer does not fit the model.
    """
    folder = minilm_folder() if source == "minilm" else source
    with reading(f"no language model can be read from '{source}'"):
        options = {"trust_remote_code": False, "use_safetensors": True, **changes}
        model: PreTrainedModel = auto_class.from_pretrained(folder, **options)
    check_weights(dict(model.named_parameters()), source)
    if token_index is not None:
        _keep_tokens(model, token_index)
    if vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {vocab_size} entries but '{source}' knows {model.config.vocab_size}; pass the "
            "tokenizer that belongs to it, and token_index= if it is a pruned one"
        )
    return model


@torch.no_grad()
def _keep_tokens(model: PreTrainedModel, token_index: Tensor) -> None:
    """Cuts the input embedding and the output head to some tokens, in this order."""
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    kept = embedding.weight[token_index].clone()
    bias = None if getattr(head, "bias", None) is None else head.bias[token_index].clone()
    weight = head.weight[token_index].clone()
    model.resize_token_embeddings(len(token_index))
    model.get_input_embeddings().weight.copy_(kept)
    head = model.get_output_embeddings()
    head.weight.copy_(weight)
    if bias is not None and isinstance(head, nn.Linear):
        head.bias.copy_(bias)


@torch.no_grad()
def start_from_embeddings(
    embedding: nn.Module, source: str | Path, *, vocab_size: int, token_index: Tensor | None = None
) -> None:
    """Starts an embedding from a text model's: its principal components, as many as fit, at the embedding's own scale.

    Args:
        embedding: ``nn.Embedding`` of ``vocab_size`` rows and a width of at most the text model's, changed in place.
        source: Folder, hub id or "minilm".
        vocab_size: Number of entries of the tokenizer.
        token_index: int64[vocab_size] from ``prune_tokenizer``.

    Raises:
        CheckpointError: If nothing can be read from ``source``.
        ConfigError: If the embedding is wider than the text model's, or the tokenizer does not fit.
    """
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    with torch.device("cpu"):
        rows = torch.arange(vocab_size) if token_index is None else token_index
        model = load_language_model(AutoModel, source, vocab_size=int(rows.max()) + 1)
        theirs = model.get_input_embeddings().weight[rows].float()
        width = weight.shape[1]
        if width > theirs.shape[1]:
            raise ConfigError(
                f"the word embeddings of '{source}' have {theirs.shape[1]} dimensions and cannot fill hidden_size "
                f"{width}; take at most {theirs.shape[1]}"
            )
        centred = theirs - theirs.mean(0)
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:]  # of the largest eigenvalues
        reduced = centred @ axes
    own = weight.std() if not weight.is_meta else 1.0
    weight[: len(rows)].copy_(reduced / reduced.std() * own)
