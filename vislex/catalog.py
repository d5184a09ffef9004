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

SCORERS: dict[str, Row] = {
    "scene-f1": ("vislex.metrics.scene:score_scenes", "captions read back and checked against the suite's factors", {}),
}

RECIPES: dict[str, Row] = {}

SUITES: dict[str, Row] = {
    "openmoji": (
        "vislex.data.openmoji.suite:load",
        "scenes of emoji drawings by two artists: captions, VQA, referring segmentation, images",
        {},
    ),
}

CATALOG: dict[str, dict[str, Row]] = {
    "encoders": ENCODERS,
    "connectors": CONNECTORS,
    "decoders": DECODERS,
    "scorers": SCORERS,
    "recipes": RECIPES,
    "suites": SUITES,
}
