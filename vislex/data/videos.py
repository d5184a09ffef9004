"""Data sets of videos: rows name a file, which whoever reads the row samples frames from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vislex.data.jsonl import read_json
from vislex.data.paths import safe_join
from vislex.data.schemas import OpenImages
from vislex.errors import DataError

__all__ = ["OpenVideos", "video_questions"]


class OpenVideos(OpenImages):
    """A transform for ``Dataset.with_transform``: adds ``video``, the path of the file, which is not opened yet."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "file" not in batch:
            return batch
        return {**batch, "video": [str(safe_join(self.root, name, "this data set")) for name in batch["file"]]}


def video_questions(file: Path, find: Callable[[Any, str], str]) -> Iterator[dict[str, Any]]:
    """Rows of a question file in the form of MSRVTT-QA and MSVD-QA (Xu et al. 2017).

    Args:
        file: A list of ``{"id", "video_id", "question", "answer"}``; there is one answer a question, of one word.
        find: Called with ``video_id`` and where it stands, gives the video's path below the root.

    Raises:
        DataError: If the file has another form.
    """
    try:
        for entry in read_json(file):
            question = str(entry["question"])
            yield {
                "id": str(entry["id"]),
                "file": find(entry["video_id"], f"{file}, question {entry['id']}"),
                "question": question,
                "answers": [str(entry["answer"])],
                "question_type": question.partition(" ")[0].lower(),
            }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not of the form [{{id, video_id, question, answer}}]: {error}") from error
