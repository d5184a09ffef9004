"""What may hold LaDiC back, one change of a training each, and how their captions go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vislex.metrics.scene import named_concepts
from vislex.metrics.statistics import paired_bootstrap, verdict

__all__ = ["BASE", "CAUSE_ARMS", "CauseArm", "compare_with_base", "object_errors"]

BASE = "ladic distilled"


@dataclass(frozen=True)
class CauseArm:
    """One training.

    Attributes:
        name: Of its rows.
        base: Name of the arm of which it changes one thing, and against which it is held.
        options: Of the decoder, above its defaults.
        codec: Values of the recipe ``ladic_codec``, above those of the base; a codec of its own is trained then.
        images: Times the training images of the base; the further ones have captions of the teacher only.
        share: Of the training captions that are the teacher's; 0 has no teacher.
        decoder: Name of its decoder.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str = BASE
    codec: Mapping[str, Any] = field(default_factory=dict)
    images: int = 1
    share: float = 1.0
    decoder: Literal["ladic", "cross_attention", "masked"] = "ladic"


CAUSE_ARMS = {
    arm.name: arm
    for arm in (
        CauseArm(BASE),
        CauseArm("from references", share=0.0),
        CauseArm("from both", share=0.5),
        CauseArm("three times the images", images=3),
        CauseArm("norms first", {"pre_norm": True}),
        CauseArm("twice the start", {"initializer_range": 0.088}),  # hidden_size**-0.5 at the width of 128
        CauseArm("twice the width", {"hidden_size": 256}),
        CauseArm("dropout of 0.1", {"dropout": 0.1}),
        CauseArm("four times a caption", {"draws_per_caption": 4}),
        CauseArm("more words shown clean", {"keep_words": 0.75}),
        CauseArm("no word shown clean", {"keep_words": 0.0}),
        CauseArm("without self-conditioning", {"self_conditioning": "none"}),
        CauseArm("without the mixture of words", {"preconditioning": "linear"}),
        CauseArm("without neighbours", {"neighbours": False}),
        # What the paper does, and faults of its release, put back into the base one at a time.
        CauseArm("the paper's noise", {"noise_schedule": "linear", "noise_factor": 4.0}),
        CauseArm("raw noise with less of it in sampling", {"variance_preserving": False, "sampling_noise_factor": 1.0}),
        CauseArm("the paper's loss", {"latent_loss": "l2"}),
        CauseArm("the paper's table of times", {"time_embedding": "table"}),
        CauseArm(
            "that table normed in evaluation only",
            {"time_embedding": "table", "time_norm": "evaluation"},
            base="the paper's table of times",
        ),
        CauseArm("length by full stops", {"length": "fixed"}),
        CauseArm(
            "length by full stops left raw",
            {"length": "fixed"},
            base="length by full stops",
            codec={"normalize_stop": False},
        ),
        CauseArm("no text decoder but a head", codec={"decoder_layers": 0, "least_accuracy": 0.0}),
        CauseArm("an autoregressive student", decoder="cross_attention"),
        CauseArm(
            "an autoregressive student of one word a caption",
            {"words_per_caption": 1},
            base="an autoregressive student",
            decoder="cross_attention",
        ),
        CauseArm("masked diffusion", decoder="masked"),
        CauseArm(
            "masked diffusion four times a caption",
            {"draws_per_caption": 4},
            base="masked diffusion",
            decoder="masked",
        ),
        CauseArm(
            "masked diffusion without the repetition bias",
            {"repetition_bias": False},
            base="masked diffusion",
            decoder="masked",
        ),
    )
}


def object_errors(
    captions: Mapping[str, str], factors: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float | int]]:
    """How captions name the objects of their images, by the number of different objects ("1", "2", ...) and in "all".

    Args:
        captions: Image id -> caption.
        factors: Image id -> factor record.

    Returns:
        Of each group: "n" images; "precision", the share of the named objects that are there; "recall", the share of
        those there that are named; "repeats", the share of captions that name an object twice and leave another out.
    """
    groups: dict[str, list[tuple[int, int, int, bool]]] = {}
    everything = {item["concept"] for record in factors.values() for item in record["objects"]}
    for name, caption in captions.items():
        there = {item["concept"] for item in factors[name]["objects"]}
        mentions = named_concepts(caption, everything)
        said = set(mentions)
        repeats = len(mentions) > len(said) and bool(there - said)
        entry = (len(said & there), len(said), len(there), repeats)
        for group in ("all", str(len(there))):
            groups.setdefault(group, []).append(entry)
    found: dict[str, dict[str, float | int]] = {}
    for group, entries in sorted(groups.items()):
        right, said_number, there_number, repeated = np.array(entries).sum(0)
        found[group] = {
            "n": len(entries),
            "precision": float(right / max(said_number, 1)),
            "recall": float(right / there_number),
            "repeats": float(repeated / len(entries)),
        }
    return found


def compare_with_base(scores: Mapping[str, Mapping[int, Sequence[float]]]) -> list[dict[str, Any]]:
    """Every arm against its base, paired over images and common seeds.

    Args:
        scores: CIDEr-D of each image, by arm and seed.

    Returns:
        For each arm that has one: "arm", "base", mean "CIDEr-D" of both, "difference", "low", "high", and the "verdict"
        on "the change helps".
    """
    found = []
    for arm, own in scores.items():
        base = CAUSE_ARMS[arm].base if arm in CAUSE_ARMS else BASE  # the teacher is no arm
        seeds = sorted(set(own) & set(scores.get(base, {})))
        if arm == base or not seeds:
            continue
        a, b = (np.array([side[seed] for seed in seeds]) for side in (own, scores[base]))
        interval = paired_bootstrap(a, b)
        values = {
            "arm": arm,
            "base": base,
            "CIDEr-D": [float(a.mean()), float(b.mean())],
            "difference": interval.difference,
        }
        values |= {"low": interval.low, "high": interval.high, "n": interval.n, "seeds": interval.n_seeds}
        found.append({**values, "verdict": verdict(interval)})
    return found
