"""CLIPScore and RefCLIPScore (Hessel et al., 2021), from the local weights of a ``CLIPModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional

from vislex.errors import CheckpointError, DataError
from vislex.metrics.base import Scorer, check_captions

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CLIPSCORE", "REFCLIPSCORE", "ClipScorer", "score_clip"]

PROMPT = "A photo depicts "
WEIGHT = 2.5
DEFAULT_MODEL = "openai/clip-vit-base-patch32"


class ClipScorer:
    """A CLIP model with its processor, loaded once.

    Args:
        model: Local folder or hub id of a ``CLIPModel`` saved with its processor; published figures use
            "openai/clip-vit-base-patch32".
        device: Where it runs.
        batch_size: Images or captions in one forward.

    Attributes:
        id: "clipscore@1[<model>]", to be written beside the figures.

    Raises:
        CheckpointError: If the model cannot be opened.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, device: str = "cpu", batch_size: int = 64) -> None:
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model = cast("Any", CLIPModel.from_pretrained(model))
            self.processor = CLIPProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"CLIPScore cannot open '{model}' as a CLIPModel with its processor; give a local folder or a "
                f"downloaded hub id such as '{DEFAULT_MODEL}' ({str(error).splitlines()[0]})"
            ) from error
        self.model.to(device).eval()
        self.device, self.batch_size = device, batch_size
        self.id = f"{CLIPSCORE.id}[{model}]"

    def __call__(
        self,
        candidates: Mapping[Any, str],
        images: Mapping[Any, Image],
        references: Mapping[Any, Sequence[str]] | None = None,
    ) -> dict[str, np.ndarray]:
        """Scores of each image, in the order of ``candidates``.

        Args:
            candidates: One caption an image.
            images: PIL image of each id.
            references: For RefCLIPScore: one or more captions an image.

        Returns:
            "CLIPScore" float64[N] in [0, 2.5] and, with references, "RefCLIPScore" float64[N].

        Raises:
            DataError: If the ids do not match or there is nothing to score.
        """
        check_captions(candidates, references)
        if missing := [name for name in candidates if name not in images]:
            raise DataError(f"{len(missing)} candidates have no image, such as {missing[0]!r}")
        of_image = self._embed_images([images[name].convert("RGB") for name in candidates])
        of_candidate = self._embed_texts(list(candidates.values()))
        clip = WEIGHT * (of_image * of_candidate).sum(dim=-1).clamp(min=0)  # [N]
        scores = {"CLIPScore": clip.numpy().astype(np.float64)}
        if references is not None:
            owner = torch.tensor([i for i, name in enumerate(candidates) for _ in references[name]])
            of_reference = self._embed_texts([caption for name in candidates for caption in references[name]])
            cosine = (of_candidate[owner] * of_reference).sum(dim=-1).clamp(min=0)  # [T]
            best = torch.zeros(len(candidates)).scatter_reduce(0, owner, cosine, "amax")
            harmonic = 2 * clip * best / (clip + best).clamp(min=torch.finfo(clip.dtype).tiny)
            scores["RefCLIPScore"] = harmonic.numpy().astype(np.float64)
        return scores

    @torch.inference_mode()
    def _embed_images(self, images: Sequence[Image]) -> torch.Tensor:
        """float32[N, D] of length 1."""
        parts = []
        for batch in _batches(images, self.batch_size):
            pixels = self.processor.image_processor(images=list(batch), return_tensors="pt")["pixel_values"]
            features = self.model.get_image_features(pixel_values=pixels.to(self.device))
            parts.append(features.pooler_output.float().cpu())
        return functional.normalize(torch.cat(parts), dim=-1)

    @torch.inference_mode()
    def _embed_texts(self, captions: Sequence[str]) -> torch.Tensor:
        """float32[N, D] of length 1; captions beyond the text model's positions are cut, as in the original."""
        parts = []
        longest = self.model.config.text_config.max_position_embeddings
        for batch in _batches(captions, self.batch_size):
            inputs = self.processor.tokenizer(
                [PROMPT + caption for caption in batch],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self.device)
            features = self.model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            parts.append(features.pooler_output.float().cpu())
        return functional.normalize(torch.cat(parts), dim=-1)


def score_clip(
    candidates: Mapping[Any, str],
    images: Mapping[Any, Image],
    references: Mapping[Any, Sequence[str]] | None = None,
    *,
    model: str = DEFAULT_MODEL,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, float]:
    """Mean "CLIPScore" and, with references, "RefCLIPScore"; arguments and errors as in ``ClipScorer``."""
    scores = ClipScorer(model, device=device, batch_size=batch_size)(candidates, images, references)
    return {name: float(values.mean()) for name, values in scores.items()}


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


CLIPSCORE = Scorer("clipscore@1", ("CLIPScore",), ("candidates", "images"), score_clip)
REFCLIPSCORE = Scorer("refclipscore@1", ("RefCLIPScore",), ("candidates", "images", "references"), score_clip)
