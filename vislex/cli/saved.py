"""What stands in the folder of a saved model, read from its config and files without building it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vislex.data.jsonl import read_json
from vislex.errors import CheckpointError

__all__ = ["describe_saved"]


def describe_saved(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts of a saved model, and one row a part.

    Args:
        folder: What ``save_pretrained`` wrote.

    Returns:
        Facts (``folder``, ``model_type``, ``parameters``, ``bytes``, ...), and rows with ``part``, ``class``,
        ``saved`` ("by value", "by reference"), ``source``, ``trainable``, ``parameters`` (stored here), ``sha256``;
        for a host that ``vislex swap`` wrote ``part``, ``weights``, ``retrain``, ``parameters``, ``sha256``, ``since
        the swap``.

    Raises:
        CheckpointError: If there is no config, or a file is damaged.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"'{folder}' has no config.json; give the folder that save_pretrained wrote")
    config = read_json(config_file)
    if not isinstance(config, dict):
        raise CheckpointError(f"'{config_file}' is no configuration: expected an object")
    stored: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        for name, count, dtype in _tensors(file):
            stored[_part(name)] += count
            dtypes[dtype] += count
    facts = {
        "folder": str(folder),
        "model_type": config.get("model_type"),
        "architecture": ", ".join(config.get("architectures") or []),
        "parameters": sum(stored.values()),
        "dtype": ", ".join(dtypes),
        "bytes": sum(file.stat().st_size for file in files),
        "written by": f"transformers {config['transformers_version']}" if "transformers_version" in config else None,
    }
    for file in files:
        facts[f"sha256 {file.name}"] = _sha256(file)
    if (folder / "swap.json").is_file():
        swap, rows = _swapped(folder)
        return facts | swap, rows
    return facts, _rows(config, stored)


def _swapped(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A host with a swapped encoder: the checksum of each part's weights as they are, and whether they have changed."""
    from vislex.adapters.hosts import host_family, part_digests, stored_tensors
    from vislex.adapters.swap_report import SwapReport
    from vislex.hub import check_folder

    check_folder(folder)
    report = SwapReport.load(folder)
    live = part_digests(host_family(report.host), stored_tensors(folder))
    rows = []
    for row in report.parts:
        found = live[row["part"]]
        is_same = found["sha256"] == row["sha256"]
        rows.append({**row, **found, "since the swap": "unchanged" if is_same else "changed"})
    swap = {"encoder": f"{report.encoder} ({report.kind})", "image tokens": report.image_tokens}
    return swap | {"opens": "after import vislex.auto" if report.needs_vislex else "without vislex"}, rows


def _rows(config: dict[str, Any], stored: Counter[str]) -> list[dict[str, Any]]:
    parts: dict[str, Any] = config.get("parts") or {}
    rows = []
    for name in [*parts, *(part for part in stored if part not in parts)]:
        part = parts.get(name, {})
        nested = config.get(f"{name}_config") or {}
        source = part.get("source", nested.get("source")) or {}
        rows.append(
            {
                "part": name,
                "class": nested.get("name") or nested.get("model_type"),
                "saved": f"by {part.get('by', 'value')}",
                "source": _place(source) if isinstance(source, dict) else source,
                "trainable": part.get("trainable"),
                "parameters": stored.get(name, 0),
                "sha256": part.get("sha256") or (source.get("sha256") if isinstance(source, dict) else None),
            }
        )
    return rows


def _place(source: dict[str, Any]) -> Any:
    """A location, or the seed of random weights."""
    return f"untrained, seed {source['seed']}" if source.get("seed") is not None else source.get("location")


def _part(name: str) -> str:
    """ "encoder" of "encoder.backbone.x" and of "model.encoder.backbone.x"."""
    return name.removeprefix("model.").partition(".")[0]


def _tensors(file: Path) -> Iterator[tuple[str, int, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                piece = tensors.get_slice(name)
                yield name, math.prod(piece.get_shape()), piece.get_dtype()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{file}' is no whole safetensors file: {error}; copy or download it again") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
