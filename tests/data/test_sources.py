"""The loaders on folders made here in the published layouts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vislex.data import load_suite
from vislex.data.paths import check_relative, safe_join
from vislex.data.schemas import COLUMNS, caption_dataset, check_columns
from vislex.errors import ConfigError, DataError, ImageError, VislexError


def _image(path: Path, color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), color).save(path)


def _karpathy(root: Path, name: str, rows: list[tuple[str, str, str]]) -> None:
    images = []
    for number, (folder, filename, split) in enumerate(rows):
        _image(root / folder / filename)
        entry: dict[str, Any] = {
            "filename": filename,
            "imgid": number,
            "split": split,
            "sentences": [{"raw": f" a caption  {i} of {number}\n", "tokens": []} for i in range(5)],
        }
        if name == "coco":
            entry |= {"filepath": folder, "cocoid": 1000 + number}
        images.append(entry)
    (root / f"dataset_{name}.json").write_text(json.dumps({"images": images, "dataset": name}))


def test_coco(tmp_path: Path) -> None:
    rows = [("train2014", "a.jpg", "train"), ("val2014", "b.jpg", "restval"), ("val2014", "c.jpg", "test")]
    _karpathy(tmp_path, "coco", rows)
    train = load_suite("coco", split="train", root=tmp_path)
    assert train["id"] == ["1000", "1001"]
    assert train[1]["image"].size == (6, 4)
    assert train[0]["captions"] == [f"a caption {i} of 0" for i in range(5)]
    check_columns(train, "caption")
    assert len(load_suite("coco", split="train", root=tmp_path, restval=False)) == 1
    test = load_suite(f"coco:{tmp_path}", split="test")
    assert (test["id"], test[0]["index"]) == (["1002"], 0)
    with pytest.raises(ConfigError, match="no split 'tests'; did you mean 'test'"):
        load_suite("coco", split="tests", root=tmp_path)


def test_rows_are_plain_and_the_transform_can_be_pickled(tmp_path: Path) -> None:
    _karpathy(tmp_path, "coco", [("train2014", f"{i}.jpg", "train") for i in range(4)])
    dataset = load_suite("coco", split="train", root=tmp_path)
    plain = dataset.with_format(None)
    assert "image" not in plain.column_names
    assert json.dumps(plain[0])
    again = pickle.loads(pickle.dumps(dataset))
    assert again[2]["image"].mode == "RGB"
    assert [row["id"] for row in again.select([3, 1])] == ["1003", "1001"]


def test_flickr30k_in_its_three_forms(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    _karpathy(one, "flickr30k", [("flickr30k_images", "1.jpg", "train"), ("flickr30k_images", "2.jpg", "test")])
    assert load_suite("flickr30k", split="test", root=one)[0]["id"] == "2"

    _image(two / "flickr30k-images" / "7.jpg")
    captions = json.dumps(["one", "two"]).replace('"', '""')
    (two / "flickr_annotations_30k.csv").write_text(
        f'raw,sentids,split,filename,img_id\n"{captions}","[0, 1]",val,7.jpg,0\n'
    )
    row = load_suite("flickr30k", split="val", root=two)[0]
    assert (row["id"], row["captions"], row["image"].size) == ("7", ["one", "two"], (6, 4))

    _image(three / "images" / "7.jpg")
    (three / "results.csv").write_text("image_name| comment_number| comment\n7.jpg| 0| A dog .\n7.jpg| 4   A cat .\n")
    assert load_suite("flickr30k", split="all", root=three)[0]["captions"] == ["A dog .", "A cat ."]
    (three / "results.csv").unlink()
    (three / "results_20130124.token").write_text("7.jpg#0\tA dog .\n7.jpg#1\tA cat .\n")
    assert load_suite("flickr30k", split="all", root=three)[0]["captions"] == ["A dog .", "A cat ."]
    with pytest.raises(ConfigError, match=r"no split 'train'\. It has all"):
        load_suite("flickr30k", split="train", root=three)
    (three / "results_20130124.token").write_text("7.jpg A dog .\n")
    with pytest.raises(DataError, match=r"results_20130124\.token:1: expected an image name"):
        load_suite("flickr30k", split="all", root=three)


def test_nocaps_has_domains(tmp_path: Path) -> None:
    domains = ["in-domain", "near-domain", "out-domain"]
    images = [{"id": i, "file_name": f"{i}.jpg", "domain": domain} for i, domain in enumerate(domains)]
    for i in range(3):
        _image(tmp_path / "images" / f"{i}.jpg")
    annotations = [{"image_id": i % 3, "id": i, "caption": f"caption {i}"} for i in range(30)]
    document = json.dumps({"images": images, "annotations": annotations})
    (tmp_path / "nocaps_val_4500_captions.json").write_text(document)
    dataset = load_suite("nocaps", split="val", root=tmp_path)
    assert dataset["domain"] == domains
    assert len(dataset[0]["captions"]) == 10
    assert load_suite("nocaps", split="val", root=tmp_path, domain="out-domain")["id"] == ["2"]
    with pytest.raises(DataError, match="unknown NoCaps domain"):
        load_suite("nocaps", split="val", root=tmp_path, domain="far")
    with pytest.raises(DataError, match=r"nocaps_test_image_info\.json"):
        load_suite("nocaps", split="test", root=tmp_path)


def test_textcaps_joins_the_captions_of_an_image(tmp_path: Path) -> None:
    _image(tmp_path / "train_images" / "x1.jpg")
    data = [
        {"image_id": "x1", "image_path": "train/x1.jpg", "caption_str": f"c{i}", "reference_strs": ["c0", "c1", "c2"]}
        for i in range(3)
    ]
    (tmp_path / "TextCaps_0.1_val.json").write_text(json.dumps({"data": data}))
    dataset = load_suite("textcaps", split="val", root=tmp_path)
    assert (len(dataset), dataset[0]["captions"]) == (1, ["c0", "c1", "c2"])
    assert dataset[0]["image"].size == (6, 4)


def test_localized_narratives_groups_by_image_over_shards(tmp_path: Path) -> None:
    _image(tmp_path / "val2017" / "000000137576.jpg")
    row = {"dataset_id": "mscoco_val2017", "image_id": "137576", "annotator_id": 93, "timed_caption": [], "traces": []}
    for shard, caption in enumerate(["In this image", "We can see"]):
        path = tmp_path / f"coco_val_localized_narratives-0000{shard}-of-00002.jsonl"
        path.write_text(json.dumps(row | {"caption": caption}) + "\n")
    dataset = load_suite("localized_narratives", split="val", root=tmp_path)
    assert dataset[0]["captions"] == ["In this image", "We can see"]
    assert (dataset[0]["id"], dataset[0]["dataset_id"]) == ("137576", "mscoco_val2017")
    assert dataset[0]["image"].size == (6, 4)


def _folder(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_own_folder(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        _image(tmp_path / name)
    _folder(
        tmp_path,
        [
            {"file_name": "a.png", "caption": "one", "split": "train"},
            {"file_name": "sub/b.png", "captions": ["two", "three"], "id": 7, "split": "val"},
        ],
    )
    assert load_suite(str(tmp_path))["id"] == ["a.png"]
    row = load_suite("folder", split="val", root=tmp_path)[0]
    assert (row["id"], row["captions"]) == ("7", ["two", "three"])
    with pytest.raises(DataError, match="no rows for this split"):
        load_suite(str(tmp_path), split="test")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x.png",
        "a/../../x.png",
        "C:/x.png",
        "a\\b.png",
        "~/x",
        "",
        "a\0b",
        "\ud800",
        "x" * 256,
        "é" * 128,
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        check_relative(name)
    _folder(tmp_path, [{"id": "x", "file_name": name, "caption": "c"}])
    with pytest.raises(DataError):
        load_suite(str(tmp_path))


@pytest.mark.parametrize("value", ["\ud800", ["a"], 2**70])
def test_a_field_of_another_kind_of_value_is_told(tmp_path: Path, value: Any) -> None:
    rows = [{"id": str(i), "file": "a.png", "captions": ["a"], "more": more} for i, more in enumerate([1, value])]
    with pytest.raises(DataError, match="rows: a field holds another kind of value"):
        caption_dataset(rows, tmp_path, source="rows")


def test_a_line_of_flickr30k_that_was_cut_is_told(tmp_path: Path) -> None:
    _image(tmp_path / "flickr30k-images" / "7.jpg")
    (tmp_path / "flickr_annotations_30k.csv").write_text('raw,sentids,split,filename,img_id\n"[""a""]"\n')
    with pytest.raises(ConfigError, match="has no split 'val'"):
        load_suite("flickr30k", split="val", root=tmp_path)
    (tmp_path / "flickr_annotations_30k.csv").write_text("sentids,raw\n1\n")
    with pytest.raises(DataError, match="damaged or of another form"):
        load_suite("flickr30k", split="val", root=tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    _image(tmp_path / "secret" / "a.png")
    root = _folder(tmp_path / "data", [{"file_name": "a.png", "caption": "c"}])
    (root / "a.png").symlink_to(tmp_path / "secret" / "a.png")
    with pytest.raises(DataError, match="leads out of"):
        load_suite(str(root))[0]
    _image(root / "real" / "b.png")
    (root / "b.png").symlink_to("real/b.png")
    assert safe_join(root, "b.png").name == "b.png"


def test_bad_images_raise_or_are_skipped_within_bounds(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "caption": "c"} for i in range(10)]
    _folder(tmp_path, rows)
    for i in range(9):
        _image(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:40])
    dataset = load_suite(str(tmp_path))
    with pytest.raises(ImageError, match=r"4\.png"):
        dataset[4]
    kept = load_suite(str(tmp_path), bad_images="skip", max_bad_fraction=0.2)
    assert kept["index"] == [0, 1, 2, 3, 5, 6, 7, 8]
    with pytest.raises(DataError, match="2 of 10 images cannot be read"):
        load_suite(str(tmp_path), bad_images="skip", max_bad_fraction=0.1)


def test_mistakes_are_told(tmp_path: Path) -> None:
    for arguments, expected in [
        ({"name": "coko", "root": tmp_path}, "did you mean 'coco'"),
        ({"name": "coco"}, "needs its place"),
        ({"name": "coco", "root": tmp_path / "gone"}, "is not there"),
        ({"name": "coco", "root": tmp_path}, "looked for dataset_coco.json"),
        ({"name": "coco", "root": tmp_path, "task": "vqa"}, "has no task 'vqa'"),
        ({"name": "coco", "root": tmp_path, "split": "te/st"}, "is no identifier"),
        ({"name": "coco", "root": tmp_path, "bad_images": "ignore"}, "unknown bad_images"),
    ]:
        with pytest.raises(VislexError, match=expected):
            load_suite(**arguments)
    (tmp_path / "dataset_coco.json").write_text('{"images": [{"filename": "a.jpg"}]}')
    with pytest.raises(DataError, match="image 0: no field 'split'"):
        load_suite("coco", root=tmp_path)
    _karpathy(tmp_path, "coco", [("train2014", "a.jpg", "train")])
    (tmp_path / "train2014" / "a.jpg").unlink()
    with pytest.raises(DataError, match="none of 1 images"):
        load_suite("coco", root=tmp_path)


def test_a_parquet_folder_in_the_hubs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    _image(tmp_path / "a.png", "blue")
    features = Features({"image": ImageFeature(), "caption": List(Value("string")), "split": Value("string")})
    inside = {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    outside = {"bytes": None, "path": str(tmp_path / "a.png")}
    rows = [
        {"image": image, "caption": ["x", "y"], "split": split}
        for image, split in ((outside, "test"), (inside, "train"))
    ]
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    dataset = load_suite("folder", split="train", root=tmp_path / "set")
    row = dataset[0]
    assert (len(dataset), row["captions"], row["image"].getpixel((0, 0))) == (1, ["x", "y"], (0, 0, 255))
    assert set(COLUMNS["caption"]) <= set(row)
    assert dataset["captions"][0] == ["x", "y"]
    with pytest.raises(DataError, match="which is not in"):
        load_suite("folder", split="test", root=tmp_path / "set")[0]


def test_a_hub_id_without_network_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="cannot be loaded from 'no-such-org/no-such-set'") as caught:
        load_suite("coco", root="no-such-org/no-such-set", split="test")
    assert "\n" not in str(caught.value)
