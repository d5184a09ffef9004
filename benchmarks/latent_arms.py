"""The latent spaces that are compared, and the rule of the verdict on them, fixed before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vislex.metrics.statistics import paired_bootstrap, verdict

__all__ = ["LATENT_ARMS", "MIDDLE", "RIVALS", "LatentArm", "compare_arms", "conclude", "scene_scores"]


@dataclass(frozen=True)
class LatentArm:
    """A latent space and a LaDiC in it.

    Attributes:
        name: Of its rows.
        codec: Values of the recipe ``ladic_codec``.
        options: Of the decoder.
    """

    name: str
    codec: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


MIDDLE = "layer 3"
EMBEDDINGS, RANDOM = "layer 0", "layer 3 of a random BERT"
RIVALS = (EMBEDDINGS, RANDOM)  # what the middle layer must beat
_PLAIN = {"cross_entropy_weight": 0.0}

LATENT_ARMS = {
    arm.name: arm
    for arm in (
        LatentArm(MIDDLE, {"split_layer": 3}, _PLAIN),
        LatentArm(EMBEDDINGS, {"split_layer": 0}, _PLAIN),
        LatentArm("layer 6", {"split_layer": 6, "decoder_layers": 0}, _PLAIN),  # no layer is left above it
        LatentArm(RANDOM, {"split_layer": 3, "random_text_model": True}, _PLAIN),
        LatentArm("layer 3 read by a head alone", {"split_layer": 3, "decoder_layers": 0}, _PLAIN),
        LatentArm("layer 3 not normalised", {"split_layer": 3, "normalize": False}, _PLAIN),
        LatentArm("layer 3 with cross-entropy", {"split_layer": 3}, {"cross_entropy_weight": 0.2}),
    )
}


def scene_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """scene-F1 of each image, by arm and seed."""
    scores: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["kind"] == "captions":
            scores.setdefault(row["arm"], {})[row["seed"]] = row["per_image"]["scene-F1"]
    return scores


def compare_arms(scores: Mapping[str, Mapping[int, Sequence[float]]], *, arm: str = MIDDLE) -> list[dict[str, Any]]:
    """One arm against each other one, paired over images and common seeds.

    Args:
        scores: scene-F1 of each image, by arm and seed.
        arm: That is compared.

    Returns:
        For each other arm: mean scores, "difference", "low", "high" and the "verdict" on "``arm`` is better".
    """
    found = []
    for rival, theirs in scores.items():
        seeds = sorted(set(scores.get(arm, {})) & set(theirs))
        if rival == arm or not seeds:
            continue
        a, b = (np.array([side[seed] for seed in seeds]) for side in (scores[arm], theirs))
        interval = paired_bootstrap(a, b)
        values: dict[str, Any] = {"arm": arm, "rival": rival, "scene-F1": [float(a.mean()), float(b.mean())]}
        values |= {"difference": interval.difference, "low": interval.low, "high": interval.high}
        found.append({**values, "n": interval.n, "seeds": interval.n_seeds, "verdict": verdict(interval)})
    return found


def conclude(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on "the middle layer is better than the embeddings and than a random BERT's".

    Args:
        pairs: Of ``compare_arms``.

    Returns:
        "holds" if both do, "does not hold" if one does not, "not tested" if one is missing, else "inconclusive".
    """
    found = {pair["rival"]: pair["verdict"] for pair in pairs if pair["arm"] == MIDDLE}
    if not set(RIVALS) <= set(found):
        return "not tested"
    judged = [found[rival] for rival in RIVALS]
    if "does not hold" in judged:
        return "does not hold"
    return "holds" if set(judged) == {"holds"} else "inconclusive"
