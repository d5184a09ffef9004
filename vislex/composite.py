"""What models made of parts share: one config over theirs, parts saved by reference, loading that verifies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from vislex.encoders.base import VisionEncoder, kept_attention
from vislex.encoders.factory import rebuild_encoder
from vislex.errors import CheckpointError
from vislex.hub import check_config, drop_unknown_keys, open_checkpoint, read_notes

__all__ = [
    "CompositeConfig",
    "CompositeModel",
    "encoder_is_its_source",
    "join_configs",
    "load_encoder_from_source",
    "not_none",
    "same_weights",
]


class CompositeConfig(PreTrainedConfig):
    """Base of the configs of models made of parts.

    Attributes:
        parts: How each part is saved: ``{"encoder": {"by": "value" | "reference"}, ...}``. A referenced part is built
            again from its record's ``source`` and checked against its ``sha256``.
    """

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


class CompositeModel(PreTrainedModel):
    """Base of the models made of parts.

    Attributes:
        processor: Saved beside the model.
        card_notes: Markdown that goes into the model card on saving; that of the folder which was loaded.
    """

    config: CompositeConfig
    kind: ClassVar[str]  # what errors call it
    processor_class: ClassVar[type[ProcessorMixin]]
    processor: Any = None
    card_notes: str = ""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Loads a model: a folder, a hub id; referenced parts come from their source and are verified.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            *args: See ``PreTrainedModel.from_pretrained``.
            **kwargs: See there. ``dtype`` is float32 unless it is given, whatever the weights were saved in; "auto"
                takes theirs.

        Raises:
            CheckpointError: If weights are missing, a config carries what no checkpoint may, or the source of a
                referenced part is gone or has changed.
        """
        import vislex.auto  # noqa: F401

        where = pretrained_model_name_or_path
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("dtype", torch.float32)
        load = super().from_pretrained
        with torch.random.fork_rng(devices=[]):  # transformers draws what it does not find, before it is replaced
            model, info = open_checkpoint(load, where, *args, what=cls.kind, **kwargs)
        model.load_references()
        model.processor = cls.processor_class.from_pretrained(where, trust_remote_code=False)
        model.card_notes = read_notes(where)
        return (model, info) if wants_info else model

    def load_references(self) -> None:
        """Fetches the parts that the checkpoint names without holding them."""
        if self.config.saved_by_reference("encoder"):
            load_encoder_from_source(self.encoder)


ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)


def join_configs(config_class: type[ConfigT], parts: Mapping[str, PreTrainedModel], **fields: Any) -> ConfigT:
    """The config over those of built parts, ``{"encoder": encoder}`` becomes ``encoder_config``; they keep theirs."""
    with kept_attention(*parts.values()):
        return config_class(**{f"{name}_config": part.config for name, part in parts.items()}, **fields)


def encoder_is_its_source(encoder: VisionEncoder) -> bool:
    """Whether an encoder is frozen and can be had again, bit for bit, from where it came."""
    config = encoder.config
    if not (config.name and (config.source or {}).get("sha256")):
        return False
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        return False
    try:
        return same_weights(encoder, rebuild_encoder(config))
    except CheckpointError:
        return False


def same_weights(model: PreTrainedModel, source: PreTrainedModel) -> bool:
    """Whether a model holds the weights of another, in its own number format."""
    own, theirs = model.state_dict(), source.state_dict()
    return own.keys() == theirs.keys() and all(
        torch.equal(value.cpu(), theirs[name].to(value.dtype)) for name, value in own.items()
    )


def load_encoder_from_source(encoder: VisionEncoder) -> None:
    """Puts the weights of its source into an encoder and freezes it.

    Raises:
        CheckpointError: If they are gone, have changed, or do not fit.
    """
    source = rebuild_encoder(encoder.config)
    try:
        encoder.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of '{encoder.config.name}' do not fit the encoder that this captioner was trained "
            f"with: {str(error).splitlines()[-1].strip()}"
        ) from error
    encoder.requires_grad_(False)


def not_none(**inputs: Any) -> dict[str, Any]:
    """The inputs that are not None."""
    return {name: value for name, value in inputs.items() if value is not None}
