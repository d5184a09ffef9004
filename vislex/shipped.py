"""The models that vislex ships: their names, and their folders.

In the package their weights are compressed without loss (bf16 weights to two thirds of their size). A model is unpacked
into the cache when it is first asked for; what is there then is an ordinary folder that ``from_pretrained`` opens.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import uuid
from importlib.resources import files
from pathlib import Path

from vislex.cache import cache_dir
from vislex.errors import CheckpointError, did_you_mean

__all__ = ["find_model", "model_folder", "pack", "shipped", "shipped_models", "shipped_name", "weights_folder"]

PACKED = ".xz"
# Two bytes a number: sign and exponent, which compress well, alternate with the mantissa, which does not.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]


def shipped(name: str) -> Path:
    """Folder of a model that ships with vislex, unpacked.

    Raises:
        CheckpointError: If there is none of this name, or no room for it in the cache.
    """
    there = shipped_models()
    if name not in there:
        raise CheckpointError(
            f"no shipped model '{name}'{did_you_mean(name, there)} Shipped are: {', '.join(there) or 'none'}"
        )
    folder = weights_folder() / name
    unpacked = cache_dir() / "weights" / _digest(folder) / name
    if not unpacked.is_dir():
        try:
            _unpack(folder, unpacked)
        except OSError as error:
            raise CheckpointError(
                f"cannot unpack the shipped model '{name}' into '{unpacked.parent}' ({error.strerror}); set "
                "VISLEX_CACHE to a folder that has room and can be written"
            ) from error
    return unpacked


def find_model(source: str | Path) -> Path | None:
    """The folder itself, or that of the shipped model of this name; None if there is neither."""
    if Path(source).is_dir():
        return Path(source)
    return shipped(str(source)) if str(source) in shipped_models() else None


def model_folder(source: str | Path) -> Path:
    """The folder itself, or that of the shipped model of this name.

    Raises:
        CheckpointError: If there is neither.
    """
    return find_model(source) or shipped(str(source))


def shipped_models(pattern: str = "*") -> list[str]:
    """Names of the models that vislex ships, for a glob pattern ("captioner-*")."""
    found = [
        path for name in ("config.json", "model_index.json") for path in weights_folder().glob(f"{pattern}/{name}")
    ]
    return sorted(path.parent.name for path in found)


def shipped_name(folder: Path) -> str | None:
    """Name of the shipped model that a folder is, if it is one."""
    name = folder.name
    return name if name in shipped_models() and folder.resolve() == shipped(name).resolve() else None


def weights_folder() -> Path:
    """Where vislex keeps the models that it ships, one folder each, with their weights packed."""
    return Path(str(files("vislex"))) / "weights"


def pack(folder: Path) -> None:
    """Compresses the weights of a model's folder where they lie, for shipping."""
    for weights in sorted(folder.rglob("*.safetensors")):
        packed = lzma.compress(weights.read_bytes(), filters=_FILTERS)
        weights.with_name(weights.name + PACKED).write_bytes(packed)
        weights.unlink()


def _digest(folder: Path) -> str:
    """Of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        for part in (file.relative_to(folder).as_posix().encode(), file.read_bytes()):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _unpack(folder: Path, target: Path) -> None:
    """Copies a folder with its weights unpacked; whoever looks sees all of it or nothing."""
    partial = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        for file in (path for path in folder.rglob("*") if path.is_file()):
            copy = partial / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == PACKED:
                copy.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
            else:
                shutil.copyfile(file, copy)
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
