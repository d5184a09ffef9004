"""The mask head of a vision-language model: the state of ``<SEG>`` and the encoder's tokens to a mask (LISA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vislex.errors import ConfigError, SpecError
from vislex.segmentation.seg_head import MaskFrame
from vislex.specs import EncoderSpec, Grid

__all__ = ["MaskHead", "MaskHeadSettings", "find_masks", "grid_of", "mask_loss", "place_masks"]

LEAST_SIDE = 16  # cells of a mask, at least
LEAST_WIDTH = 16


@dataclass(frozen=True)
class MaskHeadSettings:
    """What a mask head is made of, as the config of its model holds it; for the options see ``SegHeadCodec``.

    Attributes:
        token_id: Id of ``<SEG>``.
    """

    token_id: int
    hidden_size: int = 128
    upscale: int = 4
    bce_weight: float = 2.0
    dice_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise ConfigError(f"hidden_size {self.hidden_size} of a mask head must be at least 1")
        if self.upscale < 1 or self.upscale & (self.upscale - 1):
            raise ConfigError(f"upscale {self.upscale} of a mask head must be a power of two")
        if min(self.bce_weight, self.dice_weight) < 0 or self.bce_weight + self.dice_weight == 0:
            raise ConfigError(
                f"bce_weight {self.bce_weight} and dice_weight {self.dice_weight} of a mask head must not be negative, "
                "nor both 0"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what ``to_dict`` gave.

        Raises:
            ConfigError: If a key is unknown or missing, or a value is not allowed.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"a mask head is not made of {dict(values)}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class MaskHead(nn.Module):
    """LISA's decoder (arXiv 2308.00692, section 3.2) in small, over the encoder's own tokens instead of SAM's.

    An MLP makes a query of the state of ``<SEG>``. The query scales and shifts the channels of the tokens' grid, which
    is brought to the mask's resolution in steps of two, and is multiplied with what comes out, as SAM's mask token is
    (arXiv 2304.02643, appendix A).

    Args:
        settings: Sizes and weights of the losses.
        spec: Of the encoder.
        state_size: Width of the language model's states.

    Attributes:
        settings: What was given.
        frame: How its masks lie over an image.

    Raises:
        ConfigError: If the encoder gives no grid of tokens.
    """

    def __init__(self, settings: MaskHeadSettings, spec: EncoderSpec, state_size: int) -> None:
        super().__init__()
        self.settings, self.grid = settings, grid_of(spec)
        upscale = settings.upscale
        while min(self.grid) * upscale < LEAST_SIDE:
            upscale *= 2
        size = (self.grid.height * upscale, self.grid.width * upscale)
        self.frame = MaskFrame(size, spec.image_size if spec.resize == "pad" else None)
        width = settings.hidden_size
        self.tokens = nn.Sequential(nn.LayerNorm(spec.dim), nn.Linear(spec.dim, width))
        self.query = nn.Sequential(
            nn.LayerNorm(state_size), nn.Linear(state_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.mix = nn.Sequential(_norm(width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1))
        steps: list[nn.Module] = []
        for _ in range(upscale.bit_length() - 1):
            narrow = max(width // 2, min(width, LEAST_WIDTH))
            steps += [_norm(width), nn.GELU(), nn.ConvTranspose2d(width, narrow, 2, stride=2)]
            steps += [_norm(narrow), nn.GELU(), nn.Conv2d(narrow, narrow, 3, padding=1)]
            width = narrow
        self.upsample = nn.Sequential(*steps)
        self.product = nn.Sequential(nn.Linear(settings.hidden_size, width), nn.GELU(), nn.Linear(width, width + 1))

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logits of masks.

        Args:
            states: float[M, state_size], of ``<SEG>``.
            tokens: float[M, N, D] of the encoder, for each of them those of its image.

        Returns:
            float[M, h, w]; the probability of each cell is their sigmoid.

        Raises:
            SpecError: If the tokens are no grid of this head's size.
        """
        if tokens.shape[1] != self.grid.height * self.grid.width:
            raise SpecError(
                f"the mask head takes a grid of {tuple(self.grid)} tokens an image, {tokens.shape[1]} were given"
            )
        query = self.query(states)  # [M, C]
        features = self.tokens(tokens).transpose(1, 2).unflatten(2, self.grid)  # [M, C, h, w] of the grid
        scale, shift = self.modulation(query)[..., None, None].chunk(2, dim=1)
        features = features * (1 + scale) + shift
        features = self.upsample(features + self.mix(features))  # [M, c, h, w] of the mask
        product, bias = self.product(query).split([features.shape[1], 1], dim=1)
        logits = torch.einsum("mc, mchw -> mhw", product, features) / features.shape[1] ** 0.5
        return logits + bias[..., None]

    def loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The weighted sum of binary cross-entropy and Dice loss, see ``mask_loss``; float[]."""
        bce, dice = mask_loss(logits, masks)
        return self.settings.bce_weight * bce + self.settings.dice_weight * dice


def grid_of(spec: EncoderSpec) -> Grid:
    """The grid that a mask head stands on.

    Raises:
        ConfigError: If the encoder gives none.
    """
    if spec.grid is None or spec.variable_length or spec.resize == "native":
        given = "of variable length" if spec.variable_length else f"{spec.n_tokens} tokens without a place"
        raise ConfigError(
            f"a mask head needs an encoder whose tokens are a grid of fixed size, and this one's are {given}; take an "
            "encoder of patches or of a feature map, or codec=loc_seg"
        )
    return spec.grid


def mask_loss(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and Dice loss (arXiv 1606.04797, with 1 added to both sums), means over masks.

    Args:
        logits: float[M, h, w].
        masks: float[M, h, w] in [0, 1], or bool.

    Returns:
        Both as float32[].
    """
    logits, masks = logits.float().flatten(1), masks.float().flatten(1)
    probabilities = logits.sigmoid()
    overlap, whole = (probabilities * masks).sum(1), probabilities.sum(1) + masks.sum(1)
    dice = 1 - (2 * overlap + 1) / (whole + 1)
    return F.binary_cross_entropy_with_logits(logits, masks), dice.mean()


def find_masks(
    head: MaskHead | None, input_ids: Tensor | None, labels: Tensor | None, masks: Tensor | None
) -> Tensor | None:
    """Where answers have ``<SEG>``.

    Args:
        head: Of the model, if it has one.
        input_ids: int64[B, L].
        labels: int64[B, L], -100 where no loss is taken.
        masks: float[M, h, w] or bool, if they are to be learned.

    Returns:
        bool[B, L], or None where a mask head has nothing to do.

    Raises:
        SpecError: If the masks are not those of ``<SEG>`` in the labels, or there is no head to learn them.
    """
    if head is None or labels is None or input_ids is None:
        if masks is not None:
            lacks = "labels with their input_ids" if head is not None else "a mask head: train with codec=seg_head"
            raise SpecError(f"masks were given, and to learn them this model needs {lacks}")
        return None
    is_mask = labels == head.settings.token_id
    count = int(is_mask.sum())
    if masks is not None and tuple(masks.shape) != (count, *head.frame.size):
        wanted = [count, *head.frame.size]
        raise SpecError(f"masks are {list(masks.shape)}; for {count} <SEG> in the labels they must be {wanted}")
    return is_mask if count else None


def place_masks(is_mask: Tensor, is_image: Tensor, starts: Tensor | None, counts: Tensor | None) -> Tensor:
    """The image that each mask is of: the last one before it in its dialogue.

    Args:
        is_mask: bool[B, L], where ``<SEG>`` stands.
        is_image: bool[B, L], where tokens of images stand.
        starts: bool[B, L], where packed dialogues begin; None: a row is one.
        counts: int64[images], tokens of each image; None if there is none.

    Returns:
        int64[M], numbers of images, for the masks row by row.

    Raises:
        SpecError: If a dialogue has a mask before any image.
    """
    begins = torch.zeros_like(is_mask) if starts is None else starts.clone()
    begins[:, 0] = True
    places = is_mask.flatten().nonzero()[:, 0]
    flat = torch.arange(is_image.numel(), device=is_image.device)
    last_image = torch.where(is_image.flatten(), flat, -1).cummax(0).values[places]
    if counts is None or (last_image < torch.where(begins.flatten(), flat, 0).cummax(0).values[places]).any():
        raise SpecError("a <SEG> stands in a dialogue without an image before it, whose mask it would be")
    return torch.searchsorted(counts.cumsum(0), is_image.flatten().cumsum(0)[places])


def _norm(width: int) -> nn.GroupNorm:
    """Over all channels and places of one image."""
    return nn.GroupNorm(1, width)
