"""Files of tensors from elsewhere: safetensors, numpy, and torch files without the code that a pickle can carry."""

from __future__ import annotations

import pickle
import struct
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vislex.errors import CheckpointError
from vislex.hub import check_weights

__all__ = ["read_state_dict", "read_vector"]

# ".pickle" is what the statistics of the released LaDiC are called; torch wrote them.
_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".pickle")
_STATE_DICTS = (*_TORCH, ".safetensors")
_VECTORS = (*_STATE_DICTS, ".npy")
_NESTED = ("model", "state_dict", "model_state_dict", "module")
_PREFIXES = ("module.", "model.")
# What damaged files raise in the readers of torch and numpy, beside what these raise on purpose.
_DAMAGED = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError,
    AssertionError, MemoryError, SyntaxError, struct.error, tokenize.TokenError,
)  # fmt: skip


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict: plain, or under "model" or "state_dict", with or without "module." before every name.

    Args:
        path: .safetensors, or a torch file, which is read with ``weights_only=True``.

    Raises:
        CheckpointError: If the file is missing, of another kind or damaged, or holds more than tensors.
    """
    state: Any = _read(Path(path), _STATE_DICTS)
    while isinstance(state, Mapping):
        inner = next((state[key] for key in _NESTED if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"'{path}' holds no state dict but a {type(state).__name__}; save model.state_dict()")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"'{path}' holds no plain state dict: '{name}' is a {type(value).__name__}; save model.state_dict()"
            )
        _check_plain(value, f"'{path}': '{name}'")
    tensors = {str(name): value.detach() for name, value in state.items()}
    check_weights(tensors, path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def read_vector(path: str | Path, what: str, width: int) -> Tensor:
    """Reads one vector, float32[width].

    Args:
        path: .npy, .safetensors, or a torch file, which is read with ``weights_only=True``.
        what: What an error calls it.
        width: Its length.

    Raises:
        CheckpointError: If the file is missing, of another kind or damaged, or holds anything else.
    """
    value = _read(Path(path), _VECTORS)
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, Tensor):
        held = f"{len(value)} entries" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise CheckpointError(f"the {what} '{path}' holds {held}; it must hold one tensor")
    _check_plain(value, f"the {what} '{path}'")
    if value.numel() != width:
        raise CheckpointError(
            f"the {what} '{path}' has {value.numel()} values, but the latents of this checkpoint have {width}; give "
            "the vector that was saved with it"
        )
    vector = value.detach().float().flatten()
    if not bool(vector.isfinite().all()):
        raise CheckpointError(f"the {what} '{path}' has values that are not finite; it is damaged")
    return vector


def _check_plain(tensor: Tensor, where: str) -> None:
    """Refuses sparse, quantized and empty shells of tensors, and a few bytes that are shown as billions of values."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        raise CheckpointError(f"{where} is no plain tensor, whose values lie in the file one by one; save it as one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{where} has {tensor.numel():,} values, but bytes of {tensor.untyped_storage().nbytes()} in the file; "
            "save it .contiguous()"
        )


def _read(path: Path, suffixes: tuple[str, ...]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise CheckpointError(f"'{path}' is no file of tensors; allowed are {', '.join(suffixes)}")
    try:
        if suffix == ".safetensors":
            return load_file(path)
        if suffix == ".npy":
            # Mapped first: numpy would make room for as many values as the header says there are.
            return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' does not hold tensors alone: it is damaged, or a pickle that may run code when it is opened, "
            "and was not opened; ask its maker for the state dict as safetensors"
        ) from error
    except (SafetensorError, *_DAMAGED) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"'{path}' is damaged or no file of tensors: {reason}") from error
