"""Equal parameters: the width inside the MLPs that gives every decoder as many trained parameters as another.

Counted on the meta device, before any training; a comparison whose arms differ by more than 5 % is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from vislex.decoders.base import CaptionDecoder
from vislex.decoders.budget import decoder_parameters
from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec, LatentCodecConfig
from vislex.decoders.ladic.config import LadicConfig
from vislex.errors import ConfigError
from vislex.recipes.ladic_codec import LadicCodecConfig
from vislex.specs import EncoderSpec
from vislex.text import minilm_folder, special_tokens

__all__ = ["TOLERANCE", "Fitted", "check_equal", "count", "fit", "planned_codec", "trained_parameters"]

TOLERANCE = 0.05
STEP = 8  # widths inside the MLPs are multiples of this


@dataclass(frozen=True)
class Fitted:
    """A decoder's size.

    Attributes:
        intermediate_size: Width inside its MLPs.
        counts: Of ``decoder_parameters``.
    """

    intermediate_size: int
    counts: dict[str, int]

    @property
    def budget(self) -> int:
        return self.counts["decoder_budget"]


def planned_codec(config: LadicCodecConfig, tokenizer: PreTrainedTokenizerFast) -> LatentCodec:
    """The codec that a training will give, on the meta device: its sizes without its weights."""
    source = minilm_folder() if config.text_model == "minilm" else config.text_model
    text_config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    split = text_config.num_hidden_layers // 2 if config.split_layer is None else config.split_layer
    left = text_config.num_hidden_layers - split
    special = special_tokens(tokenizer)
    planned = LatentCodecConfig(
        text_config=text_config,
        split_layer=split,
        decoder_layers=left if config.decoder_layers is None else config.decoder_layers,
        vocab_size=len(tokenizer),
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
    )
    with torch.device("meta"):
        codec = LatentCodec(planned)
    codec.tokenizer = tokenizer
    return codec


def count(
    decoder: str, spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, options: Mapping[str, Any]
) -> dict[str, int]:
    """Parameters of a decoder with its codec, if it has one, frozen.

    Args:
        decoder: Name.
        spec: Of the encoder.
        tokenizer: Of the captions.
        options: Of ``create_decoder``; ``codec`` may be a planned one.
    """
    codec = options.get("codec")
    if isinstance(codec, LatentCodec) and codec.device.type == "meta":  # it holds no latents to measure
        options = {"log_snr": LadicConfig.log_snr, **options}
    with torch.device("meta"):
        made = create_decoder(decoder, spec, tokenizer, **options)
    return trained_parameters(made)


def trained_parameters(decoder: CaptionDecoder) -> dict[str, int]:
    """``decoder_parameters`` of a decoder all of which is trained but its codec, if it has one."""
    decoder.requires_grad_(True)
    if isinstance(codec := getattr(decoder, "codec", None), LatentCodec):
        codec.requires_grad_(False)
    return decoder_parameters(decoder)


def fit(
    decoder: str,
    spec: EncoderSpec,
    tokenizer: PreTrainedTokenizerFast,
    options: Mapping[str, Any],
    *,
    target: int | None = None,
) -> Fitted:
    """The width inside the MLPs that brings a decoder nearest to a number of trained parameters.

    Args:
        decoder: Name.
        spec: Of the encoder.
        tokenizer: Of the captions.
        options: Of ``create_decoder``, with ``hidden_size``.
        target: Trained parameters without embeddings; None leaves the width as it is.
    """

    def counts(size: int) -> dict[str, int]:
        return count(decoder, spec, tokenizer, {**options, "intermediate_size": size})

    size = int(options.get("intermediate_size") or 4 * options["hidden_size"])
    if target is not None:  # the count is linear in the width
        own = counts(size)["decoder_budget"]
        slope = (counts(size + STEP)["decoder_budget"] - own) / STEP
        size = max(STEP, STEP * round((size + (target - own) / slope) / STEP))
    return Fitted(size, counts(size))


def check_equal(budgets: Mapping[str, int], tolerance: float = TOLERANCE) -> None:
    """Refuses arms whose trained parameters differ by more than ``tolerance`` of the smallest.

    Raises:
        ConfigError: With every arm's number.
    """
    least, most = min(budgets.values()), max(budgets.values())
    if most > math.floor(least * (1 + tolerance)):
        listed = ", ".join(f"{name} {number:,}" for name, number in budgets.items())
        raise ConfigError(
            f"the arms' trained parameters differ by {most / least - 1:.1%}, {tolerance:.0%} are allowed ({listed}); "
            "choose other sizes, or leave out the arm that does not fit"
        )
