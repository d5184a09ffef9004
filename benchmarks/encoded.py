"""Captions from images that are encoded once: what is measured again and again with other options of ``generate``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.captioning import score
from vislex.captioner import Captioner
from vislex.specs import VisionTokens

__all__ = ["Decoded", "decode", "decode_and_score", "encode"]

KEPT = ("CIDEr-D", "scene-F1")  # per-image scores of a row: what intervals are taken of


@dataclass(frozen=True)
class Decoded:
    """Captions of a data set.

    Attributes:
        captions: In the order of the data.
        evaluations: Network evaluations of each.
        seconds: Wall time of the decoding.
    """

    captions: list[str]
    evaluations: list[int]
    seconds: float


@torch.inference_mode()
def encode(captioner: Captioner, data: CaptionData, batch_size: int) -> list[VisionTokens]:
    """The vision tokens of all images, a batch an entry."""
    assert captioner.processor is not None
    batches = []
    for chunk in data.chunks(batch_size):
        inputs = captioner.processor(chunk).to(captioner.device)
        batches.append(captioner.encode(**inputs))
    return batches


@torch.inference_mode()
def decode(captioner: Captioner, batches: Sequence[VisionTokens], **options: Any) -> Decoded:
    """Captions encoded images.

    Args:
        captioner: Whose encoder encoded them, or another with the same encoder.
        batches: Of ``encode``.
        **options: Of the decoder's ``generate``.
    """
    assert captioner.processor is not None
    decoder = captioner.decoder
    captions: list[str] = []
    evaluations: list[int] = []
    started = time.perf_counter()
    for vision in batches:
        places = torch.arange(len(captions), len(captions) + len(vision.tokens))
        ids = decoder.generate(vision_tokens=vision, indices=places, **options)
        captions += captioner.processor.decode_captions(ids)
        assert decoder.evaluations is not None
        evaluations += decoder.evaluations.tolist()
    return Decoded(captions, evaluations, time.perf_counter() - started)


def decode_and_score(
    captioner: Captioner, batches: Sequence[VisionTokens], data: CaptionData, **options: Any
) -> dict[str, Any]:
    """Captions encoded images and scores the captions: the values of a row.

    Args:
        captioner: See ``decode``.
        batches: Of ``encode``.
        data: Images and references.
        **options: Of the decoder's ``generate``.

    Returns:
        "scores", "per_image", mean "evaluations" a caption, "seconds" of the decoding, the first "examples".
    """
    made = decode(captioner, batches, **options)
    scores, per_image = score(dict(zip(data.record.ids, made.captions, strict=True)), data)
    return {
        "scores": scores,
        "per_image": {name: per_image[name] for name in KEPT if name in per_image},
        "evaluations": float(np.mean(made.evaluations)),
        "seconds": round(made.seconds, 3),
        "examples": made.captions[:8],
    }
