"""Checkpoints for resuming: a manifest is written last, so that a torn checkpoint is recognised and passed over."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

__all__ = ["ManifestCallback", "is_whole", "newest_whole_checkpoint"]

FILE = "manifest.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ManifestCallback(TrainerCallback):
    """Writes names, sizes and hashes of a checkpoint's files once all are on disk; register it last."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not args.should_save:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        manifest = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files
        }
        partial = folder / (FILE + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / FILE)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of the checkpoint's manifest is there with its size and hash."""
    try:
        manifest = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(
        (path := checkpoint / name).is_file()
        and path.stat().st_size == entry["bytes"]
        and _digest(path) == entry["sha256"]
        for name, entry in manifest.items()
    )


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below ``folder`` that is whole; None if there is none."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if is_whole(path)), None)
