"""Random generators of captions: what is drawn for one depends on the seed and its number, not on its batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

__all__ = ["caption_generators"]


def caption_generators(seed: int, indices: Iterable[int], num_candidates: int = 1) -> list[torch.Generator]:
    """A random generator for each caption, whatever batch it stands in.

    Args:
        seed: Of the run.
        indices: Number of each caption in the run.
        num_candidates: Candidates of each caption, one after the other.
    """
    places = [(index, candidate) for index in indices for candidate in range(num_candidates)]
    states = [np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] for place in places]
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]
