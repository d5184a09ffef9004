"""Safe reading of image files: own caps on bytes, pixels, frames and formats; every failure is one clear line.

Pillow only warns between 90 and 179 million pixels and opens more than fifty formats, some of them by starting other
programs. ``load_image`` opens a short list of raster formats and checks the size in the header before decoding.
"""

from __future__ import annotations

import functools
import glob
import io
import itertools
import re
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from vislex.errors import ImageError

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "decode_image",
    "expand_images",
    "image_batches",
    "load_image",
    "open_images",
]

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
IMAGE_SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pnm",
        ".avif",
    )
)
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024 * 1024
MAX_FRAMES = 2_000

_BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, ZeroDivisionError)


def load_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
) -> Image.Image:
    """Reads an image file as uint8 RGB, upright by its Exif orientation.

    Transparent pixels are laid on white, 16-bit and float greys are scaled to 8 bits, CMYK is converted, and of an
    animation the first frame is taken.

    Args:
        path: The file.
        max_pixels: Largest width x height.
        max_bytes: Largest file.
        max_frames: Largest number of frames of an animation.

    Returns:
        A PIL image of mode RGB.

    Raises:
        ImageError: If the file is missing, no image, truncated, of a format outside ``FORMATS``, or over a cap.
    """
    data = _read_bytes(Path(path), max_bytes)
    return decode_image(data, str(path), max_pixels=max_pixels, max_bytes=max_bytes, max_frames=max_frames)


def decode_image(
    data: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    max_frames: int = MAX_FRAMES,
) -> Image.Image:
    """Decodes the bytes of an image file as ``load_image`` does; errors call it ``name``."""
    if not data:
        raise ImageError(f"'{name}' is empty")
    if len(data) > max_bytes:
        raise ImageError(f"'{name}' has more than {max_bytes:,} bytes, the most that is read; resize it first")
    try:
        with warnings.catch_warnings(), _Strict():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the caps below decide
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, name, max_pixels, max_frames)
                image.load()
                return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"'{name}' {_what_instead(data)}; {_allowed()}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"'{name}' has more pixels than can be opened safely; at most {max_pixels:,}: resize it first"
        ) from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"'{name}' is truncated or damaged ({reason}); fetch or export it again") from error


def open_images(images: Any) -> list[Any]:
    """One image or many as a list; files are read as by ``load_image``, PIL images and arrays are left as they are."""
    return next(image_batches(images, None), [])


def image_batches(images: Any, batch_size: int | None) -> Iterator[list[Any]]:
    """Opened images (see ``open_images``), ``batch_size`` at a time; one image is a batch of its own."""
    single = isinstance(images, str | Path) or not isinstance(images, Iterable) or getattr(images, "ndim", 4) == 3
    queue = iter([images] if single else images)
    while batch := list(itertools.islice(queue, batch_size)):
        yield [load_image(image) if isinstance(image, str | Path) else image for image in batch]


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """Lists the images that files, folders and glob patterns stand for, in natural order ("2.png" before "10.png").

    Args:
        paths: Files are kept whatever their suffix; folders give their image files, sub-folders included, hidden
            ones not; patterns may hold ``*``, ``?``, ``[...]`` and ``**``.

    Returns:
        Paths without repetition; arguments keep their order, what one argument stands for is sorted.

    Raises:
        ImageError: If a file or folder is missing, a folder has no image or a pattern matches none.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matches = [file for file in path.rglob("*") if _is_image(file, path)]
            if not matches:
                raise ImageError(f"folder '{path}' has no image files ({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif path.exists():
            matches = [path]
        elif glob.has_magic(str(given)):
            names = glob.glob(str(given), recursive=True)  # noqa: PTH207 (pathlib refuses absolute patterns)
            matches = [Path(name) for name in names if Path(name).is_file()]
            if not matches:
                raise ImageError(f"pattern '{given}' matches no file; quote it so that the shell leaves it as it is")
        else:
            raise ImageError(f"no such image file: '{path}'")
        found.update(dict.fromkeys(sorted(matches, key=_natural)))
    return list(found)


@functools.cache
def _formats() -> tuple[str, ...]:
    """``FORMATS`` that this build of Pillow has; asking for another is a KeyError."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read_bytes(file: Path, max_bytes: int) -> bytes:
    try:
        if file.is_dir():
            raise ImageError(f"'{file}' is a folder, not an image file")
        if not file.exists():
            raise ImageError(f"no such image file: '{file}'")
        if not file.is_file():
            raise ImageError(f"'{file}' is not a regular file")
        with file.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except OSError as error:  # a name that is too long, too
        raise ImageError(f"cannot read '{file}': {error.strerror}") from error


def _check_size(image: Image.Image, name: str, max_pixels: int, max_frames: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"'{name}' is {width} x {height} pixels: there is nothing to see")
    if width * height > max_pixels:
        raise ImageError(
            f"'{name}' is {width} x {height} = {width * height:,} pixels; at most {max_pixels:,}: resize it first"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > max_frames:
        raise ImageError(f"'{name}' has {frames:,} frames; at most {max_frames:,}: extract the frame you mean")
    image.seek(0)


def _upright(image: Image.Image) -> Image.Image:
    """Applies the Exif orientation; a damaged Exif block counts as none, for the pixels are good."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """16-bit greys are divided by 257; 32-bit and float ones keep [0, 255] or are stretched from their own range."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
        values = values / 257.0
    elif low >= 0.0 and high <= 1.0 and image.mode == "F":
        values = values * 255.0
    elif low < 0.0 or high > 255.0:
        values = (values - low) * (255.0 / (high - low))
    return Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8), mode="L").convert("RGB")


def _what_instead(data: bytes) -> str:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in start:
        return "is an HTML page, not an image (a download that failed?)"
    if start.startswith(b"<svg") or b"<svg" in start:
        return "is an SVG drawing; render it to PNG first"
    if start.startswith((b"{", b"[", b"<?xml")):
        return "is text, not an image"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image; run 'git lfs pull'"
    if start.startswith(b"%pdf"):
        return "is a PDF document, not an image"
    return "is no image that vislex reads, or its header is damaged"


def _allowed() -> str:
    return f"formats are {', '.join(_formats())}"


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", str(path).lower())
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


class _Strict:
    """Has Pillow refuse truncated files, also where another library has allowed them for the whole process."""

    _lock = threading.Lock()
    _readers: ClassVar[int] = 0
    _allowed: ClassVar[bool] = False

    def __enter__(self) -> None:
        with self._lock:
            if not _Strict._readers:
                _Strict._allowed, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            _Strict._readers += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            _Strict._readers -= 1
            if not _Strict._readers:
                ImageFile.LOAD_TRUNCATED_IMAGES = _Strict._allowed
