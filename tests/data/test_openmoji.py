"""The suite's promises: rows that are the same everywhere, splits that do not leak, images that fit their factors."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import pickle
import re

import numpy as np
import pytest
from PIL import ImageChops, ImageOps

from vislex.data import load_suite
from vislex.data.openmoji import attribution, contact_sheet, provenance, sources
from vislex.data.openmoji.build_manifest import HEADER, build_rows
from vislex.data.openmoji.captions import captions
from vislex.data.openmoji.draws import Draws
from vislex.data.openmoji.lexicon import BACKGROUNDS, SIZES, article, plural
from vislex.data.openmoji.manifest import (
    SPLITS,
    held_background,
    held_position,
    nouns,
    pair_is_held_out,
    pool,
)
from vislex.data.openmoji.manifest import _drawings as drawings
from vislex.data.openmoji.nouns import CORE, DEFAULT
from vislex.data.openmoji.render import render_masks, render_scene
from vislex.data.openmoji.scenes import Scene, sample_scene
from vislex.data.openmoji.suite import TASKS, row
from vislex.errors import ConfigError, UnknownNameError

ROWS_SHA256 = {
    "train": "2079bb1714521d0ab505619fdb62c7a1b6d5d997211522794061bf7f763ad26a",
    "val": "5685d5b60a001f06e58f68b0f8c413c2e6913b2f72b4b2416b6f7482cd570825",
    "test_seen": "72f76fe0ceec92fddbd4499c2a5605c4acd169cc80dfa6f31985f9859e99986a",
    "test_composition": "493ddea937a392b9f5da00061e9b17203f3ec8646f4c028c62683b193736e04e",
    "test_artist": "37f13921b35e58964be45f390ce05c03deadecf36868afc7c05a67edf69abef5",
    "test_unknown": "d246ac22d056e4f2ea7f85d8a077772a608619311b59846732e617321dfd0a04",
}


def scenes(split: str, n: int, vocabulary: str = "core") -> list[Scene]:
    return [sample_scene(0, split, vocabulary, index) for index in range(n)]


def held_out(scene: Scene) -> bool:
    names = {item.concept for item in scene.items}
    return (
        any(pair_is_held_out(a, b) for a, b in itertools.combinations(names, 2))
        or any(held_background(name) == scene.background for name in names)
        or any(held_position(item.concept) == item.position for item in scene.items)
    )


@pytest.mark.parametrize("split", SPLITS)
def test_first_rows_are_the_same_everywhere(split: str) -> None:
    digest = hashlib.sha256()
    for vocabulary, task, index in itertools.product(("core", "default"), TASKS, range(10)):
        digest.update(json.dumps(row(task, index, split=split, vocabulary=vocabulary), sort_keys=True).encode())
    assert digest.hexdigest() == ROWS_SHA256[split]


def test_the_committed_manifest_is_what_the_script_writes() -> None:
    assert [tuple(vars(drawing).values()) for drawing in drawings()] == build_rows()
    assert tuple(vars(drawings()[0])) == HEADER


def test_vocabularies_nest_and_each_noun_has_one_drawing_an_artist() -> None:
    core, default, large = (set(nouns(name)) for name in ("core", "default", "large"))
    assert (len(core), len(default)) == (len(CORE), len(DEFAULT)) == (100, 320)
    assert core < default < large
    held = pool("test_artist", "default").drawings
    assert len(held) == 160
    for name, found in pool("train", "default").drawings.items():
        assert [artist for _, artist in found] == (["openmoji"] if name in held else ["openmoji", "twemoji"])


def test_no_family_is_both_trained_and_unknown() -> None:
    unknown = {drawing.family for drawing in drawings() if drawing.split == "test_unknown"}
    trained = {drawing.family for drawing in drawings() if drawing.split != "test_unknown"}
    assert len(unknown) > 50
    assert not unknown & trained
    skin_tones = {drawing.family for drawing in drawings() if "1F3FD" in drawing.code}
    assert unknown & skin_tones  # the case that could leak is there


def test_splits_show_what_they_may() -> None:
    for split in ("train", "val", "test_seen"):
        assert not any(held_out(scene) for scene in scenes(split, 200))
    assert all(held_out(scene) for scene in scenes("test_composition", 200))
    trained = {pair for found in pool("train", "core").drawings.values() for pair in found}
    for scene in scenes("test_composition", 100):
        assert {(item.code, item.artist) for item in scene.items} <= trained
    for scene in scenes("test_artist", 100) + scenes("test_unknown", 100):
        assert not {(item.code, item.artist) for item in scene.items} & trained
        assert not held_out(scene) or scene.items[0].concept not in nouns("core")


def test_rows_do_not_depend_on_size_order_or_image_size() -> None:
    small = load_suite("openmoji", "caption", split="val", size=4, vocabulary="core", image_size=32)
    large = load_suite("openmoji", "caption", split="val", size=9, vocabulary="core", image_size=48)
    plain = ["id", "index", "captions", "factors"]
    assert large.select(range(4)).with_format(None).to_list() == small.with_format(None).to_list()
    assert set(small[3]) == {*plain, "image"}
    assert (small[3]["image"].size, small[3]["image"].mode) == ((32, 32), "RGB")
    assert row("caption", 7, split="val", vocabulary="core")["captions"] == large.with_format(None)[7]["captions"]
    other = load_suite("openmoji", "caption", split="val", size=4, vocabulary="core", seed=1)
    assert other.with_format(None)["factors"] != small.with_format(None)["factors"]


def test_every_image_size_shows_the_same_scene() -> None:
    for scene in scenes("train", 12):
        small, large = render_scene(scene, 48), render_scene(scene, 96).reduce(2)
        away = {
            shift: np.asarray(ImageChops.difference(small, ImageChops.offset(large, *shift))).mean()
            for shift in ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))
        }
        assert min(away, key=away.get) == (0, 0)
        assert away[0, 0] < 6.0  # of 255


def test_background_position_and_size_are_in_the_pixels() -> None:
    for scene in scenes("train", 60):
        assert max(abs(a - b) for a, b in zip(scene.background_rgb, BACKGROUNDS[scene.background], strict=True)) <= 13
        masks = render_masks(scene, 96)
        for item, mask in zip(scene.items, masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert abs(columns.mean() / 96 - item.x) < 0.16
            assert abs(rows.mean() / 96 - item.y) < 0.16
            length = max(np.ptp(rows), np.ptp(columns)) / 96
            assert 0.45 * SIZES[item.size] < length < 1.5 * SIZES[item.size]


def test_masks_are_the_visible_pixels() -> None:
    for scene in scenes("train", 40):
        masks = render_masks(scene, 64)
        assert (masks.sum(0) <= 1).all()
        empty = Scene(scene.background, scene.background_rgb, ())
        changed = np.abs(
            np.asarray(render_scene(scene, 64)).astype(int) - np.asarray(render_scene(empty, 64)).astype(int)
        ).max(-1)
        assert not masks[:, changed == 0].any() or (masks[:, changed == 0].sum() < 0.4 * masks.sum())
        assert (changed[~masks.any(0)] > 100).mean() < 0.1
        alone = render_masks(Scene(scene.background, scene.background_rgb, scene.items[:1]), 64)[0]
        assert not (masks[0] & ~alone).any()  # occlusion only takes away
        assert masks.sum((1, 2)).min() > 0


def test_captions_are_lossy_and_dense_ones_are_complete() -> None:
    rows = [row("caption", i, split="train", vocabulary="core") for i in range(300)]
    texts = [text for r in rows for text in r["captions"]]
    assert all(len(r["captions"]) == 5 for r in rows)
    assert 0.3 < np.mean(["background" in text for text in texts]) < 0.5  # named with p = 0.4
    assert np.mean([len(set(r["captions"])) for r in rows]) > 4.8
    for r in rows:
        concepts = {item["concept"] for item in json.loads(r["factors"])["objects"]}
        assert all(c in text or plural(c) in text for c in concepts for text in r["captions"])
    # What stands before a noun phrase is not followed by a place, and the verb goes with the first noun.
    assert sum(text.startswith(("at the ", "on the ", "in the ", "near the ")) for text in texts) > 20
    for text in texts:
        assert not re.search(r"(there (is|are)|drawing of|picture of|with) (at|on|in|near) the ", text), text
        assert not re.search(r"^there (are (a|an|one)|is (two|three|four|some)) ", text), text
    for scene in scenes("train", 100):
        for text in captions(scene, Draws("test", index=0), "dense"):
            assert f"{scene.background} background" in text
            assert len(text.split()) <= 60


def test_words() -> None:
    assert [plural(w) for w in ("mouse", "cherry", "fox", "knife", "pair of socks", "fire truck", "key")] == [
        "mice", "cherries", "foxes", "knives", "pairs of socks", "fire trucks", "keys",
    ]  # fmt: skip
    assert [article(w) for w in ("owl", "unicorn", "ufo", "hourglass", "cat")] == ["an", "a", "a", "an", "a"]


def test_mirroring_swaps_words_factors_and_pixels() -> None:
    for index in range(30):
        scene = sample_scene(0, "train", "core", index)
        mirrored = scene.mirror()
        assert mirrored.mirror() == scene
        image = render_scene(scene, 64)
        assert render_scene(mirrored, 64).tobytes() == ImageOps.mirror(image).tobytes()
        assert (render_masks(mirrored, 64) == render_masks(scene, 64)[:, :, ::-1]).all()
        assert [i.position.replace("left", "right") for i in scene.items if "left" in i.position] == [
            m.position for i, m in zip(scene.items, mirrored.items, strict=True) if "left" in i.position
        ]
    options = {"size": 60, "vocabulary": "core", "image_size": 32}
    plain = load_suite("openmoji", "segmentation", **options)
    augmented = load_suite("openmoji", "segmentation", augment=True, **options)[:]
    flips = [json.loads(text)["mirrored"] for text in augmented["factors"]]
    assert 15 < sum(flips) < 45
    for i, flipped in enumerate(flips):
        words = plain[i]["expression"].split()
        swap = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
        assert augmented["expression"][i].split() == [swap.get(w, w) if flipped else w for w in words]
        assert (augmented["mask"][i] == (plain[i]["mask"][:, ::-1] if flipped else plain[i]["mask"])).all()


def test_the_transform_is_picklable_and_reads_the_factors_alone() -> None:
    data = load_suite("openmoji", "images", size=3, vocabulary="core")
    copy = pickle.loads(pickle.dumps(data))
    assert copy[1]["image"].tobytes() == data[1]["image"].tobytes()
    assert set(data[0]) == {"id", "index", "factors", "image"}


def test_provenance_and_attribution(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance()
    assert found["suite"] == "openmoji-v1"
    assert len(found["manifest_sha256"]) == len(found["render_sha256"]) == 64
    caplog.clear()
    monkeypatch.setattr(sources, "RENDER_SHA256", "0" * 64)
    with caplog.at_level(logging.WARNING):
        assert provenance() == found  # other pixels are a warning, not an error
    assert "renders other pixels" in caplog.text
    assert "CC BY-SA 4.0" in attribution()
    assert "CC BY 4.0" in attribution()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'caption'"):
        load_suite("openmoji", "captions")
    with pytest.raises(UnknownNameError, match="test_seen"):
        load_suite("openmoji", "caption", split="test_sen", size=1)
    with pytest.raises(UnknownNameError, match="core, default, large"):
        load_suite("openmoji", "caption", vocabulary="huge", size=1)
    with pytest.raises(ConfigError, match="at least 1"):
        load_suite("openmoji", "caption", size=0)


@pytest.mark.slow
def test_the_contact_sheet_holds_every_section() -> None:
    sheet = contact_sheet(vocabulary="core", image_size=32)
    assert sheet.mode == "RGB"
    assert sheet.width > 1500
    assert sheet.height > 3000
