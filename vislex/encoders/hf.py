"""``hf:`` encoders: the vision towers of transformers, from a hub id, a local folder, or random weights.

A folder or hub id of a whole image-text model (SigLIP, CLIP, AIMv2) or of a vision-language model (LLaVA, PaliGemma)
gives its vision tower.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging as transformers_logging

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig, check_variant, pair
from vislex.encoders.hf_families import family_of, vision_config_of
from vislex.encoders.hf_family import Family
from vislex.encoders.sources import check_location, check_same, local_source, read_preprocessing
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.hub import check_weights, open_checkpoint, reading
from vislex.shipped import shipped
from vislex.specs import VisionTokens

__all__ = ["HFEncoder", "HFEncoderConfig"]

# Names of a vision-language model's tower, in its files of old and new layouts.
_IN_HOST = {r"^(model\.)?vision_tower\.(vision_model\.)?": ""}


class HFEncoderConfig(VisionEncoderConfig):
    """Config of an ``HFEncoder``.

    Attributes:
        backbone_config: Config of the vision tower.
        layer: Block whose output gives the tokens (0 is the first, negative counts from the end), without the final
            norm; None takes the tower's ``last_hidden_state``.
        keep_prefix: Whether the tower's prefix tokens (CLS, registers) stay before the patch tokens, as models expect
            that were trained on all of them.
    """

    model_type = "vislex_hf"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="siglip_vision_model")}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    layer: int | None = None
    keep_prefix: bool = False


class HFEncoder(VisionEncoder):
    """Patch tokens of a vision tower of transformers, by default without its prefix tokens."""

    config_class = HFEncoderConfig
    config: HFEncoderConfig

    def __init__(self, config: HFEncoderConfig) -> None:
        super().__init__(config)
        self.family: Family = family_of(config.backbone_config)
        self.backbone: PreTrainedModel = self.family.build(config.backbone_config)
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
        weights: str | None = None,
        layer: int | None = None,
        keep_prefix: bool = False,
        image_size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        resize: str | None = None,
    ) -> VisionEncoder:
        """Builds a vision tower.

        Args:
            source: What stands behind ``hf:``: ORG/REPO or a local folder (also one that an encoder's
                ``save_pretrained`` wrote).
            pretrained: Whether to load the weights of ``source``, ``weights`` or ``hub_id``.
            tiny: Whether to build the catalog row's tiny variant.
            backbone: Config of the tower with its ``model_type``, for a catalog row.
            hub_id: Hub id of the row's weights.
            weights: Name of weights that ship with vislex.
            layer: See ``HFEncoderConfig``.
            keep_prefix: See there.
            image_size: Height and width in pixels; towers with a position table resize it.
            mean, std, interpolation: Preprocessing; default: what the checkpoint states. A difference is an error.
            resize: "squash" or "pad"; NaFlex towers take "native" only.

        Raises:
            CheckpointError: If the weights are missing, of another kind, or contradict what is stated here.
        """
        name = source or weights or hub_id or ""
        check_variant(f"hf:{name}", source, pretrained=pretrained, tiny=tiny)
        if pretrained and not name:
            raise CheckpointError("this encoder has no pretrained weights; pass pretrained=False")
        given: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
        location: str | Path | None = None
        if source is not None:
            check_location(source)
            location = source
        elif pretrained:
            location = shipped(weights) if weights else hub_id
        if location is None:
            config = AutoConfig.for_model(**copy.deepcopy(dict(backbone or {})))
        else:
            whole = _read_config(location)
            if isinstance(whole, VisionEncoderConfig):
                return _reopen(str(location), whole, pretrained)
            config = vision_config_of(whole)
            check_same(name, backbone or {}, config.to_dict())
            stated = read_preprocessing(location) or {}
            check_same(name, given, stated)
            given = {key: stated.get(key) if value is None else value for key, value in given.items()}
            if image_size is None:
                image_size = stated.get("image_size")
        if given["mean"] is None or given["std"] is None:
            raise CheckpointError(f"'{name}' has no preprocessor_config.json; pass mean= and std=, as it was trained")
        encoder = cls.from_backbone_config(
            config, layer=layer, keep_prefix=keep_prefix, image_size=image_size, resize=resize, **given
        )
        if pretrained and location is not None:
            encoder.config.source = _load_weights(encoder, location, weights)
        return encoder

    @classmethod
    def from_backbone_config(
        cls,
        config: PreTrainedConfig,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str | None = None,
        layer: int | None = None,
        keep_prefix: bool = False,
        image_size: int | Sequence[int] | None = None,
        resize: str | None = None,
    ) -> HFEncoder:
        """An encoder with random weights around the tower of a config; for the arguments see ``create``."""
        family = family_of(config)
        family.prepare(config)
        spec = family.spec(
            config,
            image_size=pair(image_size) if image_size is not None else None,
            resize=resize,
            mean=mean,
            std=std,
            interpolation=interpolation or "bicubic",
        )
        encoder_config = HFEncoderConfig(backbone_config=config, layer=layer, keep_prefix=keep_prefix)
        encoder_config.spec = (spec.with_prefix() if keep_prefix else spec).to_dict()
        return cls(encoder_config)

    def forward(self, pixel_values: Tensor, **image_inputs: Any) -> VisionTokens:
        """See ``VisionEncoder.forward``."""
        if self.family.variable_length:
            missing = {"spatial_shapes", "pixel_attention_mask"} - set(image_inputs)
            if missing:
                raise SpecError(f"{self.config.name} also takes {', '.join(sorted(missing))} of its image processor")
        else:
            self._check_size(pixel_values)
        config, pixel_values = self.config.backbone_config, pixel_values.to(self.dtype)
        arguments = self.family.arguments(config, pixel_values, image_inputs)
        output = self.backbone(output_hidden_states=self.config.layer is not None, **arguments)
        tokens = output.last_hidden_state
        if self.config.layer is not None:
            tokens = self._layer(output.hidden_states)
        tokens = self.family.tokens(config, tokens, pixel_values)
        n_prefix = 0 if self.config.keep_prefix else self.family.n_prefix(self.config.backbone_config)
        mask = image_inputs["pixel_attention_mask"].bool() if self.family.variable_length else None
        return VisionTokens(tokens[:, n_prefix:], mask=mask, pooled=self.family.pooled(output))

    def _layer(self, hidden_states: Sequence[Tensor]) -> Tensor:
        depth = len(hidden_states) - 1  # the first is the embedding
        layer = self.config.layer or 0
        if not -depth <= layer < depth:
            raise ConfigError(f"layer={layer} of {self.config.name}, which has {depth} blocks")
        return hidden_states[layer + 1 if layer >= 0 else layer]


def _reopen(location: str, config: VisionEncoderConfig, pretrained: bool) -> VisionEncoder:
    """An encoder that ``save_pretrained`` wrote, with its weights or random ones."""
    if not pretrained:
        config.source = None
        return AutoModel.from_config(config)
    encoder, _ = open_checkpoint(AutoModel.from_pretrained, location, what="encoder")
    encoder.config.source = local_source("local", Path(location), location)
    return encoder


def _read_config(location: str | Path) -> PreTrainedConfig:
    try:
        if PreTrainedConfig.get_config_dict(location)[0].get("model_type") not in CONFIG_MAPPING:
            import vislex.auto  # noqa: F401
        return AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"cannot read the config of '{location}': {reason} (vislex runs no code from checkpoints; without a "
            "network, pass hf:DIR of a downloaded folder)"
        ) from error


def _load_weights(encoder: HFEncoder, location: str | Path, weights: str | None) -> dict[str, Any]:
    """Replaces the backbone's weights by the checkpoint's, in float32, and returns ``VisionEncoderConfig.source``."""
    config = encoder.config.backbone_config
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a long table of the text tower's weights; what lacks is checked here
    try:
        with reading(f"cannot load the weights of '{location}'"):
            backbone, info = type(encoder.backbone).from_pretrained(
                location,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                key_mapping={**_IN_HOST, **(encoder.family.key_mapping or {})},
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"'{location}' lacks {len(missing)} weights of the vision tower, e.g. {missing[0]}")
    check_weights(dict(backbone.named_parameters()), location)
    encoder.backbone = encoder.family.trimmed(backbone)
    if weights is not None:
        return local_source("weights", Path(location), weights)
    if Path(location).is_dir():
        return local_source("local", Path(location), str(location))
    revision = getattr(config, "_commit_hash", None)
    return {"kind": "hub", "location": str(location), "revision": revision, "sha256": None}
