"""Connectors: from an encoder's tokens to the width of a language model, their number computed from the spec alone."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from vislex.decoders.base import as_vision_tokens
from vislex.errors import ConfigError, SpecError, did_you_mean
from vislex.registry import registry
from vislex.specs import EncoderSpec, Grid, VisionTokens, token_count

__all__ = ["Connector", "ConnectorConfig", "create_connector", "fixed_grid"]


class ConnectorConfig(PreTrainedConfig):
    """Base of the connectors' configs; each declares its own ``model_type`` ("vislex_connector_<name>") and fields.

    Attributes:
        spec: ``EncoderSpec.to_dict()`` of the encoder whose tokens it reads.
        out_dim: Width of the tokens it gives.
    """

    model_type = "vislex_connector"

    spec: dict[str, Any] | None = None
    out_dim: int = 256

    @property
    def encoder_spec(self) -> EncoderSpec:
        """Spec of the encoder.

        Raises:
            SpecError: If the config was made without one.
        """
        if self.spec is None:
            raise SpecError(f"{type(self).__name__} has no spec; use vislex.create_connector(name, spec, out_dim)")
        return EncoderSpec.from_dict(self.spec)

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """Tokens that come out where ``count`` go in, without any tensor: processors call this.

        Args:
            count: What ``EncoderSpec.count`` gives for an image.
            n_tokens: Budget at run time, for connectors that have one.

        Raises:
            SpecError: If the connector has no budget, or not this one.
        """
        if n_tokens is not None and n_tokens != token_count(count):
            raise SpecError(
                f"this connector gives {token_count(count)} tokens an image and no other number (n_tokens={n_tokens} "
                "was asked for); take attention_pool for a budget at run time"
            )
        return count


class Connector(PreTrainedModel):
    """Base of the connectors: subclasses implement ``create`` and ``_connect``, and their config ``count``."""

    config_class = ConnectorConfig
    config: ConnectorConfig
    main_input_name = "vision"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @classmethod
    def create(cls, spec: EncoderSpec, out_dim: int, **options: Any) -> Self:
        """Builds a connector with random weights.

        Args:
            spec: Spec of the encoder whose tokens it will read.
            out_dim: Width of the tokens that it will give.
            **options: Fields of the connector's config.

        Raises:
            SpecError: If the encoder's tokens do not form what the connector needs.
        """
        return cls(cls.config_class(spec=spec.to_dict(), out_dim=out_dim, **options))

    def forward(self, vision: VisionTokens | Tensor, n_tokens: int | None = None) -> VisionTokens:
        """Connects a batch.

        Args:
            vision: Encoder output, or its tokens float[B, N, D].
            n_tokens: Budget at run time, for connectors that have one.

        Returns:
            float[B, M, out_dim] with M as ``count`` says, and a mask bool[B, M] where M differs by image.

        Raises:
            SpecError: If these are not the tokens of the encoder that the connector was made for.
        """
        vision = as_vision_tokens(vision)
        spec = self.config.encoder_spec
        found = tuple(vision.tokens.shape[1:])
        fits = found[1] == spec.dim and (
            found[0] == spec.n_tokens or (spec.variable_length and vision.mask is not None)
        )
        if not fits:
            raise SpecError(
                f"this connector reads {spec.n_tokens} tokens of width {spec.dim} an image and got {found[0]} of "
                f"{found[1]}; make it for this encoder: vislex.create_connector(name, encoder.spec, out_dim)"
            )
        return self._connect(vision, self.budget(n_tokens))

    def budget(self, n_tokens: int | None) -> int | None:
        """The budget that ``_connect`` gets: what was asked for, checked."""
        if n_tokens is not None:
            spec = self.config.encoder_spec
            self.count(spec.n_tokens if spec.variable_length else spec.count(), n_tokens)
        return n_tokens

    def count(self, count: Grid | int, n_tokens: int | None = None) -> Grid | int:
        """See ``ConnectorConfig.count``."""
        return self.config.count(count, n_tokens)

    def get_input_embeddings(self) -> nn.Module | None:
        """None: tokens of an encoder have no embedding table."""
        return None

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own scale for linear maps: 0.02 all but hides the image from narrow language models."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)

    def _connect(self, vision: VisionTokens, n_tokens: int | None) -> VisionTokens:
        raise SpecError(f"{type(self).__name__} does not implement _connect()")


def create_connector(name: str, spec: EncoderSpec, out_dim: int, **options: Any) -> Connector:
    """Builds a registered connector, randomly initialised.

    Args:
        name: A name of ``vislex list connectors``.
        spec: Spec of the encoder.
        out_dim: Width of the language model.
        **options: Sizes and choices of the connector (``hidden_size``, ``n_tokens``, ...).

    Raises:
        UnknownNameError: If there is no such connector.
        ConfigError: If it knows no such option.
        SpecError: If it cannot read this encoder's tokens.
    """
    entry = registry("connectors").get(name)
    target: type[Connector] = entry.load()
    known = {key for key in inspect.signature(target.create).parameters if key not in ("spec", "out_dim", "options")}
    for option in options:
        if option not in known:
            raise ConfigError(
                f"unknown option '{option}' of the connector '{name}'{did_you_mean(option, known)} "
                f"Options: {', '.join(sorted(known)) or 'none'}"
            )
    return target.create(spec, out_dim, **{**entry.options, **options})


def fixed_grid(spec: EncoderSpec, connector: str) -> Grid:
    """The map of tokens that a connector cuts up.

    Raises:
        SpecError: If the encoder gives none, or another for each image.
    """
    if spec.grid is None or spec.variable_length:
        what = "a different map for each image" if spec.variable_length else "tokens that form no map"
        raise SpecError(
            f"{connector} needs a map of tokens of one size, this encoder gives {what}; take linear, mlp, "
            "attention_pool, perceiver or q_former"
        )
    return spec.grid
