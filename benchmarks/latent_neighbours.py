"""What neighbours in a latent space have in common: do captions whose mean latents are near say the same?

Every caption's nearest neighbour, by cosine of mean latents, is read with the suite's lexicon: how many of their
objects, and which of their relations, do both name? Random pairs of the same captions are the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.decoders.ladic.codec import LatentCodec
from vislex.errors import ConfigError
from vislex.metrics.scene import Reading, parse_caption
from vislex.metrics.statistics import paired_bootstrap
from vislex.text import encode_captions

__all__ = ["compare_neighbours", "mean_latents", "nearest", "telling_captions"]

RANDOM_PAIRS = 10  # partners of each caption in the baseline


def telling_captions(references: dict[str, list[str]]) -> list[str]:
    """The longest reference of each image, each text once: short ones are equal to many others, whatever the space."""
    return list(dict.fromkeys(max(own, key=lambda text: len(text.split())) for own in references.values()))


@torch.no_grad()
def mean_latents(codec: LatentCodec, captions: Sequence[str], *, max_length: int) -> Tensor:
    """Mean of the latents of each caption's words, float32[N, D]."""
    if codec.tokenizer is None:
        raise ConfigError("this codec has no tokenizer beside it; save it together with its tokenizer")
    means = []
    for start in range(0, len(captions), 250):
        batch = encode_captions(codec.tokenizer, captions[start : start + 250], max_length=max_length)
        latents = codec.encode(batch["input_ids"].to(codec.device), batch["attention_mask"].to(codec.device))
        words = ~codec.is_special(batch["input_ids"].to(codec.device))
        means.append((latents * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1))
    return torch.cat(means).cpu()


def nearest(latents: Tensor) -> np.ndarray:
    """int64[N], the row of highest cosine to each of float[N, D] but itself, about their common mean."""
    centred = F.normalize(latents - latents.mean(0), dim=-1)
    similarity = centred @ centred.T
    similarity.fill_diagonal_(-torch.inf)
    found: np.ndarray = similarity.argmax(1).numpy()
    return found


def compare_neighbours(captions: Sequence[str], neighbours: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """What captions share with their neighbours, against random pairs.

    Args:
        captions: N different texts.
        neighbours: int64[N] of ``nearest``.
        seed: Of the random pairs.

    Returns:
        For "objects" (names) and "relations" (left of, above, ...; over the captions that state one): "nearest" and
        "random", the mean of 2 x shared / (own + theirs), and the paired interval of their "difference", "low", "high"
        with the number of captions "n".

    Raises:
        ConfigError: If there are fewer than three captions.
    """
    if len(captions) < 3:
        raise ConfigError(f"{len(captions)} captions have no neighbours to compare; give at least 3")
    readings = [parse_caption(caption) for caption in captions]
    draw = np.random.default_rng(seed)
    shifts = draw.integers(1, len(captions), size=(RANDOM_PAIRS, len(captions)))  # never a caption with itself
    strangers = (np.arange(len(captions)) + shifts) % len(captions)  # [pairs, N]
    kinds: dict[str, Callable[[Reading], set[str]]] = {"objects": _objects, "relations": _relations}
    found = {}
    for kind, read in kinds.items():
        said = [read(reading) for reading in readings]
        rows = [row for row, own in enumerate(said) if own]
        if not rows:
            continue
        near = np.array([_shared(said[row], said[neighbours[row]]) for row in rows])
        random = np.array([np.mean([_shared(said[row], said[other]) for other in strangers[:, row]]) for row in rows])
        interval = paired_bootstrap(near, random)
        found[kind] = {
            "nearest": float(near.mean()),
            "random": float(random.mean()),
            "difference": interval.difference,
            "low": interval.low,
            "high": interval.high,
            "n": len(rows),
        }
    return found


def _objects(reading: Reading) -> set[str]:
    return {statement[1] for statement in reading.statements if statement[0] == "objects"}


def _relations(reading: Reading) -> set[str]:
    return {statement[2] for statement in reading.statements if statement[0] == "relations"}


def _shared(first: set[str], second: set[str]) -> float:
    return 2 * len(first & second) / (len(first) + len(second))
