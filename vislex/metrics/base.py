"""What a scorer is: a function with a versioned id, so that a result file says exactly what was computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vislex.errors import DataError

__all__ = ["Scorer", "check_captions"]


@dataclass(frozen=True)
class Scorer:
    """A named score.

    Attributes:
        id: "name@version"; the version rises whenever a value could change.
        keys: Names of the values that ``score`` returns.
        inputs: What ``score`` takes by position: "candidates", "references", "images".
        score: The function; returns a mapping that holds at least ``keys``.
    """

    id: str
    keys: tuple[str, ...]
    inputs: tuple[str, ...]
    score: Callable[..., Mapping[str, float]]

    def __call__(self, *inputs: Any, **options: Any) -> dict[str, float]:
        """The values of ``keys`` only."""
        values = self.score(*inputs, **options)
        return {key: values[key] for key in self.keys}


def check_captions(candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]] | None = None) -> None:
    """Refuses captions that cannot be scored.

    Args:
        candidates: One caption an image.
        references: At least one caption an image, under the same ids; None where a score needs none.

    Raises:
        DataError: If there is no candidate, the ids differ, or an image has no reference or a value of a wrong type.
    """
    if not candidates:
        raise DataError("there are no candidate captions to score; pass a dict of id -> caption")
    for name, caption in candidates.items():
        if not isinstance(caption, str):
            raise DataError(f"the candidate of {name!r} is {type(caption).__name__}; allowed is one string an image")
    if references is None:
        return
    missing = [name for name in candidates if name not in references]
    surplus = [name for name in references if name not in candidates]
    if missing or surplus:
        parts = [
            f"{len(names)} {what} (such as {', '.join(repr(name) for name in names[:3])})"
            for names, what in ((missing, "candidates have no references"), (surplus, "references have no candidate"))
            if names
        ]
        raise DataError(
            f"the ids of candidates and references differ: {'; '.join(parts)}; score the same images on both sides"
        )
    for name, captions in references.items():
        if isinstance(captions, str):
            raise DataError(f"the references of {name!r} are one string; allowed is a list of strings")
        if not captions:
            raise DataError(f"image {name!r} has no reference; drop it from both sides or give at least one caption")
        if not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"the references of {name!r} hold something that is not a string")
