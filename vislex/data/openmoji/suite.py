"""The suite as ``datasets.Dataset``: plain rows of text, whose images and masks a picklable transform renders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from datasets import Dataset

from vislex.data.openmoji.captions import STYLES, captions
from vislex.data.openmoji.draws import SUITE_VERSION, Draws
from vislex.data.openmoji.expressions import referring
from vislex.data.openmoji.manifest import check_split, check_vocabulary
from vislex.data.openmoji.questions import question_pair
from vislex.data.openmoji.scenes import sample_scene
from vislex.data.openmoji.sources import attribution, provenance
from vislex.data.openmoji.transform import SceneTransform
from vislex.data.schemas import SourceFacts
from vislex.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["DEFAULT_SIZES", "TASKS", "describe", "load", "row"]

Row = dict[str, Any]

N_ANSWERS = 10  # as many as VQAv2 has raters

# Rows of train, val and a test split unless asked otherwise; an index is only a counter, so any size will do.
DEFAULT_SIZES: dict[str, tuple[int, int, int]] = {
    "caption": (20_000, 2_000, 5_000),
    "images": (20_000, 2_000, 5_000),
    "vqa": (40_000, 4_000, 10_000),
    "segmentation": (20_000, 1_000, 2_000),
}


def _caption_row(seed: int, split: str, vocabulary: str, index: int, style: str) -> Row:
    scene = sample_scene(seed, split, vocabulary, index)
    texts = captions(scene, Draws(seed, split, vocabulary, "captions", style, index=index), style)
    return {"captions": texts, "factors": scene.factors()}


def _image_row(seed: int, split: str, vocabulary: str, index: int, style: str) -> Row:
    return {"factors": sample_scene(seed, split, vocabulary, index).factors()}


def _vqa_row(seed: int, split: str, vocabulary: str, index: int, style: str) -> Row:
    question = question_pair(seed, split, vocabulary, index // 2)[index % 2]
    return {
        "question": question.text,
        "answer": question.answer,
        "answers": [question.answer] * N_ANSWERS,
        "question_type": question.type,
        "factors": question.scene.factors(),
    }


def _segmentation_row(seed: int, split: str, vocabulary: str, index: int, style: str) -> Row:
    scene, expression, target = referring(seed, split, vocabulary, index)
    return {"expression": expression, "target": target, "factors": scene.factors()}


TASKS: dict[str, Callable[[int, str, str, int, str], Row]] = {
    "caption": _caption_row,
    "vqa": _vqa_row,
    "segmentation": _segmentation_row,
    "images": _image_row,
}


def row(task: str, index: int, *, split: str, seed: int = 0, vocabulary: str = "default", style: str = "lossy") -> Row:
    """One row by its index, without image: a pure function of its arguments."""
    content = TASKS[task](seed, split, vocabulary, index, style)
    identity = {"id": f"{SUITE_VERSION}-{split}-{seed}-{index}", "index": index}
    return identity | content | {"factors": json.dumps(content["factors"], separators=(",", ":"))}


def load(
    task: str,
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    image_size: int = 64,
    vocabulary: str = "default",
    style: str = "lossy",
    augment: bool = False,
) -> Dataset:
    """A task of the suite; nothing is written to disk.

    Args:
        task: "caption", "vqa", "segmentation" or "images".
        split: "train", "val", "test_seen", "test_composition", "test_artist" or "test_unknown".
        size: Number of rows; the first rows of a larger set are the rows of a smaller one.
        seed: Names another draw of the whole suite.
        image_size: Side in pixels; does not change the scenes.
        vocabulary: "core" (100 nouns), "default" (320) or "large" (all).
        style: Captions, "lossy" or "dense".
        augment: Mirrors half of the accesses, with left and right swapped in text, masks and factors. For training.

    Returns:
        Rows of ``id`` str, ``index`` int, ``image`` PIL RGB, ``factors`` str (JSON), and by task ``captions``
        list[str]; ``question``, ``answer``, ``answers`` list[str], ``question_type``; ``expression``, ``mask``
        bool[H, W].

    Raises:
        UnknownNameError: For a task, split, vocabulary or style that the suite has not.
        ConfigError: For a size that is not positive.
    """
    for kind, given, allowed in (("task", task, tuple(TASKS)), ("style", style, STYLES)):
        if given not in allowed:
            raise UnknownNameError(
                f"unknown {kind} '{given}' of the suite 'openmoji'{did_you_mean(given, allowed)} "
                f"It has {', '.join(allowed)}"
            )
    check_split(split)
    check_vocabulary(vocabulary)
    if size is None:
        size = DEFAULT_SIZES[task][{"train": 0, "val": 1}.get(split, 2)]
    if size < 1 or image_size < 16:
        raise ConfigError(f"size {size} and image_size {image_size} were given; allowed are at least 1 and 16")
    rows = [row(task, i, split=split, seed=seed, vocabulary=vocabulary, style=style) for i in range(size)]
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    return Dataset.from_dict(columns).with_transform(SceneTransform(image_size, augment=augment, seed=seed))


def describe() -> SourceFacts:
    """Version and hashes of the suite, and whose drawings it shows."""
    trained_on = "OpenMoji and Twemoji drawings; the weights are CC BY-SA 4.0"
    return SourceFacts(dict(provenance()), trained_on, attribution())
