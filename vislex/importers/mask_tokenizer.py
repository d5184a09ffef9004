"""PaliGemma's mask tokenizer (``vae-oid.npz``, Ning et al. 2301.02229) as a ``MaskTokenizer`` of the same function.

The file holds PyTorch's layout under the names of an ``nn.Sequential`` built in the order of ours; the number of
layers, their widths and the codebook's size are read from it.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vislex.errors import CheckpointError, ConfigError
from vislex.importers.names import Names, check_names, load_renamed
from vislex.segmentation.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig

__all__ = ["import_mask_tokenizer", "read_npz"]

CODEBOOK = "_vq_vae._embedding"
_CODEBOOKS = (CODEBOOK, f"{CODEBOOK}.weight")
_AVERAGES = re.compile(r"_vq_vae\..*")  # what moved the codebook in training; the function needs none of it
_MAX_BYTES = 1 << 30
_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError)


def import_mask_tokenizer(source: str | Path) -> MaskTokenizer:
    """Reads a mask tokenizer.

    Args:
        source: The .npz file.

    Returns:
        A ``MaskTokenizer`` in float32 with the file's own sizes.

    Raises:
        CheckpointError: If the file cannot be read, or lacks weights, has unexpected ones or ones of another width.
    """
    state = read_npz(source)
    what = f"'{source}' is no mask tokenizer"
    codebook = next((name for name in _CODEBOOKS if name in state), CODEBOOK)
    check_names(state.keys(), {"encoder.0.weight", codebook}, state.keys(), what)
    config = _config(state, codebook, what)
    try:
        model = MaskTokenizer(config)
    except ConfigError as error:
        raise CheckpointError(f"{what}: {error}") from error
    names: Names = {name: (codebook if name == "codebook" else name,) for name in model.state_dict()}
    unused = {name for name in state if _AVERAGES.fullmatch(name)}
    check_names(state.keys(), {source for own in names.values() for source in own}, unused, what)
    load_renamed(model, state, names, what)
    return model.eval()


def read_npz(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a .npz file as float32 tensors; nothing in it is unpickled.

    Raises:
        CheckpointError: If it is missing, damaged, too large or holds anything but finite numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no file '{path}'")
    if file.suffix.lower() != ".npz":
        raise CheckpointError(f"'{path}' is no .npz file; PaliGemma's mask tokenizer is called vae-oid.npz")
    state: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise CheckpointError(f"'{path}' unpacks to {size:,} bytes; at most {_MAX_BYTES:,} are read")
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                state[name] = _tensor(arrays[name], f"'{path}': {name}")
    except _DAMAGED as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"'{path}' is damaged or no file of numbers: {reason}") from error
    return state


def _tensor(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise CheckpointError(f"{what} is {array.dtype}; a mask tokenizer has numbers only")
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{what} has values that are not finite; the file is damaged")
    return tensor


def _config(state: dict[str, Tensor], codebook: str, what: str) -> MaskTokenizerConfig:
    """Sizes from the file: halvings have 4 x 4 kernels, residual blocks their own names, then comes a 1 x 1 one."""
    channels: list[int] = []
    while (weight := state.get(f"encoder.{2 * len(channels)}.weight")) is not None and weight.shape[2:] == (4, 4):
        channels.append(weight.shape[0])
    blocks = {name.split(".")[1] for name in state if re.match(r"encoder\.[0-9]+\.net\.", name)}
    book = state[codebook]
    if not channels or book.ndim != 2:
        raise CheckpointError(
            f"{what}: encoder.0.weight has shape {tuple(state['encoder.0.weight'].shape)} and the codebook "
            f"{tuple(book.shape)}; 4 x 4 kernels and codes x width are expected"
        )
    return MaskTokenizerConfig(
        channels=channels,
        num_residual_blocks=len(blocks),
        code_dim=book.shape[1],
        num_codes=book.shape[0],
        image_size=4 * 2 ** len(channels),  # always 4 x 4 codes
    )
