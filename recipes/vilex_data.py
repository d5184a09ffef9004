"""What a ViLex training sees of an image: the encoder's inputs or cached features, and what is to be reconstructed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset

from vislex.diffusion.t2i import TextToImage
from vislex.encoders.base import VisionEncoder
from vislex.errors import ConfigError
from vislex.training.features import FeatureStore, cached_features
from vislex.training.images import cached_images, normalize_images

__all__ = ["ImagePairs"]


class ImagePairs:
    """Batches of a data set's images, once for the encoder and once as latents of the text-to-image model.

    Args:
        rows: Rows with ``image``; None for images that are only given to ``prepare``.
        backbone: The encoder below the pooling.
        image_processor: Its image processor.
        t2i: The frozen text-to-image model.
        frozen: Whether the encoder stays as it is: its tokens are then computed once.
        cache: Whether images (or tokens) are kept on disk; otherwise they are opened and prepared at every step.
        provenance: What the images are made of.
        workers: Processes that draw images for the cache.

    Raises:
        ConfigError: If an encoder of variable length is to be trained from cached images.
    """

    def __init__(
        self,
        rows: Dataset | None,
        backbone: VisionEncoder,
        image_processor: Any,
        t2i: TextToImage,
        *,
        frozen: bool,
        cache: bool,
        provenance: dict[str, Any],
        workers: int = 0,
    ) -> None:
        self.rows, self.backbone, self.image_processor, self.t2i = rows, backbone, image_processor, t2i
        self.features: FeatureStore | None = None
        self.pixels: np.ndarray | None = None
        self.targets: np.ndarray | None = None
        if not cache or rows is None:
            return
        cached: dict[str, Any] = {"provenance": provenance, "workers": workers}
        self.targets = cached_images(rows, t2i.image_size, **cached)
        if frozen:
            self.features = cached_features(backbone, rows, image_processor, provenance=provenance)
            return
        spec = backbone.spec
        if spec.variable_length or spec.resize != "squash" or spec.image_size[0] != spec.image_size[1]:
            raise ConfigError(
                f"'{backbone.config.name}' takes images of varying shape, which cannot be cached for its training; set "
                "cache=false, or stages=frozen to train the pooling alone"
            )
        self.pixels = cached_images(rows, spec.image_size[0], **cached)

    def __len__(self) -> int:
        assert self.rows is not None
        return len(self.rows)

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Arguments of ``ViLex.forward``: ``vision_tokens`` with their mask, or the encoder's inputs; ``latents``."""
        batch = self.pixel_batch(rows)
        targets = batch.pop("targets").to(self.t2i.device)
        return {**batch, "latents": self.t2i.encode_pixels(targets).cpu()}

    def pixel_batch(self, rows: np.ndarray) -> dict[str, Any]:
        """The same with ``targets`` in place of ``latents``: no model is run, so that a worker process can do it."""
        if self.targets is None:
            assert self.rows is not None
            return self.prepare(self.rows[[int(row) for row in rows]]["image"])
        targets = normalize_images(self.targets[rows])
        inputs: dict[str, Any]
        if self.features is not None:
            vision = self.features.tokens(rows)
            inputs = {"vision_tokens": vision.tokens.float()}
            inputs |= {} if vision.mask is None else {"vision_mask": vision.mask}
        else:
            assert self.pixels is not None
            mean, std = (torch.tensor(getattr(self.backbone.spec, name)).view(3, 1, 1) for name in ("mean", "std"))
            inputs = {"pixel_values": normalize_images(self.pixels[rows], mean, std)}
        return {**inputs, "targets": targets}

    def prepare(self, images: list[Any]) -> dict[str, Any]:
        """The same of opened images (PIL)."""
        inputs: dict[str, Any] = dict(self.image_processor(images, return_tensors="pt"))
        return {**inputs, "targets": self.t2i.prepare(images)}
