"""Tasks of lmms-eval on vislex's data sets: drawn in memory, from a local folder, or from a hub id."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from lmms_eval.api.task import ConfigurableMessagesTask

from vislex.benchmarks.lmms_scores import HIGHER_IS_BETTER, answer_record, caption_record, mask_record, scores_of
from vislex.benchmarks.vqa import TYPE
from vislex.data import load_suite
from vislex.errors import ConfigError

__all__ = ["PLACES", "TASKS_FOLDER", "SuiteTask", "read_places"]

TASKS_FOLDER = Path(__file__).parent / "lmms_tasks"
PLACES = "VISLEX_DATA"
MEDIA = ("source", "image", "mask", "video")  # columns that no log can hold


class SuiteTask(ConfigurableMessagesTask):
    """A task whose documents are the rows of a data set, without its images: these are drawn or read when asked for.

    Its YAML names the data set (``dataset_path``, a name of ``vislex list suites``), the split (``test_split``), and in
    ``dataset_kwargs`` the ``task`` ("caption", "vqa", "segmentation") with options of the data set. Where a data set
    lies is its ``root`` there, a folder or a hub id; the environment variable ``VISLEX_DATA`` with
    ``NAME:PLACE,NAME:PLACE`` goes before it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        config = dict(config)
        config.pop("class", None)
        super().__init__(config=config)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Loads the rows; nothing is fetched for a drawn suite."""
        options = dict(dataset_kwargs or {})
        self.kind = options.pop("task")
        name, split = self.config.dataset_path, self.config.test_split
        root = read_places(os.environ.get(PLACES, "")).get(name, options.pop("root", None))
        options |= {} if root is None else {"root": root}
        self.rows = _load(name, self.kind, split, json.dumps(options))
        documents = self.rows.with_format(None)
        documents = documents.remove_columns([column for column in MEDIA if column in documents.column_names])
        self.dataset = self.dataset_no_image = DatasetDict({split: documents})
        self.several = self.kind == "vqa" and any(len(answers) > 1 for answers in documents["answers"])
        self._aggregation_list = scores_of(self.kind, documents)
        self._higher_is_better = {score: HIGHER_IS_BETTER.get(score, True) for score in self._aggregation_list}

    def doc_to_visual(self, doc: Mapping[str, Any]) -> list[Any]:
        """The image of a row, or its video."""
        row = self.rows[doc["index"]]
        return [{"type": "video", "url": row["video"]} if "video" in row else row["image"]]

    def process_results(self, doc: Mapping[str, Any], results: list[str], **_: Any) -> dict[str, Any]:
        """The document's record under every score."""
        answer = results[0].strip()
        if self.kind == "caption":
            record = caption_record(doc, answer)
        elif self.kind == "vqa":
            record = answer_record(doc, answer, several=self.several)
            names = ("accuracy", TYPE + record["type"])
            return {name: record for name in names if name in self._aggregation_list}
        else:
            target: np.ndarray = self.rows[doc["index"]]["mask"]
            record = mask_record(doc, answer, target)
        return dict.fromkeys(self._aggregation_list, record)

    def aggregation(self) -> dict[str, Callable[[list[Any]], float]]:
        """Functions by score."""
        scores: dict[str, Callable[[list[Any]], float]] = self._aggregation_list
        return scores

    def _prepare_metric_and_aggregation(self) -> None:
        """Nothing: the scores follow from the data (``download``)."""
        self._metric_fn_list: dict[str, Any] = {}
        self._metric_fn_kwargs: dict[str, Any] = {}


@functools.lru_cache(maxsize=8)
def _load(name: str, kind: str, split: str, options: str) -> Any:
    """The rows of a data set; tasks of one process share them, model after model."""
    return load_suite(name, kind, split=split, **json.loads(options))


def read_places(text: str) -> dict[str, str]:
    """``{"refcoco": "/data/refcoco"}`` of ``"refcoco:/data/refcoco,msrvtt:/data/msrvtt"``.

    Raises:
        ConfigError: If a part is not NAME:PLACE.
    """
    places = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, place = part.partition(":")
        if not (name and colon and place):
            raise ConfigError(f"'{part}' names no place of a data set; write NAME:PLACE, e.g. refcoco:/data/refcoco")
        places[name] = place
    return places
