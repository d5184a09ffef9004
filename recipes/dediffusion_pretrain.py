"""Recipe ``dediffusion_pretrain``: the baseline of ViLex, whose tokens are words (De-Diffusion, arXiv 2311.00618).

The same encoder, pooling and frozen text-to-image model; each token is a word of the captions that the text-to-image
model was trained on. The choice passes gradients straight through, or by Gumbel-softmax, at a falling temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vislex.errors import ConfigError
from vislex.recipes.source import captions_if_here, column, load_splits
from vislex.recipes.vilex_pretrain import ViLexPretrainConfig, build_model, train
from vislex.recipes.vilex_pretrain import sketch as sketch_vilex
from vislex.training.recipe import Recipe
from vislex.training.sketch import Sketch
from vislex.vilex import ViLex

__all__ = ["RECIPE", "DeDiffusionPretrainConfig", "run", "sketch", "training_captions"]


class DeDiffusionPretrainConfig(ViLexPretrainConfig):
    """Configuration of ``dediffusion_pretrain``: that of ``vilex_pretrain``, and

    Attributes:
        estimator: "straight_through" or "gumbel".
        temperature: Softmax temperature at the start and at the end; in between it falls geometrically.
    """

    budget_table: ClassVar[str] = "dediffusion_pretrain"

    tail_drop: Literal["uniform", "pow2", "uniform_pow2", "none"] = "none"
    estimator: Literal["straight_through", "gumbel"] = "straight_through"
    temperature: tuple[float, float] = Field((2.0, 0.3))


def build(config: DeDiffusionPretrainConfig) -> ViLex:
    """The model; its vocabulary is that of the training captions."""
    captions = training_captions(config)
    return build_model(config, vocabulary=captions, estimator=config.estimator, temperature=config.temperature)


def training_captions(config: DeDiffusionPretrainConfig) -> Iterator[str]:
    """The captions whose words the tokens may be."""
    return (text for own in column(load_splits(config)[0], "captions") for text in own)


def run(config: DeDiffusionPretrainConfig) -> Path:
    """Trains the model; see ``vilex_pretrain``."""
    return train("dediffusion_pretrain", config, lambda: build(config))


def sketch(config: DeDiffusionPretrainConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``vilex_pretrain``.

    Raises:
        ConfigError: If the captions, whose words the tokens are, are not on this machine.
    """
    references = None if config.stream else captions_if_here(config)  # the training refuses a stream
    if references is None:
        raise ConfigError(f"the tokens are words of the captions of '{config.data}', which are not here")
    captions = [text for own in references for text in own]
    yield from sketch_vilex(config, vocabulary=captions, estimator=config.estimator, temperature=config.temperature)


RECIPE = Recipe(DeDiffusionPretrainConfig, run, sketch)
