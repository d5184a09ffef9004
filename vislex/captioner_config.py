"""``CaptionerConfig``: the configs of a captioner's parts, and how each part is saved."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vislex.composite import CompositeConfig

__all__ = ["CaptionerConfig"]


class CaptionerConfig(CompositeConfig):
    """Config of a ``Captioner``.

    Attributes:
        encoder_config: Config of the encoder.
        decoder_config: Config of the decoder.
    """

    model_type = "vislex_captioner"
    sub_configs_defaults = {  # noqa: RUF012
        "encoder_config": SubConfigSpec(AutoConfig, model_type="vislex_timm"),
        "decoder_config": SubConfigSpec(AutoConfig, model_type="vislex_cross_attention"),
    }

    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    decoder_config: PreTrainedConfig | dict[str, Any] | None = None
