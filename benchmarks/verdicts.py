"""The verdict on a claim of several parts, and the one where nothing can be tested."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NOT_TESTABLE", "TESTABLE", "all_of"]

TESTABLE, NOT_TESTABLE = "testable", "not testable"


def all_of(verdicts: Iterable[str]) -> str:
    """The verdict on a claim of several parts: one that fails refutes it, all must hold; none is "not tested"."""
    found = list(verdicts)
    if not found:
        return "not tested"
    for refuted in (NOT_TESTABLE, "does not hold", "not tested", "inconclusive"):
        if refuted in found:
            return refuted
    return "holds"
