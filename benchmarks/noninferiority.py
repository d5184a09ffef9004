"""Is one side no worse than another? The rules of the verdicts, fixed before the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vislex.errors import DataError
from vislex.metrics.statistics import paired_ratio

__all__ = ["CEILING_SHARE", "LEAST_RATIO", "RISE", "judge_ratio", "quotient", "still_rises"]

LEAST_RATIO = 0.95  # the lower end of the quotient's interval must reach it
CEILING_SHARE = 0.95  # above it the rival cannot be told from a perfect captioner, and nothing from the rival
RISE = 0.02  # of the last validation over the one before: the training was too short


def still_rises(curve: Sequence[float]) -> bool:
    """Whether the last validation exceeds the one before by more than 2 % of it."""
    return len(curve) > 1 and curve[-1] > (1 + RISE) * curve[-2]


def judge_ratio(
    ours: np.ndarray, rival: np.ndarray, *, ceiling: float | None, curve: Sequence[float]
) -> dict[str, Any]:
    """The verdict on "LaDiC is no worse than the better autoregressive arm".

    Args:
        ours: float[S, N] CIDEr-D of LaDiC for each seed and image.
        rival: float[S, N] of the better autoregressive arm.
        ceiling: CIDEr-D of a held-out reference; None if there is none.
        curve: LaDiC's CIDEr-D on val, validation by validation.

    Returns:
        "ratio", "low", "high" (None where there is no quotient); "verdict": "holds" if the lower end is at least 0.95,
        "does not hold" if the upper end is below it, else "inconclusive"; "void" for the "reasons" that are listed.
    """
    reasons = []
    mean = float(np.mean(rival))
    if ceiling is not None and mean > CEILING_SHARE * ceiling:
        reasons.append(f"the autoregressive arm has {mean / ceiling:.1%} of the ceiling, more than {CEILING_SHARE:.0%}")
    if len(curve) < 2:
        reasons.append(f"LaDiC's training has {len(curve)} validations: whether it still rises is not known")
    elif still_rises(curve):
        reasons.append(f"LaDiC still rises on val: {100 * curve[-2]:.1f}, then {100 * curve[-1]:.1f} (x 100)")
    found = quotient(ours, rival)
    if found["ratio"] is None:
        reasons.append(f"the autoregressive arm scores {mean:.3g}: no quotient")
    return {**found, **({"verdict": "void"} if reasons else {}), "reasons": reasons}


def quotient(ours: np.ndarray, rival: np.ndarray) -> dict[str, Any]:
    """The quotient of two mean scores, and the verdict on "ours is at least 0.95 of the rival's".

    Args:
        ours: float[S, N], a score for each seed and image.
        rival: The same of the rival.

    Returns:
        "ratio", "low", "high", "n", "seeds"; "verdict": "holds" if the lower end is at least 0.95, "does not hold" if
        the upper end is below it, else "inconclusive". Where there is no quotient, the first three are None and the
        verdict is "void".
    """
    try:
        interval = paired_ratio(ours, rival)
    except DataError:
        return {"ratio": None, "low": None, "high": None, "verdict": "void"}
    found = {"ratio": interval.ratio, "low": interval.low, "high": interval.high}
    verdict = "holds" if interval.low >= LEAST_RATIO else "inconclusive"
    if interval.high < LEAST_RATIO:
        verdict = "does not hold"
    return {**found, "n": interval.n, "seeds": interval.n_seeds, "verdict": verdict}
