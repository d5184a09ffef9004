"""The arms of the comparison of LaDiC with autoregression, and the ways in which each writes its captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CONTENDERS", "TEACHER", "Contender", "ways"]

TEACHER = "cross_attention"
TEACHER_OPTIONS = {"num_beams": 4}


@dataclass(frozen=True)
class Contender:
    """One training.

    Attributes:
        name: Of its rows.
        decoder: Name of its decoder.
        options: Of the decoder, beside its sizes.
        equal: Whether it sees as many samples as LaDiC, or trains as long.
        is_student: Whether it learns from the teacher's captions.
    """

    name: str
    decoder: Literal["ladic", "cross_attention", "prefix", "masked"]
    options: Mapping[str, Any] = field(default_factory=dict)
    equal: Literal["samples", "time"] = "samples"
    is_student: bool = False

    @property
    def is_ladic(self) -> bool:
        return self.decoder == "ladic"

    @property
    def is_autoregressive(self) -> bool:
        return self.decoder in ("cross_attention", "prefix")


CONTENDERS = {
    arm.name: arm
    for arm in (
        Contender("cross_attention", "cross_attention"),  # first: it is the teacher
        Contender("prefix", "prefix"),
        Contender("ladic", "ladic"),
        Contender("masked", "masked"),
        Contender("ladic distilled", "ladic", is_student=True),
        Contender("ladic skewed, distilled", "ladic", {"time_skew": 6.0}, is_student=True),
        Contender("cross_attention distilled", "cross_attention", is_student=True),
        Contender("cross_attention minilm", "cross_attention", {"word_embeddings": "minilm"}),
        Contender("cross_attention equal time", "cross_attention", equal="time"),
        Contender("prefix equal time", "prefix", equal="time"),
    )
}

_LADIC = {"sampler": "dpmsolver++", "num_inference_steps": 8, "guidance_scale": 0.0}
_RENOISE = {**_LADIC, "sampler": "renoise", "num_inference_steps": 16}
_WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "autoregressive": {
        "greedy": {},
        "beam 4": {"num_beams": 4},
        "consensus of 8": {"num_candidates": 8, "do_sample": True},
        "consensus of 8, temperature 0.5": {"num_candidates": 8, "do_sample": True, "temperature": 0.5},
    },
    "ladic": {
        "8 steps": _LADIC,
        "8 guided steps": {**_LADIC, "guidance_scale": 1.0},
        "30 steps": {**_LADIC, "num_inference_steps": 30},
        "16 steps, renoised": {**_RENOISE, "temperature": 0.5},
        "consensus of 8": {**_LADIC, "num_candidates": 8, "temperature": 1.0},
        "consensus of 8, temperature 0.5": {**_LADIC, "num_candidates": 8, "temperature": 0.5},
        "consensus of 8, renoised": {**_RENOISE, "num_candidates": 8, "temperature": 0.7},
    },
    "skewed": {
        "8 steps, one after the other": {**_LADIC, "time_skew": 4.0},
        "30 steps, one after the other": {**_LADIC, "num_inference_steps": 30, "time_skew": 4.0},
        "16 steps, renoised, one after the other": {**_RENOISE, "temperature": 0.5, "time_skew": 4.0},
    },
    "masked": {
        "8 steps": {"num_inference_steps": 8},
        "16 steps": {"num_inference_steps": 16},
        "8 steps, 3 lengths": {"num_inference_steps": 8, "num_lengths": 3},
        "consensus of 8, temperature 0.5": {"num_inference_steps": 8, "num_candidates": 8, "temperature": 0.5},
    },
}


def ways(arm: Contender) -> dict[str, dict[str, Any]]:
    """Options of ``generate`` by name; the best one on val stands for the arm."""
    own = _WAYS["autoregressive" if arm.is_autoregressive else arm.decoder]
    return {**own, **_WAYS["skewed"]} if "time_skew" in arm.options else own
