"""Published data sets, a handful of rows each, in the layouts of their releases."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from PIL import Image

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]


def image(path: Path, size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def video(path: Path) -> None:
    """An empty file: rows name videos, and do not open them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def refcoco(root: Path, name: str, by: str, splits: tuple[str, ...]) -> None:
    """An object a split, with two expressions."""
    refs = [
        {
            "ref_id": number,
            "ann_id": 100 + number,
            "image_id": number,
            "split": split,
            "category_id": 1,
            "file_name": "",
            "sent_ids": [],
            "sentences": [{"sent_id": 10 * number + i, "sent": f"thing {i} of {split}"} for i in range(2)],
        }
        for number, split in enumerate(splits)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 8, "width": 10} for n in range(len(splits))]
    annotations = [{"id": 100 + n, "image_id": n, "segmentation": SQUARE} for n in range(len(splits))]
    write(root / name / "instances.json", {"images": images, "annotations": annotations})
    (root / name / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    for number in range(len(splits)):
        image(root / "images" / "train2014" / f"{number}.jpg")


def msrvtt(root: Path) -> None:
    for number, folder in ((0, "TrainValVideo"), (7010, "TestVideo"), (7011, "TestVideo")):
        video(root / folder / f"video{number}.mp4")
    for name, numbers, split in (("train_val", [0], "train"), ("test", [7010, 7011], "test")):
        sentences = [
            {"video_id": f"video{n}", "caption": f"a man sings {i}", "sen_id": i} for n in numbers for i in (0, 1)
        ]
        videos = [{"video_id": f"video{n}", "split": split} for n in numbers]
        write(root / f"{name}_videodatainfo.json", {"videos": videos, "sentences": sentences})
    questions = [{"id": 5, "video_id": 7011, "question": "What does a man do?", "answer": "sing", "category_id": 1}]
    write(root / "MSRVTT-QA" / "test_qa.json", questions)


def msvd(root: Path) -> None:
    video(root / "YouTubeClips" / "mv89psg6zh4_33_46.avi")
    questions = [{"id": 9, "video_id": 1301, "question": "who bathes?", "answer": "bird"}]
    write(root / "test_qa.json", questions)
    (root / "youtube_mapping.txt").write_text("mv89psg6zh4_33_46 vid1301\n-wa0umYJVGg_9_11 vid1302\n")


def scicap(root: Path) -> None:
    for split in ("Val", "Test"):
        name = f"1001.0317v1-Figure2-{split}"
        folder = root / "scicap_data"
        listing = folder / "List-of-Files-for-Each-Experiments" / "First-Sentence" / "No-Subfig" / split
        write(listing / "file_idx.json", [f"{name}.png"])
        caption = {"caption": f"the {split.lower()} loss ."}
        write(
            folder / "SciCap-Caption-All" / split / f"{name}.json",
            {"1-lowercase-and-token-and-remove-figure-index": caption},
        )
        image(folder / "SciCap-No-Subfig-Img" / split / f"{name}.png")


def coco35l(root: Path) -> None:
    images = [
        {"filename": f"{n}.jpg", "filepath": "val2014", "cocoid": n, "split": "val", "sentences": [{"raw": "a cat"}]}
        for n in (1, 2)
    ]
    write(root / "dataset_coco.json", {"images": images})
    for number in (1, 2):
        image(root / "val2014" / f"{number}.jpg")
    lines = [
        {
            "image_id": f"{number}_{i}",
            "caption_tokenized": f"a cat {number} sits {i}",
            "trg_lang": language,
            "translation_tokenized": f"{words} {number}",
        }
        for number in (1, 2)
        for i in (0, 1)
        for language, words in (("de", "eine katze sitzt da"), ("fr", "un chat est assis"))
    ]
    (root / "coco_mt_dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
