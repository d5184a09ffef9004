"""RefCOCO/+/g on folders made here: masks, splits, what leaks, and pickles that are no plain values."""

from __future__ import annotations

import json
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from vislex.data import load_suite
from vislex.data.coco_masks import decode_segmentation, parse_counts
from vislex.data.refcoco_splits import held_out_images
from vislex.data.safe_pickle import read_plain_pickle
from vislex.data.schemas import check_columns
from vislex.errors import ConfigError, DataError

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]


def ref(number: int, image: int, split: str, *texts: str) -> dict[str, Any]:
    sentences = [{"sent_id": 10 * number + i, "sent": text, "raw": text, "tokens": []} for i, text in enumerate(texts)]
    return {
        "ref_id": number, "ann_id": 100 + number, "image_id": image, "split": split, "category_id": 1,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg", "sent_ids": [], "sentences": sentences,
    }  # fmt: skip


def write(root: Path, name: str, by: str, refs: list[dict[str, Any]], segmentation: Any = SQUARE) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    images = {r["image_id"] for r in refs}
    for image in images:
        path = root / "images" / "train2014" / f"COCO_train2014_{image:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), "red").save(path)
    document = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 8, "width": 10} for i in sorted(images)
        ],
        "annotations": [
            {"id": r["ann_id"], "image_id": r["image_id"], "segmentation": segmentation, "bbox": []} for r in refs
        ],
    }
    (folder / "instances.json").write_text(json.dumps(document))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    unc = [
        ref(1, 7, "train", "the red  mug", "mug on the left"),
        ref(2, 8, "train", "dog"),
        ref(3, 9, "val", "cat"),
        ref(4, 10, "testA", "man"),
        ref(5, 11, "testB", "bus"),
    ]
    write(tmp_path, "refcoco", "unc", unc)
    write(tmp_path, "refcoco+", "unc", [ref(1, 7, "train", "shiny one"), ref(2, 12, "val", "old one")])
    write(tmp_path, "refcocog", "umd", [ref(1, 7, "train", "a shiny red mug"), ref(2, 8, "test", "a dog that runs")])
    return tmp_path


def test_a_row_an_expression_with_its_mask(root: Path) -> None:
    dataset = pickle.loads(pickle.dumps(load_suite("refcoco", "segmentation", split="val", root=root)))
    check_columns(dataset, "segmentation")
    row = dataset[0]
    assert (row["id"], row["expression"], row["image"].size) == ("3-30", "cat", (10, 8))
    expected = np.zeros((8, 10), dtype=bool)
    expected[1:5, 2:6] = True
    assert np.array_equal(row["mask"], expected)
    assert not {"segmentation", "height", "width"} & set(row)
    train = load_suite("refcoco", "segmentation", root=root, remove_leaked=False)
    assert train["expression"] == ["the red mug", "mug on the left", "dog"]
    assert len(load_suite("refcoco", "segmentation", split="testB", root=root)) == 1
    assert load_suite("refcocog", "segmentation", split="test", root=root)[0]["expression"] == "a dog that runs"
    assert load_suite("refcoco+", "segmentation", split="val", root=root)["id"] == ["2-20"]
    assert len(load_suite("refcoco", "segmentation", root=root, size=1)) == 1


def test_images_of_the_others_test_splits_are_left_out_of_training(root: Path) -> None:
    assert held_out_images(root) == {8, 9, 10, 11, 12}
    assert held_out_images(None) == frozenset()
    train = load_suite("refcoco", "segmentation", root=root)  # image 8 is a test image of RefCOCOg
    assert train["expression"] == ["the red mug", "mug on the left"]
    with pytest.raises(DataError, match=r"has no refs\(\*\)\.p"):
        held_out_images(root / "images")


def test_captions_and_questions_on_these_images_are_left_out(root: Path, tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    (coco / "train2014").mkdir(parents=True)
    images, questions = [], []
    for image in (7, 8):
        name = f"COCO_train2014_{image:012d}.jpg"
        Image.new("RGB", (10, 8)).save(coco / "train2014" / name)
        sentences = [{"raw": "a mug"}]
        images.append(
            {"filename": name, "filepath": "train2014", "cocoid": image, "split": "train", "sentences": sentences}
        )
        questions.append({"image_id": image, "question": "what?", "question_id": image})
    annotations = [{"question_id": q["question_id"], "answers": []} for q in questions]
    for prefix in ("v2_", ""):
        (coco / f"{prefix}OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": questions}))
        (coco / f"{prefix}mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    (coco / "dataset_coco.json").write_text(json.dumps({"images": images}))
    for name, task in (("coco", "caption"), ("vqav2", "vqa"), ("okvqa", "vqa")):
        assert load_suite(name, task, root=coco)["id"] == ["7", "8"]
        assert load_suite(name, task, root=coco, without_refcoco=root)["id"] == ["7"]
    with pytest.raises(DataError, match="needs COCO's ids"):
        load_suite("coco", root="some/set", without_refcoco=root)


def test_splits_and_mistakes(root: Path) -> None:
    for arguments, error, reason in (
        ({"split": "test"}, ConfigError, "no split 'test'; did you mean 'test[AB]'"),
        ({"split_by": "umd"}, ConfigError, "no splits by 'umd'; it has unc, google"),
        ({"split_by": "google"}, DataError, r"no refs by 'google'; looked for refs\(google\)\.p"),
    ):
        with pytest.raises(error, match=reason):
            load_suite("refcoco", "segmentation", root=root, **arguments)
    with pytest.raises(ConfigError, match="has no task 'refseg'; it has segmentation"):
        load_suite("refcoco", "refseg", root=root)
    write(root, "refcoco", "google", [ref(9, 7, "train", "a google one"), ref(10, 7, "val", "another")])
    google = load_suite("refcoco", "segmentation", root=root, split_by="google")
    assert google["expression"] == ["a google one"]  # its splits share images, and are not held out against each other
    write(root, "refcoco", "unc", [ref(1, 7, "train", "x") | {"ann_id": 5}])
    (root / "refcoco" / "instances.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="not of RefCOCO's form; missing or wrong: 7"):
        load_suite("refcoco", "segmentation", root=root)
    write(root, "refcoco", "unc", [{"a": 1, "image_id": 3, "ann_id": 2}])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: not of RefCOCO's form"):
        load_suite("refcoco", "segmentation", root=root)


def test_a_mask_of_another_size_than_its_image_is_told(root: Path) -> None:
    Image.new("RGB", (9, 8)).save(root / "images" / "train2014" / f"COCO_train2014_{9:012d}.jpg")
    with pytest.raises(DataError, match="row '3-30': its mask is 10 x 8 pixels, its image 9 x 8"):
        load_suite("refcoco", "segmentation", split="val", root=root)[0]


def test_columns_as_hubs_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vislex.data.coco_masks import OpenMasks
    from vislex.data.hub import load_hub_rows
    from vislex.data.refcoco import _hub_rows

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    image = {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    features = Features(image=ImageFeature(), segmentation=List(Value("float64")), answer=List(Value("string")))
    rows = [{"image": image, "segmentation": SQUARE[0], "answer": ["the mug", "red mug"]}] * 2
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows, features).to_parquet(tmp_path / "set" / "testA.parquet")
    dataset = load_hub_rows(
        tmp_path / "set", "refcoco", _hub_rows, split="testA", needs=("segmentation", "answer"), transform=OpenMasks,
        data_files={"testA": str(tmp_path / "set" / "testA.parquet")},
    )  # fmt: skip
    assert dataset["id"] == ["0-0", "0-1", "1-0", "1-1"]
    assert (dataset[3]["expression"], dataset[3]["mask"].sum(), dataset[3]["ref_id"]) == ("red mug", 16, "1")
    with pytest.raises(DataError, match="cannot be loaded from 'no-such-org/no-such-set'"):
        load_suite("refcocog", "segmentation", root="no-such-org/no-such-set")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "run"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_does_not_run(protocol: int, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "refs(unc).p"
    for content, names in (
        ([{"ref_id": Payload(trace)}], "names '"),
        ({"a": os.system}, "names '"),
        ([np.float64(3)], "names '"),
        ([range(3)], "names '"),
    ):
        file.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(DataError, match=names) as error:
            read_plain_pickle(file)
        assert "\n" not in str(error.value)
    assert not trace.exists()
    plain = [{"a": 1, "b": [2.5, None, True], "c": ("x", "é")}]
    file.write_bytes(pickle.dumps(plain, protocol))
    assert read_plain_pickle(file) == plain


def test_damaged_pickles_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "refs(unc).p"
    whole = pickle.dumps([{"a": "b" * 100}])
    for content in (
        b"",
        b"no pickle",
        whole[:-20],
        b"\x80\x02X\xff\xff\xff\x7f",
        b"(" * 50,
        b"ccopy\n_reconstructor\n.",
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"refs\(unc\)\.p") as error:
            read_plain_pickle(file)
        assert "\n" not in str(error.value)
    file.write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.")  # as Python 2 wrote texts
    assert read_plain_pickle(file) == ["café"]
    with pytest.raises(DataError, match="there is no file"):
        read_plain_pickle(tmp_path / "gone.p")
    monkeypatch.setattr("vislex.data.safe_pickle.MAX_BYTES", 4)
    with pytest.raises(DataError, match="more than 4 bytes"):
        read_plain_pickle(file)


def test_a_large_number_of_a_value_fills_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "refs(unc).p"
    file.write_bytes(b"\x80\x02]r\xff\xff\xff\xff.")  # an empty list, stored as value 2**32 - 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_plain_pickle(file) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_byte_array_that_is_not_there_fills_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "refs(unc).p"
    file.write_bytes(b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b"ab.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="damaged or no pickle"):
        read_plain_pickle(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("field", ["split", "image_id"])
def test_references_of_another_form(root: Path, field: str) -> None:
    (root / "refcoco" / "refs(unc).p").write_bytes(
        pickle.dumps([{**ref(1, 7, "val", "dog"), field: {"a": 1}}], protocol=2)
    )
    with pytest.raises(DataError, match="not of RefCOCO's form"):
        load_suite("refcoco", "segmentation", split="val", root=root)


def compress(lengths: list[int]) -> str:
    """COCO's compressed run lengths, written independently: differences two back, five bits a character."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - (lengths[i - 2] if i > 2 else 0)
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | (32 if more else 0)) + 48)
            if not more:
                break
    return text


def test_run_lengths_go_down_the_columns() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1:, 1] = mask[0, 2] = True
    lengths = [4, 3, 5]
    for counts in (lengths, compress(lengths)):
        assert np.array_equal(decode_segmentation({"size": [3, 4], "counts": counts}, (3, 4), "x"), mask)
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = rng.integers(0, 5000, size=rng.integers(1, 20)).tolist()
        assert parse_counts(compress(drawn)) == drawn
    assert parse_counts("") == []
    # a published example of pycocotools: 3 x 3, all inside but the first pixel
    assert parse_counts(compress([1, 8])) == [1, 8]


def test_polygons_are_joined() -> None:
    two = [SQUARE[0], [4.0, 3.0, 10.0, 3.0, 10.0, 8.0, 4.0, 8.0]]
    mask = decode_segmentation(two, (8, 10), "x")
    assert mask.sum() == 16 + 30 - 4  # a union: where they overlap is inside
    assert np.array_equal(decode_segmentation(SQUARE[0], (8, 10), "x"), decode_segmentation(SQUARE, (8, 10), "x"))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "neither polygons nor run lengths"),
        (None, "neither polygons nor run lengths"),
        ([[1.0, 2.0, 3.0]], "no list of pairs"),
        ([["a", "b"]], "no list of pairs"),
        ([[1.0, 2.0, 3.0, 4.0]], "2 corners"),
        ([[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]], "finite"),
        ({"size": [8, 11], "counts": []}, r"for \[8, 11\], its image is \[8, 10\]"),
        ({"size": [8, 10], "counts": [1, 2]}, "cover 3 of 80 pixels"),
        ({"size": [8, 10], "counts": [81, -1]}, "no whole numbers"),
        ({"size": [8, 10], "counts": "é"}, "hold the character"),
        ({"size": [8, 10], "counts": "X"}, "are cut off"),
        ({"size": None, "counts": [80]}, "are for None"),
        ({"size": 8, "counts": [80]}, "are for 8"),
        ({"size": [8, 10], "counts": "o" * 1_000_000}, "more than 60 bits"),
        ([[10**400, 2, 3, 4, 5, 6]], "no list of pairs"),
    ],
)
def test_segmentations_that_are_none(segmentation: Any, reason: str) -> None:
    with pytest.raises(DataError, match=f"row 1: .*{reason}"):
        decode_segmentation(segmentation, (8, 10), "row 1")
