"""Drawing the next word: which token a caption gets follows from its own random numbers, not from its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vislex.errors import ConfigError

__all__ = ["Draws"]

# What shapes the distribution, in this order, and the value that leaves it as it is.
WARPERS = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, 0.0),
}
UNKNOWN = ("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


class Draws(LogitsProcessor):
    """The last logits processor of a greedy search, which it makes a draw: one token of each caption stays possible.

    Args:
        settings: ``temperature``, ``top_k``, ``top_p`` and ``min_p`` shape the distribution; none does by default.
        generators: One a caption, on the CPU (``caption_generators``).

    Raises:
        ConfigError: If the settings ask for another truncation of the distribution.
    """

    def __init__(self, settings: GenerationConfig, generators: Sequence[torch.Generator]) -> None:
        if asked := [name for name in UNKNOWN if getattr(settings, name, None) is not None]:
            raise ConfigError(f"draws know no {asked[0]}; known are {', '.join(WARPERS)}")
        given = [(warper, neutral, getattr(settings, name)) for name, (warper, neutral) in WARPERS.items()]
        self.warpers = LogitsProcessorList(
            [warper(value) for warper, neutral, value in given if value is not None and value != neutral]
        )
        self.uniform = torch.stack(
            [torch.rand(settings.max_new_tokens, generator=generator, dtype=torch.float64) for generator in generators]
        )
        self.step = 0

    @staticmethod
    def plain(settings: GenerationConfig) -> GenerationConfig:
        """Makes settings those of the greedy search that draws, in place."""
        settings.update(do_sample=False, num_return_sequences=1, **dict.fromkeys(WARPERS))
        return settings

    def choose(self, scores: Tensor) -> Tensor:
        """Draws the next token int64[R] from logits float[R, V]."""
        cumulated = self.warpers(None, scores).double().softmax(-1).cumsum(-1)
        uniform = self.uniform[:, self.step, None].to(scores.device)
        self.step += 1
        drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
        return drawn.clamp(max=scores.shape[-1] - 1).squeeze(1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits float[R, V] of which only the drawn token's are finite."""
        return torch.full_like(scores, -torch.inf).scatter_(1, self.choose(scores)[:, None], 0.0)
