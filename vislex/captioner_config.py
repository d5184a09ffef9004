"""``CaptionerConfig``: the configs of a captioner's parts, and how each part is saved."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vislex.hub import check_config, drop_unknown_keys

__all__ = ["CaptionerConfig"]


class CaptionerConfig(PreTrainedConfig):
    """Config of a ``Captioner``.

    Attributes:
        encoder_config: Config of the encoder.
        decoder_config: Config of the decoder.
        parts: How each part is saved: ``{"encoder": {"by": "value" | "reference"}, ...}``. A referenced part is built
            again from its own config's ``source`` and checked against its ``sha256``.
    """

    model_type = "vislex_captioner"
    sub_configs_defaults = {  # noqa: RUF012
        "encoder_config": SubConfigSpec(AutoConfig, model_type="vislex_timm"),
        "decoder_config": SubConfigSpec(AutoConfig, model_type="vislex_cross_attention"),
    }

    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    decoder_config: PreTrainedConfig | dict[str, Any] | None = None
    parts: dict[str, dict[str, Any]] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds the config of a checkpoint; every way of loading one comes through here.

        Raises:
            CheckpointError: If it carries what no checkpoint may (see ``vislex.hub.check_config``).
        """
        import vislex.auto  # noqa: F401  (the nested model types must be known)

        check_config(config_dict)
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what ``from_dict`` would refuse, such as ``use_cache``, which a Trainer sets."""
        import vislex.auto  # noqa: F401

        return drop_unknown_keys(super().to_dict())

    def saved_by_reference(self, part: str) -> bool:
        """Whether the checkpoint holds only the name and digest of a part."""
        return (self.parts or {}).get(part, {}).get("by") == "reference"
