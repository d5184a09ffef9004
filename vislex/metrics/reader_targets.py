"""Between factor records and a reader's tensors: what it is trained on, its loss, and what its output says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vislex.data.openmoji.lexicon import BACKGROUNDS as COLOURS
from vislex.data.openmoji.lexicon import CELLS
from vislex.data.openmoji.lexicon import SIZES as SCALES
from vislex.data.openmoji.scenes import MAX_HUE_SHIFT, MAX_ROTATION
from vislex.errors import DataError

__all__ = [
    "ARTISTS", "BACKGROUNDS", "MEASURES", "POSITIONS", "SIZES", "ReaderOutput", "factor_targets", "reader_loss",
    "readings",
]  # fmt: skip

POSITIONS = tuple(CELLS)
SIZES = tuple(SCALES)
BACKGROUNDS = tuple(COLOURS)
ARTISTS = ("openmoji", "twemoji")
# Measured factor -> unit of the network's output.
MEASURES: dict[str, float] = {"x": 1.0, "y": 1.0, "scale": 1.0, "rotation": MAX_ROTATION, "hue": MAX_HUE_SHIFT}
MOST_OBJECTS = 4
_BETA = 0.05  # of the smooth L1 loss: beyond it, errors count linearly


@dataclass
class ReaderOutput:
    """What a reader says; P = 9 places in the order of ``POSITIONS``.

    Attributes:
        concept: Logits float[B, P, 1 + C], the first of "nothing is here".
        size: Logits float[B, P, 3].
        artist: Logits float[B, P, 2].
        measures: x, y, scale, rotation and hue in the units of ``MEASURES``, float[B, P, 5].
        background: Logits float[B, 8].
        shade: Background colour in [0, 1], float[B, 3].
    """

    concept: Tensor
    size: Tensor
    artist: Tensor
    measures: Tensor
    background: Tensor
    shade: Tensor


def factor_targets(factors: Sequence[Mapping[str, Any]], concepts: Sequence[str]) -> dict[str, np.ndarray]:
    """Targets of factor records; P = 9 places.

    Where two objects share a place, which the layout of scenes hardly allows, the one in front counts.

    Args:
        factors: Records as ``Scene.factors`` gives them.
        concepts: The reader's names.

    Returns:
        ``concept`` int64[N, P] (0: nothing is here), ``size`` and ``artist`` int64[N, P], ``measures`` float32[N, P, 5]
        in the units of ``MEASURES``, ``background`` int64[N], ``shade`` float32[N, 3].

    Raises:
        DataError: If a record names a concept that the reader does not know.
    """
    n, places = len(factors), len(POSITIONS)
    number = {name: i + 1 for i, name in enumerate(concepts)}
    concept, size, artist = (np.zeros((n, places), dtype=np.int64) for _ in range(3))
    measures = np.zeros((n, places, len(MEASURES)), dtype=np.float32)
    for i, record in enumerate(factors):
        for item in record["objects"]:
            if item["concept"] not in number:
                raise DataError(
                    f"the reader knows no '{item['concept']}' (it knows {len(concepts)} names); read images of its "
                    "vocabulary, or train one with another: 'vislex train reader vocabulary=...'"
                )
            place = POSITIONS.index(item["position"])
            concept[i, place] = number[item["concept"]]
            size[i, place] = SIZES.index(item["size"])
            artist[i, place] = ARTISTS.index(item["artist"])
            measures[i, place] = [item[name] / unit for name, unit in MEASURES.items()]
    background = np.array([BACKGROUNDS.index(record["background"]) for record in factors], dtype=np.int64)
    shade = np.array([record["background_rgb"] for record in factors], dtype=np.float32).reshape(n, 3) / 255
    named: dict[str, np.ndarray] = {"concept": concept, "size": size, "artist": artist, "measures": measures}
    return {**named, "background": background, "shade": shade}


def reader_loss(output: ReaderOutput, targets: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropies and smooth L1 distances, a mean over objects plus a mean over images: float[].

    Args:
        output: Of a reader.
        targets: Of ``factor_targets``, as tensors.
    """
    concept = targets["concept"]
    there = concept > 0  # [B, P]
    n_objects = there.sum().clamp(min=1)
    loss = F.cross_entropy(output.concept.float().flatten(0, 1), concept.flatten(), reduction="sum") / n_objects
    for name, logits in (("size", output.size), ("artist", output.artist)):
        loss = loss + F.cross_entropy(logits.float()[there], targets[name][there], reduction="sum") / n_objects
    error = F.smooth_l1_loss(output.measures.float()[there], targets["measures"][there], reduction="sum", beta=_BETA)
    loss = loss + error / n_objects + F.cross_entropy(output.background.float(), targets["background"])
    return loss + 3 * F.smooth_l1_loss(output.shade.float(), targets["shade"], beta=_BETA)


def readings(output: ReaderOutput, concepts: Sequence[str], suite: str | None = None) -> list[dict[str, Any]]:
    """What a reader's output says, as factor records.

    An object is read where "something" is likelier than "nothing": at least from the likeliest place, at most from
    four. Its name is the likeliest of all names.
    """
    probabilities = output.concept.float().softmax(dim=-1)
    something = (1 - probabilities[..., 0]).cpu().numpy()  # [B, P]
    names = probabilities[..., 1:].argmax(dim=-1).cpu().numpy()
    sizes, artists, backgrounds = (
        getattr(output, name).argmax(dim=-1).cpu().numpy() for name in ("size", "artist", "background")
    )
    measures = output.measures.float().cpu().numpy() * np.array(list(MEASURES.values()))
    shades = (output.shade.float().clamp(0, 1) * 255).round().cpu().numpy()
    records = []
    for i in range(len(something)):
        ordered = np.argsort(-something[i], kind="stable")[:MOST_OBJECTS]
        places = [int(place) for k, place in enumerate(ordered) if k == 0 or something[i, place] > 0.5]
        objects = [
            {
                "concept": concepts[names[i, place]],
                "artist": ARTISTS[artists[i, place]],
                "size": SIZES[sizes[i, place]],
                "position": POSITIONS[place],
                **{name: float(value) for name, value in zip(MEASURES, measures[i, place], strict=True)},
                "confidence": float(something[i, place]),
            }
            for place in places
        ]
        records.append(
            {
                "suite": suite,
                "background": BACKGROUNDS[backgrounds[i]],
                "background_rgb": [int(value) for value in shades[i]],
                "count": len(objects),
                "objects": objects,
            }
        )
    return records
