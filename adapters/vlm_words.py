"""``WordsOnly``: a model that is asked writes words, never the token that stands for an image."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["WordsOnly"]


class WordsOnly(LogitsProcessor):
    """Rules one token out; transformers' ``suppress_tokens`` looks through the vocabulary for it at every step.

    Args:
        image_token_id: The token.
    """

    def __init__(self, image_token_id: int) -> None:
        self.ids = torch.tensor([image_token_id])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores float[B, V] without the token."""
        return scores.index_fill(1, self.ids.to(scores.device), -torch.inf)
