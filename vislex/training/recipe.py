"""What a row of the catalog's kind ``recipes`` points to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislex.training.settings import TrainingSettings
from vislex.training.sketch import Sketch

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A configuration, the function that trains it, and the one that only says what would be trained.

    Attributes:
        config: The pydantic model of its configuration.
        run: Trains, and gives the folder of the saved model.
        sketch: Gives each stage of the training, without data and weights, on torch's default device; None where
            ``vislex plan`` cannot look ahead.
    """

    config: type[TrainingSettings]
    run: Callable[[Any], Path]
    sketch: Callable[[Any], Iterator[Sketch]] | None = None
