"""``timm:`` encoders: any image backbone of timm, wrapped by transformers' ``TimmWrapperModel``.

transformers builds models on the meta device when it loads them, which loses timm's non-persistent buffers (rotary
tables, window indices); its wrapper restores them, so ours stands on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models, split_model_name_tag
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperModel

from vislex.encoders.base import (
    VisionEncoder,
    VisionEncoderConfig,
    check_variant,
    flatten_map,
    mark_initialized,
    pair,
)
from vislex.encoders.packaged import packaged_state_dict
from vislex.encoders.sources import check_same, file_sha256
from vislex.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from vislex.specs import EncoderSpec, Grid, VisionTokens

__all__ = ["TimmEncoder", "TimmEncoderConfig"]


class TimmEncoderConfig(VisionEncoderConfig):
    """Config of a ``TimmEncoder``.

    Attributes:
        architecture: Name of a timm model, without its pretrained tag.
        model_args: Keyword arguments of ``timm.create_model``.
        layer: Which of timm's intermediate features gives the tokens (block of a ViT, stage of a conv net; negative
            counts from the end), without the final norm; None takes the last with the final norm.
    """

    model_type = "vislex_timm"

    architecture: str = "vit_tiny_patch16_224"
    model_args: dict[str, Any] | None = None
    layer: int | None = None


class TimmBackbone(TimmWrapperModel):
    """``TimmWrapperModel`` that keeps timm's own random initialisation."""

    def init_weights(self) -> None:
        """Does nothing: timm has initialised the model while building it."""
        if not any(parameter.is_meta for parameter in self.parameters()):
            mark_initialized(self)


class TimmEncoder(VisionEncoder):
    """Tokens of a timm backbone: patch tokens without the prefix tokens, or the cells of a feature map."""

    config_class = TimmEncoderConfig
    config: TimmEncoderConfig

    def __init__(self, config: TimmEncoderConfig) -> None:
        super().__init__(config)
        self.backbone = TimmBackbone(
            TimmWrapperConfig(architecture=config.architecture, model_args=dict(config.model_args or {}))
        )
        self.post_init()

    @classmethod
    def create(  # type: ignore[override]  # the options by name
        cls,
        source: str | None = None,
        *,
        pretrained: bool = False,
        tiny: bool = False,
        architecture: str | None = None,
        model_args: Mapping[str, Any] | None = None,
        layer: int | None = None,
        image_size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        resize: str = "squash",
        weights: str | None = None,
    ) -> TimmEncoder:
        """Builds a timm backbone.

        Args:
            source: Name behind ``timm:``, with or without a pretrained tag ("vit_base_patch16_clip_224.openai").
            pretrained: Whether to load weights: those of ``weights``, else timm's for this name and tag.
            tiny: Whether to build the catalog row's tiny variant.
            architecture: The same for a catalog row.
            model_args: Keyword arguments of ``timm.create_model``.
            layer: See ``TimmEncoderConfig``.
            image_size: Height and width in pixels; default: what timm states for the name.
            mean, std, interpolation: Preprocessing; default: what timm states for the name. With ``pretrained`` a
                difference from it is an error.
            resize: "squash" or "pad".
            weights: A safetensors file, or "package:NAME" for weights that an installed package holds.

        Raises:
            UnknownNameError: If timm has no such model or tag.
            CheckpointError: If the weights are missing or do not fit.
        """
        name = source or architecture or ""
        check_variant(f"timm:{name}", source, pretrained=pretrained, tiny=tiny)
        base = check_timm_name(name)
        stated = get_pretrained_cfg(name)
        defaults = resolve_data_config(pretrained_cfg=stated.to_dict() if stated else {})
        given = {"mean": mean, "std": std, "interpolation": interpolation}
        if pretrained and stated is not None:
            check_same(name, given, defaults)
        size = pair(image_size or defaults["input_size"][1:])
        arguments = dict(model_args or {})
        if stated is not None and stated.fixed_input_size and size != tuple(defaults["input_size"][1:]):
            arguments["img_size"] = size
        config = TimmEncoderConfig(architecture=base, model_args=arguments, layer=layer)
        values: dict[str, Any] = {key: defaults[key] if value is None else value for key, value in given.items()}
        config.spec = _measure(
            config, EncoderSpec(dim=1, grid=None, n_tokens=1, image_size=size, resize=resize, **values)
        )
        encoder = cls(config)
        if pretrained:
            encoder.config.source = _load_weights(encoder, name, weights)
        return encoder

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """See ``VisionEncoder.forward``; ``pooled`` is timm's pooled feature, None where a layer was chosen."""
        self._check_size(pixel_values)
        features, pooled = self._features(pixel_values)
        return VisionTokens(flatten_map(features) if features.ndim == 4 else features, pooled=pooled)

    def _features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map float[B, D, h, w] (float[B, N, D] where timm gives no map) and pooled feature float[B, D']."""
        model = self.backbone.timm_model
        # Channels last makes EfficientNet-Lite0 1.7 times faster on a CPU, and with bfloat16 3.7 times.
        pixel_values = pixel_values.to(self.dtype, memory_format=torch.channels_last)
        layer = self.config.layer
        if layer is not None:
            if not hasattr(model, "forward_intermediates"):
                raise ConfigError(f"timm's '{self.config.architecture}' gives no intermediate layers; leave out layer=")
            return (
                model.forward_intermediates(
                    pixel_values, indices=[layer], stop_early=True, intermediates_only=True, output_fmt="NCHW"
                )[0],
                None,
            )
        if hasattr(model, "forward_intermediates"):
            final, maps = model.forward_intermediates(pixel_values, indices=1, norm=True, output_fmt="NCHW")
            return maps[-1], model.forward_head(final, pre_logits=True)
        final = model.forward_features(pixel_values)
        pooled = model.forward_head(final, pre_logits=True)
        if final.ndim == 3:
            return final[:, self.num_prefix_tokens :], pooled
        return (final.movedim(-1, 1) if getattr(model, "output_fmt", "NCHW") == "NHWC" else final), pooled

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether timm checkpoints its blocks; transformers sets this flag on every module that has it."""
        return bool(getattr(self.backbone.timm_model, "grad_checkpointing", False))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.backbone.timm_model.set_grad_checkpointing(enable)

    @property
    def num_prefix_tokens(self) -> int:
        """CLS and register tokens that the backbone puts before the patches."""
        return getattr(self.backbone.timm_model, "num_prefix_tokens", 0)


def check_timm_name(name: str) -> str:
    """Architecture of a timm name, which may carry a pretrained tag.

    Raises:
        UnknownNameError: With the nearest of timm's names or tags.
    """
    base, tag = split_model_name_tag(name)
    if not is_model(base):
        raise UnknownNameError(
            f"timm {timm.__version__} has no model '{base}'{did_you_mean(base, list_models())} "
            "See timm.list_models('*vit*')"
        )
    tags = list(get_arch_pretrained_cfgs(base))
    if tag and name not in tags:
        raise UnknownNameError(f"timm has no weights '{name}'{did_you_mean(name, tags)} Known: {', '.join(tags)}")
    return base


def _measure(config: TimmEncoderConfig, spec: EncoderSpec) -> dict[str, Any]:
    """Fills width, grid and count of a spec from a forward pass on the meta device."""
    with torch.device("meta"), torch.no_grad():
        probe = TimmEncoder(config).eval()
        try:
            features, _ = probe._features(torch.empty(1, 3, *spec.image_size))
        except (AssertionError, IndexError) as error:
            raise ConfigError(
                f"timm's '{config.architecture}' cannot give layer={config.layer} of {spec.image_size} pixels: {error}"
            ) from error
    grid = Grid(*features.shape[-2:]) if features.ndim == 4 else None
    patch_embed = getattr(probe.backbone.timm_model, "patch_embed", None)
    patch = getattr(patch_embed, "patch_size", None)
    return spec.replace(
        dim=features.shape[1] if grid else features.shape[2],
        grid=grid,
        n_tokens=grid.height * grid.width if grid else features.shape[1],
        n_prefix=probe.num_prefix_tokens,
        patch_size=pair(patch)[0] if patch is not None else None,
    ).to_dict()


def _load_weights(encoder: TimmEncoder, name: str, weights: str | None) -> dict[str, Any]:
    """Loads weights into a new encoder and returns ``VisionEncoderConfig.source``."""
    model = encoder.backbone.timm_model
    if weights is None:
        try:
            arguments = dict(encoder.config.model_args or {})
            loaded = timm.create_model(name, pretrained=True, num_classes=0, **arguments)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"no weights for 'timm:{name}': {str(error).splitlines()[0]}; download them once with a network, pass "
                "weights=FILE.safetensors, or pretrained=False"
            ) from error
        model.load_state_dict(loaded.state_dict())
        return {"kind": "hub", "location": f"timm/{name}", "revision": None, "sha256": None}
    kind, _, package = weights.partition(":")
    if kind == "package":
        state_dict, path = packaged_state_dict(package)
        source = {"kind": "package", "location": package}
    else:
        path = Path(weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise CheckpointError(f"weights='{weights}' is no safetensors file that exists")
        state_dict = load_file(path)
        source = {"kind": "local", "location": str(path)}
    expected = model.state_dict()
    state_dict = {key: value for key, value in state_dict.items() if key in expected or not _is_classifier(model, key)}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of '{weights}' do not fit '{name}': {error}") from error
    return {**source, "revision": None, "sha256": file_sha256(path)}


def _is_classifier(model: torch.nn.Module, key: str) -> bool:
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return any(key.startswith(f"{name}.") for name in names)
