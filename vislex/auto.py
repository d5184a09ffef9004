"""Registers vislex's models with transformers' Auto classes: ``import vislex.auto`` is all that is needed.

``import vislex`` stays light, so that this is a module of its own. Afterwards ``AutoConfig``, ``AutoModel`` (encoders,
decoders, captioners), ``AutoModelForImageTextToText``, ``AutoProcessor`` and ``pipeline("image-text-to-text")`` open
what vislex saved, plug-ins included.
"""

from __future__ import annotations

import functools
import logging

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from vislex.errors import VislexError
from vislex.registry import Entry, registry

__all__ = ["register"]

logger = logging.getLogger(__name__)


@functools.cache
def register() -> None:
    """Registers every encoder and decoder of the catalog and of installed plug-ins, the captioner and ViLex."""
    from vislex.captioner import Captioner
    from vislex.captioner_config import CaptionerConfig
    from vislex.captioner_processing import CaptionProcessor
    from vislex.decoders.ladic.codec import LatentCodec, LatentCodecConfig
    from vislex.metrics.reader import Reader, ReaderConfig
    from vislex.vilex import ViLex
    from vislex.vilex_config import ViLexConfig

    for kind in ("encoders", "decoders"):
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
    AutoConfig.register(LatentCodecConfig.model_type, LatentCodecConfig, exist_ok=True)
    AutoModel.register(LatentCodecConfig, LatentCodec, exist_ok=True)
    AutoConfig.register(ReaderConfig.model_type, ReaderConfig, exist_ok=True)
    AutoModel.register(ReaderConfig, Reader, exist_ok=True)
    AutoConfig.register(ViLexConfig.model_type, ViLexConfig, exist_ok=True)
    AutoModel.register(ViLexConfig, ViLex, exist_ok=True)
    AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
    AutoModel.register(CaptionerConfig, Captioner, exist_ok=True)
    AutoModelForImageTextToText.register(CaptionerConfig, Captioner, exist_ok=True)
    AutoProcessor.register(CaptionerConfig, CaptionProcessor, exist_ok=True)


def _check(entry: Entry, part: object) -> None:
    """Refuses what is no model class: it would otherwise break the loading of every other part."""
    if not (isinstance(part, type) and hasattr(part, "config_class")):
        raise VislexError(f"'{entry.name}' ({entry.origin}) points to '{entry.target}', which is no model class")


register()
