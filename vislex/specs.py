"""The spec of an encoder, and the tokens it gives: the only arithmetic on visual tokens in vislex.

This module imports no torch, so that names, sizes and counts can be read without loading a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vislex.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EncoderSpec", "Grid", "VisionTokens", "token_count"]

RESIZE_MODES = ("squash", "pad", "native")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


class Grid(NamedTuple):
    """Rows and columns of a map of tokens; its token count is ``height * width``."""

    height: int
    width: int


def token_count(count: Grid | int) -> int:
    """Number of tokens that a ``Grid`` or a plain count stands for."""
    return count.height * count.width if isinstance(count, Grid) else count


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What every other part may know of a vision encoder.

    Attributes:
        dim: Width of one token.
        grid: Rows and columns of the token map at ``image_size``; None if the tokens form no map.
        n_tokens: Number of tokens an image gives; the maximum where ``variable_length``.
        n_prefix: CLS and register tokens that the backbone puts first; the encoder has removed them. 0 where it keeps
            them: they are tokens like the others then, and all together form no map (``with_prefix``).
        patch_size: Pixels along one side of a patch; None if there is no such thing.
        variable_length: Whether images of one batch may give different counts, told by a mask.
        image_size: Height and width in pixels that the encoder takes (the largest where ``resize`` is "native").
        mean: Per-channel mean that is subtracted from pixels in [0, 1].
        std: Per-channel standard deviation by which pixels are divided.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        resize: "squash" to ``image_size``, "pad" to keep the aspect ratio, or "native" to keep it without padding.
            None of them ever crops.
        max_patches: Most patches that the image processor gives, where that is not ``n_tokens``: an encoder that pools
            patches of "native" images into a fixed number of tokens.
    """

    dim: int
    grid: Grid | None
    n_tokens: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_prefix: int = 0
    patch_size: int | None = None
    variable_length: bool = False
    interpolation: str = "bicubic"
    resize: str = "squash"
    max_patches: int | None = None

    def __post_init__(self) -> None:
        if self.grid is not None:
            object.__setattr__(self, "grid", Grid(*self.grid))
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = []
        if self.dim < 1 or self.n_tokens < 1 or self.n_prefix < 0:
            problems.append(f"dim {self.dim}, n_tokens {self.n_tokens} and n_prefix {self.n_prefix} must be positive")
        if self.grid is not None and not self.variable_length and token_count(self.grid) != self.n_tokens:
            problems.append(
                f"grid {tuple(self.grid)} has {token_count(self.grid)} tokens but n_tokens is {self.n_tokens}"
            )
        if self.resize not in RESIZE_MODES:
            problems.append(f"resize {self.resize!r} is none of {', '.join(RESIZE_MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            problems.append(f"mean {self.mean} and std {self.std} must be as long as each other, and std positive")
        if problems:
            raise SpecError("invalid encoder spec: " + "; ".join(problems))

    def count(self, image_inputs: Mapping[str, Any] | None = None, i: int = 0) -> Grid | int:
        """Tokens that image ``i`` of a processed batch gives.

        Args:
            image_inputs: Output of the image processor. Variable-length encoders read ``spatial_shapes``
                (int64[B, 2], rows and columns) or ``pixel_attention_mask`` (bool[B, N]) from it.
            i: Position of the image in the batch.

        Returns:
            A ``Grid`` where the tokens form a map, else their number.
        """
        if not self.variable_length:
            return self.grid if self.grid is not None else self.n_tokens
        if image_inputs is not None and "spatial_shapes" in image_inputs:
            rows, columns = (int(side) for side in image_inputs["spatial_shapes"][i])
            return Grid(rows, columns)
        if image_inputs is not None and "pixel_attention_mask" in image_inputs:
            return int(image_inputs["pixel_attention_mask"][i].sum())
        raise SpecError(
            "this encoder gives a different number of tokens for each image; pass the image processor's output "
            "(with 'spatial_shapes' or 'pixel_attention_mask') to EncoderSpec.count"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` reads them back."""
        values = dataclasses.asdict(self)
        if self.max_patches is None:
            del values["max_patches"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """Reads ``to_dict``'s output.

        Raises:
            SpecError: If a key is unknown or missing, or a value does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SpecError(
                f"unknown keys in an encoder spec: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise SpecError(f"incomplete encoder spec: {error}") from error

    def replace(self, **changes: Any) -> EncoderSpec:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def with_prefix(self) -> EncoderSpec:
        """The spec of the same encoder when it keeps its prefix tokens.

        Raises:
            SpecError: If it has none.
        """
        if self.n_prefix == 0 or self.variable_length:
            raise SpecError("this encoder has no prefix tokens that it could keep; leave out keep_prefix")
        return self.replace(grid=None, n_tokens=self.n_tokens + self.n_prefix, n_prefix=0)


@dataclass
class VisionTokens:
    """What an encoder gives: prefix tokens are already removed, unless it was told to keep them.

    Attributes:
        tokens: float[B, N, D].
        mask: bool[B, N], True where a token is real; None if all are.
        pooled: float[B, D'] global descriptor; None if the encoder has none.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def repeat(self, copies: int) -> VisionTokens:
        """Each image's tokens several times, its copies one after the other."""
        if copies == 1:
            return self
        mask, pooled = (
            None if part is None else part.repeat_interleave(copies, 0) for part in (self.mask, self.pooled)
        )
        return VisionTokens(self.tokens.repeat_interleave(copies, 0), mask, pooled)
