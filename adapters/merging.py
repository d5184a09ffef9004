"""Adapters of a vision-language model folded into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vislex.adapters.vlm import VisionLanguageModel
from vislex.errors import CheckpointError
from vislex.shipped import find_model, model_folder
from vislex.training.adapters import adapter_base, open_adapters

__all__ = ["merge_adapters", "open_vlm"]


def merge_adapters(folder: str | Path, **loading: Any) -> VisionLanguageModel:
    """Opens the model that a folder's adapters belong to, and folds them in.

    Args:
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        **loading: Keywords of ``VisionLanguageModel.from_pretrained``.

    Raises:
        CheckpointError: If there are no adapters, or the model is gone.
    """
    base = adapter_base(Path(folder))
    if base is None:
        raise CheckpointError(f"'{folder}' has no adapter_config.json; there is nothing to merge")
    model: VisionLanguageModel = VisionLanguageModel.from_pretrained(find_model(base) or base, **loading)
    merged: VisionLanguageModel = open_adapters(model, Path(folder)).merge_and_unload()
    return merged.eval()


def open_vlm(name: str | Path, **loading: Any) -> VisionLanguageModel:
    """Opens a saved model, adapters (merged), or a shipped model by its name.

    Args:
        name: Folder, or name of a model that ships with vislex.
        **loading: Keywords of ``VisionLanguageModel.from_pretrained``.

    Raises:
        CheckpointError: If there is no such model, or it is another kind of model.
    """
    folder = model_folder(name)
    if adapter_base(folder) is not None:
        return merge_adapters(folder, **loading)
    model: VisionLanguageModel = VisionLanguageModel.from_pretrained(folder, **loading)
    return model.eval()
