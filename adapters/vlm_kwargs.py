"""Keywords of ``VisionLanguageProcessor``; transformers reads the annotations, so that they must not be strings."""

from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

__all__ = ["BudgetImagesKwargs", "VisionLanguageKwargs"]


class BudgetImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of image processors, and ``n_tokens``: tokens an image."""

    n_tokens: int | None


class VisionLanguageKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of tokenizer and image processor."""

    images_kwargs: BudgetImagesKwargs
