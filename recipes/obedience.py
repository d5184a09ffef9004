"""Does a text-to-image model draw what it is told? Its images, read by the reader and held against their prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vislex.data.sources import load_suite
from vislex.diffusion.guidance import generate, text_free_guidance
from vislex.diffusion.t2i import TextToImage
from vislex.errors import ConfigError
from vislex.metrics.factors import FACTORS, score_factors_per_image
from vislex.metrics.reader import Reader

__all__ = ["NAMEABLE", "Prompts", "draw_images", "obedience", "single_object_prompts"]

NAMEABLE = tuple(name for name, tier in FACTORS.items() if tier != "never")


@dataclass(frozen=True)
class Prompts:
    """Scenes with one object and a dense caption of each.

    Attributes:
        texts: The captions.
        factors: The scenes' factor records.
        images: uint8[H, W, 3] of each scene, for sheets.
    """

    texts: list[str]
    factors: list[dict[str, Any]]
    images: list[np.ndarray]


def single_object_prompts(
    n: int, *, split: str = "val", vocabulary: Literal["core", "default", "large"] = "core", image_size: int = 48
) -> Prompts:
    """The first ``n`` scenes of a split in which one object lies."""
    size = 5 * n + 50  # three scenes of ten have one
    rows = load_suite("openmoji", split=split, size=size, vocabulary=vocabulary, image_size=image_size, style="dense")
    plain = rows.with_format(None)
    records = [json.loads(text) for text in plain["factors"]]
    chosen = [i for i, record in enumerate(records) if len(record["objects"]) == 1][:n]
    captions = plain["captions"]
    images = [np.array(rows[i]["image"]) for i in chosen]
    return Prompts([captions[i][0] for i in chosen], [records[i] for i in chosen], images)


@torch.no_grad()
def draw_images(
    t2i: TextToImage,
    prompts: Sequence[str],
    *,
    guidance_scale: float,
    num_inference_steps: int,
    seed: int = 0,
    batch_size: int = 50,
) -> Tensor:
    """Images of prompts by the stock pipeline: float32[N, 3, H, W] in [0, 1].

    Args:
        t2i: The model.
        prompts: Texts.
        guidance_scale: Of classifier-free guidance against the empty prompt; 1 is none.
        num_inference_steps: Steps of the model's own scheduler.
        seed: The start noise of image i is drawn from ``seed + i``.
        batch_size: Images a call.
    """
    if not prompts:
        raise ConfigError("there are no prompts to draw")
    empty = t2i.condition("")
    made = []
    for start in range(0, len(prompts), batch_size):
        texts = list(prompts[start : start + batch_size])
        branches = text_free_guidance(t2i.condition(texts), None, 1.0, empty=empty, guidance=guidance_scale)
        seeds = range(seed + start, seed + start + len(texts))
        made.append(generate(t2i, branches, seeds=seeds, num_inference_steps=num_inference_steps).cpu())
    return torch.cat(made)


def obedience(reader: Reader, images: Sequence[Any] | np.ndarray, prompts: Prompts) -> dict[str, np.ndarray]:
    """Accuracy of every factor that a caption can name, image by image, float64[N] each."""
    scores = score_factors_per_image(reader.read(images), prompts.factors)
    return {name: scores[name] for name in NAMEABLE}
