"""What is measured of a vision-language model on three tasks, and paired differences of it, for experiments on them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vislex.adapters.vlm import VisionLanguageModel
from vislex.benchmarks import segmentation, vqa
from vislex.benchmarks.caption_data import CaptionData, load_suite_captions
from vislex.benchmarks.caption_opening import VlmCaptioner
from vislex.benchmarks.captioning import score, scorer_ids
from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.vilex_experiment import interval_values
from vislex.benchmarks.vlm_experiment import Row, VlmExperiment
from vislex.benchmarks.vlm_rows import open_model
from vislex.metrics.masks import MASKS
from vislex.metrics.statistics import paired_bootstrap
from vislex.specs import token_count

__all__ = [
    "BLIND",
    "CAPTIONS",
    "GROUPS",
    "MAJORITY",
    "MASK",
    "VQA",
    "Measures",
    "by_group",
    "difference",
    "paired",
    "scores_of",
]

SPLIT = "test_composition"
VQA, BLIND, MASK, CAPTIONS = "VQA", "VQA without images", "mIoU", "CIDEr-D"
MAJORITY = "majority answer"
N_TRAIN = 5000  # training questions that the majority answer is taken from
SHOWN = 12  # answers of each task that a row keeps
# Question types of the suite by what they ask about.
GROUPS = {
    "position": ("where", "side", "relation"),
    "number": ("count", "count-all"),
    "naming": ("what",),
    "existence": ("existence",),
    "size": ("size", "comparison"),
    "background": ("background", "background-yes-no"),
}


class Measures:
    """The test rows of all tasks, each loaded once, and the rows of what is measured on them.

    Args:
        config: Of the experiment.
        file: Receives the rows.
    """

    def __init__(self, config: VlmExperiment, file: RowFile) -> None:
        self.config, self.file = config, file
        self._drawn: dict[str, Any] = {"split": SPLIT, "size": config.size, "vocabulary": config.vocabulary}

    @functools.cached_property
    def questions(self) -> vqa.VqaData:
        return vqa.load_vqa_data(**self._drawn, n_images=0, n_train=N_TRAIN)

    @functools.cached_property
    def expressions(self) -> segmentation.SegmentationData:
        return segmentation.load_segmentation_data(**self._drawn, n_images=0)

    @functools.cached_property
    def captions(self) -> CaptionData:
        return load_suite_captions(**self._drawn, n_images=0, n_train=1)

    @property
    def types(self) -> list[str]:
        """The type of each question."""
        return [self.questions.record.types[identity] for identity in self.questions.record.ids]

    def majority(self) -> Row:
        """The row of the most common answer to each question's template."""
        data = self.questions
        where = {"kind": "measured", "arm": MAJORITY, "data": data.record.key, "scorer": data.scorer, "train": N_TRAIN}

        def make() -> Row:
            run = vqa.floor_run(data)
            return {"scores": {VQA: run.scores["accuracy"]}, "per_image": {VQA: run.per_image["accuracy"]}}

        return self._row(where, make)

    def answered(self, trained: Row, tasks: Sequence[str] = (VQA,), *, budget: int | None = None) -> Row:
        """The row of a trained model.

        Args:
            trained: Row of its training: "arm", "seed", "folder", "key".
            tasks: Of ``VQA``, ``BLIND``, ``MASK`` and ``CAPTIONS``.
            budget: Tokens an image, for connectors with a budget.

        Returns:
            "scores" by task, ``MASK`` also of the model's own boxes, filled; "per_image" scores by task, in the order
            of the rows; "tokens" an image, "answers" as they begin.
        """
        made = {VQA: self._vqa, BLIND: self._blind, MASK: self._masks, CAPTIONS: self._captions}
        where = {"kind": "measured", "arm": trained["arm"], "seed": trained["seed"], "training": trained["key"]}
        where |= {"tasks": {task: self._asked(task) for task in tasks}, "budget": budget}

        def make() -> Row:
            opened = open_model(trained["folder"], device=self.config.device)
            options: dict[str, Any] = {"batch_size": self.config.ask_batch_size}
            options |= {} if budget is None else {"n_tokens": budget}
            found: Row = {"tokens": image_tokens(opened[0], budget), "scores": {}, "per_image": {}, "answers": {}}
            for task in tasks:
                scores, per_image, texts = made[task](*opened, options)
                found["scores"] |= scores
                found["per_image"][task] = per_image
                found["answers"][task] = texts[:SHOWN]
            return found

        return self._row(where, make)

    def _asked(self, task: str) -> str:
        """Key of what a task's score is of, and by what it is scored."""
        record, scorers = self.questions.record, [self.questions.scorer]
        if task == MASK:
            record, scorers = self.expressions.record, [MASKS.id]
        if task == CAPTIONS:
            record, scorers = self.captions.record, scorer_ids()
        return content_key({"data": record.key, "scorers": scorers})

    def _vqa(self, model: VisionLanguageModel, info: Any, options: Mapping[str, Any], images: bool = True) -> Any:
        run = vqa.evaluate(model, info, self.questions, images=images, **options)
        return {VQA if images else BLIND: run.scores["accuracy"]}, run.per_image["accuracy"], run.captions

    def _blind(self, model: VisionLanguageModel, info: Any, options: Mapping[str, Any]) -> Any:
        return self._vqa(model, info, options, images=False)

    def _masks(self, model: VisionLanguageModel, info: Any, options: Mapping[str, Any]) -> Any:
        run, boxes = segmentation.evaluate(model, info, self.expressions, **options)
        scores = {MASK: run.scores["mIoU"], f"{MASK}{segmentation.BOXES}": boxes.scores["mIoU"]}
        return scores | {"invalid masks": run.scores["invalid"]}, run.per_image["IoU"], run.captions

    def _captions(self, model: VisionLanguageModel, info: Any, options: Mapping[str, Any]) -> Any:
        captioner = VlmCaptioner(model, info)
        texts = [made.text for images in self.captions.chunks() for made in captioner.caption(images, **options)]
        scores, per_image = score(dict(zip(self.captions.record.ids, texts, strict=True)), self.captions)
        return {CAPTIONS: scores["CIDEr-D"], "scene-F1": scores["scene-F1"]}, per_image["CIDEr-D"], texts

    def _row(self, where: Mapping[str, Any], make: Any) -> Row:
        row = self.file.row(where, make)
        assert row is not None
        return row


def image_tokens(model: VisionLanguageModel, budget: int | None = None) -> int:
    """Tokens that the language model reads of an image."""
    return token_count(model.connector.count(model.connector.config.encoder_spec.count(), budget))


def scores_of(
    rows: Sequence[Mapping[str, Any]], arm: str, score: str, chosen: np.ndarray | None = None
) -> dict[int, np.ndarray]:
    """Scores float64[N] of an arm's images by seed.

    Args:
        rows: Of ``Measures``.
        arm: Name.
        score: Task.
        chosen: bool[N], which images, for one kind of questions; None takes all.
    """
    found = {}
    for row in rows:
        if row["kind"] == "measured" and row["arm"] == arm and score in row["per_image"]:
            values = np.asarray(row["per_image"][score], dtype=np.float64)
            found[row.get("seed", 0)] = values if chosen is None else values[chosen]
    return found


def by_group(answers: np.ndarray, types: Sequence[str]) -> dict[str, float]:
    """Mean of scores float[N] by what the questions ask about; groups without a question are left out."""
    chosen = {group: np.isin(types, names) for group, names in GROUPS.items()}
    return {group: float(answers[which].mean()) for group, which in chosen.items() if which.any()}


def paired(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores float64[S, N] of both sides over their common seeds; None if they have none."""
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    return np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])


def difference(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> Row | None:
    """The paired difference of two arms' scores by seed, and the verdict on "the first is better"; None if unpaired."""
    sides = paired(ours, theirs)
    if sides is None or not sides[0].size:
        return None
    interval = paired_bootstrap(*sides)
    return {**interval_values(interval), "seeds": interval.n_seeds}
