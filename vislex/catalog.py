"""The parts that vislex ships, one table a kind: name -> (target, one line of text, options).

Strings are not imports: reading this module loads nothing. ``options`` are the keyword arguments that belong to the
name (an encoder's architecture, image size, mean and std, and its ``tiny`` override for tests).
"""

from __future__ import annotations

from typing import Any

__all__ = ["CATALOG"]

Row = tuple[str, str, dict[str, Any]]

ENCODERS: dict[str, Row] = {}

CONNECTORS: dict[str, Row] = {}

DECODERS: dict[str, Row] = {}

SCORERS: dict[str, Row] = {}

RECIPES: dict[str, Row] = {}

SUITES: dict[str, Row] = {
    "coco": ("vislex.data.coco:load", "COCO captions in Karpathy's splits, from a folder or a hub id", {}),
    "flickr30k": ("vislex.data.flickr30k:load", "Flickr30k captions, from a folder or a hub id", {}),
    "folder": ("vislex.data.folder:load", "your own images with captions.jsonl", {}),
    "localized_narratives": (
        "vislex.data.localized_narratives:load",
        "Localized Narratives (long captions), from a folder or a hub id",
        {},
    ),
    "nocaps": ("vislex.data.nocaps:load", "NoCaps by domain, from a folder or a hub id", {}),
    "textcaps": ("vislex.data.textcaps:load", "TextCaps, from a folder or a hub id", {}),
}

CATALOG: dict[str, dict[str, Row]] = {
    "encoders": ENCODERS,
    "connectors": CONNECTORS,
    "decoders": DECODERS,
    "scorers": SCORERS,
    "recipes": RECIPES,
    "suites": SUITES,
}
