"""The three LaDiCs: ``released`` (with its faults), ``paper`` (the method as described), ``fast`` (for use)."""

from __future__ import annotations

from typing import Any

from vislex.errors import ConfigError, did_you_mean

__all__ = ["PRESETS", "preset"]

_PAPER: dict[str, Any] = {
    "pre_norm": False,
    "time_embedding": "table",
    "self_conditioning": "concat",
    "preconditioning": "none",
    "neighbours": False,
    "latent_loss": "l2",
    "length": "fixed",
    "keep_words": 0.0,
    "noise_factor": 4.0,
    "time_shift": 5,
    "dropout": 0.1,
    # No word is trained with a time of its own (keep_words), so none is told one.
    "sampling": {
        "sampler": "renoise",
        "num_inference_steps": 30,
        "guidance_scale": 1.0,
        "refine_at": 0.5,
        "token_times": False,
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    # The raw form of the noise with another factor in sampling than in training, no Back&Refine, "30 steps" that are a
    # stride, a norm of the times that training never had, image tokens as the ViT gives them, and words at the places
    # of [CLS] and [SEP]. What its codec does otherwise is in ``LatentCodecConfig``: ``decoder_layers=0`` and
    # ``normalize_stop=False``. Repeated pieces are not merged: the release merges those that all captions of a batch
    # share, which at the size of its batches are the full stops at the end.
    "released": _PAPER
    | {
        "layer_norm_eps": 1e-12,
        "time_norm": "evaluation",
        "vision_projection": False,
        "fixed_ends": False,
        "variance_preserving": False,
        "sampling_noise_factor": 1.0,
        "sampling": {"sampler": "renoise", "stride": 30, "guidance_scale": 1.0, "token_times": False},
    },
    "fast": {
        "pre_norm": False,
        "time_embedding": "add",
        "self_conditioning": "project",
        "preconditioning": "tokens",
        "neighbours": True,
        "latent_loss": "mse",
        "length": "predicted",
        "keep_words": 0.25,
        "noise_schedule": "logistic",
        "token_weight": 4.0,
        "noise_factor": 1.6,
        "sampling": {"sampler": "dpmsolver++", "num_inference_steps": 8, "guidance_scale": 0.0, "temperature": 0.3},
    },
}


def preset(name: str) -> dict[str, Any]:
    """Fields of ``LadicConfig`` that a preset sets.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}")
    return dict(PRESETS[name])
