"""The image processor against arithmetic by hand: no crop, the right mean and std, odd images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.errors import SpecError
from vislex.processing import create_image_processor
from vislex.specs import EncoderSpec, Grid

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def spec_of(size: tuple[int, int] = (8, 12), **changes: object) -> EncoderSpec:
    values = {"dim": 4, "grid": None, "n_tokens": 6, "image_size": size, "mean": MEAN, "std": STD, **changes}
    return EncoderSpec(**values)  # type: ignore[arg-type]


def normalised(colour: tuple[int, int, int]) -> torch.Tensor:
    return (torch.tensor(colour) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 5), (12, 8)])
def test_squash_maps_one_colour_to_one_value_at_the_size_asked_for(size: tuple[int, int]) -> None:
    pixels = create_image_processor(spec_of())(Image.new("RGB", size, (10, 200, 30)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 8, 12)
    torch.testing.assert_close(pixels[0], normalised((10, 200, 30))[:, None, None].expand(3, 8, 12))


def test_squash_keeps_every_border() -> None:
    # a wide image with a marked column at each end: any crop would lose them
    array = np.zeros((8, 96, 3), np.uint8)
    array[:, :8], array[:, -8:] = 255, 255
    pixels = create_image_processor(spec_of())(Image.fromarray(array), return_tensors="pt").pixel_values[0]
    assert pixels[0, :, 0].min() > 2.5
    assert pixels[0, :, -1].min() > 2.5
    assert pixels[0, :, 4:8].max() < -1.5


def test_nearest_resize_equals_indexing() -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    spec = spec_of(interpolation="nearest")
    pixels = create_image_processor(spec)(Image.fromarray(array), return_tensors="pt").pixel_values[0]
    expected = torch.tensor(array.repeat(2, 0).repeat(2, 1)) / 255
    expected = ((expected - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_resize_equals_pillow(interpolation: str) -> None:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    array = np.broadcast_to(ramp[None, :, None], (16, 48, 3)).copy()
    image = Image.fromarray(array)
    pixels = create_image_processor(spec_of(interpolation=interpolation))(image, return_tensors="pt").pixel_values[0]
    resampling = {"bilinear": 2, "bicubic": 3, "lanczos": 1}[interpolation]
    pillow = torch.tensor(np.array(image.resize((12, 8), resampling))) / 255
    expected = ((pillow - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2 / 255 / min(STD))


@pytest.mark.parametrize(("size", "filled"), [((20, 10), (6, 12)), ((10, 20), (8, 4)), ((1, 1), (8, 8))])
def test_pad_keeps_the_aspect_ratio_and_fills_with_the_mean(size: tuple[int, int], filled: tuple[int, int]) -> None:
    spec = spec_of(resize="pad")
    pixels = create_image_processor(spec)(Image.new("RGB", size, (255, 0, 0)), return_tensors="pt").pixel_values[0]
    assert pixels.shape == (3, 8, 12)
    height, width = filled
    torch.testing.assert_close(
        pixels[:, :height, :width], normalised((255, 0, 0))[:, None, None].expand(3, height, width)
    )
    assert not pixels[:, height:].any()
    assert not pixels[:, :, width:].any()


def test_grey_and_transparent_images_become_rgb_on_white() -> None:
    processor = create_image_processor(spec_of())
    grey = processor(Image.new("L", (5, 5), 100), return_tensors="pt").pixel_values[0, :, 0, 0]
    torch.testing.assert_close(grey, normalised((100, 100, 100)))
    clear = processor(Image.new("RGBA", (5, 5), (9, 9, 9, 0)), return_tensors="pt").pixel_values[0, :, 0, 0]
    torch.testing.assert_close(clear, normalised((255, 255, 255)))
    palette = Image.new("P", (5, 5), 1)
    palette.putpalette([0, 0, 0, 50, 60, 70])
    torch.testing.assert_close(
        processor(palette, return_tensors="pt").pixel_values[0, :, 0, 0], normalised((50, 60, 70))
    )


def test_native_gives_patches_their_shapes_and_a_mask() -> None:
    spec = spec_of(
        (16, 16), grid=Grid(4, 4), n_tokens=16, patch_size=4, variable_length=True, resize="native", mean=(0.5,) * 3
    )
    images = [Image.new("RGB", (64, 16)), Image.new("RGB", (10, 10)), Image.new("L", (1, 1), 255)]
    inputs = create_image_processor(spec)(images, return_tensors="pt")
    assert inputs.pixel_values.shape == (3, 16, 48)
    assert inputs.spatial_shapes.tolist() == [[2, 8], [4, 4], [4, 4]]
    assert inputs.pixel_attention_mask.sum(1).tolist() == [16, 16, 16]
    assert [spec.count(inputs, i) for i in range(3)] == [Grid(2, 8), Grid(4, 4), Grid(4, 4)]
    with pytest.raises(SpecError, match="variable length"):
        create_image_processor(spec_of(resize="native"))
