"""COCO-35L: COCO's captions, translated from English into 34 languages by machine (Thapliyal et al., 2205.12522)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.coco import FOLDERS, read_karpathy
from vislex.data.jsonl import iterate_jsonl
from vislex.data.locate import ImageFinder, check_task, find_file, local_root, unknown_split
from vislex.data.schemas import caption_dataset
from vislex.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["LANGUAGES", "load"]

LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it", "ja",
    "ko", "mi", "nl", "no", "pl", "pt", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
SPLITS = {"train": "train", "val": "dev"}


def load(
    task: str = "caption",
    *,
    root: str | Path | None = None,
    split: str = "train",
    size: int | None = None,
    languages: Sequence[str] = LANGUAGES,
) -> Dataset:
    """Loads ``coco_mt_train.jsonl`` and ``coco_mt_dev.jsonl``, Karpathy's ``dataset_coco.json`` and COCO's images.

    Args:
        task: "caption".
        root: The folder.
        split: "train" or "val" (the release's "dev").
        size: Number of rows, the first ones; None takes all.
        languages: Which; English captions are those that were translated.

    Returns:
        A row an image and language: ``id`` ("391895_de"), ``index``, ``file``, ``captions``, ``language``; ``image``
        when read.

    Raises:
        ConfigError, DataError: For an unknown split or language, missing files, unsafe paths.
    """
    check_task("coco35l", task)
    if split not in SPLITS:
        raise unknown_split("coco35l", split, SPLITS)
    if unknown := [language for language in languages if language not in LANGUAGES]:
        raise ConfigError(f"data set 'coco35l' has no language '{unknown[0]}'; it has {', '.join(LANGUAGES)}")
    folder = local_root("coco35l", root)
    name = f"coco_mt_{SPLITS[split]}.jsonl"
    captions = find_file(folder, [name, f"**/{name}"], f"captions of split '{split}'")
    annotations = find_file(folder, ["dataset_coco.json", "**/dataset_coco.json"], "list of images")
    finder = ImageFinder(folder, FOLDERS)
    splits = {"train", "restval", "val", "test"}
    files = {row["id"]: row["file"] for row in read_karpathy(annotations, "coco35l", split, splits, finder)}
    finder.check(str(annotations))
    rows = list(_rows(captions, files, set(languages)))
    return caption_dataset(rows, folder, source=str(captions), size=size)


def _rows(file: Path, files: dict[str, str], languages: set[str]) -> Iterator[dict[str, Any]]:
    """Rows in the order of their first caption; every language repeats the English ones, German's are taken."""
    found: dict[tuple[str, str], list[str]] = {}
    try:
        for entry in iterate_jsonl(file):
            image, language = str(entry["image_id"]).partition("_")[0], str(entry["trg_lang"])
            if language in languages:
                found.setdefault((image, language), []).append(entry["translation_tokenized"])
            if language == "de" and "en" in languages:
                found.setdefault((image, "en"), []).append(entry["caption_tokenized"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not of COCO-35L's form (image_id, trg_lang, translation_tokenized): {error}"
        ) from error
    for (image, language), captions in found.items():
        if image not in files:
            raise DataError(f"{file}: image {image} is not in dataset_coco.json; the files do not belong together")
        yield {"id": f"{image}_{language}", "file": files[image], "captions": captions, "language": language}
