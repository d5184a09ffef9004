"""``create_encoder``: one name, one encoder; and the same again from its record."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig
from vislex.encoders.sources import is_untrained, untrained_source
from vislex.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from vislex.modules.digest import weights_digest
from vislex.registry import registry

__all__ = ["create_encoder", "encoder_class", "rebuild_encoder"]


def create_encoder(
    name: str, *, pretrained: bool = False, tiny: bool = False, seed: int | None = None, **options: Any
) -> VisionEncoder:
    """Builds a vision encoder, in eval mode.

    Args:
        name: A name of ``list_encoders()`` ("siglip-tiny"), or ``timm:NAME``, ``hf:ORG/REPO``, ``hf:DIR``,
            ``vae:ORG/REPO``, ``vae:DIR``, ``fused:A+B``.
        pretrained: Whether to load weights; otherwise they are random, drawn from torch's global generator.
        tiny: Whether to build the small variant that tests use (catalog names only).
        seed: Draws the random weights from this seed instead, leaves the global generator as it was, and records
            where they came from: a captioner with this encoder frozen then saves the seed, not the weights.
        **options: Options of the encoder's ``create``, over those of its catalog row: ``layer``, ``image_size``, ...

    Raises:
        UnknownNameError: With the nearest names.
        ConfigError: If an option is unknown or does not fit.
        CheckpointError: If weights are missing or contradict the row.
    """
    if seed is not None:
        if pretrained or not 0 <= seed < 2**63:
            raise ConfigError(
                f"'{name}': seed={seed} draws random weights; it must be 0 or more, without pretrained=True"
            )
        with torch.random.fork_rng(devices=[]):
            encoder = create_encoder(name, tiny=tiny, **options)
        encoder = _drawn_from(seed, encoder.config)
        encoder.config.source = untrained_source(seed, weights_digest(encoder))
        return encoder
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


def rebuild_encoder(config: VisionEncoderConfig) -> VisionEncoder:
    """Builds an encoder again with the weights that its config's ``source`` records, and verifies them.

    Raises:
        CheckpointError: If the source is gone, or does not give the weights that its digest was taken of.
    """
    source = config.source or {}
    recorded = source.get("sha256")
    if not is_untrained(config):
        encoder = create_encoder(str(config.name), pretrained=True)
        if (found := (encoder.config.source or {}).get("sha256")) != recorded:
            raise CheckpointError(
                f"the weights of '{config.name}' have changed since the captioner was saved (sha256 {found}, recorded "
                f"{recorded}); restore the file, or save the captioner with standalone=True next time"
            )
        return encoder
    seed = source.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise CheckpointError(f"the untrained encoder '{config.name}' records the seed {seed!r}; it must be 0 or more")
    encoder = _drawn_from(seed, config)
    if (found := weights_digest(encoder)) != recorded:
        raise CheckpointError(
            f"seed {seed} draws other random weights of '{config.name}' here (torch {torch.__version__}, "
            f"sha256 {found}) than where the captioner was saved ({source.get('revision')}, sha256 {recorded}); use "
            "that version of torch on the same kind of processor, or save the captioner there with standalone=True"
        )
    return encoder


def _drawn_from(seed: int, config: VisionEncoderConfig) -> VisionEncoder:
    """An encoder in eval mode whose random weights follow from config, seed and torch alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder: VisionEncoder = encoder_class(config.model_type)(copy.deepcopy(config))
    return encoder.eval()


def encoder_class(model_type: str) -> type[VisionEncoder]:
    """The registered encoder class whose config has a ``model_type``.

    Raises:
        UnknownNameError: If none has.
    """
    import vislex.auto  # noqa: F401  (every encoder of the catalog and of plug-ins)

    found = MODEL_MAPPING.get(CONFIG_MAPPING[model_type], None) if model_type in CONFIG_MAPPING else None
    if not (isinstance(found, type) and issubclass(found, VisionEncoder)):
        raise UnknownNameError(f"no registered encoder saves the model_type '{model_type}'; is its package installed?")
    return found
