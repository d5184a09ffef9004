"""Captions from images that are encoded once: what is measured again and again with other options of ``generate``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vislex.benchmarks.caption_data import CaptionData
from vislex.captioner import Captioner
from vislex.specs import VisionTokens

__all__ = ["Decoded", "decode", "encode"]


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
        own = {"indices": places} if decoder.draws_noise else {}
        captions += captioner.processor.decode_captions(decoder.generate(vision_tokens=vision, **own, **options))
        assert decoder.evaluations is not None
        evaluations += decoder.evaluations.tolist()
    return Decoded(captions, evaluations, time.perf_counter() - started)
