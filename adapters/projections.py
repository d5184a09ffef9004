"""Connectors that project each token, or each group of neighbours: linear, mlp, pixel_shuffle, average_pool."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from vislex.adapters.connectors import Connector, ConnectorConfig, fixed_grid
from vislex.decoders.projection import VisionProjection
from vislex.encoders.base import flatten_map, pair
from vislex.errors import SpecError
from vislex.specs import EncoderSpec, Grid, VisionTokens, token_count

__all__ = [
    "AveragePoolConfig",
    "AveragePoolConnector",
    "LinearConfig",
    "LinearConnector",
    "MLPConfig",
    "MLPConnector",
    "PixelShuffleConfig",
    "PixelShuffleConnector",
]


class LinearConfig(ConnectorConfig):
    """Config of a ``LinearConnector``.

    Attributes:
        norm: Whether a LayerNorm stands before the linear map.
    """

    model_type = "vislex_connector_linear"

    norm: bool = True


class LinearConnector(Connector):
    """LayerNorm and one linear map (PaliGemma, arXiv 2407.07726, section 3.1, has the map alone: ``norm=False``)."""

    config_class = LinearConfig
    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.projection = VisionProjection(config.encoder_spec.dim, config.out_dim, norm=config.norm)
        self.post_init()

    @classmethod
    def create(cls, spec: EncoderSpec, out_dim: int, *, norm: bool = True) -> Self:  # type: ignore[override]
        """Builds it; for the option see ``LinearConfig``."""
        return cls(LinearConfig(spec=spec.to_dict(), out_dim=out_dim, norm=norm))

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        return VisionTokens(self.projection(vision.tokens), vision.mask)


class MLPConfig(ConnectorConfig):
    """Config of an ``MLPConnector``.

    Attributes:
        hidden_size: Width between the two layers; None is ``out_dim``.
        norm: Whether a LayerNorm stands before the first.
    """

    model_type = "vislex_connector_mlp"

    hidden_size: int | None = None
    norm: bool = True


class MLPConnector(Connector):
    """LayerNorm and two linear maps with GELU in between.

    LLaVA-1.5 (arXiv 2310.03744, section 3.2) has the maps alone: ``norm=False``.
    """

    config_class = MLPConfig
    config: MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        width = config.hidden_size or config.out_dim
        self.mlp = nn.Sequential(
            VisionProjection(self._width(config), width, norm=config.norm), nn.GELU(), nn.Linear(width, config.out_dim)
        )
        self.post_init()

    @classmethod
    def create(  # type: ignore[override]
        cls, spec: EncoderSpec, out_dim: int, *, hidden_size: int | None = None, norm: bool = True
    ) -> Self:
        """Builds it; for the options see ``MLPConfig``."""
        return cls(MLPConfig(spec=spec.to_dict(), out_dim=out_dim, hidden_size=hidden_size, norm=norm))

    @staticmethod
    def _width(config: MLPConfig) -> int:
        return config.encoder_spec.dim

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        return VisionTokens(self.mlp(vision.tokens), vision.mask)


class PixelShuffleConfig(MLPConfig):
    """Config of a ``PixelShuffleConnector``.

    Attributes:
        factor: Neighbours along each side that become one token.
    """

    model_type = "vislex_connector_pixel_shuffle"

    factor: int = 2

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """One token for ``factor`` x ``factor``; see ``ConnectorConfig.count``."""
        return super().count(_divided(count, self.factor), n_tokens)


class PixelShuffleConnector(MLPConnector):
    """Neighbours side by side on the channels, then two linear maps (InternVL, arXiv 2404.16821, section 3.1)."""

    config_class = PixelShuffleConfig
    config: PixelShuffleConfig

    @classmethod
    def create(  # type: ignore[override]
        cls, spec: EncoderSpec, out_dim: int, *, factor: int = 2, hidden_size: int | None = None
    ) -> Self:
        """Builds it; for the options see ``PixelShuffleConfig``.

        Raises:
            SpecError: If the encoder's tokens form no map whose sides ``factor`` divides.
        """
        _divided(fixed_grid(spec, "pixel_shuffle"), factor)
        return cls(PixelShuffleConfig(spec=spec.to_dict(), out_dim=out_dim, factor=factor, hidden_size=hidden_size))

    @staticmethod
    def _width(config: PixelShuffleConfig) -> int:  # type: ignore[override]
        return config.encoder_spec.dim * config.factor**2

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        features = _as_map(vision.tokens, fixed_grid(self.config.encoder_spec, "pixel_shuffle"))
        return VisionTokens(self.mlp(flatten_map(F.pixel_unshuffle(features, self.config.factor))))  # [B, M, out_dim]


class AveragePoolConfig(MLPConfig):
    """Config of an ``AveragePoolConnector``.

    Attributes:
        output_grid: Rows and columns of the map that is left.
    """

    model_type = "vislex_connector_average_pool"

    output_grid: list[int] | tuple[int, ...] = (4, 4)

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """``output_grid``, whatever goes in; see ``ConnectorConfig.count``."""
        return super().count(Grid(*self.output_grid), n_tokens)


class AveragePoolConnector(MLPConnector):
    """The mean of each cell of a coarser map, then two linear maps (Gemma 3, arXiv 2503.19786, section 2.1)."""

    config_class = AveragePoolConfig
    config: AveragePoolConfig

    @classmethod
    def create(  # type: ignore[override]
        cls,
        spec: EncoderSpec,
        out_dim: int,
        *,
        output_grid: int | tuple[int, int] | list[int] | None = None,
        hidden_size: int | None = None,
    ) -> Self:
        """Builds it.

        Args:
            spec: Spec of the encoder.
            out_dim: Width of the tokens that it will give.
            output_grid: Side, or rows and columns, of the map that is left; None halves the encoder's.
            hidden_size: See ``MLPConfig``.

        Raises:
            SpecError: If the encoder's tokens form no map, or one with fewer rows or columns.
        """
        grid = fixed_grid(spec, "average_pool")
        wanted = Grid(*((side + 1) // 2 for side in grid)) if output_grid is None else Grid(*pair(output_grid))
        if not all(1 <= new <= old for new, old in zip(wanted, grid, strict=True)):
            raise SpecError(
                f"average_pool cannot make a map of {wanted.height} x {wanted.width} tokens of the encoder's "
                f"{grid.height} x {grid.width}; give an output_grid that is not larger"
            )
        return cls(
            AveragePoolConfig(spec=spec.to_dict(), out_dim=out_dim, output_grid=list(wanted), hidden_size=hidden_size)
        )

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        features = _as_map(vision.tokens, fixed_grid(self.config.encoder_spec, "average_pool"))
        pooled = F.adaptive_avg_pool2d(features, tuple(self.config.output_grid))  # [B, D, h, w]
        return VisionTokens(self.mlp(flatten_map(pooled)))


def _as_map(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))  # [B, D, h, w]


def _divided(count: Grid | int, factor: int) -> Grid:
    if not isinstance(count, Grid) or factor < 1 or count.height % factor or count.width % factor:
        given = f"{count.height} x {count.width}" if isinstance(count, Grid) else f"{token_count(count)} unordered"
        raise SpecError(
            f"pixel_shuffle with factor {factor} cannot divide {given} tokens; give a factor that divides both sides, "
            "another image_size of the encoder, or take average_pool"
        )
    return Grid(count.height // factor, count.width // factor)
