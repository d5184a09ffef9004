"""How a trained LaDiC can be sampled, and what is claimed of it: written down before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vislex.metrics.statistics import paired_bootstrap, verdict

__all__ = ["ARMS", "CACHING_TARGET", "CLAIMS", "SAMPLING_NOISE_FACTOR", "Claim", "judge", "judge_caching"]

SAMPLING_NOISE_FACTOR = "sampling_noise_factor"  # an option of the schedule; all others are those of generate()
CACHING_TARGET = 4.0  # times as fast as the loop that keeps nothing, from pixels
CURVE = (4, 8, 16, 30)  # network evaluations
LONG = ("renoise", "dpmsolver++")  # the samplers of the long comparisons: the paper's and the fast one


def _plain(sampler: str, evaluations: int) -> dict[str, Any]:
    return {"sampler": sampler, "num_inference_steps": evaluations, "guidance_scale": 0.0}


def _guided(sampler: str, evaluations: int, scale: float = 1.0) -> dict[str, Any]:
    return {"sampler": sampler, "num_inference_steps": evaluations // 2, "guidance_scale": scale}


def _arms() -> dict[str, dict[str, Any]]:
    arms = {}
    for sampler in ("renoise", "ddim", "dpmsolver++"):
        for count in CURVE:
            arms[f"{sampler} {count}"] = _plain(sampler, count)
            arms[f"{sampler} {count} guided"] = _guided(sampler, count)
    for sampler in LONG:
        arms[f"{sampler} 45"] = _plain(sampler, 45)
        arms[f"{sampler} 15+30 back&refine"] = {**_plain(sampler, 30), "refine_at": 0.5, "refine_fraction": 0.5}
        arms[f"{sampler} 15+30 back&refine, one time"] = {
            **arms[f"{sampler} 15+30 back&refine"],
            "token_times": False,
        }
        arms[f"{sampler} 5x9 consensus"] = {**_plain(sampler, 9), "num_candidates": 5}
        arms[f"{sampler} 5x9 consensus, temperature 1"] = {**arms[f"{sampler} 5x9 consensus"], "temperature": 1.0}
        arms[f"{sampler} 44 guided"] = _guided(sampler, 44)
        arms[f"{sampler} 60 guided"] = _guided(sampler, 60)
        arms[f"{sampler} 30, F_sample 1"] = {**_plain(sampler, 30), SAMPLING_NOISE_FACTOR: 1.0}
        arms[f"{sampler} 30, early exit 2"] = {**_plain(sampler, 30), "early_exit": 2}
    for count in (8, 16, 30):
        arms[f"renoise {count}, temperature 0.5"] = {**_plain("renoise", count), "temperature": 0.5}
    for scale in (0.5, 2.0):
        arms[f"dpmsolver++ 16 guided by {scale:g}"] = _guided("dpmsolver++", 16, scale)
    for temperature in (0.0, 0.6, 1.0):
        for count in (8, 30):
            arms[f"dpmsolver++ {count}, temperature {temperature:g}"] = {
                **_plain("dpmsolver++", count),
                "temperature": temperature,
            }
    return arms


ARMS = _arms()


@dataclass(frozen=True)
class Claim:
    """That the CIDEr-D of one arm exceeds that of another.

    Attributes:
        text: The claim in words.
        arm: The arm that is said to be better.
        rival: The other.
        share: Of the rival's score that must be exceeded; 1 unless "keeps so many per cent" is claimed.
    """

    text: str
    arm: str
    rival: str
    share: float = 1.0


CLAIMS = (
    *(
        claim
        for sampler in LONG
        for claim in (
            Claim("Back&Refine helps at equal evaluations", f"{sampler} 15+30 back&refine", f"{sampler} 45"),
            Claim(
                "Back&Refine gains from times of each token",
                f"{sampler} 15+30 back&refine",
                f"{sampler} 15+30 back&refine, one time",
            ),
            Claim("consensus helps at equal evaluations", f"{sampler} 5x9 consensus", f"{sampler} 45"),
            Claim("guidance helps at equal evaluations", f"{sampler} 16 guided", f"{sampler} 16"),
            Claim("guidance helps at many evaluations", f"{sampler} 44 guided", f"{sampler} 45"),
            Claim("the noise factor of training beats F = 1", f"{sampler} 30", f"{sampler} 30, F_sample 1"),
        )
    ),
    Claim("the preset's temperature beats 1 at 8 evaluations", "dpmsolver++ 8", "dpmsolver++ 8, temperature 1"),
    Claim("8 evaluations keep 97 % of 30 steps", "dpmsolver++ 8", "dpmsolver++ 30", 0.97),
    Claim("8 evaluations keep 97 % of 30 guided steps", "dpmsolver++ 8", "dpmsolver++ 60 guided", 0.97),
    Claim("8 evaluations keep 97 % of the paper's 30 guided steps", "dpmsolver++ 8", "renoise 60 guided", 0.97),
    Claim("renoising beats the solver at 16 evaluations", "renoise 16, temperature 0.5", "dpmsolver++ 16"),
    Claim("a higher-order sampler helps at 8 evaluations", "dpmsolver++ 8", "renoise 8"),
    Claim("early exit keeps 99 %", "dpmsolver++ 30, early exit 2", "dpmsolver++ 30", 0.99),
)


def judge(rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """Verdicts on the claims whose two arms have rows of the same seeds.

    Args:
        rows: "arm", "seed", "evaluations" and "per_image"; all of one model and one data set.
        claims: What is claimed.

    Returns:
        For each claim its difference of CIDEr-D with the interval, evaluations of both arms and the verdict.
    """
    found = []
    for claim in claims:
        ours, theirs = ({row["seed"]: row for row in rows if row["arm"] == arm} for arm in (claim.arm, claim.rival))
        if not (seeds := sorted(set(ours) & set(theirs))):
            continue
        a, b = (np.array([side[seed]["per_image"]["CIDEr-D"] for seed in seeds]) for side in (ours, theirs))
        interval = paired_bootstrap(a, claim.share * b)
        found.append(
            {
                "claim": claim.text,
                "arm": claim.arm,
                "rival": claim.rival,
                "share": claim.share,
                "CIDEr-D": [float(a.mean()), float(b.mean())],
                "evaluations": [float(np.mean([side[s]["evaluations"] for s in seeds])) for side in (ours, theirs)],
                "interval": interval.to_dict(),
                "verdict": verdict(interval),
            }
        )
    return found


def judge_caching(row: Mapping[str, Any]) -> str:
    """The verdict on "caching is so many times as fast, and the captions are the same".

    Args:
        row: Of ``ladic_caching.compare``, from pixels.
    """
    return "holds" if row["identical"] and row["ratio"] >= CACHING_TARGET else "does not hold"
