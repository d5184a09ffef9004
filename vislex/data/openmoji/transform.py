"""From plain rows to images and masks, on access; may mirror them, with left and right swapped wherever they stand."""

from __future__ import annotations

import json
import re
from typing import Any

from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.render import render_masks, render_scene
from vislex.data.openmoji.scenes import Scene

__all__ = ["SceneTransform", "swap_sides"]

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(r"\b(?:leftmost|rightmost|left|right)\b")
_TEXTS = ("captions", "question", "answer", "answers", "expression")


def swap_sides(text: str) -> str:
    """The text for the mirror image: "left" and "right" change places."""
    return _SIDE.sub(lambda match: _SIDES[match.group()], text)


class SceneTransform:
    """Renders the scenes of a batch of rows; its rows need nothing but ``factors``.

    Args:
        image_size: Side in pixels.
        augment: Mirror half of the accesses at random.
        seed: Of the mirroring. The n-th call of one transform always mirrors the same rows.
    """

    def __init__(self, image_size: int, *, augment: bool = False, seed: int = 0) -> None:
        self.image_size = image_size
        self.augment = augment
        self.seed = seed
        self.calls = 0

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Adds ``image`` (and ``mask`` where ``target`` says which item is meant) to the columns."""
        if "factors" not in batch:
            return batch  # columns were selected that need no image
        columns = {name: list(values) for name, values in batch.items() if name != "target"}
        scenes = [Scene.from_factors(json.loads(text)) for text in batch["factors"]]
        if self.augment:
            self._mirror_some(columns, scenes)
        columns["image"] = [render_scene(scene, self.image_size) for scene in scenes]
        if "target" in batch:
            columns["mask"] = [
                render_masks(scene, self.image_size)[target]
                for scene, target in zip(scenes, batch["target"], strict=True)
            ]
        return columns

    def _mirror_some(self, columns: dict[str, list[Any]], scenes: list[Scene]) -> None:
        draws = Draws(self.seed, "mirror", index=self.calls)
        self.calls += 1
        for i, scene in enumerate(scenes):
            if not draws.chance(0.5):
                continue
            scenes[i] = scene.mirror()
            columns["factors"][i] = json.dumps(scenes[i].factors(), separators=(",", ":"))
            for name in _TEXTS:
                if name in columns:
                    text = columns[name][i]
                    columns[name][i] = swap_sides(text) if isinstance(text, str) else [swap_sides(t) for t in text]
