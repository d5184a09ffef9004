"""``vilex:`` encoders: a backbone with attention pooling, whose tokens a text-to-image model reads like words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig, check_variant, kept_attention
from vislex.encoders.sources import local_source
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import check_folder, open_checkpoint
from vislex.modules.attention_pooling import AttentionPooling
from vislex.shipped import shipped
from vislex.specs import EncoderSpec, VisionTokens

__all__ = ["ViLexEncoder", "ViLexEncoderConfig"]

_MODEL_TYPE = "vislex_vilex"
_TINY_TOKENS, _TINY_WIDTH = 4, 16


class ViLexEncoderConfig(VisionEncoderConfig):
    """Config of a ``ViLexEncoder``.

    Attributes:
        backbone_config: Config of the vision encoder below the pooling.
        n_tokens: Tokens that were trained.
        budget: Tokens that are given; None for all.
        hidden_size: Width of the pooling.
        depth: Its layers.
        num_heads: Its attention heads.
        mlp_ratio: Width inside its MLPs, in widths.
        widths: Width of a word embedding of each text encoder of the text-to-image model; a token holds them side by
            side.
        token_scales: Typical size of an entry of these word embeddings: a token starts as large as a word (or as a
            state of the text encoder, where it stands among states).
        vocabulary: Ids of the words that discrete tokens may be (De-Diffusion); None for continuous tokens.
    """

    model_type = "vislex_vilex_encoder"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="vislex_hf")}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    n_tokens: int = 75
    budget: int | None = None
    hidden_size: int = 768
    depth: int = 2
    num_heads: int = 12
    mlp_ratio: float = 4.0
    widths: list[int] | None = None
    token_scales: list[float] | None = None
    vocabulary: list[int] | None = None

    def with_budget(self, budget: int | None) -> ViLexEncoderConfig:
        """This config, changed to another budget, also in its spec.

        Raises:
            ConfigError: If that many tokens were not trained.
        """
        if budget is None:
            return self
        if not 1 <= budget <= self.n_tokens:
            raise ConfigError(f"n_tokens {budget} must be 1 to {self.n_tokens}, the tokens that were trained")
        self.budget = budget
        self.spec = {**(self.spec or {}), "n_tokens": budget}
        return self


class ViLexEncoder(VisionEncoder):
    """Backbone, attention pooling, and one linear head for each text encoder (arXiv 2412.06774).

    As an encoder of its own it gives ``budget`` tokens, which form no map.
    """

    config_class = ViLexEncoderConfig
    config: ViLexEncoderConfig

    def __init__(self, config: ViLexEncoderConfig, backbone: VisionEncoder | None = None) -> None:
        super().__init__(config)
        self.backbone: VisionEncoder = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        hidden = config.hidden_size
        self.pooling = AttentionPooling(
            self.backbone.spec.dim,
            config.n_tokens,
            hidden_size=hidden,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
        )
        outputs = [len(config.vocabulary)] if config.vocabulary else config.widths or [hidden]
        self.heads = nn.ModuleList(nn.Linear(hidden, width) for width in outputs)
        for head in self.heads:  # of unit variance, behind the pooling's norm
            nn.init.normal_(head.weight, std=hidden**-0.5)
            nn.init.zeros_(head.bias)
        self.post_init()

    @classmethod
    def from_backbone(cls, backbone: VisionEncoder, **options: Any) -> ViLexEncoder:
        """A new pooling on an encoder that exists; ``options`` are fields of the config."""
        width = backbone.spec.dim
        options = {"hidden_size": width, **options}
        if options.get("num_heads") is None:
            options["num_heads"] = _heads(options["hidden_size"])
        with kept_attention(backbone):
            config = ViLexEncoderConfig(backbone_config=backbone.config, **options)
        config.spec = _spec(backbone.spec, config).to_dict()
        return cls(config, backbone)

    @classmethod
    def create(  # type: ignore[override]  # the options by name
        cls,
        source: str | None = None,
        *,
        pretrained: bool = False,
        tiny: bool = False,
        n_tokens: int | None = None,
        weights: str | None = None,
        hub_id: str | None = None,
    ) -> ViLexEncoder:
        """Opens the encoder of a ViLex model.

        Args:
            source: What stands behind ``vilex:``: a folder that ``ViLex.save_pretrained`` wrote, or ORG/REPO.
            pretrained: Whether to load its weights; otherwise the same network is built with random ones.
            tiny: Builds few and narrow tokens on the tiny variant of the backbone (catalog rows only).
            n_tokens: Budget, 1 to the number that was trained; all by default.
            weights: Name of a ViLex model that ships with vislex, for a catalog row.
            hub_id: Hub id, for a catalog row.

        Raises:
            CheckpointError: If there is no ViLex model, or it speaks in discrete words.
            ConfigError: If the budget does not fit.
        """
        check_variant(f"vilex:{source or weights or hub_id}", source, pretrained=pretrained, tiny=tiny)
        location = shipped(weights) if source is None and weights else source or hub_id
        config = _read_config(str(location))
        if config.vocabulary:
            raise CheckpointError(
                f"'{location}' was trained with discrete tokens: it gives words, not an encoder; use ViLex.describe"
            )
        if tiny:
            from vislex.encoders.factory import create_encoder

            below: Any = config.backbone_config
            backbone = create_encoder(str(below.name), tiny=True)
            small = cls.from_backbone(backbone, n_tokens=_TINY_TOKENS, depth=1, widths=[_TINY_WIDTH])
            small.config.with_budget(n_tokens)
            return small
        if not pretrained:
            config.source = None
            return cls(config.with_budget(n_tokens))
        opened, _ = open_checkpoint(AutoModel.from_pretrained, str(location), what="ViLex model", dtype=torch.float32)
        encoder: ViLexEncoder = opened if isinstance(opened, cls) else opened.encoder
        encoder.config.with_budget(n_tokens)
        if source is None and weights:
            encoder.config.source = local_source("weights", Path(str(location)), weights)
        elif Path(str(location)).is_dir():
            encoder.config.source = local_source("local", Path(str(location)), str(location))
        else:
            encoder.config.source = {"kind": "hub", "location": str(location), "revision": None, "sha256": None}
        return encoder

    def forward(self, pixel_values: Tensor, n_tokens: int | None = None, **image_inputs: Any) -> VisionTokens:
        """See ``VisionEncoder.forward``; ``n_tokens`` overrides the budget."""
        return self.pool(self.backbone(pixel_values, **image_inputs), n_tokens)

    def pool(self, vision: VisionTokens, n_tokens: int | None = None) -> VisionTokens:
        """Tokens of what the backbone gave.

        Args:
            vision: The backbone's tokens, for example from a cache.
            n_tokens: Number of tokens; the budget by default.

        Returns:
            float[B, n_tokens, sum(widths)], with the backbone's pooled descriptor.
        """
        hidden = self.states(vision, n_tokens)
        scales = self.config.token_scales or [1.0] * len(self.heads)
        parts = [scale * head(hidden) for scale, head in zip(scales, self.heads, strict=True)]
        return VisionTokens(torch.cat(parts, dim=-1), pooled=vision.pooled)

    def logits(self, vision: VisionTokens, n_tokens: int | None = None) -> Tensor:
        """Of discrete tokens: which word of ``config.vocabulary`` each one is, float[B, n_tokens, V]."""
        logits: Tensor = self.heads[0](self.states(vision, n_tokens))
        return logits

    def states(self, vision: VisionTokens, n_tokens: int | None = None) -> Tensor:
        """What the heads read, float[B, n_tokens, hidden_size]."""
        hidden: Tensor = self.pooling(vision, n_tokens or self.config.budget)
        return hidden


def _spec(backbone: EncoderSpec, config: ViLexEncoderConfig) -> EncoderSpec:
    return backbone.replace(
        dim=sum(config.widths or [config.hidden_size]),
        grid=None,
        n_tokens=config.budget or config.n_tokens,
        n_prefix=0,
        variable_length=False,
        max_patches=backbone.n_tokens if backbone.variable_length else None,
    )


def _heads(width: int) -> int:
    """Heads of about 64 channels that divide a width."""
    return max((count for count in range(1, max(1, width // 64) + 1) if width % count == 0), default=1)


def _read_config(location: str) -> ViLexEncoderConfig:
    import vislex.auto  # noqa: F401

    if Path(location).is_dir():
        check_folder(location)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read '{location}': {str(error).strip().splitlines()[0]}") from error
    if config.model_type == ViLexEncoderConfig.model_type:
        return config
    if config.model_type != _MODEL_TYPE:
        raise CheckpointError(
            f"'{location}' holds a '{config.model_type}', not a ViLex model; 'hf:{location}' opens other encoders"
        )
    encoder_config: ViLexEncoderConfig = config.encoder_config
    return encoder_config
