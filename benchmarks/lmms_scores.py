"""What the harness's tasks are scored by: vislex's own scorers, from one record a document.

A record is plain values: processes exchange records, and whatever order they come in, the scores are those of one
process to the last bit.
"""

from __future__ import annotations

import collections
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vislex.benchmarks.vqa import TYPE
from vislex.data.coco_masks import decode_segmentation
from vislex.errors import DataError
from vislex.metrics import score_captions
from vislex.metrics.masks import MASKS, average_masks, score_masks_per_image
from vislex.metrics.scene import score_scenes
from vislex.metrics.vqa import gqa_match, vqa_official
from vislex.text import postprocess_caption

__all__ = ["HIGHER_IS_BETTER", "answer_record", "caption_record", "mask_record", "read_masks", "scores_of"]

Record = dict[str, Any]

CAPTION_SCORES = ("CIDEr-D", "BLEU-4", "BLEU-3", "BLEU-2", "BLEU-1", "ROUGE-L")
HIGHER_IS_BETTER = {"invalid": False}  # all others are better when they are higher


def caption_record(document: Mapping[str, Any], answer: str) -> Record:
    """The record of a caption, cleaned up as every caption of a benchmark is; its references stay where they are."""
    return {"index": document["index"], "answer": postprocess_caption(answer)}


def answer_record(document: Mapping[str, Any], answer: str, *, several: bool) -> Record:
    """The record of an answer to a question.

    Args:
        document: With "answers" and "question_type".
        answer: What was said.
        several: Whether the data set has several human answers a question: then by VQAv2's accuracy, else by GQA's.
    """
    truths = list(document["answers"] or [document["answer"]])
    score = vqa_official(answer, truths) if several else gqa_match(answer, truths[0])
    return {"index": document["index"], "score": score, "type": document["question_type"]}


def mask_record(document: Mapping[str, Any], answer: str, target: np.ndarray) -> Record:
    """The record of masks given as text (``read_masks``) against the right one bool[H, W]."""
    counts = score_masks_per_image([read_masks(answer, target.shape)], [target])
    return {"index": document["index"], **{name: values[0].item() for name, values in counts.items()}}


def read_masks(text: str, size: Sequence[int]) -> np.ndarray | None:
    """The union bool[H, W] of the masks of ``{"masks": [COCO run lengths]}``; None for any other text: invalid."""
    height, width = (int(side) for side in size)
    try:
        answer = json.loads(text)
        masks = answer.get("masks") if isinstance(answer, dict) else None
        if not isinstance(masks, list):
            return None
        union = np.zeros((height, width), dtype=bool)
        for runs in masks:
            if not isinstance(runs, dict):
                return None
            union |= decode_segmentation(runs, (height, width), "an answer")
        return union
    except (ValueError, DataError, RecursionError):
        return None


def scores_of(task: str, documents: Any) -> dict[str, Callable[[list[Record]], float]]:
    """What the records of a task are aggregated to: functions by the names that ``vislex bench`` uses.

    Args:
        task: "caption", "vqa" or "segmentation".
        documents: Rows by their index, with "captions" and in a drawn suite "factors", or with "question_type".
    """
    if task == "caption":
        names = (*CAPTION_SCORES, *(["scene-F1"] if "factors" in documents.column_names else []))
        if "language" in documents.column_names:
            names += tuple(f"CIDEr-D: {language}" for language in sorted(set(documents["language"])))
        scores = _CaptionScores(documents)
        return {name: functools.partial(scores, name) for name in names}
    if task == "vqa":
        types = sorted(set(documents["question_type"]) - {""})
        names = ("accuracy", *(f"{TYPE}{kind}" for kind in types))
        return {name: functools.partial(_accuracy, name) for name in names}
    return {name: functools.partial(_mask_score, name) for name in MASKS.keys}


class _CaptionScores:
    """All scores of captions at once; they are asked for one by one."""

    def __init__(self, documents: Any) -> None:
        self.documents = documents
        self._known: tuple[list[tuple[int, str]], dict[str, float]] = ([], {})

    def __call__(self, name: str, records: list[Record]) -> float:
        answers = sorted((own["index"], own["answer"]) for own in records)
        if self._known[0] != answers:
            self._known = (answers, self._score(answers))
        return self._known[1][name]

    def _score(self, answers: list[tuple[int, str]]) -> dict[str, float]:
        rows = self.documents.select([index for index, _ in answers])
        candidates = {identity: answer for identity, (_, answer) in zip(rows["id"], answers, strict=True)}
        references = dict(zip(rows["id"], rows["captions"], strict=True))
        if "language" in rows.column_names:
            return _by_language(candidates, references, dict(zip(rows["id"], rows["language"], strict=True)))
        scores = score_captions(candidates, references)
        if "factors" in rows.column_names:
            factors = {identity: json.loads(own) for identity, own in zip(rows["id"], rows["factors"], strict=True)}
            scores |= score_scenes(candidates, factors)
        return scores


def _by_language(
    candidates: dict[str, str], references: dict[str, list[str]], languages: dict[str, str]
) -> dict[str, float]:
    """The means over languages of their own scores, and CIDEr-D of each; nan for a language without a row."""
    own = {}
    for language in sorted(set(languages.values())):
        chosen = [identity for identity in candidates if languages[identity] == language]
        own[language] = score_captions({i: candidates[i] for i in chosen}, {i: references[i] for i in chosen})
    means = {name: float(np.mean([scores[name] for scores in own.values()])) for name in CAPTION_SCORES}
    each = {f"CIDEr-D: {language}": scores["CIDEr-D"] for language, scores in own.items()}
    return collections.defaultdict(lambda: math.nan, means | each)


def _accuracy(name: str, records: list[Record]) -> float:
    kind = name.removeprefix(TYPE) if name.startswith(TYPE) else ""
    return float(np.mean([own["score"] for own in _in_order(records) if not kind or own["type"] == kind]))


def _mask_score(name: str, records: list[Record]) -> float:
    ordered = _in_order(records)
    counts = {key: np.array([own[key] for own in ordered]) for key in ("intersection", "union", "IoU", "invalid")}
    return average_masks(counts)[name]


def _in_order(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda own: own["index"])
