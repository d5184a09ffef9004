"""``load_image`` and ``expand_images`` on real files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from vislex.data.images import expand_images, load_image
from vislex.errors import ImageError


def _photo(width: int = 20, height: int = 12, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    _photo().save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    assert image.size == (20, 12)
    difference = np.asarray(image, dtype=int) - np.asarray(_photo(), dtype=int)
    assert np.abs(difference).mean() < (1 if suffix in ("png", "bmp", "tiff", "ppm") else 60)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("P", "png"), ("L", "png"), ("1", "png"), ("CMYK", "tiff"), ("LAB", "tiff")]
)
def test_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    source = _photo() if mode != "LAB" else Image.new("LAB", (20, 12), (128, 128, 128))
    source.convert(mode).save(path)
    assert load_image(path).mode == "RGB"


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    for name, image in {
        "rgba": Image.new("RGBA", (4, 4), (10, 20, 30, 0)),
        "la": Image.new("LA", (4, 4), (10, 0)),
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert load_image(tmp_path / f"{name}.png").getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert load_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert [load_image(tmp_path / "a.png").getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_float_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert [load_image(tmp_path / "a.tiff").getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _photo(20, 12).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (12, 20)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert load_image(path).getpixel((4, 4)) == (255, 0, 0)
        with pytest.raises(ImageError, match="3 frames"):
            load_image(path, max_frames=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == size


def test_bad_files_give_one_clear_line(tmp_path: Path) -> None:
    whole = io.BytesIO()
    _photo(64, 64).save(whole, "JPEG")
    files = {
        "html.jpg": (b"\n <!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        "xml.png": (b'<?xml version="1.0"?><svg xmlns="x"></svg>', "SVG"),
        "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        "json.png": (b'{"error": "not found"}', "text"),
        "noise.png": (bytes(range(256)), "no image"),
        "empty.png": (b"", "empty"),
        "cut.jpg": (whole.getvalue()[:900], "truncated or damaged"),
        "bomb.png": (_png_header(30_000, 30_000), "at most 64,000,000"),
        "warned.png": (_png_header(10_000, 10_000), "100,000,000 pixels"),
        "short.png": (_png_header(500, 500), "truncated or damaged"),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert expected in str(caught.value), (name, str(caught.value))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_folder_and_too_many_bytes(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such image file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    _photo().save(tmp_path / "a.bmp")
    with pytest.raises(ImageError, match="more than 100 bytes"):
        load_image(tmp_path / "a.bmp", max_bytes=100)
    with pytest.raises(ImageError, match="at most 200"):
        load_image(tmp_path / "a.bmp", max_pixels=200)


def test_formats_that_start_other_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ImageError, match="formats are PNG"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"])
def test_damage_is_an_image_error_or_an_image(tmp_path_factory: pytest.TempPathFactory, suffix: str) -> None:
    folder = tmp_path_factory.mktemp(suffix)
    path = folder / f"a.{suffix}"
    _photo(48, 40).save(path)
    whole = path.read_bytes()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(keep=st.integers(0, len(whole) - 1), at=st.integers(0, len(whole) - 1), byte=st.integers(0, 255))
    def check(keep: int, at: int, byte: int) -> None:
        flipped = bytearray(whole)
        flipped[at] = byte
        for data in (whole[:keep], bytes(flipped), bytes(flipped[:keep])):
            path.write_bytes(data)
            try:
                outcome = load_image(path).mode
            except ImageError as error:
                outcome = str(error)
            assert outcome
            assert "\n" not in outcome

    check()


def test_expand_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    names = ["10.png", "2.png", "1.JPG", "sub/3.webp", ".hidden/4.png", ".5.png", "note.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")

    def listed(*paths: Path | str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in expand_images(paths)]

    assert listed(tmp_path) == ["1.JPG", "2.png", "10.png", "sub/3.webp"]
    assert listed(tmp_path / "note.txt") == ["note.txt"]
    assert listed(f"{tmp_path}/*.png") == ["2.png", "10.png"]
    assert listed(f"{tmp_path}/**/*.webp") == ["sub/3.webp"]
    assert listed(tmp_path / "10.png", tmp_path) == ["10.png", "1.JPG", "2.png", "sub/3.webp"]
    with pytest.raises(ImageError, match="no such image file"):
        expand_images([tmp_path / "gone.png"])
    with pytest.raises(ImageError, match="matches no file"):
        expand_images([f"{tmp_path}/*.gif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="has no image files"):
        expand_images([tmp_path / "empty"])


def test_names_with_glob_characters_are_files_first(tmp_path: Path) -> None:
    path = tmp_path / "a[1].png"
    _photo().save(path)
    assert expand_images([path]) == [path]


def test_a_truncated_file_is_refused_where_another_library_allowed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = io.BytesIO()
    _photo(200, 200).save(whole, format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:900])
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_image(tmp_path / "cut.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES
