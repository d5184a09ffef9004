"""``VisionLanguageProcessor``: chat turns, images and videos to the inputs of a vision-language model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, BatchFeature, ProcessorMixin

from vislex.adapters.chat import IMAGE_TOKEN, VIDEO_TOKEN, add_image_token, multimodal_template
from vislex.adapters.connectors import ConnectorConfig
from vislex.adapters.video import sample_frames
from vislex.adapters.vlm_kwargs import VisionLanguageKwargs
from vislex.data.images import open_images
from vislex.errors import SpecError
from vislex.specs import token_count

__all__ = ["VisionLanguageProcessor"]

_PLACEHOLDER = re.compile(f"({re.escape(IMAGE_TOKEN)}|{re.escape(VIDEO_TOKEN)})")


class VisionLanguageProcessor(ProcessorMixin):
    """Image processor, tokenizer and the arithmetic on image tokens: the encoder's count, then the connector's.

    Args:
        image_processor: Stock image processor of transformers, made from the encoder's spec.
        tokenizer: Tokenizer of the language model; gets ``<image>`` where it has none, and pads on the left.
        connector: ``ConnectorConfig.to_dict()``, which holds the encoder's spec.
        num_frames: Frames of a video.
        chat_template: Jinja template of turns whose contents may hold images and videos; the tokenizer's by default.
    """

    valid_processor_kwargs = VisionLanguageKwargs

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        connector: dict[str, Any] | None = None,
        num_frames: int = 8,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.connector = connector
        self.num_frames = num_frames
        self.image_token = IMAGE_TOKEN
        self.image_token_id = add_image_token(tokenizer)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        template = chat_template or multimodal_template(tokenizer.chat_template)
        super().__init__(image_processor, tokenizer, chat_template=template)

    @property
    def connector_config(self) -> ConnectorConfig:
        """The connector's config, which counts.

        Raises:
            SpecError: If the processor was made without one.
        """
        if self.connector is None:
            raise SpecError("this processor knows no connector; VisionLanguageModel.from_parts makes one that does")
        import vislex.auto  # noqa: F401

        config: ConnectorConfig = AutoConfig.for_model(**self.connector)
        return config

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        n_tokens: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares prompts with their images and videos.

        Args:
            images: Paths, PIL images or arrays in the order of ``<image>`` in the texts, nested by prompt or flat.
            text: Prompts with ``<image>`` and ``<video>`` where one belongs.
            videos: Videos in the order of ``<video>``: files, or their frames; each becomes ``num_frames`` images.
            n_tokens: Tokens an image, for connectors with a budget; give the model the same.
            return_tensors: "pt".
            **kwargs: Further options of tokenizer and image processor. Prompts are padded on the left.

        Returns:
            ``input_ids`` and ``attention_mask`` int64[B, L], ``pixel_values`` float[images, 3, H, W] and what else the
            image processor gives; ``n_tokens`` where it was given.

        Raises:
            SpecError: If a text has other placeholders than there are images and videos.
        """
        prompts = [text] if isinstance(text, str) else None if text is None else list(text)
        flat = list(_flatten(images))
        if prompts is not None:
            prompts, flat = self._place(prompts, flat, list(_flatten_videos(videos)))
        kwargs.setdefault("padding", True)
        budget = {} if n_tokens is None else {"images_kwargs": {"n_tokens": n_tokens}}
        given = {"images": open_images(flat) or None, "text": prompts}
        inputs: BatchFeature = super().__call__(**given, return_tensors=return_tensors, **budget, **kwargs)
        if n_tokens is not None and flat:
            inputs["n_tokens"] = n_tokens
        return inputs

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """As many image tokens as encoder and connector give for this image."""
        config = self.connector_config
        count = config.count(config.encoder_spec.count(image_inputs, image_idx), kwargs.get("n_tokens"))
        return IMAGE_TOKEN * token_count(count)

    def prompt(self, question: str, n_images: int = 1, *, system: str | None = None, answer: str | None = None) -> str:
        """One question as a chat turn, images first, ready for an answer (or with it).

        Args:
            question: What the user says.
            n_images: Images of the turn.
            system: What stands before all turns.
            answer: What the assistant says; None leaves it to the model.
        """
        turns: list[dict[str, Any]] = []
        for role, said, images in (("system", system, 0), ("user", question, n_images), ("assistant", answer, 0)):
            if said is not None:
                parts = [{"type": "image"}] * images + [{"type": "text", "text": said}]
                turns.append({"role": role, "content": parts})
        text: str = self.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
        return text

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        n_tokens = kwargs.pop("n_tokens", None)
        processed = self.image_processor(images, **kwargs)
        return processed, [self.replace_image_token(processed, i, n_tokens=n_tokens) for i in range(len(images))]

    def _place(self, texts: list[str], images: list[Any], videos: list[Any]) -> tuple[list[str], list[Any]]:
        """Texts with every ``<video>`` written out as its frames, and all images in their order."""
        wanted = [sum(text.count(token) for text in texts) for token in (IMAGE_TOKEN, VIDEO_TOKEN)]
        if wanted != [len(images), len(videos)]:
            raise SpecError(
                f"the prompts have {wanted[0]} {IMAGE_TOKEN} and {wanted[1]} {VIDEO_TOKEN}, but there are "
                f"{len(images)} images and {len(videos)} videos; write one placeholder for each"
            )
        queue, films, placed, written = iter(images), iter(videos), [], []
        for text in texts:
            pieces = []
            for piece in _PLACEHOLDER.split(text):
                if piece == VIDEO_TOKEN:
                    frames = sample_frames(next(films), self.num_frames)
                    placed += frames
                    piece = IMAGE_TOKEN * len(frames)
                elif piece == IMAGE_TOKEN:
                    placed.append(next(queue))
                pieces.append(piece)
            written.append("".join(pieces))
        return written, placed


def _flatten(images: Any) -> Iterator[Any]:
    """Images one by one, from one image, a list, or a list of lists."""
    if images is None:
        return
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images


def _flatten_videos(videos: Any) -> Iterator[Any]:
    """Videos one by one: a file, an array [T, H, W, 3] or a list of images is one video."""
    if videos is None:
        return
    several = isinstance(videos, list | tuple) and bool(videos)
    if several and (isinstance(videos[0], str | Path | list | tuple) or getattr(videos[0], "ndim", 3) == 4):
        for video in videos:
            yield from _flatten_videos(video)
    else:
        yield videos
