"""What a row of the catalog's kind ``recipes`` points to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislex.training.settings import TrainingSettings

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A configuration and the function that trains it.

    Attributes:
        config: The pydantic model of its configuration.
        run: Trains, and gives the folder of the saved model.
    """

    config: type[TrainingSettings]
    run: Callable[[Any], Path]
