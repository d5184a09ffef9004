"""Retrieval: recall at 1, 5 and 10 between images and captions, for text-aligned encoders (``SiglipModel`` folders)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vislex import provenance
from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.caption_models import folder_hash, parameter_counts
from vislex.benchmarks.results import ModelInfo, Origin, Run, Timing, content_key
from vislex.errors import CheckpointError
from vislex.hardware import resolve_device, resolve_dtype
from vislex.metrics.retrieval import retrieval_recall
from vislex.shipped import shipped, shipped_models

__all__ = ["KS", "evaluate", "resolve_folder"]

KS = (1, 5, 10)


def resolve_folder(name: str) -> tuple[Path, Origin]:
    """Folder of a text-aligned model: a path, or the name of one that vislex ships ("siglip-tiny").

    Raises:
        CheckpointError: If there is no such folder.
    """
    folder = Path(name.removeprefix("hf:"))
    if (folder / "config.json").is_file():
        return folder, "local"
    if name in shipped_models():
        return shipped(name), "shipped"
    raise CheckpointError(
        f"'{name}' is no folder of a text-aligned model (it has no config.json); give a SiglipModel folder, "
        "e.g. one that 'vislex train siglip_pretrain' wrote, or 'siglip-tiny'"
    )


@torch.inference_mode()
def evaluate(
    name: str,
    data: CaptionData,
    *,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
) -> Run:
    """Ranks all captions for every image and all images for every caption.

    A caption that several images share is one text, right for each of them.

    Args:
        name: Folder of a dual encoder (SigLIP, CLIP, ...) with its processors, or the name of a shipped one.
        data: Images and captions; the pool is the whole data set.
        device: "auto", "cpu", "cuda", ...
        dtype: Of the weights.
        batch_size: Images or captions a forward.

    Returns:
        A run with "text-to-image R@k" and "image-to-text R@k" in [0, 1].

    Raises:
        CheckpointError: If the folder holds no dual encoder.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder, origin = resolve_folder(name)
    place = resolve_device(device)
    try:
        model = AutoModel.from_pretrained(folder, dtype=resolve_dtype(dtype, place), trust_remote_code=False).eval()
        processor = AutoImageProcessor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot open a dual encoder at '{folder}': {str(error).splitlines()[0]}") from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise CheckpointError(f"'{folder}' holds a {type(model).__name__}, which embeds no text; give a SigLIP or CLIP")
    model = model.to(place)
    begun = time.perf_counter()
    captions = [data.record.references[identity] for identity in data.record.ids]
    texts = list(dict.fromkeys(text for own in captions for text in own))
    images = np.concatenate([_embed_images(model, processor, chunk, batch_size) for chunk in data.chunks()])
    embedded = _embed_texts(model, tokenizer, texts, batch_size)
    recalls = retrieval_recall(images, embedded, captions, ks=KS)
    scores = {key.replace("_to_", "-to-").replace("_R@", " R@"): float(value) for key, value in recalls.items()}
    sha256 = folder_hash(folder)
    info = ModelInfo(
        row=name, encoder=name, origin=origin, parameters=parameter_counts(model), sha256=sha256, decoder=None
    )
    return Run(
        key=content_key({"task": "retrieval", "model": sha256, "data": data.record.key, "dtype": dtype}),
        task="retrieval",
        model=info,
        data=data.record.key,
        provenance=provenance.collect(seed=None, device=str(model.device), dtype=str(model.dtype)),
        scorers=["retrieval-recall@1"],
        n=len(captions),
        scores={key: scores[key] for key in sorted(scores, key=_order)},
        timing=Timing(seconds=round(time.perf_counter() - begun, 3), batch_size=batch_size),
    )


def _embed_images(model: Any, processor: Any, images: list[Any], batch_size: int) -> np.ndarray:
    parts = []
    for start in range(0, len(images), batch_size):
        inputs = processor(images=images[start : start + batch_size], return_tensors="pt").to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        parts.append(_unit(model.get_image_features(**inputs)))
    return np.concatenate(parts)


def _embed_texts(model: Any, tokenizer: Any, texts: list[str], batch_size: int) -> np.ndarray:
    longest = model.config.text_config.max_position_embeddings
    # SigLIP's text tower pools the last position: its captions are always padded to the full length.
    padding = "max_length" if "siglip" in model.config.model_type.split("_")[0] else True
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size], padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        given = {"input_ids": batch["input_ids"]}
        if padding is True:
            given["attention_mask"] = batch["attention_mask"]
        parts.append(_unit(model.get_text_features(**{key: value.to(model.device) for key, value in given.items()})))
    return np.concatenate(parts)


def _unit(features: Any) -> np.ndarray:
    values = getattr(features, "pooler_output", features)
    return F.normalize(values.float(), dim=-1).cpu().numpy()


def _order(name: str) -> tuple[str, int]:
    kind, _, k = name.rpartition("@")
    return ("a" if kind.startswith("text") else "b"), int(k)
