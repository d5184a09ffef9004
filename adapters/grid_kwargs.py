"""Keywords of ``GridImageProcessor``; transformers reads the annotations, so that they must not be strings."""

from transformers.processing_utils import ImagesKwargs

__all__ = ["GridImagesKwargs"]


class GridImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of image processors, the map of an image's rows, and how many of them become one token."""

    grid: list[int] | tuple[int, ...]
    merge_size: int
