"""Which encoders of a vision-language model are held against which, and the rule of the verdict, fixed before runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.verdicts import all_of
from vislex.benchmarks.vlm_measures import BLIND, CAPTIONS, GROUPS, MAJORITY, MASK, VQA, difference, scores_of

__all__ = ["CONTINUED", "JUDGED", "PATCHES", "arm_name", "conclude", "encoder_pairs"]

PATCHES, CONTINUED = "SigLIP after ViLex", "SigLIP continued"
CONNECTOR = "mlp"  # which leaves the patches as they are
GAINS = ("position", "number")  # groups of questions
JUDGED = tuple((rival, about) for rival in ("untouched", "continued") for about in (*GAINS, MASK))


def arm_name(encoder: str, connector: str) -> str:
    """Name of an arm's rows."""
    return f"{encoder} + {connector}"


def encoder_pairs(
    rows: Sequence[Mapping[str, Any]], types: Sequence[str], encoders: Sequence[str], connectors: Sequence[str]
) -> list[dict[str, Any]]:
    """Every comparison with its interval and the verdict on "the first is better".

    Args:
        rows: Of ``vlm_encoders``.
        types: Type of each question.
        encoders: Names in the table, the first is the untouched one.
        connectors: Names, each against the first too.

    Returns:
        "arm", "rival", "about" (a task or a group of questions), "difference", "low", "high", "n", "seeds", "verdict";
        "judged" is the criterion that the entry speaks to (see ``JUDGED``), or None.
    """
    found = []
    for arm, rival, role in _opponents(encoders, connectors):
        for about, task, theirs, chosen in _asked(rival, types):
            ours = scores_of(rows, arm, task, chosen)
            others = scores_of(rows, arm if rival == BLIND else rival, theirs, chosen)
            if rival == MAJORITY and others:
                others = dict.fromkeys(ours, others[0])
            if (interval := difference(ours, others)) is not None:
                judged = [role, about] if (role, about) in JUDGED else None
                found.append({"arm": arm, "rival": rival, "about": about, **interval, "judged": judged})
    return found


def conclude(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on "a SigLIP's patches are better after ViLex": every criterion must hold, none may be missing."""
    found = {tuple(pair["judged"]): pair["verdict"] for pair in pairs if pair["judged"]}
    return all_of(found.get(criterion, "not tested") for criterion in JUDGED)


def _opponents(encoders: Sequence[str], connectors: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Arm, rival, and what the rival is to the claim."""
    untouched = encoders[0]
    for connector in connectors:
        for encoder in encoders:
            arm = arm_name(encoder, connector)
            yield arm, MAJORITY, None
            yield arm, BLIND, None
            for rival, role in ((f"{untouched}{UNTRAINED}", None), (untouched, "untouched"), (CONTINUED, "continued")):
                if rival in encoders and rival != encoder and not encoder.endswith(UNTRAINED):
                    is_claim = encoder == PATCHES and connector == CONNECTOR
                    yield arm, arm_name(rival, connector), role if is_claim else None
            if connector != connectors[0]:
                yield arm, arm_name(encoder, connectors[0]), None


def _asked(rival: str, types: Sequence[str]) -> Iterator[tuple[str, str, str, np.ndarray | None]]:
    """What is compared, in which task, with which task of the rival, and over which questions."""
    theirs = BLIND if rival == BLIND else VQA
    yield VQA, VQA, theirs, None
    for group, names in GROUPS.items():
        yield group, VQA, theirs, np.isin(types, names)
    if rival not in (MAJORITY, BLIND):
        yield MASK, MASK, MASK, None
        yield CAPTIONS, CAPTIONS, CAPTIONS, None
