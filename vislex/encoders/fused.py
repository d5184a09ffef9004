"""``fused:A+B`` encoders: the tokens of several encoders side by side on the channels, on the grid of the first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig, flatten_map
from vislex.errors import ConfigError, SpecError
from vislex.specs import EncoderSpec, Grid, VisionTokens

__all__ = ["FusedEncoder", "FusedEncoderConfig"]


class FusedEncoderConfig(VisionEncoderConfig):
    """Config of a ``FusedEncoder``.

    Attributes:
        members: ``to_dict()`` of each member's config, in order.
    """

    model_type = "vislex_fused"

    members: list[dict[str, Any]] | None = None


class FusedEncoder(VisionEncoder):
    """Concatenates the tokens of its members on the channels.

    One pixel input serves all: the spec asks for plain pixels in [0, 1] (mean 0, std 1) at the largest height and the
    largest width of the members; each member's copy is resized to its own image size and normalised with its own mean
    and std inside. Maps are resampled to the grid of the first member. Pooled descriptors are concatenated where every
    member has one.
    """

    config_class = FusedEncoderConfig
    config: FusedEncoderConfig

    def __init__(self, config: FusedEncoderConfig) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(_build(member) for member in config.members or [])
        self.post_init()

    @classmethod
    def create(  # type: ignore[override]  # the options by name
        cls,
        source: str | None = None,
        *,
        pretrained: bool = False,
        tiny: bool = False,
        members: Sequence[str] | None = None,
    ) -> FusedEncoder:
        """Builds the members and joins them.

        Args:
            source: Their names joined by "+" ("siglip-tiny+timm:resnet18").
            pretrained: Whether every member loads its weights.
            tiny: Whether every member is its tiny variant.
            members: The names, for a catalog row.

        Raises:
            SpecError: If a member has no grid or gives a variable number of tokens.
        """
        from vislex.encoders.factory import create_encoder

        names = source.split("+") if source else list(members or [])
        if len(names) < 2 or not all(names):
            raise ConfigError(f"'fused:{source}' needs two or more encoder names joined by '+'")
        encoder = cls.from_members([create_encoder(name, pretrained=pretrained, tiny=tiny) for name in names])
        encoder.config.source = _joint_source(names, encoder)
        return encoder

    @classmethod
    def from_members(cls, members: Sequence[VisionEncoder]) -> FusedEncoder:
        """Joins encoders that exist already; their modules are used, not copied."""
        config = FusedEncoderConfig(members=[])
        config.spec = _joint_spec([member.spec for member in members]).to_dict()
        encoder = cls(config)
        config.members = [member.config.to_dict() for member in members]
        encoder.members = nn.ModuleList(members)
        return encoder

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """See ``VisionEncoder.forward``; ``pixel_values`` are in [0, 1]."""
        self._check_size(pixel_values)
        grid = self.spec.grid
        tokens, pooled = [], []
        for member in self.members:
            output = member(_prepare(pixel_values, member.spec))
            tokens.append(_to_grid(output.tokens, member.spec.grid, grid))
            pooled.append(output.pooled)
        joint = None if any(part is None for part in pooled) else torch.cat(pooled, dim=-1)
        return VisionTokens(torch.cat(tokens, dim=-1), pooled=joint)


def _joint_source(names: Sequence[str], encoder: FusedEncoder) -> dict[str, Any] | None:
    """``VisionEncoderConfig.source`` of members that all come from a file that is known; its digest is of theirs."""
    digests = [(member.config.source or {}).get("sha256") for member in encoder.members]
    if None in digests:
        return None
    joint = hashlib.sha256("+".join(map(str, digests)).encode()).hexdigest()
    return {"kind": "fused", "location": "+".join(names), "revision": None, "sha256": joint}


def _build(config: dict[str, Any]) -> VisionEncoder:
    """A member with random weights from its saved config."""
    from vislex.encoders.factory import encoder_class

    model_class = encoder_class(str(config.get("model_type")))
    return model_class(model_class.config_class.from_dict(dict(config)))


def _joint_spec(specs: Sequence[EncoderSpec]) -> EncoderSpec:
    for spec in specs:
        if spec.grid is None or spec.variable_length:
            raise SpecError("'fused:' joins encoders with a fixed grid of tokens; one of these has none")
    first = specs[0]
    return EncoderSpec(
        dim=sum(spec.dim for spec in specs),
        grid=first.grid,
        n_tokens=first.n_tokens,
        patch_size=None,
        image_size=(max(spec.image_size[0] for spec in specs), max(spec.image_size[1] for spec in specs)),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=first.interpolation,
        resize=first.resize,
    )


def _prepare(pixel_values: Tensor, spec: EncoderSpec) -> Tensor:
    """Pixels in [0, 1], float[B, 3, H, W], as one member takes them; in float32, where antialiasing exists."""
    pixels = pixel_values.float()
    if tuple(pixels.shape[-2:]) != spec.image_size:
        pixels = F.interpolate(pixels, size=spec.image_size, mode="bilinear", antialias=True)
    mean, std = (pixels.new_tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return ((pixels - mean) / std).to(pixel_values.dtype)


def _to_grid(tokens: Tensor, source: Grid | None, target: Grid | None) -> Tensor:
    """Resamples a map of tokens float[B, h * w, D] to another grid."""
    if source == target or source is None or target is None:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, tuple(source)).float()  # [B, D, h, w]
    return flatten_map(F.interpolate(maps, size=tuple(target), mode="bilinear", antialias=True)).to(tokens.dtype)
