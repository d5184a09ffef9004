"""Registers vislex's models with transformers' Auto classes: ``import vislex.auto`` is all that is needed.

``import vislex`` stays light, so that this is a module of its own. Afterwards ``AutoConfig``, ``AutoModel`` (encoders,
connectors, decoders, captioners, vision-language models), ``AutoModelForImageTextToText``, ``AutoProcessor`` and
``pipeline("image-text-to-text")`` open what vislex saved, plug-ins included.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from vislex.errors import VislexError
from vislex.registry import Entry, registry

__all__ = ["register"]

logger = logging.getLogger(__name__)


@functools.cache
def register() -> None:
    """Registers every encoder, decoder and connector of the catalog and of plug-ins, and what is made of them."""
    from vislex.adapters.vlm import VisionLanguageModel
    from vislex.adapters.vlm_config import VisionLanguageConfig
    from vislex.adapters.vlm_processing import VisionLanguageProcessor
    from vislex.captioner import Captioner
    from vislex.captioner_config import CaptionerConfig
    from vislex.captioner_processing import CaptionProcessor
    from vislex.decoders.ladic.codec import LatentCodec, LatentCodecConfig
    from vislex.metrics.reader import Reader, ReaderConfig
    from vislex.segmentation.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
    from vislex.vilex import ViLex
    from vislex.vilex_config import ViLexConfig

    for kind in ("encoders", "decoders", "connectors"):
        for entry in {entry.target: entry for entry in registry(kind)}.values():
            try:
                part = entry.load()
                _check(entry, part)
            except VislexError as error:
                if entry.origin == "vislex":
                    raise
                logger.warning("a plug-in cannot be used: %s", error)
                continue
            AutoConfig.register(part.config_class.model_type, part.config_class, exist_ok=True)
            AutoModel.register(part.config_class, part, exist_ok=True)
    for entry in registry("hosts"):
        try:
            family = entry.load()
            if not hasattr(family, "tower_class"):
                raise VislexError(f"'{entry.name}' ({entry.origin}) points to '{entry.target}': no host family")
        except VislexError as error:
            if entry.origin == "vislex":
                raise
            logger.warning("a plug-in cannot be used: %s", error)
            continue
        tower, swapped, images = family.tower_class, family.swapped_class, family.image_processor_class
        AutoConfig.register(tower.config_class.model_type, tower.config_class, exist_ok=True)
        AutoModel.register(tower.config_class, tower, exist_ok=True)
        if images is not None:
            AutoImageProcessor.register(
                tower.config_class, image_processor_classes={"torchvision": images}, exist_ok=True
            )
        if swapped is not None:
            AutoConfig.register(swapped.config_class.model_type, swapped.config_class, exist_ok=True)
            AutoModelForImageTextToText.register(swapped.config_class, swapped, exist_ok=True)
    for config, model in (
        (LatentCodecConfig, LatentCodec),
        (MaskTokenizerConfig, MaskTokenizer),
        (ReaderConfig, Reader),
        (ViLexConfig, ViLex),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    wholes: tuple[tuple[Any, Any, Any], ...] = (
        (CaptionerConfig, Captioner, CaptionProcessor),
        (VisionLanguageConfig, VisionLanguageModel, VisionLanguageProcessor),
    )
    for config, model, processor in wholes:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)
        AutoProcessor.register(config, processor, exist_ok=True)


def _check(entry: Entry, part: object) -> None:
    """Refuses what is no model class: it would otherwise break the loading of every other part."""
    if not (isinstance(part, type) and hasattr(part, "config_class")):
        raise VislexError(f"'{entry.name}' ({entry.origin}) points to '{entry.target}', which is no model class")


register()
