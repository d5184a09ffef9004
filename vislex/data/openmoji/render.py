"""Scenes to pixels and masks. Each drawing is rasterised once a process; the rest is an affine map and an addition."""

from __future__ import annotations

import bisect
import functools
import io
import math

import numpy as np
import resvg_py
from PIL import Image, ImageOps

from vislex.data.openmoji.build_manifest import drawing_folders
from vislex.data.openmoji.scenes import Item, Scene

__all__ = ["render_drawing", "render_masks", "render_scene"]

# Sides of the masters: the next larger one is sampled, so that a pixel spans 1 to 1.42 of its pixels and the bilinear
# affine map neither aliases nor blurs.
_SIDES = tuple(round(8 * 2 ** (step / 2)) for step in range(20))
_SMALLEST_RASTER = 128  # pixels; the masters of a drawing are made from one raster, larger than they are
_RASTERS = 1024  # rasters kept, at most 64 kB each
_BORDER = 2  # transparent pixels round a master, so that its edge stays soft under rotation
_MASTERS = 16384  # kept in memory: a drawing has four to six sides at one image size, 5 to 30 kB each


@functools.lru_cache(maxsize=1)
def _folders() -> dict[str, str]:
    return {artist: str(folder) for artist, folder in drawing_folders().items()}


@functools.lru_cache(maxsize=_RASTERS)
def _raster(code: str, artist: str, side: int) -> Image.Image:
    """A drawing as RGBA, cropped to what it covers; its file's canvas takes ``side`` pixels."""
    name = code if artist == "openmoji" else code.lower()
    png = resvg_py.svg_to_bytes(
        svg_path=f"{_folders()[artist]}/{name}.svg", width=side, height=side, skip_system_fonts=True
    )
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return drawing.crop(drawing.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())


@functools.lru_cache(maxsize=_MASTERS)
def _master(code: str, artist: str, side: int) -> tuple[Image.Image, Image.Image]:
    """Premultiplied RGB and alpha of a drawing whose longer side fills ``side`` pixels, with a border."""
    raster = _SMALLEST_RASTER
    while raster < 1.4 * side:
        raster *= 2
    drawing = _raster(code, artist, raster)
    # The centre of the drawing lies in the centre of the master to a fraction of a pixel, so that sizes agree.
    longer = max(drawing.size)
    padded = Image.new("RGBA", (2 * longer, 2 * longer))
    padded.paste(drawing, (longer - drawing.width // 2, longer - drawing.height // 2))
    reach = longer / 2 * (side + 2 * _BORDER) / side
    middle_x, middle_y = longer + drawing.width % 2 / 2, longer + drawing.height % 2 / 2
    box = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
    square = padded.resize((side + 2 * _BORDER,) * 2, Image.Resampling.HAMMING, box=box)
    black = Image.new("RGB", square.size)
    black.paste(square, mask=square.getchannel("A"))
    return black, square.getchannel("A")


@functools.lru_cache(maxsize=4096)
def _hue_matrix(degrees: float) -> tuple[float, ...]:
    """Rotation of the chroma plane; luma (Rec. 601) stays. A row of four a channel, as PIL wants it."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (
        0.299 + 0.701 * c + 0.168 * s, 0.587 - 0.587 * c + 0.330 * s, 0.114 - 0.114 * c - 0.497 * s, 0.0,
        0.299 - 0.299 * c - 0.328 * s, 0.587 + 0.413 * c + 0.035 * s, 0.114 - 0.114 * c + 0.292 * s, 0.0,
        0.299 - 0.300 * c + 1.250 * s, 0.587 - 0.588 * c - 1.050 * s, 0.114 + 0.886 * c - 0.203 * s, 0.0,
    )  # fmt: skip


def _stamp(item: Item, canvas: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """Where an item falls on a canvas, and there its premultiplied colours uint8[h, w, 3] and alpha uint8[h, w, 1]."""
    length = item.scale * canvas
    side = _SIDES[min(bisect.bisect_left(_SIDES, length), len(_SIDES) - 1)]
    colours, alpha = _master(item.code, item.artist, side)
    angle = math.radians(item.rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    reach = length / 2 * (abs(cosine) + abs(sine)) + 1
    centre_x, centre_y = item.x * canvas, item.y * canvas
    left, top = max(int(centre_x - reach), 0), max(int(centre_y - reach), 0)
    right, bottom = min(int(centre_x + reach) + 1, canvas), min(int(centre_y + reach) + 1, canvas)
    if right <= left or bottom <= top:
        return None
    zoom, middle = side / length, side / 2 + _BORDER
    a, b = zoom * cosine, -zoom * sine
    d, e = zoom * sine, zoom * cosine
    map_ = (a, b, middle - a * (centre_x - left) - b * (centre_y - top),
            d, e, middle - d * (centre_x - left) - e * (centre_y - top))  # fmt: skip
    box = (right - left, bottom - top)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    shifted = colours.transform(box, affine, map_, bilinear).convert("RGB", _hue_matrix(item.hue))
    covered = alpha.transform(box, affine, map_, bilinear)
    return (slice(top, bottom), slice(left, right)), np.asarray(shifted), np.asarray(covered)[:, :, None]


def render_scene(scene: Scene, size: int) -> Image.Image:
    """The image of a scene.

    Args:
        scene: Factors.
        size: Side in pixels; every size shows the same scene.

    Returns:
        RGB, size x size.
    """
    original = scene.mirror() if scene.mirrored else scene
    canvas = np.empty((size, size, 3), dtype=np.uint8)
    canvas[:] = original.background_rgb
    for item in original.items:
        if (stamp := _stamp(item, size)) is None:
            continue
        where, colours, alpha = stamp
        beneath = canvas[where].astype(np.uint16) * (255 - alpha)
        canvas[where] = np.minimum((beneath + 127) // 255 + colours, 255)
    image = Image.fromarray(canvas)
    return ImageOps.mirror(image) if scene.mirrored else image


def render_masks(scene: Scene, size: int) -> np.ndarray:
    """The visible pixels of every item: those of which it covers at least half, less what later items hide.

    Returns:
        bool[K, size, size], K the number of items, in their order.
    """
    original = scene.mirror() if scene.mirrored else scene
    visible = np.zeros((len(scene.items), size, size), dtype=np.float32)
    for i, item in enumerate(original.items):
        if (stamp := _stamp(item, size)) is None:
            continue
        (rows, columns), _, alpha = stamp
        share = alpha[:, :, 0].astype(np.float32) / 255
        visible[:i, rows, columns] *= 1 - share
        visible[i, rows, columns] = share
    masks = visible >= 0.5
    return masks[:, :, ::-1] if scene.mirrored else masks


def render_drawing(
    code: str, artist: str, size: int, background: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    """One drawing, centred, without rotation or hue shift: RGB, size x size."""
    item = Item("", code, artist, "large", "middle", 0.5, 0.5, 0.9, 0.0, 0.0)
    return render_scene(Scene("", background, (item,)), size)
