"""MSVD-QA: 30,933 questions on clips of the Microsoft video description corpus to train, 6,415 val, 13,157 test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.locate import ImageFinder, check_task, find_file, local_root, unknown_split
from vislex.data.schemas import vqa_dataset
from vislex.data.videos import OpenVideos, video_questions
from vislex.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load"]

SPLITS = ("train", "val", "test")
FOLDERS = ("", "YouTubeClips", "videos", "video")


def load(
    task: str = "vqa", *, root: str | Path | None = None, split: str = "train", size: int | None = None
) -> Dataset:
    """Loads questions from ``{split}_qa.json`` and videos, whose names are in ``youtube_mapping.txt``.

    Args:
        task: "vqa".
        root: The folder.
        split: "train", "val" or "test".
        size: Number of rows, the first ones; None takes all.

    Returns:
        Rows ``id``, ``index``, ``file``, ``question``, ``answer``, ``answers``, ``question_type`` (the question's first
        word); ``video``, the path of the file, when read.

    Raises:
        ConfigError, DataError: For an unknown split, missing files, unsafe paths.
    """
    check_task("msvd", task, ("vqa",))
    if split not in SPLITS:
        raise unknown_split("msvd", split, SPLITS)
    folder = local_root("msvd", root)
    source = find_file(folder, [f"{split}_qa.json", f"**/{split}_qa.json"], f"questions of split '{split}'")
    names = _names(folder)
    finder = ImageFinder(folder, FOLDERS)

    def find(number: Any, where: str) -> str:
        plain = f"vid{number}.avi"
        clip = names.get(f"vid{number}")
        return finder(plain, where) if clip is None else finder(f"{clip}.avi", where, f"{clip}.mp4", plain)

    rows = list(video_questions(source, find))
    finder.check(str(source))
    dataset = vqa_dataset(rows, folder, source=str(source), size=size)
    return dataset.with_transform(OpenVideos(str(folder.absolute())))


def _names(folder: Path) -> dict[str, str]:
    """Clip names by "vid1201", from lines ``NAME vid1201``; empty without the file: clips are ``vid1201.avi`` then."""
    found = sorted(folder.rglob("youtube_mapping.txt"))
    if not found:
        return {}
    names = {}
    try:
        lines = found[0].read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise DataError(f"{found[0]}: not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and len(words) != 2:
            raise DataError(f"{found[0]}, line {number}: expected a name and a number (vid1201), got '{line[:60]}'")
        if words:
            names[words[1]] = words[0]
    return names
