"""Referring segmentation by a vision-language model: it writes a mask as text, or ``<SEG>`` for that of its head."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AddedToken

from vislex.adapters.instructions import SEGMENT_PROMPT
from vislex.adapters.llms import grow_vocabulary
from vislex.adapters.mask_head import MaskHeadSettings, grid_of
from vislex.adapters.vlm_ask import pair_up, write
from vislex.adapters.vlm_read import read_masks
from vislex.data.images import open_images
from vislex.errors import CheckpointError, ConfigError
from vislex.segmentation.codec import Decoded, MaskCodec
from vislex.segmentation.factory import create_codec
from vislex.segmentation.seg_head import SEG_TOKEN, SegHeadCodec

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["MAX_MASK_TOKENS", "Segmentation", "codec_of", "missing_tokens", "prepare_codec", "segment"]

MAX_MASK_TOKENS = 256  # loc_seg takes 20 and an end; run lengths and corners some 50 numbers of up to three pieces


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a model marked for one expression.

    Attributes:
        expression: What was looked for.
        text: What the model wrote.
        decoded: What the text means: objects with masks and boxes, or ``invalid`` with the reason.
        new_tokens: Tokens written, the end included.
        seconds: Wall time of the batch, divided by its size.
    """

    expression: str
    text: str
    decoded: Decoded
    new_tokens: int
    seconds: float

    @property
    def mask(self) -> np.ndarray | None:
        """bool[H, W] at the image's own size; None where the text is no mask."""
        return self.decoded.mask

    @property
    def invalid(self) -> str | None:
        """Why the text is no mask; None where it is one."""
        return self.decoded.invalid


def segment(
    model: VisionLanguageModel,
    images: Any,
    expressions: str | Sequence[str],
    *,
    codec: MaskCodec | str | None = None,
    n_tokens: int | None = None,
    batch_size: int = 16,
    **options: Any,
) -> list[Segmentation]:
    """Marks what expressions refer to.

    Args:
        model: The model; its mode is restored.
        images: One image for all expressions, or a list with one for each: a path, a PIL image, or uint8[H, W, 3].
        expressions: One expression for all images, or one for each.
        codec: What the model's text is read by; the one it was trained with by default.
        n_tokens: Tokens an image, for connectors with a budget.
        batch_size: Expressions a batch.
        **options: Fields of ``GenerationConfig``; ``max_new_tokens`` is 256 by default.

    Raises:
        CheckpointError: If the model has no processor.
        ConfigError: If it was not trained to segment, its tokenizer lacks the codec's tokens, or there is not one
            expression for each image.
        ImageError: If a file is missing, damaged or no image.
    """
    reader = codec_of(model, codec)
    several = isinstance(images, list | tuple)
    opened = open_images(list(images) if several else [images])
    pairs = pair_up(opened if several else opened[0], expressions)
    if "max_length" not in options:
        options.setdefault("max_new_tokens", MAX_MASK_TOKENS)
    prompts = [(own, f"{SEGMENT_PROMPT} {expression}") for own, expression in pairs]
    sizes, found = iter([_size(image) for (image,), _ in pairs]), []
    for batch in write(model, prompts, n_tokens=n_tokens, batch_size=batch_size, **options):
        start = time.perf_counter()
        texts = [answer.text for answer in batch.answers]
        marked = read_masks(model, reader, batch.inputs, batch.ids, texts, [next(sizes) for _ in texts])
        seconds = (time.perf_counter() - start) / len(texts) if reader.needs_head else 0.0
        found += [(answer, decoded, seconds) for answer, decoded in zip(batch.answers, marked, strict=True)]
    return [
        Segmentation(expression, answer.text, decoded, answer.new_tokens, answer.seconds + seconds)
        for (_, expression), (answer, decoded, seconds) in zip(pairs, found, strict=True)
    ]


def codec_of(model: VisionLanguageModel, codec: MaskCodec | str | None = None) -> MaskCodec:
    """The codec that reads a model's masks.

    Args:
        model: The model.
        codec: A codec or its name; the one that the model was trained with by default.

    Raises:
        ConfigError: If there is none, or the model lacks its tokens or its mask head.
    """
    if codec is None:
        if model.config.codec is None:
            raise ConfigError(
                "this model was not trained to segment: train it on the task 'segmentation' (vislex train sft "
                "mixture=[{task: segmentation}]), or name the codec that it writes"
            )
        codec = create_codec(model.config.codec, **(model.config.codec_options or {}))
    elif isinstance(codec, str):
        codec = create_codec(codec)
    if missing := missing_tokens(model, codec):
        raise ConfigError(
            f"this model cannot write codec '{codec.name}': its tokenizer lacks {len(missing)} tokens ({missing[0]} to "
            f"{missing[-1]}); train it on the task 'segmentation' with this codec"
        )
    if isinstance(codec, SegHeadCodec):
        if model.mask_head is None:
            raise ConfigError(
                f"this model has no mask head, which codec '{codec.name}' needs; train it on the task 'segmentation' "
                "with this codec"
            )
        codec.frame = model.mask_head.frame
    return codec


def missing_tokens(model: VisionLanguageModel, codec: MaskCodec) -> list[str]:
    """The tokens of a codec that the model's tokenizer does not have.

    Raises:
        CheckpointError: If the model has no processor.
    """
    if model.processor is None:
        raise CheckpointError("this model has no processor; set model.processor or use from_parts")
    known = model.processor.tokenizer.get_vocab()
    return [token for token in codec.new_tokens if token not in known]


def prepare_codec(model: VisionLanguageModel, name: str, **options: Any) -> tuple[MaskCodec, int]:
    """Readies a model to be trained to write masks: tokens that are missing are added, and the config names the codec.

    A mask head is added where the codec needs one and there is none, its weights drawn from torch's generator.

    Args:
        model: Changed in place.
        name: A name of ``vislex list codecs``.
        **options: Of the codec.

    Returns:
        The codec, and how many tokens were added; the embeddings of these are not trained yet.

    Raises:
        ConfigError: If the tokenizer cannot write what the codec writes: its vocabulary has no numbers; or there can be
            no mask head of such an encoder and such options.
    """
    codec = create_codec(name, **options)
    if isinstance(codec, SegHeadCodec):
        grid_of(model.encoder.spec)  # refused before anything is added
    missing, tokenizer = missing_tokens(model, codec), model.processor.tokenizer
    if missing:
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in missing])
        grow_vocabulary(model.llm, len(tokenizer))
    if isinstance(codec, SegHeadCodec):
        _prepare_head(model, codec)
    for mask in _samples():
        text = codec.encode([mask])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        read = codec.decode_ideal(tokenizer.decode(ids, skip_special_tokens=True), mask).mask
        right = codec.decode_ideal(text, mask).mask
        assert right is not None  # the codec's own text
        if read is None or not np.array_equal(read, right):
            raise ConfigError(
                f"this tokenizer cannot write codec '{name}': it makes '{tokenizer.decode(ids)[:60]}' of "
                f"'{text[:60]}'; take codec=loc_seg, which has tokens of its own, or a language model that knows "
                "numbers (lm_pretrain numbers=true)"
            )
    model.config.codec, model.config.codec_options = name, dict(options)
    return codec, len(missing)


def _prepare_head(model: VisionLanguageModel, codec: SegHeadCodec) -> None:
    """Gives a model the mask head of a codec; one that it has stays, with the weights of its losses set anew.

    Raises:
        ConfigError: If an option is not allowed, or is another than that of the head that is there.
    """
    options = codec.head_options
    if model.mask_head is None:
        token_id = model.processor.tokenizer.convert_tokens_to_ids(SEG_TOKEN)
        model.set_mask_head(MaskHeadSettings(token_id=token_id, **options))
    assert model.mask_head is not None
    own = model.mask_head.settings
    changed = [
        name for name in ("hidden_size", "upscale") if options.get(name, getattr(own, name)) != getattr(own, name)
    ]
    if changed:
        raise ConfigError(
            f"{changed[0]} {options[changed[0]]} was asked for, but this model has a mask head with {changed[0]} "
            f"{getattr(own, changed[0])}; leave it out of codec_options"
        )
    model.mask_head.settings = replace(own, **options)
    model.config.mask_head = model.mask_head.settings.to_dict()
    codec.frame = model.mask_head.frame


def _size(image: Any) -> tuple[int, int]:
    """Height and width of a PIL image or an array [H, W, 3]."""
    return (image.height, image.width) if hasattr(image, "height") else (image.shape[0], image.shape[1])


def _samples() -> list[np.ndarray]:
    """Discs here and there, bool[64, 64], whose texts hold every digit."""
    y, x = np.mgrid[:64, :64]
    places = [(9, 12, 7), (20, 40, 11), (33, 31, 28), (45, 14, 9), (50, 52, 10), (14, 47, 5)]
    return [(y - top) ** 2 + (x - left) ** 2 <= radius**2 for top, left, radius in places]
