"""``VisionLanguageConfig``: the configs of encoder, connector and language model, and how each is saved."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vislex.composite import CompositeConfig

__all__ = ["ATTENTIONS", "VisionLanguageConfig"]

ATTENTIONS = ("causal", "prefix")


class VisionLanguageConfig(CompositeConfig):
    """Config of a ``VisionLanguageModel``.

    Attributes:
        encoder_config: Config of the vision encoder.
        connector_config: Config of the connector.
        llm_config: Config of the language model.
        image_token_id: Id that stands for one token of an image in ``input_ids``.
        attention: "causal", or "prefix": images and prompt see each other in both directions, the answer is causal
            (PaliGemma).
        codec: Name of the mask codec that the model was trained to write; None if it was not trained to segment.
        codec_options: Options of the codec.
        mask_head: What the mask head is made of (``MaskHeadSettings``); None if the model has none.
    """

    model_type = "vislex_vlm"
    sub_configs_defaults = {  # noqa: RUF012
        "encoder_config": SubConfigSpec(AutoConfig, model_type="vislex_hf"),
        "connector_config": SubConfigSpec(AutoConfig, model_type="vislex_connector_mlp"),
        "llm_config": SubConfigSpec(AutoConfig, model_type="llama"),
    }

    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    connector_config: PreTrainedConfig | dict[str, Any] | None = None
    llm_config: PreTrainedConfig | dict[str, Any] | None = None
    image_token_id: int = 0
    attention: str = "causal"
    codec: str | None = None
    codec_options: dict[str, Any] | None = None
    mask_head: dict[str, Any] | None = None

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """Config of the language model, which generation sizes its cache by."""
        return self.llm_config if isinstance(self.llm_config, PreTrainedConfig) else self
