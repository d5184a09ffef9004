"""``vae:`` encoders: latents of a diffusers autoencoder as tokens, the reconstruction-oriented baseline."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig, check_variant, flatten_map, pair
from vislex.encoders.sources import check_location, check_same
from vislex.errors import CheckpointError, SpecError, UnknownNameError, did_you_mean
from vislex.specs import EncoderSpec, Grid, VisionTokens

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

__all__ = ["VaeEncoder", "VaeEncoderConfig"]

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


class VaeEncoderConfig(VisionEncoderConfig):
    """Config of a ``VaeEncoder``.

    Attributes:
        backbone_config: Config of the diffusers autoencoder with its ``_class_name``.
        unshuffle: Latents of ``unshuffle`` x ``unshuffle`` neighbours make one token.
    """

    model_type = "vislex_vae"

    backbone_config: dict[str, Any] | None = None
    unshuffle: int = 1


class VaeEncoder(VisionEncoder):
    """Latents (the distribution's mode), shifted and scaled as diffusion models see them, one token a cell.

    The decoder half is not built.
    """

    config_class = VaeEncoderConfig
    config: VaeEncoderConfig

    def __init__(self, config: VaeEncoderConfig) -> None:
        super().__init__(config)
        values = dict(config.backbone_config or {"_class_name": "AutoencoderKL"})
        self.backbone: Any = autoencoder_class(values).from_config(copy.deepcopy(values))
        for half in ("decoder", "post_quant_conv"):
            if hasattr(self.backbone, half):
                setattr(self.backbone, half, nn.Identity())
        self.post_init()

    @classmethod
    def create(  # type: ignore[override]  # the options by name
        cls,
        source: str | None = None,
        *,
        pretrained: bool = False,
        tiny: bool = False,
        backbone: Mapping[str, Any] | None = None,
        hub_id: str | None = None,
        subfolder: str | None = None,
        image_size: int | Sequence[int] = 256,
        unshuffle: int = 1,
        resize: str = "squash",
        interpolation: str = "bicubic",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> VaeEncoder:
        """Builds an autoencoder's encoder.

        Args:
            source: What stands behind ``vae:``: ORG/REPO or a local folder; of a whole pipeline its ``vae`` is taken.
            pretrained: Whether to load the weights of ``source`` or ``hub_id``.
            tiny: Whether to build the catalog row's tiny variant.
            backbone: Config of the autoencoder, for a catalog row.
            hub_id: Hub id of the row's weights.
            subfolder: Folder inside the hub id that holds the autoencoder.
            image_size: Height and width in pixels.
            unshuffle: See ``VaeEncoderConfig``.
            resize: "squash" or "pad".
            interpolation: See ``EncoderSpec``.
            mean, std: diffusers' autoencoders take pixels in [-1, 1].
        """
        name = source or hub_id or ""
        check_variant(f"vae:{name}", source, pretrained=pretrained, tiny=tiny)
        values = dict(backbone or {})
        location = source or (hub_id if pretrained else None)
        if source is not None:
            check_location(source)
            if (Path(source) / "vae" / "config.json").is_file():
                subfolder = "vae"
        if location is not None:
            found = _read_config(location, subfolder)
            check_same(name, values, found)
            values = found
        spec = _spec(values, pair(image_size), unshuffle).replace(
            mean=tuple(mean), std=tuple(std), resize=resize, interpolation=interpolation
        )
        config = VaeEncoderConfig(backbone_config=values, unshuffle=unshuffle)
        config.spec = spec.to_dict()
        encoder = cls(config)
        if pretrained and location is not None:
            _load_weights(encoder, location, subfolder)
        return encoder

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """See ``VisionEncoder.forward``; there is no pooled descriptor."""
        self._check_size(pixel_values)
        encoded = self.backbone.encode(pixel_values.to(self.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()  # [B, C, h, w]
        settings = self.backbone.config
        latents = (latents - (settings.get("shift_factor") or 0.0)) * (settings.get("scaling_factor") or 1.0)
        return VisionTokens(flatten_map(F.pixel_unshuffle(latents, self.config.unshuffle)))


def autoencoder_class(config: Mapping[str, Any]) -> type[ModelMixin]:
    """The diffusers class of a config.

    Raises:
        UnknownNameError: If it is neither AutoencoderKL nor AutoencoderTiny.
    """
    name = str(config.get("_class_name"))
    if name not in AUTOENCODERS:
        raise UnknownNameError(
            f"'{name}' is no autoencoder that 'vae:' takes{did_you_mean(name, AUTOENCODERS)} "
            f"Known: {', '.join(AUTOENCODERS)}"
        )
    import diffusers  # seconds to import: only who uses an autoencoder pays

    found: type[ModelMixin] = getattr(diffusers, name)
    return found


def _spec(config: Mapping[str, Any], size: tuple[int, int], unshuffle: int) -> EncoderSpec:
    tiny = config["_class_name"] == "AutoencoderTiny"
    stages = config["encoder_block_out_channels" if tiny else "block_out_channels"]
    stride = 2 ** (len(stages) - 1) * unshuffle
    if size[0] % stride or size[1] % stride:
        raise SpecError(f"image_size {size} is no multiple of {stride}, the pixels along a side of one token")
    grid = Grid(size[0] // stride, size[1] // stride)
    return EncoderSpec(
        dim=config.get("latent_channels", 4) * unshuffle**2,
        grid=grid,
        n_tokens=grid.height * grid.width,
        patch_size=stride,
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _read_config(location: str, subfolder: str | None) -> dict[str, Any]:
    from diffusers import AutoencoderKL

    try:
        found = AutoencoderKL.load_config(location, subfolder=subfolder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the autoencoder's config of '{location}': {str(error).strip().splitlines()[0]}"
        ) from error
    autoencoder_class(found)
    return {key: value for key, value in found.items() if key != "_name_or_path"}


def _load_weights(encoder: VaeEncoder, location: str, subfolder: str | None) -> None:
    try:
        loaded = autoencoder_class(encoder.config.backbone_config or {}).from_pretrained(
            location, subfolder=subfolder, torch_dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot load the autoencoder of '{location}': {str(error).strip().splitlines()[0]}"
        ) from error
    wanted = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict({key: value for key, value in loaded.state_dict().items() if key in wanted})
    kind = "local" if Path(location).is_dir() else "hub"
    encoder.config.source = {"kind": kind, "location": location, "revision": None, "sha256": None}
