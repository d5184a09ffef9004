"""What lies in the folder of a diffusers pipeline: its index, JSON files and weight files, and a digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vislex.errors import CheckpointError
from vislex.hub import indexed_files

__all__ = ["INDEX", "folder_digest", "read_index", "read_json"]

INDEX = "model_index.json"


def folder_digest(folder: Path) -> str:
    """sha256 over pipeline, prediction type and weight files of a folder."""
    index = read_index(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = f"{index.get('_class_name')} {scheduler.get('prediction_type')}"
    digest = hashlib.sha256(kind.encode(errors="backslashreplace"))
    for part, entry in sorted(index.items()):
        if (
            isinstance(entry, list)
            and Path(part).name == part
            and (folder / part).is_dir()
            and part not in ("safety_checker", "image_encoder")
        ):
            for file in _weight_files(folder / part):
                digest.update(f"{part} {_file_digest(file)}".encode())
    return digest.hexdigest()


def _file_digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{file}' cannot be read: {error}; the folder is incomplete or damaged") from error


def read_index(folder: Path) -> dict[str, Any]:
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"'{folder}' has no {INDEX}; give the folder that a diffusers pipeline wrote")
    return read_json(folder / INDEX)


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}; the folder is incomplete or damaged") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"'{path}' holds no JSON object; the folder is damaged")
    return found


def _weight_files(folder: Path) -> Iterator[Path]:
    """Safetensors files that ``from_pretrained`` reads: one, or those of an index."""
    for stem in ("model", "diffusion_pytorch_model"):
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            yield from (folder / name for name in indexed_files(index))
        elif (folder / f"{stem}.safetensors").is_file():
            yield folder / f"{stem}.safetensors"
