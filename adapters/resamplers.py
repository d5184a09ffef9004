"""Connectors that read any number of tokens through queries of their own: attention_pool, perceiver, q_former."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from vislex.adapters.connectors import Connector, ConnectorConfig
from vislex.decoders.projection import VisionProjection
from vislex.errors import ConfigError, SpecError
from vislex.modules.attention_pooling import AttentionPooling
from vislex.specs import EncoderSpec, Grid, VisionTokens

__all__ = [
    "AttentionPoolConfig",
    "AttentionPoolConnector",
    "PerceiverConfig",
    "PerceiverConnector",
    "QFormerConfig",
    "QFormerConnector",
    "ResamplerConfig",
    "ResamplerConnector",
]


class ResamplerConfig(ConnectorConfig):
    """What connectors with queries share.

    Attributes:
        n_tokens: Number of queries: tokens an image gives.
        hidden_size: Width inside; None is ``out_dim``.
        num_layers: Blocks.
        num_heads: Attention heads; they must divide the width.
    """

    n_tokens: int = 16
    hidden_size: int | None = None
    num_layers: int = 2
    num_heads: int = 4

    @property
    def width(self) -> int:
        """Width inside.

        Raises:
            ConfigError: If the heads do not divide it.
        """
        width = self.hidden_size or self.out_dim
        if width % self.num_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide the connector's width {width}; give another num_heads or "
                "hidden_size"
            )
        return width

    @property
    def grid(self) -> Grid | None:
        """The encoder's map, whose rows and columns then get a learned position; None where images differ."""
        spec = self.encoder_spec
        return None if spec.variable_length else spec.grid

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """The number of queries, whatever goes in; see ``ConnectorConfig.count``."""
        return super().count(self.n_tokens, n_tokens)


class ResamplerConnector(Connector):
    """Base of the connectors with queries."""

    config_class = ResamplerConfig
    config: ResamplerConfig

    @classmethod
    def create(  # type: ignore[override]
        cls,
        spec: EncoderSpec,
        out_dim: int,
        *,
        n_tokens: int = 16,
        hidden_size: int | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
    ) -> Self:
        """Builds it; for the options see ``ResamplerConfig``."""
        sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
        return cls(cls.config_class(spec=spec.to_dict(), out_dim=out_dim, n_tokens=n_tokens, **sizes))


class AttentionPoolConfig(ResamplerConfig):
    """Config of an ``AttentionPoolConnector``; ``n_tokens`` is the most that it gives."""

    model_type = "vislex_connector_attention_pool"

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """The budget, or all queries.

        Raises:
            SpecError: If there are fewer queries.
        """
        if n_tokens is not None and not 1 <= n_tokens <= self.n_tokens:
            raise SpecError(f"n_tokens {n_tokens} must be 1 to {self.n_tokens}, the tokens of this attention_pool")
        return self.n_tokens if n_tokens is None else n_tokens


class AttentionPoolConnector(ResamplerConnector):
    """Queries that look at the tokens and never at each other, so that the first k serve a budget of k at run time.

    ViLex's pooling (arXiv 2412.06774, section 3.2); trained with TailDrop, the first tokens carry most.
    """

    config_class = AttentionPoolConfig
    config: AttentionPoolConfig

    def __init__(self, config: AttentionPoolConfig) -> None:
        super().__init__(config)
        width = config.width
        self.projection = VisionProjection(config.encoder_spec.dim, width, config.grid)
        self.pooling = AttentionPooling(
            width, config.n_tokens, hidden_size=width, depth=config.num_layers, num_heads=config.num_heads
        )
        self.output = nn.Linear(width, config.out_dim)
        self.post_init()

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        context = VisionTokens(self.projection(vision.tokens), vision.mask)
        return VisionTokens(self.output(self.pooling(context, n_tokens)))


class PerceiverConfig(ResamplerConfig):
    """Config of a ``PerceiverConnector``."""

    model_type = "vislex_connector_perceiver"


class PerceiverConnector(ResamplerConnector):
    """Latent queries look at the tokens and at each other in every block.

    Flamingo's resampler (arXiv 2204.14198, section 3.1) as Idefics2 builds it. In transformers its latents are all
    ones, which no training from scratch would ever tell apart, so they are drawn here.
    """

    config_class = PerceiverConfig
    config: PerceiverConfig

    def __init__(self, config: PerceiverConfig) -> None:
        from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
        from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

        super().__init__(config)
        width = config.width
        inner = Idefics2PerceiverConfig(
            hidden_size=width,
            resampler_n_latents=config.n_tokens,
            resampler_depth=config.num_layers,
            resampler_n_heads=config.num_heads,
            resampler_head_dim=width // config.num_heads,
            num_key_value_heads=config.num_heads,
            initializer_range=(3 * width) ** -0.5,
        )
        self.projection = VisionProjection(config.encoder_spec.dim, width, config.grid)
        self.resampler = Idefics2PerceiverResampler(inner)
        self.output = nn.Linear(width, config.out_dim)
        self.post_init()
        nn.init.normal_(self.resampler.latents)

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        context = self.projection(vision.tokens)
        return VisionTokens(self.output(self.resampler(context, attention_mask=_mask(vision, context))))


class QFormerConfig(ResamplerConfig):
    """Config of a ``QFormerConnector``.

    Attributes:
        cross_attention_frequency: Every how many blocks the queries look at the tokens.
    """

    model_type = "vislex_connector_q_former"

    cross_attention_frequency: int = 2


class QFormerConnector(ResamplerConnector):
    """A BERT over learned queries that looks at the tokens in every second block (BLIP-2, arXiv 2301.12597)."""

    config_class = QFormerConfig
    config: QFormerConfig

    def __init__(self, config: QFormerConfig) -> None:
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__(config)
        width = config.width
        inner = Blip2QFormerConfig(
            hidden_size=width,
            encoder_hidden_size=width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            cross_attention_frequency=config.cross_attention_frequency,
            initializer_range=(3 * width) ** -0.5,
        )
        self.projection = VisionProjection(config.encoder_spec.dim, width, config.grid)
        self.queries = nn.Parameter(torch.empty(1, config.n_tokens, width))
        self.q_former = Blip2QFormerModel(inner)
        self.output = nn.Linear(width, config.out_dim)
        self.post_init()
        nn.init.normal_(self.queries)

    @classmethod
    def create(  # type: ignore[override]
        cls,
        spec: EncoderSpec,
        out_dim: int,
        *,
        n_tokens: int = 16,
        hidden_size: int | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
        cross_attention_frequency: int = 2,
    ) -> Self:
        """Builds it; for the options see ``ResamplerConfig`` and ``QFormerConfig``."""
        sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
        sizes["cross_attention_frequency"] = cross_attention_frequency
        return cls(QFormerConfig(spec=spec.to_dict(), out_dim=out_dim, n_tokens=n_tokens, **sizes))

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        context = self.projection(vision.tokens)
        queries = self.queries.expand(len(context), -1, -1)  # [B, n_tokens, width]
        states = self.q_former(
            query_embeds=queries, encoder_hidden_states=context, encoder_attention_mask=_mask(vision, context)
        ).last_hidden_state
        return VisionTokens(self.output(states))


def _mask(vision: VisionTokens, context: Tensor) -> Tensor:
    """int64[B, N], 1 where a token is real."""
    if vision.mask is not None:
        return vision.mask.long()
    return torch.ones(context.shape[:2], dtype=torch.long, device=context.device)
