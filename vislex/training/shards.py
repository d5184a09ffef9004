"""Pairs of images and captions at the scale of the web, read in place: webdataset tars, or parquet files.

A row is found by its number and the order follows from the seed and the position alone, so that a training resumes to
the same bytes and any number of processes and workers sees the same samples. The order is random over the files, and
over all rows of a window of files: reading stays near to sequential. What is indexed are places in files, once, in the
cache; nothing else is held in memory.
"""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image

from vislex.cache import cache_dir
from vislex.data.images import decode_image
from vislex.data.locate import check_task, local_root
from vislex.errors import DataError, ImageError
from vislex.training.cache import array_on_disk, content_key

__all__ = ["ShardedPairs", "WindowedOrder", "load"]

IMAGE_ENDS = ("jpg", "jpeg", "png", "webp")
TEXT_ENDS = ("txt", "caption", "json")
IMAGE_COLUMNS = ("image", *IMAGE_ENDS)
CAPTION_COLUMNS = ("captions", "caption", "text", "txt")
ENOUGH = 1000  # images read before the share of bad ones is judged
TRIES = 16
# What damaged files make tarfile and pyarrow raise, beside what these raise on purpose.
_DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError, RecursionError,
    MemoryError,
)  # fmt: skip

logger = logging.getLogger(__name__)


class WindowedOrder:
    """Rows by position: epoch by epoch the units in a random order, and all rows of ``window`` units mixed.

    Args:
        counts: int64[U], rows of each unit (a tar file, or a row group of a parquet file).
        seed: Seed of the order.
        window: Units whose rows are mixed.
    """

    def __init__(self, counts: np.ndarray, *, seed: int, window: int) -> None:
        self.counts, self.seed, self.window = counts, seed, window
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Rows int64[N] at positions int64[N]."""
        epochs, places = np.divmod(positions, self.starts[-1])
        return np.array([self._row(int(epoch), int(place)) for epoch, place in zip(epochs, places, strict=True)])

    def _row(self, epoch: int, place: int) -> int:
        _, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, place, side="right"))
        first = int(ends[number - 1]) if number else 0
        return int(self._window(epoch, number)[place - first])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The units in their order, and where each window ends."""

        def make() -> tuple[np.ndarray, np.ndarray]:
            units = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
            ends = np.cumsum(self.counts[units])
            last = np.arange(self.window - 1, len(units) + self.window - 1, self.window).clip(max=len(units) - 1)
            return units, ends[last]

        return _kept(self._epochs, epoch, make, 2)

    def _window(self, epoch: int, number: int) -> np.ndarray:
        def make() -> np.ndarray:
            units = self._epoch(epoch)[0][number * self.window : (number + 1) * self.window]
            rows = np.concatenate([np.arange(self.starts[unit], self.starts[unit + 1]) for unit in units])
            return np.random.default_rng([self.seed, epoch, number, 1]).permutation(rows)

        return _kept(self._windows, (epoch, number), make, 3)


@dataclass(frozen=True)
class _Unit:
    """A tar file, or a row group of a parquet file."""

    path: Path
    rows: int
    group: int = 0


class ShardedPairs:
    """Pairs in the files of a split.

    Args:
        root: Folder with ``train/*.tar`` or ``train-*.tar`` (webdataset: members of one name with an image and a
            ``.txt``, ``.caption`` or ``.json``), or the same with ``.parquet`` (an image column, a caption column).
        split: Name of the split.
        bad_images: "raise", or "skip": the next good row of the file takes the place of one that cannot be read.
        max_bad_fraction: With "skip", the largest share of such rows.
        window: Files (row groups) whose rows are mixed, and that are kept open.

    Raises:
        DataError: If there is no file, or one is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        bad_images: Literal["raise", "skip"] = "raise",
        max_bad_fraction: float = 0.01,
        window: int = 16,
    ) -> None:
        self.root, self.split, self.window = local_root("shards", root), split, window
        self.bad_images, self.max_bad_fraction = bad_images, max_bad_fraction
        self.files = _files(self.root, split)
        self.units = [unit for path in self.files for unit in _units(path)]
        self.counts = np.array([unit.rows for unit in self.units], dtype=np.int64)
        if not self.counts.sum():
            raise DataError(f"the files of '{self.root}' for split '{split}' hold no pair of an image and a caption")
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.seen, self.bad = 0, 0
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Without its open files: each process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def order(self, seed: int) -> WindowedOrder:
        """The order in which a training sees the rows."""
        return WindowedOrder(self.counts, seed=seed, window=self.window)

    @property
    def provenance(self) -> dict[str, Any]:
        """What identifies the data: its files by name and size."""
        files = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in self.files}
        return {
            "suite": "shards",
            "split": self.split,
            "files": len(files),
            "rows": len(self),
            "hash": content_key(files),
        }

    def read(self, rows: Sequence[int] | np.ndarray) -> tuple[list[Image.Image], list[list[str]]]:
        """Images (PIL RGB) and captions of rows.

        Raises:
            ImageError: If an image cannot be read and none may be skipped.
            DataError: If too many cannot, or a caption is no text.
        """
        pairs = [self._pair(int(row)) for row in rows]
        return [image for image, _ in pairs], [captions for _, captions in pairs]

    def captions(self, rows: Sequence[int] | np.ndarray) -> list[list[str]]:
        """Captions of rows; no image is opened."""
        return [self._captions(*self._find(int(row))) for row in rows]

    def _pair(self, row: int) -> tuple[Image.Image, list[str]]:
        unit, place = self._find(row)
        for step in range(TRIES):
            at = (place + step) % self.units[unit].rows
            self.seen += 1
            try:
                return self._image(unit, at), self._captions(unit, at)
            except (ImageError, DataError) as error:
                if self.bad_images == "raise":
                    raise
                self.bad += 1
                logger.warning("skipped: %s", error)
                if self.bad > self.max_bad_fraction * max(self.seen, ENOUGH):
                    raise DataError(
                        f"{self.bad} of {self.seen} pairs cannot be read, more than max_bad_fraction = "
                        f"{self.max_bad_fraction:g} allows; the last: {error}"
                    ) from error
        raise DataError(f"{TRIES} pairs in a row cannot be read in '{self.units[unit].path}'")

    def _find(self, row: int) -> tuple[int, int]:
        unit = int(np.searchsorted(self.starts, row, side="right")) - 1
        return unit, row - int(self.starts[unit])

    def _image(self, unit: int, place: int) -> Image.Image:
        return decode_image(self._opened(unit).image(place), f"{self.units[unit].path}, pair {place}")

    def _captions(self, unit: int, place: int) -> list[str]:
        captions = [" ".join(text.split()) for text in self._opened(unit).texts(place)]
        if not any(captions):
            raise DataError(f"{self.units[unit].path}, pair {place} has no caption")
        return [text for text in captions if text]

    def _opened(self, unit: int) -> Any:
        def make() -> Any:
            own = self.units[unit]
            return _Table(own) if own.path.suffix == ".parquet" else _Tar(own)

        return _kept(self._open, unit, make, self.window + 1)


class _Tar:
    """Members of an uncompressed tar by their places."""

    def __init__(self, unit: _Unit) -> None:
        self.path = unit.path
        self.file = unit.path.open("rb")
        self.places = _tar_places(unit.path)

    def _bytes(self, place: int, which: int) -> bytes:
        offset, size = self.places[place, which : which + 2]
        return os.pread(self.file.fileno(), int(size), int(offset))  # a forked worker shares the file's position

    def image(self, place: int) -> bytes:
        return self._bytes(place, 0)

    def texts(self, place: int) -> list[str]:
        where = f"{self.path}, pair {place}"
        try:
            text = self._bytes(place, 2).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: its caption is not UTF-8 text") from error
        return _captions_of_json(text, where) if self.places[place, 4] else [text]


class _Table:
    """A row group of a parquet file."""

    def __init__(self, unit: _Unit) -> None:
        self.path = unit.path
        with _reading(unit.path, "parquet"), pq.ParquetFile(unit.path) as file:
            names = file.schema_arrow.names
            self.columns = [_column(unit.path, names, wanted) for wanted in (IMAGE_COLUMNS, CAPTION_COLUMNS)]
            self.table = file.read_row_group(unit.group, columns=self.columns)

    def image(self, place: int) -> bytes:
        value = self._value(0, place)
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise DataError(f"{self.path}, row {place}: the image column holds no bytes")
        return value

    def texts(self, place: int) -> list[str]:
        return _texts(self._value(1, place), f"{self.path}, row {place}")

    def _value(self, column: int, place: int) -> Any:
        with _reading(self.path, "parquet"):
            return self.table[self.columns[column]][place].as_py()


def load(
    task: str = "caption", *, root: str | Path | None = None, split: str = "val", size: int | None = None
) -> Dataset:
    """The first pairs of a split as rows in memory, their images read from the files: for validation.

    Args:
        task: "caption" or "images".
        root: Folder of the shards; see ``ShardedPairs``.
        split: Name of the split.
        size: Number of rows; None takes all.

    Raises:
        ConfigError, DataError: For a missing folder or damaged files.
    """
    check_task("shards", task, ("caption", "images"))
    pairs = ShardedPairs(local_root("shards", root), split)
    count = min(size or len(pairs), len(pairs))
    rows = {
        "id": [f"{split}-{row}" for row in range(count)],
        "index": list(range(count)),
        "captions": pairs.captions(range(count)),
    }
    return Dataset.from_dict(rows).with_transform(_ReadImages(pairs))


class _ReadImages:
    """Adds ``image`` to rows by their ``index``."""

    def __init__(self, pairs: ShardedPairs) -> None:
        self.pairs = pairs

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "index" not in batch:
            return batch
        return {**batch, "image": self.pairs.read(batch["index"])[0]}


def _kept(found: OrderedDict[Any, Any], key: Any, make: Callable[[], Any], most: int) -> Any:
    """The value of a key, made where it is missing; the ``most`` last used ones are kept."""
    if key not in found:
        found[key] = make()
        if len(found) > most:
            found.popitem(last=False)
    found.move_to_end(key)
    return found[key]


def _files(root: Path, split: str) -> list[Path]:
    for folder, prefix in ((root / split, "*"), (root, f"{split}[-_.]*"), (root / "data", f"{split}[-_.]*")):
        if packed := sorted(folder.glob(f"{prefix}.tar.*")) + sorted(folder.glob(f"{prefix}.tgz")):
            raise DataError(
                f"'{packed[0]}' is compressed, and its members cannot be found one by one; unpack it to .tar"
            )
        for end in ("tar", "parquet"):
            if files := sorted(path for path in folder.glob(f"{prefix}.{end}") if path.is_file()):
                return files
    raise DataError(
        f"'{root}' has no shards of split '{split}'; looked for {split}/*.tar, {split}-*.tar and the same with .parquet"
    )


def _units(path: Path) -> Iterator[_Unit]:
    if path.suffix == ".tar":
        yield _Unit(path, len(_tar_places(path)))
        return
    with _reading(path, "parquet"), pq.ParquetFile(path) as file:
        for wanted in (IMAGE_COLUMNS, CAPTION_COLUMNS):
            _column(path, file.schema_arrow.names, wanted)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if not 0 <= rows < 2**31:
                raise DataError(f"'{path}' says that its row group {group} has {rows} rows; it is damaged")
            yield _Unit(path, rows, group)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what damaged files make their readers raise into one line."""
    try:
        yield
    except DataError:
        raise
    except (tarfile.TarError, *_DAMAGED) as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(f"'{path}' is no whole {kind} file: {reason}") from error


def _tar_places(path: Path) -> np.ndarray:
    """Where image and text of each pair lie: int64[N, 5], offset and size of both, and whether the text is JSON."""
    state = path.stat()
    describe = {"path": str(path.resolve()), "bytes": state.st_size, "changed": state.st_mtime_ns, "format": 1}
    folder = cache_dir() / "shards" / content_key(describe)[:32]
    if not (folder / "array.npy").is_file():
        found = np.array(list(_scan(path)), dtype=np.int64).reshape(-1, 5)

        def fill(array: np.ndarray, _: Path) -> None:
            array[:] = found

        if not len(found):
            return found
        array_on_disk(folder, shape=found.shape, dtype=np.int64, fill=fill, describe=describe)
    places: np.ndarray = np.load(folder / "array.npy", mmap_mode="r")
    return places


def _scan(path: Path) -> Iterator[tuple[int, int, int, int, int]]:
    name, size = "", path.stat().st_size
    image: tuple[int, int] | None = None
    texts: dict[str, tuple[int, int]] = {}
    with _reading(path, "tar"), tarfile.open(path, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, end = base.partition(".")
            if (key := f"{folder}/{stem}") != name:
                yield from _pair_of(image, texts)
                name, image, texts = key, None, {}
            place = (member.offset_data, member.size)
            if member.size < 0 or sum(place) > size:
                raise DataError(f"'{path}' ends in the middle of its member '{member.name}'")
            if end.lower() in IMAGE_ENDS:
                image = place
            elif end.lower() in TEXT_ENDS:
                texts[end.lower()] = place
    yield from _pair_of(image, texts)


def _pair_of(
    image: tuple[int, int] | None, texts: dict[str, tuple[int, int]]
) -> Iterator[tuple[int, int, int, int, int]]:
    kind = next((kind for kind in TEXT_ENDS if kind in texts), None)
    if image is not None and kind is not None:
        yield (*image, *texts[kind], int(kind == "json"))


def _captions_of_json(text: str, where: str) -> list[str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its JSON is damaged ({error})") from error
    found = next((values[name] for name in CAPTION_COLUMNS if isinstance(values, dict) and name in values), None)
    return _texts(found, where)


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the caption is {type(value).__name__}, not a string or a list of strings")
    return texts


def _column(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise DataError(f"'{path}' has none of the columns {', '.join(wanted)}; it has {', '.join(names)}")
    return found
