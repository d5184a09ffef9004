"""The loaders of questions on folders made here in the published layouts, and on parquet files in hubs' columns."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from vislex.data import load_suite
from vislex.data.hub import load_vqa_hub
from vislex.data.schemas import check_columns
from vislex.errors import ConfigError, DataError, VislexError
from vislex.metrics.vqa import scienceqa, vqa_official

TEN = ["red"] * 6 + ["dark red"] * 4


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), "red").save(path)


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def vqav2(root: Path) -> None:
    mscoco(root, "v2_", {"multiple_choice_answer": "dark red"})


def okvqa(root: Path) -> None:
    mscoco(root, "", {})


def mscoco(root: Path, prefix: str, more: dict[str, Any]) -> None:
    for split, images in (("train2014", (9, 12)), ("val2014", (42,))):
        questions, annotations = [], []
        for image in images:
            write_image(root / split / f"COCO_{split}_{image:012d}.jpg")
            for number in range(2):
                identity = 1000 * image + number
                questions.append({"image_id": image, "question": "What color is it? ", "question_id": identity})
                answers = [{"answer": answer, "answer_id": i} for i, answer in enumerate(TEN)]
                own = {"question_id": identity, "question_type": "what color", "answers": answers}
                annotations.append(own | {"image_id": image} | more)
        write_json(root / f"{prefix}OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        write_json(root / "annotations" / f"{prefix}mscoco_{split}_annotations.json", {"annotations": annotations})


def gqa(root: Path) -> None:
    write_image(root / "images" / "n7.jpg")
    entry = {"question": "What color is it?", "imageId": "n7", "answer": "red", "types": {"structural": "query"}}
    write_json(root / "questions" / "train_balanced_questions.json", {"05": entry})
    write_json(root / "train_all_questions.json", {"05": entry, "06": entry})


def textvqa(root: Path) -> None:
    write_image(root / "train_images" / "x1.jpg")
    entry = {"question": "What color is it?", "image_id": "x1", "question_id": 34, "answers": TEN}
    write_json(root / "TextVQA_0.5.1_train.json", {"data": [entry]})
    del entry["answers"]
    write_image(root / "test_images" / "x1.jpg")
    write_json(root / "TextVQA_0.5.1_test.json", {"data": [entry]})


def vizwiz(root: Path) -> None:
    write_image(root / "train" / "VizWiz_train_0.jpg")
    answers = [{"answer": answer, "answer_confidence": "yes"} for answer in TEN]
    entry = {"image": "VizWiz_train_0.jpg", "question": "What color is it?", "answers": answers, "answer_type": "other"}
    write_json(root / "Annotations" / "train.json", [entry])


def school(root: Path) -> None:
    write_image(root / "images" / "train" / "3" / "image.png")
    own = {"choices": ["blue", "red"], "answer": 1, "hint": "Look.", "subject": "natural science"}
    problem = {"question": "What color is it?", "image": "image.png"} | own
    write_json(root / "problems.json", {"3": problem, "4": problem | {"image": None}})
    write_json(root / "pid_splits.json", {"train": ["3", "4"], "val": []})


@pytest.mark.parametrize(
    ("name", "write", "identity", "answer", "answers", "kind"),
    [
        ("vqav2", vqav2, "9000", "dark red", TEN, "what color"),
        ("okvqa", okvqa, "9000", "red", TEN, "what color"),
        ("gqa", gqa, "05", "red", ["red"], "query"),
        ("textvqa", textvqa, "34", "red", TEN, ""),
        ("vizwiz", vizwiz, "VizWiz_train_0.jpg", "red", TEN, "other"),
        ("scienceqa", school, "3", "red", ["red"], "natural science"),
    ],
)
def test_every_source_has_the_suites_schema(
    name: str, write: Callable[[Path], None], identity: str, answer: str, answers: list[str], kind: str, tmp_path: Path
) -> None:
    write(tmp_path)
    dataset = load_suite(name, "vqa", split="train", root=tmp_path)
    check_columns(dataset, "vqa")
    row = pickle.loads(pickle.dumps(dataset))[0]
    assert (row["id"], row["index"], row["answer"], row["answers"]) == (identity, 0, answer, answers)
    assert row["question_type"] == kind
    assert row["question"].startswith("What color is it?")
    assert row["image"].size == (6, 4)
    assert vqa_official("red", row["answers"]) == (1.0 if answers == TEN else 0.0)  # it leaves one answer out
    assert len(load_suite(f"{name}:{tmp_path}", "vqa", size=1)) == 1
    with pytest.raises(ConfigError, match=f"data set '{name}' has no split 'trian'; did you mean 'train'"):
        load_suite(name, "vqa", split="trian", root=tmp_path)
    with pytest.raises(ConfigError, match="has no task 'caption'; it has vqa"):
        load_suite(name, "caption", root=tmp_path)


def test_splits_of_the_vqa_challenge(tmp_path: Path) -> None:
    vqav2(tmp_path)
    assert load_suite("vqav2", "vqa", split="train", root=tmp_path)["id"] == ["9000", "9001", "12000", "12001"]
    assert load_suite("vqav2", "vqa", split="val", root=tmp_path)["id"] == ["42000", "42001"]
    write_image(tmp_path / "test2015" / f"COCO_test2015_{5:012d}.jpg")
    entry = {"image_id": 5, "question": "why?", "question_id": 1}
    for part in ("test2015", "test-dev2015"):
        write_json(tmp_path / f"v2_OpenEnded_mscoco_{part}_questions.json", {"questions": [entry]})
    for split in ("test", "test_dev"):
        row = load_suite("vqav2", "vqa", split=split, root=tmp_path)[0]
        assert (row["answers"], row["answer"], row["image"].size) == ([], "", (6, 4))
    write_json(tmp_path / "annotations" / "v2_mscoco_val2014_annotations.json", {"annotations": [{"question_id": 0}]})
    with pytest.raises(DataError, match="question 42000: it has no annotation; the files are of different splits"):
        load_suite("vqav2", "vqa", split="val", root=tmp_path)


def test_unbalanced_gqa_and_unpublished_answers(tmp_path: Path) -> None:
    gqa(tmp_path)
    assert load_suite("gqa", "vqa", root=tmp_path)["id"] == ["05"]
    assert load_suite("gqa", "vqa", root=tmp_path, balanced=False)["id"] == ["05", "06"]
    textvqa(tmp_path)
    assert load_suite("textvqa", "vqa", split="test", root=tmp_path)[0]["answers"] == []


def test_scienceqa_gives_what_its_scorer_takes(tmp_path: Path) -> None:
    school(tmp_path)
    row = load_suite("scienceqa", "vqa", root=tmp_path)[0]
    assert row["question"] == "What color is it?\nLook.\n(A) blue\n(B) red"
    assert scienceqa("B", row["choices"], row["choice"]) == 1.0
    write_json(
        tmp_path / "problems.json", {"3": {"question": "?", "image": "image.png", "choices": ["a"], "answer": 2}}
    )
    write_json(tmp_path / "pid_splits.json", {"train": ["3"]})
    with pytest.raises(DataError, match="answer 2 of 1 choices"):
        load_suite("scienceqa", "vqa", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "document", "reason"),
    [
        ("vqav2", "v2_OpenEnded_mscoco_train2014_questions.json", {"rows": []}, "not of VQA's form"),
        ("gqa", "train_balanced_questions.json", {"1": {"question": "?"}}, "not of GQA's form"),
        ("textvqa", "TextVQA_0.5.1_train.json", [], "not of TextVQA's form"),
        ("vizwiz", "train.json", [{"image": "a.jpg"}], "not of VizWiz's form"),
        (
            "scienceqa",
            "problems.json",
            {"3": {"question": "?", "choices": ["a"], "answer": "a", "image": "a.png"}},
            "not of ScienceQA's form",
        ),
        (
            "gqa",
            "train_balanced_questions.json",
            {"1": {"question": 3, "imageId": "n", "answer": "a"}},
            "must be texts",
        ),
        ("gqa", "train_balanced_questions.json", {"1": {"question": " ", "imageId": "n"}}, "must be texts"),
        ("gqa", "train_balanced_questions.json", {"1": {"question": "?", "imageId": "../n"}}, "holds '..'"),
        ("gqa", "other.json", {}, r"looked for train_balanced_questions\.json"),
    ],
)
def test_files_of_another_form(name: str, file: str, document: Any, reason: str, tmp_path: Path) -> None:
    write_json(tmp_path / file, document)
    write_json(tmp_path / "v2_mscoco_train2014_annotations.json", {"annotations": []})
    write_json(tmp_path / "pid_splits.json", {"train": ["3"]})
    write_image(tmp_path / "images" / "n.jpg")
    with pytest.raises(VislexError, match=reason) as error:
        load_suite(name, "vqa", root=tmp_path)
    assert "\n" not in str(error.value)


def parquet(folder: Path, rows: list[dict[str, Any]], **features: Any) -> Path:
    """A folder in the hub's layout whose images are inside."""
    write_image(folder.parent / "a.png")
    inside = {"bytes": (folder.parent / "a.png").read_bytes(), "path": "a.png"}
    folder.mkdir()
    table = Dataset.from_list([{"image": inside, **row} for row in rows], Features(image=ImageFeature(), **features))
    table.to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture
def own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_hub_cache")
def test_columns_as_hubs_have_them(tmp_path: Path) -> None:
    text = Value("string")
    records = [{"answer": answer, "answer_id": i} for i, answer in enumerate(TEN)]
    full = parquet(
        tmp_path / "full",
        [{"question": "what? ", "question_id": i, "answers": records, "question_type": "what"} for i in (8, 9)],
        question=text, question_id=Value("int64"), answers=List({"answer": text, "answer_id": Value("int64")}),
        question_type=text,
    )  # fmt: skip
    dataset = load_vqa_hub(full, "vqav2", split="train")
    check_columns(dataset, "vqa")
    row = dataset[1]
    assert (row["id"], row["question"], row["answers"], row["answer"]) == ("9", "what?", TEN, "red")
    assert (row["index"], row["image"].size) == (1, (6, 4))
    assert len(load_vqa_hub(full, "vqav2", split="train", size=1)) == 1
    bare = parquet(tmp_path / "bare", [{"question": "what?", "answer": "x"}], question=text, answer=text)
    row = load_vqa_hub(bare, "gqa", split="train")[0]
    assert (row["id"], row["answers"], row["answer"], row["question_type"]) == ("0", ["x"], "x", "")
    text_ids = {"question": text, "image_id": Value("int64"), "answers": List(text)}
    rows = [{"question": "what?", "image_id": image, "answers": []} for image in (7, 8)]
    coco = parquet(tmp_path / "coco", rows, **text_ids)
    (tmp_path / "refs(unc).p").write_bytes(
        pickle.dumps([{"ref_id": 1, "ann_id": 1, "image_id": 7, "split": "val", "sentences": []}])
    )
    assert load_vqa_hub(coco, "vqav2", split="train")["id"] == ["0", "1"]
    kept = load_vqa_hub(coco, "vqav2", split="train", without_refcoco=tmp_path)
    assert (kept["id"], kept[0]["answers"], kept[0]["answer"]) == (["1"], [], "")
    with pytest.raises(DataError, match="missing image_id"):
        load_vqa_hub(bare, "vqav2", split="train", without_refcoco=tmp_path)
    none = parquet(tmp_path / "none", [{"text": "what?"}], text=text)
    with pytest.raises(DataError, match="missing question"):
        load_vqa_hub(none, "gqa", split="train")
    twice = parquet(tmp_path / "twice", [{"question": "q", "id": "1"}] * 2, question=text, id=text)
    with pytest.raises(DataError, match="repeats ids"):
        load_vqa_hub(twice, "gqa", split="train")


@pytest.mark.parametrize("name", ["vqav2", "okvqa", "gqa", "textvqa", "vizwiz", "scienceqa"])
def test_a_hub_id_without_network_is_one_clear_line(name: str) -> None:
    with pytest.raises(DataError, match="cannot be loaded from 'no-such-org/no-such-set'") as caught:
        load_suite(name, "vqa", root="no-such-org/no-such-set")
    assert "\n" not in str(caught.value)
