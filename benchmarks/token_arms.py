"""The trained arms of ``vilex_tokens``: each known by its training, and trained or opened when it is first asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vislex.benchmarks.reconstruction import open_model
from vislex.benchmarks.results import content_key
from vislex.benchmarks.token_claims import TAIL_DROP
from vislex.benchmarks.trainings import identity, train_once
from vislex.benchmarks.vilex_experiment import Base, ViLexExperiment
from vislex.modules.digest import weights_digest
from vislex.recipes import dediffusion_pretrain, vilex_pretrain
from vislex.recipes.vilex_pretrain import ViLexPretrainConfig
from vislex.training.recipe import Recipe
from vislex.vilex import ViLex

__all__ = ["DE_DIFFUSION", "PAST", "TokenArm", "token_arms", "trained_with"]

DE_DIFFUSION: Literal["De-Diffusion"] = "De-Diffusion"
PAST: Literal["past the text encoder"] = "past the text encoder"


@dataclass(frozen=True, eq=False)
class TokenArm:
    """One training.

    Attributes:
        name: In tables.
        recipe: What trains it.
        config: Its configuration.
        folder: Where all trainings of the experiments go.
        log: Called with a line when it is there.
    """

    name: str
    recipe: Recipe
    config: ViLexPretrainConfig
    folder: Path
    log: Callable[[str], None]

    @property
    def key(self) -> str:
        """Hash of what determines the weights, on whatever machine they are trained."""
        return content_key(identity(self.config))

    @property
    def n_tokens(self) -> int:
        """Most tokens of an image."""
        assert self.config.n_tokens is not None
        return self.config.n_tokens

    @functools.cached_property
    def model(self) -> ViLex:
        """The model, which is trained if it is not in its folder."""
        made = train_once(self.recipe, self.config, self.folder, self.name.replace(" ", "-"))
        self.log(f"{self.name}: {made.folder}" + ("" if made.was_there else f", trained in {made.seconds:.0f} s"))
        return open_model(str(made.folder), self.config.device)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the model's weights."""
        return weights_digest(self.model)


def trained_with(k: int) -> str:
    """Name of the arm that was trained with exactly ``k`` tokens."""
    return f"trained with {k}"


def token_arms(
    settings: ViLexExperiment, base: Base, *, fixed: list[int], rivals: list[str], log: Callable[[str], None]
) -> dict[str, TokenArm]:
    """The arms by name: TailDrop, those of exactly k tokens, and the rivals.

    Args:
        settings: Sizes of the trainings.
        base: Their parts.
        fixed: Budgets for which a model of its own is trained.
        rivals: Of ``PAST`` and ``DE_DIFFUSION``.
        log: Called with a line when an arm is there.
    """
    arms: dict[str, tuple[Recipe, ViLexPretrainConfig]] = {
        TAIL_DROP: (vilex_pretrain.RECIPE, settings.vilex(base)),
        **{trained_with(k): (vilex_pretrain.RECIPE, settings.vilex(base, n_tokens=k, tail_drop="none")) for k in fixed},
    }
    if PAST in rivals:
        arms[PAST] = (vilex_pretrain.RECIPE, settings.vilex(base, inject="output"))
    if DE_DIFFUSION in rivals:
        arms[DE_DIFFUSION] = (dediffusion_pretrain.RECIPE, settings.dediffusion(base))
    return {name: TokenArm(name, recipe, config, settings.folder, log) for name, (recipe, config) in arms.items()}
