"""Checkpoints for resuming, whole or not there.

One is written beside its place (``checkpoint-6.tmp-…``), synced, described by a manifest that is written last, and
renamed; older ones go only after it was read back. What a crash leaves is recognised and passed over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vislex.errors import CheckpointError, ConfigError
from vislex.training.files import file_digest, sync, write_whole

__all__ = [
    "KeptCallback",
    "check_space",
    "checkpoint_path",
    "claimed",
    "clean",
    "find_fault",
    "newest_whole_checkpoint",
    "path_beside",
    "publish",
    "rotate",
]

FILE = "manifest.json"
BESIDE = ".tmp-"
CLAIM = ".lock"
MARGIN = 2**20  # bytes of a checkpoint beside its tensors: configurations, random states, the log

logger = logging.getLogger(__name__)


class KeptCallback(TrainerCallback, ABC):
    """A callback whose tensors lie beside the model in each checkpoint.

    Attributes:
        file: Their file's name.
    """

    file: ClassVar[str]

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; all processes call it."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what a checkpoint kept."""

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Writes ``tensors()`` into a checkpoint."""
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / self.file)

    def load(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint."""
        self.restore(load_file(checkpoint / self.file))


_CLAIMED: set[Path] = set()  # by trainings of this process


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps a folder of checkpoints to one training; the claim ends with the process, whatever ends that.

    Other processes are told by a lock on a file; this one also keeps a list, since a lock is lost when any code of the
    process closes the file's descriptor by mistake.

    Raises:
        ConfigError: If another training has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    refusal = ConfigError(f"another training writes into '{folder.parent}'; let it end, or choose another output_dir")
    if place in _CLAIMED:
        raise refusal
    claim = FileLock(folder / CLAIM, blocking=False)
    try:
        claim.acquire()
    except Timeout:
        raise refusal from None
    _CLAIMED.add(place)
    try:
        yield
    finally:
        _CLAIMED.discard(place)
        claim.release()


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def path_beside(folder: Path, step: int) -> Path:
    """A new name beside it, to write it under; no loader takes one for a checkpoint."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}{BESIDE}{uuid.uuid4().hex[:8]}"


def check_space(folder: Path, tensors: Sequence[Tensor]) -> None:
    """Checks that a checkpoint of ``tensors`` fits onto the disk.

    Raises:
        OSError: If it does not.
    """
    needed = MARGIN + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / 2**20:,.1f} MB are needed and {free / 2**20:,.1f} MB free")


def publish(written: Path, target: Path) -> None:
    """Makes a written folder the checkpoint ``target``: manifest, sync, rename, and a look at what is there then.

    Raises:
        CheckpointError: If what can be read back is not what was written.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    for path in [*files, *(path for path in written.rglob("*") if path.is_dir())]:
        sync(path)
    manifest = {
        path.relative_to(written).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }
    write_whole(written / FILE, json.dumps(manifest, indent=1))
    if target.exists():  # of a run that was torn here before
        _remove(target)
    written.rename(target)
    sync(target.parent)
    if fault := find_fault(target):
        raise CheckpointError(f"'{target}' is not what was written ({fault}); the disk may be failing")


def find_fault(checkpoint: Path) -> str | None:
    """What a checkpoint lacks against its manifest (files, their sizes and hashes); None if it is whole."""
    try:
        manifest = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
        known = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except FileNotFoundError:
        return f"it has no {FILE}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return f"its {FILE} cannot be read"
    if TRAINER_STATE_NAME not in known:
        return f"its {FILE} names no {TRAINER_STATE_NAME}"
    for name, (size, digest) in known.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if file_digest(path) != digest:
            return f"{name} was altered"
    return None


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below ``folder`` that is whole, None if there is none; the log names those passed over."""
    for checkpoint in _checkpoints(folder):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("checkpoint '%s' is not whole (%s) and is passed over", checkpoint, fault)
    return None


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints; call it after the newest one was found whole."""
    for checkpoint in _checkpoints(folder)[keep:]:
        _remove(checkpoint)


def clean(folder: Path, *, everything: bool = False) -> None:
    """Removes what interrupted writes left; with ``everything`` the checkpoints of an earlier run, too."""
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*{BESIDE}*"):
        shutil.rmtree(path)
    if everything:
        for checkpoint in reversed(_checkpoints(folder)):
            _remove(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Renames it first: one that is half removed must not look like a checkpoint."""
    gone = checkpoint.with_name(f"{checkpoint.name}{BESIDE}{uuid.uuid4().hex[:8]}")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    named = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    named = [path for path in named if BESIDE not in path.name]  # the random part of a name may be all digits
    return sorted(named, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
