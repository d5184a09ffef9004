"""The mask tokenizer: a VQ-VAE that turns a 64 x 64 mask into 16 of 128 codes and back (Ning et al., 2301.02229).

Four halvings and two residual blocks give a grid of 4 x 4 features; the nearest entry of the codebook stands for each.
The shape is that of PaliGemma's mask tokenizer: its weights load into it (``vislex.importers.mask_tokenizer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.errors import CheckpointError, ConfigError
from vislex.hub import check_folder
from vislex.modules.digest import weights_digest
from vislex.shipped import shipped

__all__ = ["SHIPPED", "MaskTokenizer", "MaskTokenizerConfig", "MaskTokenizerOutput", "load_mask_tokenizer"]

SHIPPED = "mask-tokenizer"


class MaskTokenizerConfig(PreTrainedConfig):
    """Config of a ``MaskTokenizer``.

    Attributes:
        channels: Widths after each halving; the decoder has them in reverse, each doubling but the first narrower.
        num_residual_blocks: On each side, at the lowest resolution.
        code_dim: Width of a code.
        num_codes: Entries of the codebook.
        image_size: Side of the masks, a multiple of 2 to the number of halvings.
        commitment: Weight of the distance between features and their codes in the loss.
    """

    model_type = "vislex_mask_tokenizer"

    channels: Sequence[int] = (16, 32, 64, 128)
    num_residual_blocks: int = 2
    code_dim: int = 512
    num_codes: int = 128
    image_size: int = 64
    commitment: float = 0.25

    @property
    def grid(self) -> int:
        """Codes along a side."""
        return self.image_size // 2 ** len(self.channels)


@dataclass
class MaskTokenizerOutput(ModelOutput):
    """What ``MaskTokenizer.forward`` gives.

    Attributes:
        loss: float[].
        reconstruction: float[B, S, S], about [-1, 1].
        codes: int64[B, N]; None without quantisation.
        features: float[B * N, D] before quantisation, detached.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    codes: Tensor | None = None
    features: Tensor | None = None


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, ReLU, 1x1, and the input added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class MaskTokenizer(PreTrainedModel):
    """Masks to codes and back.

    Attributes:
        encoder: float[B, 1, S, S] -> float[B, D, S / 16, S / 16].
        decoder: The way back.
        codebook: float[K, D]; moved by averages of the features (``vislex.training.codebook``), not by gradients.
    """

    config_class = MaskTokenizerConfig
    config: MaskTokenizerConfig
    main_input_name = "masks"
    base_model_prefix = ""

    def __init__(self, config: MaskTokenizerConfig) -> None:
        super().__init__(config)
        widths = tuple(config.channels)
        if not widths or config.image_size % 2 ** len(widths):
            raise ConfigError(
                f"image_size {config.image_size} cannot be halved {len(widths)} times; give a multiple of "
                f"{2 ** len(widths)}, or other channels"
            )
        width = widths[-1]
        down: list[nn.Module] = []
        for before, after in zip((1, *widths), widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        blocks = [ResidualBlock(width) for _ in range(2 * config.num_residual_blocks)]
        self.encoder = nn.Sequential(*down, *blocks[: config.num_residual_blocks], nn.Conv2d(width, config.code_dim, 1))
        up: list[nn.Module] = []
        for before, after in zip((width, *widths[::-1]), widths[::-1], strict=False):
            up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, width, 1),
            nn.ReLU(),
            *blocks[config.num_residual_blocks :],
            *up,
            nn.Conv2d(widths[0], 1, 1),
        )
        self.register_buffer("codebook", torch.zeros(config.num_codes, config.code_dim))
        self.codebook: Tensor
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own start, which the convolutions have already; the codebook is started by the training."""

    @property
    def num_tokens(self) -> int:
        """Codes of one mask."""
        return self.config.grid**2

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Opens a local folder in float32, after its config is checked.

        Raises:
            CheckpointError: If there is no mask tokenizer in it.
        """
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise CheckpointError(f"'{folder}' holds no mask tokenizer: there is no config.json in it")
        check_folder(path)
        config = MaskTokenizerConfig.get_config_dict(path)[0]
        if config.get("model_type") != MaskTokenizerConfig.model_type:
            raise CheckpointError(f"'{folder}' holds a '{config.get('model_type')}', no mask tokenizer")
        return cls.from_pretrained(path, dtype=torch.float32).eval()

    def features(self, masks: Tensor) -> Tensor:
        """float[B, S, S] in [-1, 1] -> float[B, N, D], the cells row by row."""
        return self.encoder(masks.to(self.dtype)[:, None]).flatten(2).transpose(1, 2)

    def nearest(self, features: Tensor) -> Tensor:
        """Index of the nearest code: float[..., D] -> int64[...]."""
        flat = features.reshape(-1, features.shape[-1]).float()
        book = self.codebook.float()
        distance = (book**2).sum(-1) - 2 * flat @ book.T  # without the features' own square: the same in each row
        return distance.argmin(-1).reshape(features.shape[:-1])

    def reconstruct(self, codes: Tensor) -> Tensor:
        """float[B, N, D] -> float[B, S, S]."""
        side = self.config.grid
        return self.decoder(codes.transpose(1, 2).unflatten(2, (side, side)))[:, 0]

    @torch.no_grad()
    def encode(self, masks: np.ndarray) -> np.ndarray:
        """Codes of masks.

        Args:
            masks: float[B, S, S] in [0, 1] (1 inside), as ``crop_mask`` gives them.

        Returns:
            int64[B, N], the cells row by row.
        """
        given = torch.as_tensor(np.asarray(masks, dtype=np.float32), device=self.device)
        return self.nearest(self.features(given * 2 - 1)).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Masks of codes: int64[B, N] -> float32[B, S, S], positive inside."""
        chosen = torch.as_tensor(np.asarray(codes, dtype=np.int64), device=self.device)
        return self.reconstruct(self.codebook[chosen].to(self.dtype)).float().cpu().numpy()

    @torch.no_grad()
    def decode_expected(self, probabilities: np.ndarray) -> np.ndarray:
        """Masks of codes that are uncertain: float[B, N, K] -> float32[B, S, S], positive where rather inside.

        Each cell is the mean of the codebook under its probabilities.
        """
        given = torch.as_tensor(np.asarray(probabilities, dtype=np.float32), device=self.device)
        return self.reconstruct((given @ self.codebook.float()).to(self.dtype)).float().cpu().numpy()

    def forward(self, masks: Tensor, quantize: bool = True) -> MaskTokenizerOutput:
        """Reconstructs masks, with gradients straight through the quantisation.

        Args:
            masks: float[B, S, S] in [-1, 1].
            quantize: False gives the features to the decoder as they are (the warm-up of a training).

        Returns:
            ``loss`` is the squared error, and ``commitment`` times that of the features against their codes.
        """
        features = self.features(masks)
        codes, given, commitment = None, features, features.new_zeros(())
        if quantize:
            codes = self.nearest(features)
            chosen = self.codebook[codes].to(features.dtype)
            commitment = F.mse_loss(features, chosen)
            given = features + (chosen - features).detach()
        reconstruction = self.reconstruct(given)
        loss = F.mse_loss(reconstruction, masks.to(reconstruction.dtype)) + self.config.commitment * commitment
        return MaskTokenizerOutput(loss, reconstruction, codes, features.detach().flatten(0, 1))

    def digest(self) -> str:
        """sha256 of the weights: what a result that was measured with them names."""
        return weights_digest(self)


_LOADED: dict[Path, MaskTokenizer] = {}


def load_mask_tokenizer(source: str | Path | MaskTokenizer | None = None) -> MaskTokenizer:
    """The shipped mask tokenizer, that of a folder, or the given one; folders are opened once.

    Raises:
        CheckpointError: If a folder holds none.
    """
    if isinstance(source, MaskTokenizer):
        return source
    folder = (shipped(SHIPPED) if source is None else Path(source)).resolve()
    if folder not in _LOADED:
        _LOADED[folder] = MaskTokenizer.load(folder)
    return _LOADED[folder]
