"""Errors that a user can act on: each message says what was given, what is allowed and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DuplicateNameError",
    "ImageError",
    "MissingDependencyError",
    "SpecError",
    "StoppedError",
    "UnknownNameError",
    "VislexError",
    "did_you_mean",
]


class VislexError(Exception):
    """Base of every error that vislex raises on purpose; the command line prints it as one line."""


class UnknownNameError(VislexError, LookupError):
    """A name that no registry knows."""


class DuplicateNameError(VislexError, ValueError):
    """A second part was registered under a name that is taken."""


class ConfigError(VislexError, ValueError):
    """A configuration, option or override that does not validate."""


class SpecError(VislexError, ValueError):
    """Parts whose specs do not fit together, or tensors that contradict a spec."""


class CheckpointError(VislexError, ValueError):
    """A checkpoint that is incomplete, altered, unsafe or of another kind than asked for."""


class StoppedError(VislexError):
    """A training that was told to stop and saved where it was; the same command goes on from there."""


class DataError(VislexError, ValueError):
    """A data file or row that cannot be used."""


class ImageError(DataError):
    """An image file that is missing, truncated, too large, or no image at all."""


class MissingDependencyError(VislexError, ImportError):
    """An optional package that the call needs is not installed."""

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        install = f"pip install 'vislex[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{purpose} needs the package '{package}', which is not installed; run: {install}")


def did_you_mean(given: str, allowed: Iterable[str], *, limit: int = 3) -> str:
    """Ends a sentence: ``"; did you mean 'a'?"`` for the names nearest to ``given``, ``"."`` when none is near."""
    near = difflib.get_close_matches(given, sorted(allowed), n=limit, cutoff=0.6)
    return "; did you mean " + " or ".join(repr(name) for name in near) + "?" if near else "."
