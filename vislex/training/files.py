"""Files and folders that are whole or not there: written beside, synced to the disk, renamed."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

__all__ = ["file_digest", "sync", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Writes a text file as UTF-8; who reads it meanwhile, or after a crash, sees the old text or the new one."""
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there, and need not be
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
