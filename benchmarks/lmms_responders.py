"""What answers a harness: captioners, vision-language models and hosts of transformers, all by chat turns.

What is drawn for an answer follows from the seed and the place of the question in its task, not from the batch or the
process that it stands in.
"""

from __future__ import annotations

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from vislex.adapters.host_turns import host_inputs
from vislex.adapters.vlm_read import encode_once, read_masks
from vislex.adapters.vlm_segment import codec_of
from vislex.benchmarks.caption_models import folder_hash, parameter_counts
from vislex.benchmarks.caption_opening import kind_of, open_caption_model
from vislex.benchmarks.results import ModelInfo
from vislex.benchmarks.vlm_rows import open_model
from vislex.composite import CompositeModel
from vislex.decoders.draws import WARPERS, Draws
from vislex.decoders.noise import caption_generators
from vislex.errors import ConfigError
from vislex.hardware import resolve_device, resolve_dtype
from vislex.hub import open_checkpoint
from vislex.registry import registry
from vislex.segmentation.factory import create_codec
from vislex.shipped import find_model

if TYPE_CHECKING:
    from vislex.captioner import Captioner
    from vislex.segmentation.codec import Decoded, MaskCodec

__all__ = ["CaptionResponder", "ChatResponder", "Question", "Reply", "Responder", "open_responder"]

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 64
_DEFAULTS = (("do_sample", False), ("num_beams", 1))  # what a caption decoder does unasked, if it knows the word
_NOT_OURS = ("until", "image_aspect_ratio")  # of tasks: the first is cut here, the second is LLaVA's


@dataclass(frozen=True)
class Question:
    """What a model is asked.

    Attributes:
        turns: Chat turns: ``{"role", "content": [{"type": "image", "image": PIL} | {"type": "text", "text"}]}``.
        number: Its place in the task.
        options: Generation settings of the task.
        masks: Whether the answer is to be masks, not the text that stands for them.
    """

    turns: Sequence[dict[str, Any]]
    number: int
    options: dict[str, Any] = field(default_factory=dict)
    masks: bool = False

    @property
    def images(self) -> list[Any]:
        """In their order."""
        return [part["image"] for turn in self.turns for part in turn["content"] if part["type"] == "image"]

    @property
    def text(self) -> str:
        """The text of all turns."""
        parts = [part["text"] for turn in self.turns for part in turn["content"] if part["type"] == "text"]
        return "\n".join(parts)


@dataclass(frozen=True)
class Reply:
    """An answer, and the tokens that it took, where they are counted."""

    text: str
    new_tokens: int | None = None


class Responder(ABC):
    """A model that answers.

    Attributes:
        info: Its row, parameters and hash.
    """

    info: ModelInfo

    @property
    @abstractmethod
    def model(self) -> torch.nn.Module:
        """The model."""

    @abstractmethod
    def respond(self, questions: Sequence[Question]) -> list[Reply]:
        """Answers a batch of questions with the same options and as many images each, all of them for masks or none."""


class CaptionResponder(Responder):
    """A captioner describes the one image of a question, and reads nothing."""

    def __init__(self, captioner: Captioner, info: ModelInfo, *, seed: int | None = None) -> None:
        self.captioner, self.info, self.seed = captioner.eval(), info, seed
        self._told = False

    @property
    def model(self) -> torch.nn.Module:
        return self.captioner

    def respond(self, questions: Sequence[Question]) -> list[Reply]:
        """Captions; see ``Responder.respond``.

        Raises:
            ConfigError: If a question has no image or several, or asks for masks.
        """
        if any(own.masks for own in questions):
            raise ConfigError("a captioner marks nothing; give a vision-language model that was trained to segment")
        counts = {len(own.images) for own in questions}
        if counts != {1}:
            raise ConfigError(f"a captioner takes one image a question; the task gives {max(counts - {1})}")
        if not self._told:
            logger.warning("a captioner reads no prompt: every question is answered by a caption of its image")
            self._told = True
        made = self.captioner.caption(
            [own.images[0] for own in questions],
            batch_size=len(questions),
            indices=[own.number for own in questions],
            **self._options(questions[0].options),
        )
        return [Reply(caption.text) for caption in made]

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """What a decoder is told of a task's settings: nothing that it does anyway, or has no positions for."""
        options = {name: value for name, value in _plain(given).items() if (name, value) not in _DEFAULTS}
        decoder = self.captioner.decoder
        room = min(decoder.config.max_length, decoder.longest_caption) - 1
        if options.get("max_new_tokens", 0) >= room:
            del options["max_new_tokens"]
        return options if self.seed is None else {"seed": self.seed, **options}


class ChatResponder(Responder):
    """A model of ``AutoModelForImageTextToText`` with its processor: ours, or a host whose encoder was swapped.

    Args:
        model: The model.
        processor: Its processor; without a chat template, prompts are the bare text.
        info: What it is.
        seed: Of what is drawn.
        codec: How masks are read from its text; None for a model that says so itself, or marks nothing.
        n_tokens: Tokens an image, for connectors with a budget.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        info: ModelInfo,
        *,
        seed: int | None = None,
        codec: str | None = None,
        n_tokens: int | None = None,
    ) -> None:
        self._model, self.processor, self.info, self.seed = model.eval(), processor, info, seed
        self._codec_name = codec
        self._codec: MaskCodec | None = None
        self._budget = {} if n_tokens is None else {"n_tokens": n_tokens}
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    @property
    def model(self) -> torch.nn.Module:
        module: torch.nn.Module = self._model
        return module

    @property
    def codec(self) -> MaskCodec:
        """How masks are read from the model's text.

        Raises:
            ConfigError: If it was not trained to segment and no codec was named.
        """
        if self._codec is None:
            if hasattr(self._model.config, "codec"):
                self._codec = codec_of(self._model, self._codec_name)
            elif self._codec_name is None:
                raise ConfigError("this model does not say how it writes masks; name the codec, e.g. codec=loc_seg")
            else:
                codec = create_codec(self._codec_name)
                if codec.needs_head:
                    raise ConfigError(f"this model has no mask head, which codec '{codec.name}' needs")
                self._codec = codec
        return self._codec

    @torch.inference_mode()
    def respond(self, questions: Sequence[Question]) -> list[Reply]:
        """Answers; see ``Responder.respond``.

        Raises:
            ConfigError: If an option is unknown, or masks are asked of a model without a codec.
        """
        options = _plain(questions[0].options)
        inputs = self._inputs(questions).to(self._model.device, self._model.dtype)
        inputs.pop("labels", None)  # PaliGemma's, of prompts alone
        asks_masks = questions[0].masks
        if asks_masks and isinstance(self._model, CompositeModel):
            inputs = encode_once(self._model, inputs)
        ids = self._model.generate(**inputs, **self._settings(options, [own.number for own in questions]))
        ids = _without_prompt(ids, inputs.get("input_ids"))
        texts = [text.strip() for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        texts = [_cut(text, questions[0].options.get("until")) for text in texts]
        lengths = self._lengths(ids)
        if asks_masks:
            sizes = [(own.images[0].height, own.images[0].width) for own in questions]
            marked = read_masks(self._model, self.codec, inputs, ids, texts, sizes)
            texts = [_as_json(text, decoded) for text, decoded in zip(texts, marked, strict=True)]
        return [Reply(text, count) for text, count in zip(texts, lengths, strict=True)]

    def _inputs(self, questions: Sequence[Question]) -> Any:
        images: Any = [own.images for own in questions] if questions[0].images else None
        if getattr(self.processor, "chat_template", None) is None:
            if str(self._model.config.model_type).removeprefix("vislex_") in registry("hosts"):
                mark = self.processor.image_token  # a host counts on one for each image; other models write their own
                marked = [mark * len(own.images) + own.text for own in questions]
                return host_inputs(self.processor, marked, [own.images for own in questions])
            return self.processor(
                images=None if images is None else [own[0] if len(own) == 1 else own for own in images],
                text=[own.text for own in questions],
                return_tensors="pt",
                padding=True,
            )
        turns = [
            [{**turn, "content": [_seen(part) for part in turn["content"]]} for turn in q.turns] for q in questions
        ]
        texts = [self.processor.apply_chat_template(own, add_generation_prompt=True, tokenize=False) for own in turns]
        return self.processor(
            images=images, text=texts, return_tensors="pt", padding=True, add_special_tokens=False, **self._budget
        )

    def _settings(self, options: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        """Keywords of ``generate``: greedy or beam search, or tokens drawn from each answer's own generator."""
        settings = copy.deepcopy(self._model.generation_config)
        if "max_length" not in options:
            options.setdefault("max_new_tokens", MAX_NEW_TOKENS)
        if unknown := settings.update(**options):
            raise ConfigError(
                f"generation has no option '{next(iter(unknown))}'; known are the fields of transformers' "
                "GenerationConfig"
            )
        if not settings.do_sample:
            settings.update(**dict.fromkeys(WARPERS))
            return {"generation_config": settings}
        if (settings.num_beams or 1) > 1:
            raise ConfigError(f"do_sample=True with num_beams={settings.num_beams}: beams are searched; leave one out")
        draws = Draws(settings, caption_generators(self.seed or 0, numbers))
        return {"generation_config": Draws.plain(settings), "logits_processor": LogitsProcessorList([draws])}

    def _lengths(self, ids: Tensor) -> list[int]:
        """Tokens of each answer int64[B, L], its end included."""
        ends = self._model.generation_config.eos_token_id
        ended = torch.isin(ids, torch.tensor([] if ends is None else ends, device=ids.device, dtype=ids.dtype))
        if not ids.shape[1]:
            return [0] * len(ids)
        ended[:, -1] = True
        lengths: list[int] = (ended.long().argmax(1) + 1).tolist()
        return lengths


def open_responder(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    seed: int | None = None,
    codec: str | None = None,
    n_tokens: int | None = None,
) -> Responder:
    """Opens what a user names.

    Args:
        name: A captioner's or a vision-language model's folder, a folder of adapters, the name of a shipped model, or
            any folder or hub id (``hf:ORG/NAME``) of ``AutoModelForImageTextToText`` with a processor.
        device: "auto", "cpu", "cuda", ...
        dtype: "auto", "float32", "bfloat16" or "float16".
        seed: Of what is drawn; each decoder's own if None.
        codec: Codec of masks.
        n_tokens: Tokens an image, for vision-language models whose connector has a budget.

    Raises:
        CheckpointError: If there is no such model, or it carries what no checkpoint may.
        ConfigError: For options that such a model has not.
    """
    name = str(name)
    place = find_model(name)
    if place is not None:
        kind = kind_of(place)
        if kind == "vislex_captioner":
            if codec is not None or n_tokens is not None:
                raise ConfigError("codec= and n_tokens= are options of vision-language models; this is a captioner")
            opened: Any = open_caption_model(name, device=device, dtype=dtype)
            return CaptionResponder(opened.captioner, opened.info, seed=seed)
        if kind == "vislex_vlm":
            model, info = open_model(name, device=device, dtype=dtype)
            return ChatResponder(model, model.processor, info, seed=seed, codec=codec, n_tokens=n_tokens)
    if n_tokens is not None:
        raise ConfigError("n_tokens= is an option of vislex's vision-language models; a host has its own count")
    model, processor, info = _open_host(name.removeprefix("hf:"), device=device, dtype=dtype)
    return ChatResponder(model, processor, info, seed=seed, codec=codec)


def _open_host(name: str, *, device: str, dtype: str) -> tuple[Any, Any, ModelInfo]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vislex.auto  # noqa: F401

    target = resolve_device(device)
    load = AutoModelForImageTextToText.from_pretrained
    model, _ = open_checkpoint(
        load, name, what="image-text-to-text model", trust_remote_code=False, dtype=resolve_dtype(dtype, target)
    )
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    folder = Path(name)
    info = ModelInfo(
        row=folder.resolve().name if folder.is_dir() else name,
        decoder=type(model).__name__,
        origin="local" if folder.is_dir() else "stock",
        parameters=parameter_counts(model),
        sha256=folder_hash(folder) if folder.is_dir() else getattr(model.config, "_commit_hash", None),
    )
    return model.to(target), processor, info


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """A task's settings with ``do_sample`` said: greedy without a temperature, as harnesses mean it."""
    options = {name: value for name, value in given.items() if name not in _NOT_OURS and value is not None}
    temperature = options.get("temperature")
    options["do_sample"] = bool(options.get("do_sample", bool(temperature))) and temperature != 0
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in WARPERS}
    return options


def _seen(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a turn as chat templates take it: the image itself goes to the processor."""
    return {"type": "image"} if part["type"] == "image" else part


def _without_prompt(ids: Tensor, prompt: Tensor | None) -> Tensor:
    """Drops the prompt where the model repeats it."""
    if prompt is None or ids.shape[1] < prompt.shape[1] or not torch.equal(ids[:, : prompt.shape[1]], prompt):
        return ids
    return ids[:, prompt.shape[1] :]


def _as_json(text: str, decoded: Decoded) -> str:
    """``{"text", "masks": [COCO run lengths]}``, or ``{"text", "masks": null, "invalid": reason}``."""
    from pycocotools.mask import encode

    if decoded.invalid is not None:
        return json.dumps({"text": text, "masks": None, "invalid": decoded.invalid})
    runs = [encode(np.asfortranarray(segment.mask.astype(np.uint8))) for segment in decoded.segments]
    masks = [{"size": [int(side) for side in own["size"]], "counts": own["counts"].decode()} for own in runs]
    return json.dumps({"text": text, "masks": masks})


def _cut(text: str, ends: str | Sequence[str] | None) -> str:
    """The text before the first of the task's stop strings."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        if end:
            text = text.split(end)[0]
    return text.strip()
