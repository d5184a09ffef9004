"""Opens what captions images: captioners and vision-language models of vislex, stock captioners of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vislex.adapters.instructions import CAPTION_PROMPT
from vislex.adapters.vlm_config import VisionLanguageConfig
from vislex.benchmarks.caption_models import (
    STOCK_LENGTH,
    CaptionModel,
    StockCaptioner,
    VislexCaptioner,
    describe_folder,
)
from vislex.benchmarks.results import ModelInfo, Origin
from vislex.benchmarks.vlm_rows import AnsweringModel, open_model
from vislex.captioner import Caption, Captioner
from vislex.errors import CheckpointError
from vislex.hardware import resolve_device, resolve_dtype
from vislex.shipped import find_model, shipped_models
from vislex.text import postprocess_caption
from vislex.training.adapters import adapter_base

if TYPE_CHECKING:
    from typing import Any

    from PIL.Image import Image

__all__ = ["VlmCaptioner", "kind_of", "open_caption_model"]


class VlmCaptioner:
    """A vision-language model that is asked for a caption of each image.

    Args:
        model: What is asked.
        info: Its row.
    """

    any_order = False

    def __init__(self, model: AnsweringModel, info: ModelInfo) -> None:
        self.model, self.info = model, info

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def caption(
        self,
        images: Sequence[Image],
        *,
        batch_size: int,
        indices: Sequence[int] | None = None,  # transformers draws from the global generator
        prompt: str | None = None,
        seed: int | None = None,
        **generation: Any,
    ) -> list[Caption]:
        """See ``CaptionModel.caption``; ``prompt`` is what is asked, by default what the recipes train with."""
        if seed is not None:
            torch.manual_seed(seed)
        generation["max_new_tokens"] = generation.get("max_new_tokens") or STOCK_LENGTH
        beams = int(generation.get("num_beams") or 1)
        asked = [prompt or CAPTION_PROMPT] * len(images)
        answers = self.model.ask(list(images), asked, batch_size=batch_size, **generation)
        return [Caption(postprocess_caption(one.text), beams * one.new_tokens, one.seconds) for one in answers]


def kind_of(folder: Path) -> str | None:
    """Model type of a folder, of adapters that of the model which they belong to; None if it does not say."""
    if adapter_base(folder) is not None:
        return VisionLanguageConfig.model_type
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # whoever opens it says what is wrong
        return None


def open_caption_model(
    name: str | Path,
    *,
    row: str | None = None,
    origin: Origin | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> CaptionModel:
    """Opens a model by what a user writes after ``--model``.

    Args:
        name: Folder of a captioner or of a vision-language model of vislex (or of adapters to one), the name of a
            shipped one, ``hf:ORG/CAPTIONER`` or ``hf:FOLDER``.
        row: Name of its row; made from its parts if None.
        origin: Where the weights came from; found out if None.
        device: "auto", "cpu", "cuda", ...
        dtype: "auto" (bfloat16 where it is fast), "float32", "bfloat16" or "float16".

    Raises:
        CheckpointError: If there is no such captioner.
    """
    name = str(name)
    target = resolve_device(device)
    number_format = resolve_dtype(dtype, target)
    if name.startswith("hf:"):
        return StockCaptioner.from_pretrained(name.removeprefix("hf:"), row=row, device=target, dtype=number_format)
    place = find_model(name)
    if place is not None and kind_of(place) == VisionLanguageConfig.model_type:
        model, info = open_model(name, device=device, dtype=dtype)
        described = {"row": row or info.row, "origin": origin or info.origin}
        return VlmCaptioner(model, info.model_copy(update=described))
    if place is None or not (place / "config.json").is_file():
        there = ", ".join(shipped_models("captioner-*"))
        raise CheckpointError(
            f"'{name}' is no captioner folder (it has no config.json); shipped ones are {there}; hf:NAME opens a "
            "stock one"
        )
    origin = origin or ("local" if Path(name).is_dir() else "shipped")
    captioner = Captioner.from_pretrained(place, dtype=number_format).to(target)
    return VislexCaptioner(captioner, describe_folder(captioner, place, row=row, origin=origin))
