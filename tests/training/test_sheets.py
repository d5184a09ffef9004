from __future__ import annotations

import numpy as np
from PIL import Image

from vislex.training.sheets import image_sheet


def test_images_stand_in_rows_and_columns() -> None:
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), np.full((4, 4, 3), (0, 0, 255), dtype=np.uint8)
    plain = image_sheet([[red, blue], [blue, red]], side=10)
    pixels = np.asarray(plain)
    assert plain.size == (2 * 16 + 6, 2 * 16 + 6)
    assert [tuple(pixels[y, x]) for y, x in ((10, 10), (10, 26), (26, 10), (26, 26))] == [
        (255, 0, 0), (0, 0, 255), (0, 0, 255), (255, 0, 0),
    ]  # fmt: skip
    titled = image_sheet([[red, blue]], columns=["one", "two"], captions=["a line"], side=40)
    assert titled.height > image_sheet([[red, blue]], side=40).height
    assert (np.asarray(titled)[:20] < 128).any()
    assert (np.asarray(titled)[-16:] < 200).any()
