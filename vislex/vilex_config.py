"""``ViLexConfig``: the config of a ViLex encoder, how it was trained, and which text-to-image model it speaks to."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vislex.hub import check_config, drop_unknown_keys

__all__ = ["ViLexConfig"]


class ViLexConfig(PreTrainedConfig):
    """Config of a ``ViLex``.

    Attributes:
        encoder_config: Config of the ``ViLexEncoder``: backbone, pooling, heads.
        t2i: The frozen text-to-image model: ``{"pipeline": str, "source": {"kind", "location", "revision",
            "sha256"}}``. It is attached to the model, verified, and never saved with it.
        tail_drop: How many tokens a training step keeps; see ``vislex.modules.tail_drop.keep_counts``.
        order: "visual_first" or "text_first": where the words of a prompt stand.
        inject: "input": the text encoder reads the tokens (ViLex); "output": they stand past it, for comparison.
        caption_dropout: Probability that a training step leaves an image's caption out, where captions are given.
        objective: Arguments of ``ReconstructionObjective`` that are not its defaults.
        estimator: Of discrete tokens: "straight_through" or "gumbel".
        temperature: Of discrete tokens: softmax temperature at the start and at the end of a training.
    """

    model_type = "vislex_vilex"
    sub_configs_defaults = {  # noqa: RUF012
        "encoder_config": SubConfigSpec(AutoConfig, model_type="vislex_vilex_encoder")
    }

    encoder_config: PreTrainedConfig | dict[str, Any] | None = None
    t2i: dict[str, Any] | None = None
    tail_drop: str = "uniform"
    order: str = "visual_first"
    inject: str = "input"
    caption_dropout: float = 0.1
    objective: dict[str, Any] | None = None
    estimator: str = "straight_through"
    temperature: list[float] | tuple[float, ...] = (2.0, 0.3)

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
        """Plain JSON values, without what ``from_dict`` would refuse."""
        import vislex.auto  # noqa: F401

        return drop_unknown_keys(super().to_dict())
