"""Shards of pairs: every row once an epoch, in an order that the position decides; bad files and pairs are told."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import vislex
from vislex.errors import DataError, ImageError
from vislex.training.draws import Draws, identity_collate
from vislex.training.shards import ShardedPairs, WindowedOrder

SIZES = (3, 5, 2, 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tars(root: Path, split: str = "train", *, bad: int | None = None) -> None:
    (root / split).mkdir(parents=True)
    row = 0
    for number, size in enumerate(SIZES):
        with tarfile.open(root / split / f"{number:05}.tar", "w") as tar:
            for _ in range(size):
                add(tar, f"{row:06}.png", png(row) if row != bad else b"\x89PNG broken")
                if row % 2:
                    add(tar, f"{row:06}.json", json.dumps({"caption": f"pair {row}", "width": 4}).encode())
                else:
                    add(tar, f"{row:06}.txt", f"pair  {row}\n".encode())
                row += 1


def write_parquet(root: Path, split: str = "train") -> None:
    root.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(row), "path": f"{row}.png"} for row in range(sum(SIZES))]
    table = pa.table({"image": images, "caption": [f"pair {row}" for row in range(len(images))]})
    pq.write_table(table.slice(0, 8), root / f"{split}-00000-of-00002.parquet", row_group_size=3)
    pq.write_table(table.slice(8), root / f"{split}-00001-of-00002.parquet", row_group_size=4)


@pytest.fixture(params=[write_tars, write_parquet])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> ShardedPairs:
    write: Callable[[Path], None] = request.param
    write(tmp_path / "data")
    return ShardedPairs(tmp_path / "data", window=2)


def test_each_row_is_its_own_pair(pairs: ShardedPairs) -> None:
    assert len(pairs) == sum(SIZES)
    images, captions = pairs.read([13, 0, 8, 7])
    assert [image.getpixel((0, 0))[0] for image in images] == [13, 0, 8, 7]
    assert captions == [["pair 13"], ["pair 0"], ["pair 8"], ["pair 7"]]
    assert pairs.captions([3]) == [["pair 3"]]
    again = pickle.loads(pickle.dumps(pairs))  # as for the processes of a loader
    assert again.read([13])[1] == [["pair 13"]]


def test_an_epoch_holds_every_row_once_and_the_next_one_another_order(pairs: ShardedPairs) -> None:
    order = pairs.order(seed=0)
    count = len(pairs)
    first, second = (order(np.arange(count) + start) for start in (0, count))
    assert sorted(first) == sorted(second) == list(range(count))
    assert not np.array_equal(first, second)
    assert not np.array_equal(pairs.order(seed=1)(np.arange(count)), first)
    fresh = pairs.order(seed=0)
    assert np.array_equal(fresh(np.arange(count + 3, count + 9)), second[3:9])  # nothing before was asked for


def test_only_a_window_of_units_is_mixed() -> None:
    counts = np.array([10] * 8)
    rows = WindowedOrder(counts, seed=0, window=2)(np.arange(80))
    units = rows // 10
    for start in range(0, 80, 20):
        assert len(set(units[start : start + 20])) == 2
        assert list(units[start : start + 20]) != sorted(units[start : start + 20])  # its rows are mixed
    mixed = WindowedOrder(counts, seed=0, window=100)(np.arange(80)) // 10
    assert len(set(mixed[:20])) > 4


@pytest.mark.parametrize(("workers", "batch"), [(0, 6), (2, 6), (2, 3), (0, 2)])
def test_workers_and_batches_do_not_change_the_order(workers: int, batch: int, pairs: ShardedPairs) -> None:
    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, list[int]]:
        return {"shades": [image.getpixel((0, 0))[0] for image in pairs.read(rows)[0]]}

    draws = Draws(len(pairs), 30, seed=0, fetch=fetch, order=pairs.order(0))
    loader = DataLoader(draws, batch_size=batch, num_workers=workers, collate_fn=identity_collate)
    seen = [shade for own in loader for shade in own["shades"]]
    assert seen == pairs.order(0)(np.arange(30)).tolist()


def test_the_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tars(tmp_path / "data")
    provenance = ShardedPairs(tmp_path / "data").provenance
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was scanned again"))
    again = ShardedPairs(tmp_path / "data")
    assert again.provenance == provenance
    assert again.read([5])[1] == [["pair 5"]]


def test_a_bad_image_is_told_or_the_next_pair_takes_its_place(tmp_path: Path) -> None:
    write_tars(tmp_path / "data", bad=4)
    with pytest.raises(ImageError, match=r"00001\.tar, pair 1"):
        ShardedPairs(tmp_path / "data").read([4])
    skipping = ShardedPairs(tmp_path / "data", bad_images="skip")
    images, captions = skipping.read([4, 3])
    assert [image.getpixel((0, 0))[0] for image in images] == [5, 3]
    assert captions == [["pair 5"], ["pair 3"]]
    strict = ShardedPairs(tmp_path / "data", bad_images="skip", max_bad_fraction=0.001)
    strict.read([4])
    with pytest.raises(DataError, match=r"2 of \d pairs cannot be read, more than max_bad_fraction = 0.001"):
        strict.read([4])


def test_a_torn_or_compressed_tar_is_told(tmp_path: Path) -> None:
    write_tars(tmp_path / "data")
    torn = tmp_path / "data" / "train" / "00001.tar"
    torn.write_bytes(torn.read_bytes()[:1600])
    with pytest.raises(DataError, match=r"00001\.tar"):
        ShardedPairs(tmp_path / "data")
    (tmp_path / "packed" / "train").mkdir(parents=True)
    (tmp_path / "packed" / "train" / "0.tar.gz").touch()
    with pytest.raises(DataError, match="compressed"):
        ShardedPairs(tmp_path / "packed")
    with pytest.raises(DataError, match="no shards of split 'val'"):
        ShardedPairs(tmp_path / "data", "val")


def test_a_split_is_a_suite_for_validation(tmp_path: Path) -> None:
    write_tars(tmp_path / "data", "val")
    rows = vislex.data.load_suite(f"shards:{tmp_path / 'data'}", split="val", size=4)
    assert rows.with_format(None)["captions"][:2] == [["pair 0"], ["pair 1"]]
    assert rows[3]["image"].getpixel((0, 0))[0] == 3
    assert len(rows) == 4


def test_damage_that_shows_when_a_row_is_read_is_told(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    file = sorted(tmp_path.rglob("*.parquet"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])  # the footer is good, the first page is not
    with pytest.raises(DataError, match="is no whole parquet file"):
        ShardedPairs(tmp_path).read([0])


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (
            {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "a"},
            "is no whole tar file: invalid lit",
        ),
        ({"GNU.sparse.size": "99999999"}, "ends in the middle"),
        ({"size": "-9"}, "is no whole tar file|ends in the middle"),
    ],
)
def test_headers_of_a_tar_that_lie_are_told(headers: dict[str, str], reason: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("1.png", png(3)), ("1.txt", b"a dog")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = headers
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=reason):
        ShardedPairs(tmp_path)


def test_a_caption_nested_too_deeply_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        add(tar, "1.png", png(3))
        add(tar, "1.json", b"[" * 100_000)
    with pytest.raises(DataError, match="its JSON is damaged"):
        ShardedPairs(tmp_path).read([0])
