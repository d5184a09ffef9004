"""Recipe ``align``: the connector alone, between a frozen encoder and a frozen language model (LLaVA's first stage)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vislex.recipes.vlm_sketch import sketch_vlm
from vislex.recipes.vlm_training import VlmSettings, build_model, make_trainer, save_model
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import start_run
from vislex.training.sketch import Sketch

__all__ = ["RECIPE", "AlignConfig", "run", "sketch"]


_FROZEN = PartSettings(mode="frozen")
_PARTS = {"encoder": _FROZEN, "connector": PartSettings(), "llm": _FROZEN}


class AlignConfig(VlmSettings):
    """Configuration of ``align``; for its keys see ``VlmSettings``."""

    budget_table: ClassVar[str] = "align"


def run(config: AlignConfig) -> Path:
    """Trains a connector.

    Returns:
        The output folder: a ``VisionLanguageModel`` that names encoder and language model by reference.
    """
    output = start_run("align", config)
    model = build_model(config)
    trainer = make_trainer(config, model, _PARTS, output, f"align {config.encoder} + {config.connector}")
    figures = trainer.fit()
    summary = f"Connector `{config.connector}` between `{config.encoder}` and `{config.llm}`, both frozen"
    save_model("align", model, config, trainer, figures, output, summary=summary)
    return output


def sketch(config: AlignConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    yield sketch_vlm(config, _PARTS)


RECIPE = Recipe(AlignConfig, run, sketch)
