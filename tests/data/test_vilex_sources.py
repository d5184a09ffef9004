"""Loaders of the data sets that ViLex is measured on and no public harness has: videos, figures, 35 languages."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from vislex.data import load_suite
from vislex.data.schemas import check_columns
from vislex.errors import ConfigError, DataError


def test_msrvtt(tmp_path: Path, tiny_sources: Any) -> None:
    tiny_sources.msrvtt(tmp_path)
    test = pickle.loads(pickle.dumps(load_suite("msrvtt", split="test", root=tmp_path)))
    assert test["id"] == ["video7010", "video7011"]
    assert test[1]["captions"] == ["a man sings 0", "a man sings 1"]
    assert test[1]["video"] == str(tmp_path / "TestVideo" / "video7011.mp4")
    assert load_suite("msrvtt", split="train", root=tmp_path)["id"] == ["video0"]
    row = load_suite(f"msrvtt:{tmp_path}", "vqa", split="test")[0]
    assert (row["question"], row["answers"], row["question_type"]) == ("What does a man do?", ["sing"], "what")
    assert row["video"].endswith("video7011.mp4")
    with pytest.raises(DataError, match="no rows for this split"):
        load_suite("msrvtt", split="val", root=tmp_path)
    with pytest.raises(ConfigError, match="no split 'tst'; did you mean 'test'"):
        load_suite("msrvtt", split="tst", root=tmp_path)
    (tmp_path / "test_videodatainfo.json").write_text('{"videos": []}')
    with pytest.raises(DataError, match="not of MSR-VTT's form"):
        load_suite("msrvtt", split="test", root=tmp_path)


def test_msvd(tmp_path: Path, tiny_sources: Any) -> None:
    tiny_sources.msvd(tmp_path)
    row = load_suite("msvd", "vqa", split="test", root=tmp_path)[0]
    assert (row["id"], row["answer"], row["file"]) == ("9", "bird", "YouTubeClips/mv89psg6zh4_33_46.avi")
    (tmp_path / "youtube_mapping.txt").unlink()
    tiny_sources.video(tmp_path / "videos" / "vid1301.avi")
    assert load_suite("msvd", "vqa", split="test", root=tmp_path)[0]["file"] == "videos/vid1301.avi"
    (tmp_path / "youtube_mapping.txt").write_text("a b c\n")
    with pytest.raises(DataError, match="line 1: expected a name and a number"):
        load_suite("msvd", "vqa", split="test", root=tmp_path)
    (tmp_path / "youtube_mapping.txt").write_text("")
    (tmp_path / "test_qa.json").write_text(json.dumps([{"id": 1, "video_id": "../x", "question": "a", "answer": "b"}]))
    with pytest.raises(DataError):
        load_suite("msvd", "vqa", split="test", root=tmp_path)


def test_scicap(tmp_path: Path, tiny_sources: Any) -> None:
    tiny_sources.scicap(tmp_path)
    for root in (tmp_path, tmp_path / "scicap_data"):
        dataset = load_suite("scicap", split="test", root=root)
        check_columns(dataset, "caption")
        assert dataset[0]["id"] == "1001.0317v1-Figure2-Test"
        assert dataset[0]["captions"] == ["the test loss ."]
    with pytest.raises(ConfigError, match="no subset 'all'; it has first_sentence"):
        load_suite("scicap", split="test", root=tmp_path, subset="all")
    with pytest.raises(DataError, match="no list of files of split 'test'"):
        load_suite("scicap", split="test", root=tmp_path, subfigures=True)


def test_coco35l(tmp_path: Path, tiny_sources: Any) -> None:
    tiny_sources.coco35l(tmp_path)
    dataset = load_suite("coco35l", split="val", root=tmp_path)
    check_columns(dataset, "caption")
    found = dict(zip(dataset["id"], dataset["captions"], strict=True))
    assert found["2_en"] == ["a cat 2 sits 0", "a cat 2 sits 1"]
    assert found["1_fr"] == ["un chat est assis 1"] * 2
    assert len(dataset) == 6
    assert load_suite("coco35l", split="val", root=tmp_path, languages=["fr"])["language"] == ["fr", "fr"]
    with pytest.raises(ConfigError, match="no language 'xx'"):
        load_suite("coco35l", split="val", root=tmp_path, languages=["xx"])
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": []}))
    with pytest.raises(ConfigError):
        load_suite("coco35l", split="val", root=tmp_path)


def test_lists_of_another_form(tmp_path: Path, tiny_sources: Any) -> None:
    tiny_sources.scicap(tmp_path / "scicap")
    (listing,) = (tmp_path / "scicap").rglob("Test/file_idx.json")
    for names, reason in (
        (7, "a list of file names"),
        (["\0.png"], "is no file name"),
        (["\ud800.png"], "is no file name"),
    ):
        listing.write_text(json.dumps(names))
        with pytest.raises(DataError, match=reason):
            load_suite("scicap", split="test", root=tmp_path / "scicap")
    tiny_sources.msvd(tmp_path / "msvd")
    (tmp_path / "msvd" / "youtube_mapping.txt").write_bytes(b"\xff vid1301\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        load_suite("msvd", "vqa", split="test", root=tmp_path / "msvd")
