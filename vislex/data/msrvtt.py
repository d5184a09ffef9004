"""MSR-VTT: 10,000 clips with twenty captions each (6,513 train, 497 val, 2,990 test), and MSRVTT-QA's questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.jsonl import read_json
from vislex.data.locate import ImageFinder, check_task, find_file, local_root, unknown_split
from vislex.data.schemas import caption_dataset, vqa_dataset
from vislex.data.videos import OpenVideos, video_questions
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = {"train": "train", "val": "validate", "test": "test"}
FOLDERS = ("", "videos", "videos/all", "video", "TrainValVideo", "TestVideo", "train-video", "test-video")
LISTS = ("MSRVTT_data.json", "test_videodatainfo.json", "train_val_videodatainfo.json")


def load(
    task: str = "caption", *, root: str | Path | None = None, split: str = "train", size: int | None = None
) -> Dataset:
    """Loads captions from ``train_val_videodatainfo.json`` and ``test_videodatainfo.json`` (or ``MSRVTT_data.json``,
    which holds both), questions from MSRVTT-QA's ``{split}_qa.json``, and videos ``video7010.mp4``.

    Args:
        task: "caption" or "vqa".
        root: The folder.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file`` and ``captions``, or ``question``, ``answer``, ``answers``, ``question_type``
        (the question's first word); ``video``, the path of the file, when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("msrvtt", task, ("caption", "vqa"))
    if split not in SPLITS:
        raise unknown_split("msrvtt", split, SPLITS)
    folder = local_root("msrvtt", root)
    finder = ImageFinder(folder, FOLDERS)
    if task == "vqa":
        source = find_file(folder, [f"{split}_qa.json", f"**/{split}_qa.json"], f"questions of split '{split}'")
        rows: list[Any] = list(video_questions(source, lambda number, where: finder(f"video{number}.mp4", where)))
    else:
        names = [LISTS[0], LISTS[1] if split == "test" else LISTS[2]]
        source = find_file(folder, [*names, *(f"**/{name}" for name in names)], f"captions of split '{split}'")
        rows = list(_captions(source, SPLITS[split], finder))
    finder.check(str(source))
    make = vqa_dataset if task == "vqa" else caption_dataset
    return make(rows, folder, source=str(source), size=size).with_transform(OpenVideos(str(folder.absolute())))


def _captions(file: Path, split: str, finder: ImageFinder) -> Iterator[dict[str, Any]]:
    document = read_json(file)
    try:
        captions: dict[str, list[str]] = {}
        for sentence in document["sentences"]:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
        for video in document["videos"]:
            name = str(video["video_id"])
            if video["split"] == split:
                yield {"id": name, "file": finder(f"{name}.mp4", f"{file}, {name}"), "captions": captions[name]}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not of MSR-VTT's form (videos[].video_id, split; sentences[].caption): {error}"
        ) from error
