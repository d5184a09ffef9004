"""``create_encoder``: one name, one encoder; and the Auto classes of every registered encoder."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import AutoConfig, AutoModel

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig
from vislex.errors import ConfigError, UnknownNameError, VislexError, did_you_mean
from vislex.registry import registry

__all__ = ["auto_classes", "create_encoder", "encoder_class", "register_auto"]

logger = logging.getLogger(__name__)


def create_encoder(name: str, *, pretrained: bool = False, tiny: bool = False, **options: Any) -> VisionEncoder:
    """Builds a vision encoder, in eval mode.

    Args:
        name: A name of ``list_encoders()`` ("siglip-tiny"), or ``timm:NAME``, ``hf:ORG/REPO``, ``hf:DIR``,
            ``vae:ORG/REPO``, ``vae:DIR``, ``fused:A+B``.
        pretrained: Whether to load weights; otherwise they are random, drawn from torch's global generator.
        tiny: Whether to build the small variant that tests use (catalog names only).
        **options: Options of the encoder's ``create``, over those of its catalog row: ``layer``, ``image_size``, ...

    Raises:
        UnknownNameError: With the nearest names.
        ConfigError: If an option is unknown or does not fit.
        CheckpointError: If weights are missing or contradict the row.
    """
    entry, source = registry("encoders").resolve(name)
    target = entry.load()
    parameters = inspect.signature(target.create).parameters
    known = {key for key, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}
    takes_any = not known - {"pretrained", "tiny"} and any(
        value.kind is inspect.Parameter.VAR_KEYWORD for value in parameters.values()
    )
    for option in options:
        if option not in known and not takes_any:
            raise ConfigError(
                f"unknown option '{option}' of the encoder '{name}'{did_you_mean(option, known)} "
                f"Options: {', '.join(sorted(known - {'pretrained', 'tiny'}))}"
            )
    row = _row_options(entry.options, tiny)
    encoder = target.create(source, pretrained=pretrained, tiny=tiny, **{**row, **options})
    encoder.config.name = name
    return encoder.eval()


def _row_options(options: Mapping[str, Any], tiny: bool) -> dict[str, Any]:
    """A row's options without its ``tiny`` entry, which is merged into them (nested dicts too) if ``tiny``."""
    merged = {key: value for key, value in options.items() if key != "tiny"}
    for key, value in (options.get("tiny", {}) if tiny else {}).items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if nested else value
    return merged


def encoder_class(model_type: str) -> type[VisionEncoder]:
    """The registered encoder class whose config has a ``model_type``.

    Raises:
        UnknownNameError: If none has.
    """
    for target in _targets():
        if target.config_class.model_type == model_type:
            return target
    raise UnknownNameError(f"no registered encoder saves the model_type '{model_type}'; is its package installed?")


def auto_classes() -> list[tuple[type[VisionEncoderConfig], type[VisionEncoder]]]:
    """Config and model class of every registered encoder, each pair once."""
    pairs: dict[type[VisionEncoderConfig], type[VisionEncoder]] = {}
    for target in _targets():
        pairs.setdefault(target.config_class, target)
    return list(pairs.items())


def register_auto() -> None:
    """Makes ``AutoConfig`` and ``AutoModel`` open every registered encoder; may be called again."""
    for config_class, model_class in auto_classes():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)


def _targets() -> Iterator[type[VisionEncoder]]:
    """The classes behind the registry, one after the other; a plug-in that cannot be imported is warned of."""
    seen = set()
    for entry in registry("encoders"):
        if entry.target in seen:
            continue
        seen.add(entry.target)
        try:
            yield entry.load()
        except VislexError as error:
            if entry.origin == "vislex":
                raise
            logger.warning("a plug-in cannot be used: %s", error)
