"""Captioners that a benchmark can run: of vislex, and stock ones of transformers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from vislex.benchmarks.results import ModelInfo, Origin
from vislex.benchmarks.summary import UNTRAINED
from vislex.encoders.sources import is_untrained
from vislex.errors import CheckpointError
from vislex.text import postprocess_caption

if TYPE_CHECKING:
    from PIL.Image import Image

    from vislex.captioner import Caption, Captioner

__all__ = [
    "CaptionModel",
    "StockCaptioner",
    "VislexCaptioner",
    "describe_folder",
    "folder_hash",
    "learning_curve",
    "parameter_counts",
]

TRAINING = ("config", "figures", "parts", "parameters", "time", "processor")  # what a result keeps of run.json
STOCK_LENGTH = 40  # word pieces; transformers' own default of 20 cuts captions


class CaptionModel(Protocol):
    """What the benchmark asks of a model.

    Attributes:
        info: Its row, origin, parameters and hash.
        device: Where it runs.
        dtype: Of its weights.
        any_order: Whether its decoder writes in any order, and ``caption(trace=True)`` tells how.
    """

    info: ModelInfo
    any_order: bool

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def caption(
        self, images: Sequence[Image], *, batch_size: int, indices: Sequence[int] | None = None, **generation: Any
    ) -> list[Caption]:
        """One caption an image, post-processed, with its network evaluations and its share of the wall time.

        ``indices`` are the numbers of the images in the run, from which what is drawn for each follows.
        """
        ...


class VislexCaptioner:
    """A ``Captioner`` of vislex, from a folder or already in memory."""

    def __init__(self, captioner: Captioner, info: ModelInfo) -> None:
        self.captioner = captioner.eval()
        self.info = info
        self.any_order = captioner.decoder.any_order

    @property
    def device(self) -> torch.device:
        return self.captioner.device

    @property
    def dtype(self) -> torch.dtype:
        return self.captioner.dtype

    def caption(
        self, images: Sequence[Image], *, batch_size: int, indices: Sequence[int] | None = None, **generation: Any
    ) -> list[Caption]:
        generation = {name: value for name, value in generation.items() if name != "prompt" and value is not None}
        return self.captioner.caption(list(images), batch_size=batch_size, indices=indices, **generation)


class StockCaptioner:
    """A captioner of transformers (BLIP, BLIP-2, GIT, ...) behind ``AutoModelForImageTextToText`` and its processor."""

    any_order = False

    def __init__(self, model: Any, processor: Any, info: ModelInfo) -> None:
        self.model = model.eval()
        self.processor = processor
        self.info = info

    @classmethod
    def from_pretrained(
        cls, source: str, *, row: str | None = None, device: str | torch.device = "cpu", dtype: Any = torch.float32
    ) -> StockCaptioner:
        """Opens a hub id or a folder; no code of the checkpoint is run.

        Raises:
            CheckpointError: If it is no captioner that transformers can open.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=False, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"transformers cannot open a captioner at '{source}': {reason}; give a folder or a hub id of an "
                "image-text-to-text model, e.g. hf:Salesforce/blip-image-captioning-base"
            ) from error
        folder = Path(source)
        info = ModelInfo(
            row=row or f"hf:{folder.name if folder.is_dir() else source}",
            decoder=type(model).__name__,
            origin="stock",
            parameters=parameter_counts(model),
            sha256=folder_hash(folder) if folder.is_dir() else getattr(model.config, "_commit_hash", None),
        )
        return cls(model.to(torch.device(device)), processor, info)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.inference_mode()
    def caption(
        self,
        images: Sequence[Image],
        *,
        batch_size: int,
        indices: Sequence[int] | None = None,  # transformers draws from the global generator
        prompt: str | None = None,
        seed: int | None = None,
        **generation: Any,
    ) -> list[Caption]:
        from vislex.captioner import Caption

        if seed is not None:
            torch.manual_seed(seed)
        beams = int(generation.get("num_beams") or 1)
        generation["max_new_tokens"] = generation.get("max_new_tokens") or STOCK_LENGTH
        captions = []
        for start in range(0, len(images), batch_size):
            batch = list(images[start : start + batch_size])
            begun = time.perf_counter()
            given: dict[str, Any] = {"text": [prompt] * len(batch), "padding": True} if prompt else {}
            if not prompt and getattr(self.model.config, "image_token_index", None) is not None:
                given = {"text": [""] * len(batch)}  # BLIP-2 writes its image tokens into the prompt
            inputs = self.processor(images=batch, return_tensors="pt", **given).to(self.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
            ids = self.model.generate(**inputs, **generation)
            new = self._without_prompt(ids, inputs.get("input_ids"))
            texts = self.processor.batch_decode(new, skip_special_tokens=True)
            seconds = (time.perf_counter() - begun) / len(batch)
            for text, row in zip(texts, new, strict=True):
                captions.append(Caption(postprocess_caption(text), beams * self._n_tokens(row), seconds))
        return captions

    def _without_prompt(self, ids: torch.Tensor, prompt: torch.Tensor | None) -> torch.Tensor:
        """Drops the prompt where the model repeats it."""
        if prompt is None or ids.shape[1] < prompt.shape[1] or not torch.equal(ids[:, : prompt.shape[1]], prompt):
            return ids
        return ids[:, prompt.shape[1] :]

    def _n_tokens(self, row: torch.Tensor) -> int:
        """Generated tokens with the one that ends the caption: a forward each."""
        config = self.model.generation_config
        text = getattr(self.model.config, "text_config", self.model.config)
        ends = config.eos_token_id if config.eos_token_id is not None else getattr(text, "sep_token_id", None)
        starts = {config.bos_token_id, config.decoder_start_token_id, config.pad_token_id} - {None}
        tokens = row.tolist()
        while tokens and tokens[0] in starts:
            tokens = tokens[1:]
        ended = [place for place, token in enumerate(tokens) if token in _as_list(ends)]
        return ended[0] + 1 if ended else len(tokens)


def describe_folder(captioner: Captioner, folder: Path, *, row: str | None, origin: Origin) -> ModelInfo:
    """What a captioner folder says of itself: its parts, its weights, and its training where ``run.json`` tells it."""
    encoder = captioner.encoder.config.name or type(captioner.encoder).__name__
    encoder += UNTRAINED if is_untrained(captioner.encoder.config) else ""
    decoder = captioner.decoder.config.model_type.removeprefix("vislex_")
    record = read_json(folder / "run.json")
    kept = {name: record[name] for name in TRAINING if name in record}
    return ModelInfo(
        row=row or f"{encoder} + {decoder}",
        encoder=encoder,
        decoder=decoder,
        origin=origin,
        seed=record.get("seed"),
        parameters=_trained_counts(parameter_counts(captioner), record.get("parameters") or {}),
        sha256=folder_hash(folder),
        training=kept or None,
        curve=learning_curve(folder),
    )


def learning_curve(folder: Path) -> list[dict[str, float]]:
    """The numbers of a folder's ``training.jsonl``, one dictionary a line; empty without it."""
    file = folder / "training.jsonl"
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{key: float(value) for key, value in line.items() if isinstance(value, int | float)} for line in lines]


def _trained_counts(counted: dict[str, int], recorded: dict[str, int]) -> dict[str, int]:
    """The counts of a loaded folder, corrected by its training: what it froze is not told by the weights."""
    if "trainable" not in recorded:
        return counted
    trainable = recorded["trainable"]
    return {
        "total": counted["total"],
        "trainable": trainable,
        "frozen": counted["total"] - trainable,
        "budgeted": recorded.get("decoder_budget", trainable),
    }


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Counts of a model: "total", "trainable", "frozen", and "budgeted", the trainable ones that a budget counts.

    A budget leaves out token embeddings and the heads tied to them: they follow from the vocabulary, not the design.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tables = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= 256:
            tables.add(id(module.weight))
    count = sum(parameter.numel() for parameter in trainable)
    budgeted = sum(parameter.numel() for parameter in trainable if id(parameter) not in tables)
    return {"total": total, "trainable": count, "frozen": total - count, "budgeted": budgeted}


def folder_hash(folder: Path) -> str:
    """sha256 over the weights and configs of a folder."""
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("config.json")]):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is not there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
